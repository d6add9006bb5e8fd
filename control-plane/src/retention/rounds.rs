//! One round of looking after the past: the audit's chains, then what nobody needs any more.

use jiff::Timestamp;
use proto::ids::HaltId;

use super::marks::Marks;
use super::{Error, Retention};
use crate::authored::Tombstone;
use crate::driver::codec;
use crate::engine::prune;
use crate::engine::state::State;
use crate::store::keys::{Key, Prefix};
use crate::store::{Compare, Entry, PageRequest, Revision, Txn};

const PAGE: usize = 200;
/// Keys deleted in one transaction, each with its comparison.
const CHUNK: usize = 45;

/// Keys to delete, each only at the revision that it was judged at.
type Judged = Vec<(String, Revision)>;

impl Retention {
    pub(super) async fn round(&self, fence: &Compare) -> Result<(), Error> {
        let now = self.clock.now();
        let kept = self.keeper.round(fence, self.before(now)).await?;
        self.health.audit_broken.set(kept.broken as i64);
        self.health.audit_pruned.inc_by(kept.pruned);
        if kept.pruned + kept.sealed > 0 {
            tracing::info!(pruned = kept.pruned, sealed = kept.sealed, "audit");
        }
        let (marks, is_new) = self.mark(fence, now).await?;
        // With each mark there is something new that is old.
        match marks.revision_before(self.before(now)) {
            Some(old) if is_new => self.forget(fence, old).await,
            _ => Ok(()),
        }
    }

    async fn mark(&self, fence: &Compare, now: Timestamp) -> Result<(Marks, bool), Error> {
        let key = Key::RevisionMarks.path()?;
        let stored = self.store.get(&key).await?;
        let stands_at = self.store.health().await?.revision;
        // Marks that cannot be read begin anew: rather late than early.
        let read = |entry: &Entry| serde_json::from_slice(&entry.value).unwrap_or_default();
        let mut marks: Marks = stored.as_ref().map(read).unwrap_or_default();
        let is_new = marks.note(now, stands_at, self.keep_for);
        if is_new {
            let revision = stored.map_or(0, |entry| entry.mod_revision);
            let txn = Txn::new().when(fence.clone()).unchanged(&key, revision);
            self.store.txn(txn.put(&key, serde_json::to_vec(&marks)?)).await?.committed()?;
        }
        Ok((marks, is_new))
    }

    /// Deletes what was last written at or before `old` and what nobody needs.
    async fn forget(&self, fence: &Compare, old: Revision) -> Result<(), Error> {
        let tombstone = |state: &State, entry: &Entry| {
            let known = serde_json::from_slice::<Tombstone>(&entry.value);
            known.is_ok_and(|known| prune::tombstone_is_unused(state, &known.run))
        };
        let spec = |state: &State, entry: &Entry| {
            let key = Key::parse(&entry.key);
            matches!(key, Ok(Key::Spec { sha256 }) if prune::spec_is_unused(state, sha256))
        };
        let resumed = |state: &State, entry: &Entry| {
            let id = entry.key.strip_prefix(codec::RESUMED).and_then(|id| id.parse::<HaltId>().ok());
            id.is_some_and(|id| prune::resumption_is_unused(state, &id))
        };
        let tombstones = self.sweep(fence, &Prefix::Tombstones.path()?, old, tombstone).await?;
        let specs = self.sweep(fence, &Prefix::Specs.path()?, old, spec).await?;
        let resumptions = self.sweep(fence, codec::RESUMED, old, resumed).await?;
        tracing::info!(tombstones, specs, resumptions, "forgot what is old");
        Ok(())
    }

    async fn sweep(
        &self,
        fence: &Compare,
        prefix: &str,
        old: Revision,
        unused: fn(&State, &Entry) -> bool,
    ) -> Result<usize, Error> {
        let mut request = PageRequest::first(PAGE);
        let mut forgotten = 0;
        loop {
            let page = self.store.list(prefix, request.clone()).await?;
            let judged: Judged = self.cache.read(|state| {
                let gone = |entry: &&Entry| entry.mod_revision <= old && unused(state, entry);
                page.entries.iter().filter(gone).map(|e| (e.key.clone(), e.mod_revision)).collect()
            });
            for chunk in judged.chunks(CHUNK) {
                let mut txn = Txn::new().when(fence.clone());
                for (key, revision) in chunk {
                    txn = txn.unchanged(key, *revision).delete(key);
                }
                // Something that changed meanwhile is needed: the next round judges anew.
                if !self.store.txn(txn).await?.is_conflict() {
                    forgotten += chunk.len();
                }
            }
            match page.entries.last().filter(|_| page.more) {
                Some(last) => request.after = Some(last.key.clone()),
                None => return Ok(forgotten),
            }
        }
    }
}
