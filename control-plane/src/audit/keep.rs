//! What the leader does for all chains: sign the tail of a replica that is gone, and delete what is
//! old. It deletes up to a checkpoint that it believes, over records that it has checked, and that
//! the sink has; the mark that it signs first says that the beginning was deleted and did not get
//! lost. A chain that does not hold together is left as it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use proto::audit::{AuditCheckpoint, CheckpointKind, digest};
use proto::rest::AuditRecord;

use super::chains::PAGE;
use super::export::Cursor;
use super::{Chains, Error, Sealer};
use crate::store::keys::{Key, Prefix};
use crate::store::{Compare, Revision, Store, Txn};

/// Keys deleted in one transaction.
const CHUNK: usize = 90;

/// Looks after the chains while this replica leads.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) sealer: Sealer,
    /// The sink whose cursor holds deletion back.
    pub(crate) sink: Option<String>,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Records deleted.
    pub(crate) pruned: u64,
    /// Chains signed for replicas that are gone.
    pub(crate) sealed: u64,
    /// Chains that do not hold together: an operator must verify.
    pub(crate) broken: u64,
}

/// A chain that does not hold together, and where.
struct Broken {
    seq: u64,
    what: &'static str,
}

/// Where the walk along a chain stands.
struct Walk {
    seq: u64,
    hash: String,
}

impl Walk {
    /// Steps to a record, if it follows.
    fn step(&mut self, seq: u64, record: Option<&AuditRecord>) -> Result<(), Broken> {
        let broken = |what| Err(Broken { seq, what });
        let Some(record) = record else { return broken("the record cannot be read") };
        if seq != self.seq + 1 || record.seq != seq {
            return broken("records are missing");
        }
        if record.previous != self.hash {
            return broken("the record does not follow from the one before");
        }
        let hash = digest(record);
        if hash != record.hash {
            return broken("the record was altered");
        }
        (self.seq, self.hash) = (seq, hash);
        Ok(())
    }
}

type Signed = (AuditCheckpoint, Revision);

impl Keeper {
    /// One round over all chains. Records noted before `before` are old.
    pub(crate) async fn round(&self, fence: &Compare, before: Timestamp) -> Result<Kept, Error> {
        let chains = Chains::new(self.store.clone());
        let live = chains.live().await?;
        let mut kept = Kept::default();
        for replica in chains.names().await? {
            let is_live = live.contains(&replica);
            match self.chain(&chains, fence, &replica, is_live, before).await? {
                Ok((pruned, sealed)) => {
                    kept.pruned += pruned;
                    kept.sealed += u64::from(sealed);
                }
                Err(Broken { seq, what }) => {
                    kept.broken += 1;
                    tracing::error!(replica, seq, what, "the audit is broken: run `faultline audit verify`");
                }
            }
        }
        self.forget_cursors(&chains, fence, &live).await?;
        Ok(kept)
    }

    async fn chain(
        &self,
        chains: &Chains,
        fence: &Compare,
        replica: &str,
        live: bool,
        before: Timestamp,
    ) -> Result<Result<(u64, bool), Broken>, Error> {
        let mut signed: Vec<Signed> = chains.checkpoints(replica, 0).await?;
        signed.retain(|(checkpoint, _)| {
            let believed = self.sealer.believe(checkpoint);
            believed.inspect_err(|error| tracing::error!(replica, %error, "skip a checkpoint")).is_ok()
        });
        let mark = signed.iter().rev().find(|(c, _)| c.kind == CheckpointKind::Pruned).cloned();
        let pruned_to = mark.as_ref().map_or(0, |(mark, _)| mark.seq);
        // What an interrupted round left.
        let mut pruned = self.delete(chains, fence, replica, pruned_to).await?;
        let start = match &mark {
            Some((mark, _)) => Walk { seq: mark.seq, hash: mark.hash.clone() },
            None => Walk { seq: 0, hash: String::new() },
        };
        let sealed = match self.seal(chains, fence, replica, live, &signed, &start).await? {
            Ok(sealed) => sealed,
            Err(broken) => return Ok(Err(broken)),
        };
        let upto = match self.prunable(chains, replica, &signed, start, before).await? {
            Ok(upto) => upto,
            Err(broken) => return Ok(Err(broken)),
        };
        if let Some((checkpoint, revision)) = upto {
            self.mark(fence, &checkpoint, revision).await?;
            pruned += self.delete(chains, fence, replica, checkpoint.seq).await?;
        }
        if let Some((mark, revision)) = mark.filter(|(mark, _)| !live && mark.at < before) {
            self.forget(chains, fence, &mark, revision).await?;
        }
        Ok(Ok((pruned, sealed)))
    }

    /// Signs the tail of a chain whose replica is gone.
    async fn seal(
        &self,
        chains: &Chains,
        fence: &Compare,
        replica: &str,
        live: bool,
        signed: &[Signed],
        start: &Walk,
    ) -> Result<Result<bool, Broken>, Error> {
        if live {
            return Ok(Ok(false));
        }
        let mut walk = match signed.last() {
            Some((last, _)) => Walk { seq: last.seq, hash: last.hash.clone() },
            None => Walk { seq: start.seq, hash: start.hash.clone() },
        };
        let from = walk.seq;
        loop {
            let records = chains.records(replica, walk.seq).await?;
            for (seq, record) in &records {
                if let Err(broken) = walk.step(*seq, record.as_ref()) {
                    return Ok(Err(broken));
                }
            }
            if records.len() < PAGE {
                break;
            }
        }
        if walk.seq == from {
            return Ok(Ok(false));
        }
        let checkpoint = self.sealer.checkpoint(replica, walk.seq, &walk.hash, CheckpointKind::Progress)?;
        let key = Key::AuditCheckpoint { replica, seq: walk.seq }.path()?;
        let txn = Txn::new().when(fence.clone()).absent(&key).put(&key, serde_json::to_vec(&checkpoint)?);
        self.store.txn(txn).await?.committed()?;
        Ok(Ok(true))
    }

    /// The last checkpoint before which everything is old, is with the sink, and holds together.
    async fn prunable(
        &self,
        chains: &Chains,
        replica: &str,
        signed: &[Signed],
        start: Walk,
        before: Timestamp,
    ) -> Result<Result<Option<Signed>, Broken>, Error> {
        let exported = self.exported(replica).await?;
        let (mut walk, mut upto) = (start, None);
        let from = signed.partition_point(|(c, _)| c.seq <= walk.seq);
        let to = signed.partition_point(|(c, _)| c.seq <= exported).max(from);
        let mut next = &signed[from..to];
        while let Some((waiting, _)) = next.first() {
            let missing = Broken { seq: waiting.seq, what: "a checkpoint covers records that are not there" };
            let records = chains.records(replica, walk.seq).await?;
            for (seq, record) in &records {
                if record.as_ref().is_some_and(|record| record.at >= before) {
                    return Ok(Ok(upto));
                }
                if let Err(broken) = walk.step(*seq, record.as_ref()) {
                    return Ok(Err(broken));
                }
                if let Some((checkpoint, rest)) = next.split_first().filter(|(c, _)| c.0.seq == *seq) {
                    next = rest;
                    if checkpoint.0.hash != walk.hash {
                        return Ok(Err(Broken {
                            seq: *seq,
                            what: "the checkpoint was signed over another past",
                        }));
                    }
                    upto = Some(checkpoint.clone());
                }
            }
            if records.is_empty() {
                return Ok(Err(missing));
            }
        }
        Ok(Ok(upto))
    }

    async fn exported(&self, replica: &str) -> Result<u64, Error> {
        let Some(sink) = &self.sink else { return Ok(u64::MAX) };
        let entry = self.store.get(&Key::AuditCursor { sink, replica }.path()?).await?;
        let cursor = entry.and_then(|entry| serde_json::from_slice::<Cursor>(&entry.value).ok());
        Ok(cursor.unwrap_or_default().seq)
    }

    /// Turns a checkpoint into the mark of a pruning.
    async fn mark(
        &self,
        fence: &Compare,
        checkpoint: &AuditCheckpoint,
        revision: Revision,
    ) -> Result<(), Error> {
        let AuditCheckpoint { replica, seq, hash, .. } = checkpoint;
        let mark = self.sealer.checkpoint(replica, *seq, hash, CheckpointKind::Pruned)?;
        let key = Key::AuditCheckpoint { replica, seq: *seq }.path()?;
        let txn = Txn::new().when(fence.clone()).unchanged(&key, revision);
        self.store.txn(txn.put(&key, serde_json::to_vec(&mark)?)).await?.committed()?;
        Ok(())
    }

    /// Deletes records up to a mark, and the checkpoints before it; answers how many records.
    async fn delete(&self, chains: &Chains, fence: &Compare, replica: &str, upto: u64) -> Result<u64, Error> {
        let mut deleted = 0;
        loop {
            let records = chains.records(replica, 0).await?;
            let old: Vec<u64> = records.iter().map(|(seq, _)| *seq).filter(|seq| *seq <= upto).collect();
            for chunk in old.chunks(CHUNK) {
                let mut txn = Txn::new().when(fence.clone());
                for seq in chunk {
                    txn = txn.delete(Key::Audit { replica, seq: *seq }.path()?);
                }
                self.store.txn(txn).await?.committed()?;
                deleted += chunk.len() as u64;
            }
            if old.len() < PAGE {
                break;
            }
        }
        let checkpoints = chains.checkpoints(replica, 0).await?;
        let old: Vec<u64> = checkpoints.iter().map(|(c, _)| c.seq).filter(|seq| *seq < upto).collect();
        for chunk in old.chunks(CHUNK) {
            let mut txn = Txn::new().when(fence.clone());
            for seq in chunk {
                txn = txn.delete(Key::AuditCheckpoint { replica, seq: *seq }.path()?);
            }
            self.store.txn(txn).await?.committed()?;
        }
        Ok(deleted)
    }

    /// Forgets a chain of which nothing but an old mark is left.
    async fn forget(
        &self,
        chains: &Chains,
        fence: &Compare,
        mark: &AuditCheckpoint,
        revision: Revision,
    ) -> Result<(), Error> {
        if !chains.records(&mark.replica, 0).await?.is_empty() {
            return Ok(());
        }
        let key = Key::AuditCheckpoint { replica: &mark.replica, seq: mark.seq }.path()?;
        let txn = Txn::new().when(fence.clone()).unchanged(&key, revision).delete(&key);
        self.store.txn(txn).await?.committed()?;
        Ok(())
    }

    /// Forgets how far chains were sent that are not there any more.
    async fn forget_cursors(
        &self,
        chains: &Chains,
        fence: &Compare,
        live: &BTreeSet<String>,
    ) -> Result<(), Error> {
        let cursors = chains.all(&Prefix::AuditCursors.path()?).await?;
        let names = chains.names().await?;
        for entry in cursors {
            let Ok(Key::AuditCursor { replica, .. }) = Key::parse(&entry.key) else { continue };
            if !names.contains(replica) && !live.contains(replica) {
                let txn = Txn::new().when(fence.clone()).unchanged(&entry.key, entry.mod_revision);
                self.store.txn(txn.delete(&entry.key)).await?.committed()?;
            }
        }
        Ok(())
    }
}
