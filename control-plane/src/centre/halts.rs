//! Halts as people see them: set, list with each cluster's acknowledgement, resume.

use std::collections::BTreeMap;

use proto::halt::{Halt, HaltLevel, HaltScope};
use proto::ids::HaltId;
use proto::rest::{HaltView, SetHalt, Taken};

use super::expected::{Expected, tag_of};
use super::latch::Item;
use super::{Caller, Centre, Error, Role};
use crate::driver::codec;
use crate::engine::object::{Object, ObjectKey};
use crate::engine::state::State;
use crate::store::Txn;

/// A halt waits so long for the store before it goes by what this replica knows.
const ASK_WITHIN: std::time::Duration = std::time::Duration::from_millis(500);

impl Centre {
    /// Sets a halt. Taken also while the store is down: the sessions of every replica are told from
    /// memory. Needs author.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for an id that is none, or a scope that covers no cluster known;
    /// [`Error::Conflict`] when the id stands for another halt, or was resumed already.
    pub async fn set_halt(&self, caller: &Caller, request: SetHalt) -> Result<Taken<HaltView>, Error> {
        let subject = request.id.clone().unwrap_or_default();
        let result = self.take_halt(caller, request).await;
        let subject = result.as_ref().map_or(subject, |halt| halt.id.to_string());
        // Noted before anything more is waited for: the caller may be gone by then.
        self.note(caller, "halt.set", &subject, &result);
        let halt = result?;
        let view = || self.inner.cache.read(|state| view(state, &halt));
        Ok(self.inner.latch.settled(&Item::Halt(halt.id.clone()), view).await)
    }

    /// Takes a halt into memory, unless it is in force.
    async fn take_halt(&self, caller: &Caller, request: SetHalt) -> Result<Halt, Error> {
        caller.require(Role::Author)?;
        let id = match request.id {
            Some(text) => text.parse::<HaltId>().map_err(|error| Error::BadRequest(error.to_string()))?,
            None => self.inner.clock.new_halt(),
        };
        let scope = self.inner.cache.read(|state| named_scope(state, request.scope))?;
        let halt = Halt {
            id: id.clone(),
            scope,
            reason: request.reason.chars().take(1024).collect(),
            by: format!("operator:{}", caller.name),
            at: self.inner.clock.now(),
            origin: None,
        };
        let lifted = self.was_resumed(&id).await;
        let known = self.inner.cache.read(|state| {
            let resumed = lifted || state.resumed.contains(&id);
            (resumed, state.halts.get(&id).map(|halt| halt.value.clone()))
        });
        let latched = || self.inner.latch.halts().into_iter().find(|halt| halt.id == id);
        match (known.0, known.1.or_else(latched)) {
            (true, _) => {
                return Err(Error::Conflict(format!("halt {id} was resumed: set one with another id")));
            }
            (_, Some(known)) if known.scope != halt.scope => {
                return Err(Error::Conflict(format!("halt {id} is in force with another scope")));
            }
            (_, Some(_)) => {}
            (_, None) => self.inner.latch.halt(halt.clone(), None)?,
        }
        Ok(halt)
    }

    /// Every halt in force, with each covered cluster's acknowledgement. Needs viewer.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn halts(&self, caller: &Caller) -> Result<Vec<HaltView>, Error> {
        caller.require(Role::Viewer)?;
        Ok(self.inner.cache.read(|state| {
            let mut halts: BTreeMap<HaltId, Halt> =
                state.halts.iter().map(|(id, halt)| (id.clone(), halt.value.clone())).collect();
            for halt in self.inner.latch.halts() {
                halts.entry(halt.id.clone()).or_insert(halt);
            }
            halts.values().map(|halt| view(state, halt)).collect()
        }))
    }

    /// One halt in force. Needs viewer.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn halt(&self, caller: &Caller, id: &str) -> Result<HaltView, Error> {
        let halts = self.halts(caller)?;
        halts.into_iter().find(|view| view.halt.id.as_str() == id).ok_or_else(|| Error::not_found("halt", id))
    }

    /// Whether the store says that this id was lifted: this replica's cache may not have heard of it yet, and a
    /// halt of a lifted id would be answered and never be in force. A store that is down leaves it to the cache.
    async fn was_resumed(&self, id: &HaltId) -> bool {
        let Ok(path) = codec::path(&ObjectKey::Resumed(id.clone())) else {
            return false;
        };
        let asked = tokio::time::timeout(ASK_WITHIN, self.inner.store.get(&path)).await;
        matches!(asked, Ok(Ok(Some(_))))
    }

    /// Lifts the halt of this id where it is as expected, for ever. What clusters acknowledged of it is part of its
    /// tag, and is compared as this replica knows it. Needs operator.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`]; [`Error::BadRequest`] for one that a member cluster holds by
    /// itself; [`Error::Store`].
    pub async fn resume_halt(&self, caller: &Caller, id: &str, expected: &Expected) -> Result<(), Error> {
        let result = self.resume_inner(caller, id, expected).await;
        self.note(caller, "halt.resume", id, &result);
        result
    }

    async fn resume_inner(&self, caller: &Caller, id: &str, expected: &Expected) -> Result<(), Error> {
        caller.require(Role::Operator)?;
        let id: HaltId = id.parse().map_err(|_| Error::not_found("halt", id))?;
        let halt = self
            .inner
            .cache
            .read(|state| state.halts.get(&id).map(|halt| halt.value.clone()))
            .or_else(|| self.inner.latch.halts().into_iter().find(|halt| halt.id == id))
            .ok_or_else(|| Error::not_found("halt", &id))?;
        if let Some(origin) = &halt.origin {
            let name = self.inner.cache.read(|state| state.cluster_name(origin));
            return Err(Error::BadRequest(format!(
                "halt {id} was set in cluster {name} and is lifted there: delete its Halt object, or the halt file on the node"
            )));
        }
        expected.check(Some(&self.inner.cache.read(|state| tag_of(&view(state, &halt)))))?;
        let mut txn = Txn::new().delete(codec::path(&ObjectKey::Halt(id.clone()))?);
        for object in [Object::Resumed(id.clone()), Object::HaltsRevision] {
            txn = txn.put(codec::path(&object.key())?, codec::encode(&object)?);
        }
        let written = txn.written();
        let revision = self.inner.store.txn(txn).await?.committed()?;
        self.inner.latch.forget_halt(&id);
        self.inner.cache.seen(revision, &written).await;
        Ok(())
    }
}

/// People name clusters, halts hold ids: either is taken in a scope.
fn named_scope(state: &State, scope: HaltScope) -> Result<HaltScope, Error> {
    let known =
        |text: &str| state.cluster_by_name_or_id(text).ok_or_else(|| Error::not_found("cluster", text));
    Ok(match scope {
        HaltScope::Cluster { cluster } => HaltScope::Cluster { cluster: known(cluster.as_str())? },
        HaltScope::Namespace { cluster, namespace } => {
            HaltScope::Namespace { cluster: known(cluster.as_str())?, namespace }
        }
        HaltScope::Clusters { selector } if selector.is_empty() => {
            return Err(Error::BadRequest(
                "an empty cluster selector halts nothing: use the scope Fleet".to_owned(),
            ));
        }
        other @ (HaltScope::Fleet | HaltScope::Clusters { .. }) => other,
    })
}

fn view(state: &State, halt: &Halt) -> HaltView {
    let mut clusters = BTreeMap::new();
    for (id, cluster) in &state.clusters {
        let Some(spec) = cluster.spec.as_ref().map(|spec| &spec.value).filter(|spec| spec.accepted) else {
            continue;
        };
        let here = halt.origin.as_ref().is_none_or(|origin| origin == id);
        if here && halt.covers(id, &spec.name, &spec.labels, None) {
            let level = cluster.status.as_ref().and_then(|status| status.value.halts.get(halt.id.as_str()));
            clusters.insert(spec.name.clone(), level.copied().unwrap_or(HaltLevel::Pending));
        }
    }
    HaltView { halt: halt.clone(), clusters }
}
