//! What is taken out of the store for its age, and by which rule: a value that says when it ends goes by that, any
//! other by the revision that it was last written at.

use jiff::Timestamp;
use proto::ids::{ClusterId, HaltId};

use super::{Error, Retention};
use crate::authored::Tombstone;
use crate::centre::answer_is_over;
use crate::driver::codec;
use crate::engine::object::ALL_SERIALS;
use crate::engine::prune;
use crate::engine::state::State;
use crate::enrolment::TokenRecord;
use crate::store::keys::{Key, Prefix};
use crate::store::{Compare, Entry, LeaseId, PageRequest, Revision, Txn};

const PAGE: usize = 200;
/// Keys deleted in one transaction, each with its comparison.
const CHUNK: usize = 45;
/// Tokens of the bootstrap file that were taken away: so many stay known, whatever their age, because a file that is
/// put back must not open the door again.
const SPENT_KEPT: usize = 100;

/// A key to delete, only at the revision that it was judged at, and what it hung on.
struct Judged {
    key: String,
    revision: Revision,
    lease: Option<LeaseId>,
}

impl Retention {
    /// Deletes what is over, and of what was last written at or before `old` what nobody needs.
    pub(super) async fn forget(
        &self,
        fence: &Compare,
        now: Timestamp,
        old: Option<Revision>,
    ) -> Result<(), Error> {
        let before = self.before(now);
        let answers = self.sweep(fence, codec::ONCE, |_, entry| answer_is_over(&entry.value, now)).await?;
        let token = |_: &State, entry: &Entry| {
            let known = serde_json::from_slice::<TokenRecord>(&entry.value);
            known.is_ok_and(|known| known.expires_at < before)
        };
        let tokens = self.sweep(fence, &Prefix::Tokens.path()?, token).await?;
        tracing::info!(answers, tokens, "forgot what is over");
        match old {
            Some(old) => self.forget_old(fence, old).await,
            None => Ok(()),
        }
    }

    async fn forget_old(&self, fence: &Compare, old: Revision) -> Result<(), Error> {
        let is_old = move |entry: &Entry| entry.mod_revision <= old;
        let tombstone = |state: &State, entry: &Entry| {
            let known = serde_json::from_slice::<Tombstone>(&entry.value);
            is_old(entry) && known.is_ok_and(|known| prune::tombstone_is_unused(state, &known.run))
        };
        let spec = |state: &State, entry: &Entry| {
            let unused =
                |key| matches!(key, Ok(Key::Spec { sha256 }) if prune::spec_is_unused(state, sha256));
            is_old(entry) && unused(Key::parse(&entry.key))
        };
        let resumed = |state: &State, entry: &Entry| {
            let id = entry.key.strip_prefix(codec::RESUMED).and_then(|id| id.parse::<HaltId>().ok());
            is_old(entry) && id.is_some_and(|id| prune::resumption_is_unused(state, &id))
        };
        let tombstones = self.sweep(fence, &Prefix::Tombstones.path()?, tombstone).await?;
        let specs = self.sweep(fence, &Prefix::Specs.path()?, spec).await?;
        let resumptions = self.sweep(fence, codec::RESUMED, resumed).await?;
        let newest = self.newest_spent().await?;
        let spent = |_: &State, entry: &Entry| is_old(entry) && entry.mod_revision < newest;
        let spent = self.sweep(fence, codec::SPENT, spent).await?;
        let revocations = self.forget_revocations(fence, is_old).await?;
        tracing::info!(tombstones, specs, resumptions, spent, revocations, "forgot what is old");
        Ok(())
    }

    /// A certificate that expired needs no refusal any more. A member that is revoked and still there keeps its own.
    async fn forget_revocations(
        &self,
        fence: &Compare,
        is_old: impl Fn(&Entry) -> bool,
    ) -> Result<usize, Error> {
        if self.keep_for < self.certificates_live * 2 {
            return Ok(0);
        }
        let expired = |state: &State, entry: &Entry| {
            let Ok(Key::Revoked { cluster, serial }) = Key::parse(&entry.key) else { return false };
            let id = cluster.parse::<ClusterId>().ok();
            let member = id.and_then(|id| state.clusters.get(&id)).is_some_and(|known| known.spec.is_some());
            is_old(entry) && (serial != ALL_SERIALS || !member)
        };
        self.sweep(fence, &Prefix::Revoked.path()?, expired).await
    }

    /// The revision from which on the newest spent tokens are kept.
    async fn newest_spent(&self) -> Result<Revision, Error> {
        let mut request = Some(PageRequest::first(PAGE));
        let mut revisions = Vec::new();
        while let Some(asked) = request {
            let page = self.store.list(codec::SPENT, asked.clone()).await?;
            revisions.extend(page.entries.iter().map(|entry| entry.mod_revision));
            request = asked.next(&page);
        }
        revisions.sort_unstable_by(|a, b| b.cmp(a));
        Ok(revisions.get(SPENT_KEPT - 1).copied().unwrap_or_default())
    }

    async fn sweep(
        &self,
        fence: &Compare,
        prefix: &str,
        unused: impl Fn(&State, &Entry) -> bool,
    ) -> Result<usize, Error> {
        let mut request = Some(PageRequest::first(PAGE));
        let mut forgotten = 0;
        while let Some(asked) = request {
            let page = self.store.list(prefix, asked.clone()).await?;
            let judged: Vec<Judged> = self.cache.read(|state| {
                let gone = page.entries.iter().filter(|entry| unused(state, entry));
                gone.map(|e| Judged { key: e.key.clone(), revision: e.mod_revision, lease: e.lease })
                    .collect()
            });
            for chunk in judged.chunks(CHUNK) {
                let mut txn = Txn::new().when(fence.clone());
                for Judged { key, revision, .. } in chunk {
                    txn = txn.unchanged(key, *revision).delete(key);
                }
                // Something that changed meanwhile is needed: the next round judges anew.
                if self.store.txn(txn).await?.is_conflict() {
                    continue;
                }
                forgotten += chunk.len();
                for lease in chunk.iter().filter_map(|judged| judged.lease) {
                    // One that is gone, or goes by itself, is no concern.
                    let _ = self.store.lease_revoke(lease).await;
                }
            }
            request = asked.next(&page);
        }
        Ok(forgotten)
    }
}
