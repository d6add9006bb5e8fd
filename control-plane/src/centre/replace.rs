//! A member that was built anew under its old name: the same id and labels, a new join token, and nothing of the
//! old one trusted any more.

use proto::assignment::{Desired, Intent, StopReason};
use proto::cluster::ClusterSpec;
use proto::ids::ClusterId;
use proto::rest::{Invitation, ReplaceCluster};
use proto::status::RunPhase;

use super::clusters::token_ttl;
use super::expected::Expected;
use super::{Caller, Centre, Error, Role};
use crate::driver::codec;
use crate::engine::object::{Object, ObjectKey};
use crate::engine::stopping::stop_of;
use crate::enrolment::{CertRecord, TokenRecord};
use crate::store::{PageRequest, Revision, Txn};

/// Tokens of one cluster that one transaction burns.
const MAX_TOKENS: usize = 50;
/// Stops written in one transaction.
const CHUNK: usize = 40;

impl Centre {
    /// Makes a new join token for a member that was rebuilt and is as expected. Its certificates are refused from now on, its earlier
    /// tokens are burnt, its kube-system uid and what it last said are forgotten, and it must be accepted again
    /// unless the token does that. What it was to do is stopped: the new cluster starts nothing of the old one's,
    /// whose runs end as what was last heard says, or as `ClusterLost`. Halts stay. Needs admin.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`]; [`Error::Conflict`] for a revoked member; [`Error::Invalid`].
    pub async fn replace_cluster(
        &self,
        caller: &Caller,
        name: &str,
        request: ReplaceCluster,
        expected: &Expected,
    ) -> Result<Invitation, Error> {
        let result = self.replace_inner(caller, name, &request, expected).await;
        self.note(caller, "cluster.replace", name, &result);
        result
    }

    async fn replace_inner(
        &self,
        caller: &Caller,
        name: &str,
        request: &ReplaceCluster,
        expected: &Expected,
    ) -> Result<Invitation, Error> {
        caller.require(Role::Admin)?;
        let id = self.cluster_id(name)?;
        let ttl = token_ttl(request.ttl.as_deref())?;
        let spec_path = codec::path(&ObjectKey::ClusterSpec(id.clone()))?;
        let entry =
            self.inner.store.get(&spec_path).await?.ok_or_else(|| Error::not_found("cluster", name))?;
        let spec: ClusterSpec =
            serde_json::from_slice(&entry.value).map_err(|error| Error::Internal(error.to_string()))?;
        if spec.revoked {
            let why = format!("cluster {name} is revoked: remove it and invite it again");
            return Err(Error::Conflict(why));
        }
        let spec = ClusterSpec { accepted: false, ..spec };
        let compare = self.as_expected(&id, expected).await?;
        let mut txn = Txn { compare, ..Txn::default() }
            .unchanged(&spec_path, entry.mod_revision)
            .put(&spec_path, codec::encode(&Object::ClusterSpec(spec.clone()))?);
        txn = self.deny_certificates(&id, txn).await?;
        txn = self.burn_tokens(&id, txn).await?;
        if self.inner.cache.read(|state| state.clusters.get(&id).is_some_and(|known| known.status.is_some()))
        {
            let forgotten = Object::ClusterStatus(id.clone(), Box::default());
            txn = txn.put(codec::path(&forgotten.key())?, codec::encode(&forgotten)?);
        }
        let (invitation, txn) = self.token_for(&spec, ttl, request.auto_accept, txn)?;
        self.inner.cache.write_through(&*self.inner.store, txn).await?.committed()?;
        // Nobody has the token yet: the new cluster cannot be there before its stops are.
        self.stop_all_on(&id).await?;
        Ok(invitation)
    }

    /// Puts every certificate that may still be valid on the deny list.
    async fn deny_certificates(&self, id: &ClusterId, mut txn: Txn) -> Result<Txn, Error> {
        let path = codec::cert_path(id.as_str())?;
        let Some(entry) = self.inner.store.get(&path).await? else {
            return Ok(txn.absent(path));
        };
        let record: CertRecord =
            serde_json::from_slice(&entry.value).map_err(|error| Error::Internal(error.to_string()))?;
        // A renewal at the same time either is in the list, or is refused for lack of the record.
        txn = txn.unchanged(&path, entry.mod_revision).delete(&path);
        for serial in record.serials() {
            let denied = Object::Revoked(id.to_string(), serial.to_owned());
            txn = txn.put(codec::path(&denied.key())?, codec::encode(&denied)?);
        }
        Ok(txn)
    }

    /// Deletes the tokens made for this cluster so far, used or not.
    async fn burn_tokens(&self, id: &ClusterId, mut txn: Txn) -> Result<Txn, Error> {
        let mut request = Some(PageRequest::first(500));
        let mut burnt = 0;
        while let Some(asked) = request {
            let page = self.inner.store.list("tokens/", asked.clone()).await?;
            for entry in &page.entries {
                let of_it = serde_json::from_slice::<TokenRecord>(&entry.value)
                    .is_ok_and(|record| record.cluster == *id);
                if of_it && burnt < MAX_TOKENS {
                    txn = txn.delete(&entry.key);
                    burnt += 1;
                }
            }
            request = asked.next(&page);
        }
        Ok(txn)
    }

    /// Stops what this cluster was to do and has not reported the end of. The store says what that is: of the last
    /// order this replica may not have heard.
    async fn stop_all_on(&self, id: &ClusterId) -> Result<(), Error> {
        loop {
            let told = self.told(id).await?;
            if told.is_empty() {
                return Ok(());
            }
            let mut txn = Txn::new();
            for (desired, revision) in told.iter().take(CHUNK) {
                let stop = stop_of(desired, StopReason::RunAborted);
                let object = Object::Desired(id.clone(), Box::new(stop));
                let path = codec::path(&object.key())?;
                txn = txn.unchanged(&path, *revision).put(path, codec::encode(&object)?);
            }
            // After a conflict the leader was faster: look again.
            let _ = self.inner.cache.write_through(&*self.inner.store, txn).await?;
        }
    }

    /// What the store holds for this cluster to plan or to start, but for runs that are known to be over.
    async fn told(&self, id: &ClusterId) -> Result<Vec<(Desired, Revision)>, Error> {
        let (prefix, mut told) = (format!("desired/{id}/"), Vec::new());
        let mut request = Some(PageRequest::first(500));
        while let Some(asked) = request {
            let page = self.inner.store.list(&prefix, asked.clone()).await?;
            for entry in &page.entries {
                // What cannot be read is sent to nobody.
                let object = codec::parse(&entry.key).and_then(|key| codec::decode(&key, &entry.value).ok());
                let Some(Object::Desired(_, desired)) = object else { continue };
                let is_over = self.inner.cache.read(|state| {
                    let summary = state.runs.get(&desired.run).and_then(|run| run.summary.as_ref());
                    summary.is_some_and(|known| known.value.phase == RunPhase::Finished)
                });
                if !is_over && matches!(desired.intent, Intent::Plan | Intent::Start) {
                    told.push((*desired, entry.mod_revision));
                }
            }
            request = asked.next(&page);
        }
        Ok(told)
    }
}
