//! One round of looking after the past: the audit's chains, then what nobody needs any more.

use jiff::Timestamp;

use super::marks::Marks;
use super::{Error, Retention};
use crate::store::keys::Key;
use crate::store::{Compare, Entry, Txn};

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
        if is_new {
            self.forget(fence, now, marks.revision_before(self.before(now))).await?;
        }
        Ok(())
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
}
