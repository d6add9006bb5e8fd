//! Members as people see them: invite, list, accept, revoke, remove.

use std::time::Duration;

use certs::JoinToken;
use jiff::SignedDuration;
use proto::cluster::{ClusterSpec, ClusterState};
use proto::ids::{ClusterId, Name};
use proto::problem::{Problem, Problems};
use proto::quantity::Span;
use proto::rest::{ClusterView, Invitation, InviteCluster};

use super::expected::{Expected, tag_of};
use super::{Caller, Centre, Error, Role, listed};
use crate::driver::codec;
use crate::engine::object::{ALL_SERIALS, Object, ObjectKey, Versioned};
use crate::engine::state::{ClusterEntry, State};
use crate::enrolment::TokenRecord;
use crate::store::{Compare, Txn};

const TOKEN_TTL: Duration = Duration::from_mins(30);
const TOKEN_TTL_MAX_MS: u64 = 24 * 3600 * 1000;

impl Centre {
    /// Makes a member and its one-use join token, shown this once. Needs admin. A name whose
    /// member has not enrolled yet may be invited again: it gets a new token.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Conflict`] when a member of this name has enrolled.
    pub async fn invite_cluster(&self, caller: &Caller, request: InviteCluster) -> Result<Invitation, Error> {
        let subject = request.name.clone();
        let result = self.invite_inner(caller, request).await;
        self.note(caller, "cluster.invite", &subject, &result);
        result
    }

    async fn invite_inner(&self, caller: &Caller, request: InviteCluster) -> Result<Invitation, Error> {
        caller.require(Role::Admin)?;
        let name: Name = check(&request)?;
        let ttl = token_ttl(request.ttl.as_deref())?;
        let now = self.inner.clock.now();
        let (spec, txn) = self.invited(&name, request.labels, now)?;
        let (invitation, txn) = self.token_for(&spec, ttl, request.auto_accept, txn)?;
        let object = Object::ClusterSpec(spec);
        let txn = txn.put(codec::path(&object.key())?, codec::encode(&object)?);
        self.inner.cache.write_through(&*self.inner.store, txn).await?.committed()?;
        Ok(invitation)
    }

    /// A new join token for this member, and its record in the transaction.
    pub(super) fn token_for(
        &self,
        spec: &ClusterSpec,
        ttl: Duration,
        auto_accept: bool,
        txn: Txn,
    ) -> Result<(Invitation, Txn), Error> {
        let internal = |error: String| Error::Internal(error);
        let listed = listed(&self.inner.cache).and_then(|list| list.enrol_endpoints.into_iter().next());
        let address = listed.unwrap_or_else(|| self.inner.enrol_advertise.clone());
        let token = JoinToken::generate(address, spec.id.as_str(), self.inner.signer.pin(), None)
            .map_err(|error| internal(error.to_string()))?;
        let ttl = SignedDuration::try_from(ttl).unwrap_or_default();
        let expires_at =
            self.inner.clock.now().checked_add(ttl).map_err(|error| internal(error.to_string()))?;
        let record = TokenRecord {
            cluster: spec.id.clone(),
            secret: token.secret.hash(),
            expires_at,
            auto_accept,
            used: None,
        };
        let value = serde_json::to_vec(&record).map_err(|error| internal(error.to_string()))?;
        let txn = txn.put(codec::token_path(&token.id.to_string())?, value);
        let invitation = Invitation {
            cluster: spec.id.clone(),
            name: spec.name.clone(),
            token: token.reveal(),
            expires_at,
        };
        Ok((invitation, txn))
    }

    /// The member to be invited, and what must hold for it.
    fn invited(
        &self,
        name: &Name,
        labels: std::collections::BTreeMap<String, String>,
        now: jiff::Timestamp,
    ) -> Result<(ClusterSpec, Txn), Error> {
        let known = self.inner.cache.read(|state| {
            state.cluster_by_name(name.as_str()).map(|(id, entry)| (id.clone(), entry.clone()))
        });
        let mut txn = Txn::new();
        let spec = match known {
            Some((_, entry)) if entry.status.is_some() => {
                return Err(Error::Conflict(format!("a cluster named {name} has joined: remove it first")));
            }
            Some((_, ClusterEntry { spec: Some(spec), .. })) => {
                txn = txn
                    .unchanged(codec::path(&ObjectKey::ClusterSpec(spec.value.id.clone()))?, spec.revision);
                ClusterSpec { labels, ..spec.value }
            }
            _ => {
                let id = self.inner.clock.new_cluster();
                txn = txn.absent(codec::path(&ObjectKey::ClusterSpec(id.clone()))?);
                ClusterSpec {
                    id,
                    name: name.to_string(),
                    labels,
                    accepted: false,
                    revoked: false,
                    created_at: now,
                }
            }
        };
        Ok((spec, txn))
    }

    /// Every member. Needs viewer.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn clusters(&self, caller: &Caller) -> Result<Vec<ClusterView>, Error> {
        caller.require(Role::Viewer)?;
        Ok(self.inner.cache.read(|state| {
            let mut views: Vec<_> = state.clusters.values().filter_map(view).collect();
            views.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
            views
        }))
    }

    /// One member, by name or id. Needs viewer.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn cluster(&self, caller: &Caller, name: &str) -> Result<ClusterView, Error> {
        caller.require(Role::Viewer)?;
        let id = self.cluster_id(name)?;
        self.inner
            .cache
            .read(|state| state.clusters.get(&id).and_then(view))
            .ok_or_else(|| Error::not_found("cluster", name))
    }

    /// The second opt-in, of a member that is as expected: from now on it may author and be aimed at. Needs admin.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Precondition`].
    pub async fn accept_cluster(
        &self,
        caller: &Caller,
        name: &str,
        expected: &Expected,
    ) -> Result<ClusterView, Error> {
        let result = self.change(caller, name, |spec| spec.accepted = true, None, expected).await;
        self.note(caller, "cluster.accept", name, &result);
        result
    }

    /// Refuses its certificates from now on and closes its session, on every replica. Needs admin.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn revoke_cluster(&self, caller: &Caller, name: &str) -> Result<ClusterView, Error> {
        let deny = self.cluster_id(name).ok();
        let result = self.change(caller, name, |spec| spec.revoked = true, deny, &Expected::Anything).await;
        self.note(caller, "cluster.revoke", name, &result);
        result
    }

    /// Forgets a member that is as expected; its certificates stay refused. Needs admin.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Precondition`].
    pub async fn remove_cluster(
        &self,
        caller: &Caller,
        name: &str,
        expected: &Expected,
    ) -> Result<(), Error> {
        let result = self.remove_inner(caller, name, expected).await;
        self.note(caller, "cluster.remove", name, &result);
        result
    }

    async fn remove_inner(&self, caller: &Caller, name: &str, expected: &Expected) -> Result<(), Error> {
        caller.require(Role::Admin)?;
        let id = self.cluster_id(name)?;
        let deny = Object::Revoked(id.to_string(), ALL_SERIALS.to_owned());
        let path = codec::path(&ObjectKey::ClusterSpec(id.clone()))?;
        let compare = self.as_expected(&id, expected).await?;
        let txn = Txn { compare, ..Txn::default() }
            .exists(&path)
            .delete(&path)
            .delete(codec::path(&ObjectKey::ClusterStatus(id.clone()))?)
            .delete(codec::cert_path(id.as_str())?)
            .delete_prefix(format!("desired/{id}/"))
            .delete_prefix(format!("observed/{id}/"))
            .delete_prefix(format!("experiments/{id}/"))
            .put(codec::path(&deny.key())?, codec::encode(&deny)?);
        if self.inner.cache.write_through(&*self.inner.store, txn).await?.is_conflict() {
            // Compared is what was expected, and that somebody else did not remove it already.
            return Err(match expected {
                Expected::Anything => Error::not_found("cluster", name),
                _ => Error::Precondition,
            });
        }
        Ok(())
    }

    async fn change(
        &self,
        caller: &Caller,
        name: &str,
        change: impl Fn(&mut ClusterSpec),
        deny: Option<ClusterId>,
        expected: &Expected,
    ) -> Result<ClusterView, Error> {
        caller.require(Role::Admin)?;
        let id = self.cluster_id(name)?;
        let path = codec::path(&ObjectKey::ClusterSpec(id.clone()))?;
        for _ in 0..5 {
            let compare = self.as_expected(&id, expected).await?;
            let entry =
                self.inner.store.get(&path).await?.ok_or_else(|| Error::not_found("cluster", name))?;
            let mut spec: ClusterSpec =
                serde_json::from_slice(&entry.value).map_err(|error| Error::Internal(error.to_string()))?;
            change(&mut spec);
            let object = Object::ClusterSpec(spec);
            let txn = Txn { compare, ..Txn::default() }.unchanged(&path, entry.mod_revision);
            let mut txn = txn.put(&path, codec::encode(&object)?);
            if let Some(id) = &deny {
                let deny = Object::Revoked(id.to_string(), ALL_SERIALS.to_owned());
                txn = txn.put(codec::path(&deny.key())?, codec::encode(&deny)?);
            }
            if !self.inner.cache.write_through(&*self.inner.store, txn).await?.is_conflict() {
                return self.cluster(caller, id.as_str());
            }
        }
        Err(Error::Conflict(format!("cluster {name} keeps changing: try again")))
    }

    /// The comparisons under which a member is as expected: of all that its view is made of, read from the store.
    /// Where nothing is expected, none.
    pub(super) async fn as_expected(
        &self,
        id: &ClusterId,
        expected: &Expected,
    ) -> Result<Vec<Compare>, Error> {
        if *expected == Expected::Anything {
            return Ok(Vec::new());
        }
        let mut stored = ClusterEntry::default();
        let mut compare = Vec::new();
        for of in [ObjectKey::ClusterSpec, ObjectKey::ClusterStatus, ObjectKey::Session] {
            let key = of(id.clone());
            let path = codec::path(&key)?;
            let entry = self.inner.store.get(&path).await?;
            let revision = entry.as_ref().map_or(0, |entry| entry.mod_revision);
            compare.push(Compare::ModRevision(path, revision));
            match entry.map(|entry| codec::decode(&key, &entry.value)).transpose()? {
                Some(Object::ClusterSpec(value)) => stored.spec = Some(Versioned { value, revision }),
                Some(Object::ClusterStatus(_, value)) => {
                    stored.status = Some(Versioned { value: *value, revision });
                }
                Some(Object::Session(_, value)) => stored.session = Some(Versioned { value, revision }),
                _ => {}
            }
        }
        expected.check(view(&stored).map(|view| tag_of(&view)).as_deref())?;
        Ok(compare)
    }

    pub(super) fn cluster_id(&self, name: &str) -> Result<ClusterId, Error> {
        self.inner
            .cache
            .read(|state: &State| state.cluster_by_name_or_id(name))
            .ok_or_else(|| Error::not_found("cluster", name))
    }
}

/// A member as the API shows it.
fn view(entry: &ClusterEntry) -> Option<ClusterView> {
    let spec = entry.spec.as_ref()?.value.clone();
    let status = entry.status.as_ref().map(|status| status.value.clone());
    let state = if spec.revoked {
        ClusterState::Revoked
    } else if entry.session.is_some() && spec.accepted {
        ClusterState::Connected
    } else if !spec.accepted {
        ClusterState::Pending
    } else if status.as_ref().is_some_and(|status| status.connected_at.is_some()) {
        ClusterState::Unknown
    } else {
        ClusterState::Accepted
    };
    Some(ClusterView { spec, state, status: status.unwrap_or_default() })
}

fn check(request: &InviteCluster) -> Result<Name, Error> {
    let problems = proto::validate::member(&request.name, &request.labels);
    match request.name.parse::<Name>() {
        Ok(name) if problems.is_empty() => Ok(name),
        _ => Err(Problems(problems).into()),
    }
}

pub(super) fn token_ttl(text: Option<&str>) -> Result<Duration, Error> {
    let Some(text) = text else { return Ok(TOKEN_TTL) };
    let problem = |message: String| Error::Invalid(Problems(vec![Problem::new("ttl", message)]));
    match Span::written(text).ms() {
        Ok(0) => Err(problem("a token must live for some time".to_owned())),
        Ok(ms) if ms > TOKEN_TTL_MAX_MS => Err(problem("at most 24h".to_owned())),
        Ok(ms) => Ok(Duration::from_millis(ms)),
        Err(error) => Err(problem(error.to_string())),
    }
}
