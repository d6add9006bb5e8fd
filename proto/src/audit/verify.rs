//! The check of chains: recompute every hash, follow every link, hold them against the signed
//! checkpoints. Pure: who may sign is asked of the caller.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{AuditCheckpoint, AuditLine, CheckpointKind, digest};
use crate::rest::AuditRecord;

/// More records than this without a checkpoint are not a tail that was not signed yet.
const UNSIGNED_MAX: u64 = 1024;
/// Nor are older ones: how far behind the newest record of all chains.
const UNSIGNED_FOR: SignedDuration = SignedDuration::from_hours(1);

/// How much of the audit was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// All of it: a chain begins at 1, or where a signed checkpoint says it was pruned.
    Whole,
    /// Some files of an export: a chain may begin anywhere.
    Part,
}

/// What is wrong with a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum FlawKind {
    /// The record is not what its hash was made of.
    Altered,
    /// The record does not follow from the one before.
    Unlinked,
    /// Records are missing before this one.
    Missing,
    /// Two different records have this number.
    Doubled,
    /// The chain begins here, and nothing signed says that the rest was pruned.
    Headless,
    /// The checkpoint's signature is not to be believed.
    Forged,
    /// The checkpoint was signed over another past.
    Rewritten,
    /// The checkpoint covers records that are not there.
    Truncated,
    /// Too many records, or too old ones, are covered by no checkpoint.
    Unsigned,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flaw {
    /// The number of the record, or of the checkpoint.
    pub seq: u64,
    /// What.
    pub kind: FlawKind,
    /// In words.
    pub message: String,
}

/// What is known of one replica's chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainReport {
    /// Whose.
    pub replica: String,
    /// Records found, each number counted once.
    pub records: u64,
    /// Number of the first; 0 where none is left.
    pub first: u64,
    /// Number of the last; 0 where none is left.
    pub last: u64,
    /// The last number that was deleted for its age, as signed; 0: none.
    pub pruned_to: u64,
    /// The last number that a believed checkpoint covers; 0: none.
    pub signed_to: u64,
    /// When that was signed.
    pub signed_at: Option<Timestamp>,
    /// Records after it: nothing but their own links protects them yet.
    pub unsigned: u64,
    /// What is wrong, by number; empty: the chain is whole.
    pub flaws: Vec<Flaw>,
}

/// Checks every chain, in any order of lines, with repetitions. `believe` checks the signature of
/// a checkpoint and says what is wrong with it.
pub fn verify<E: std::fmt::Display>(
    lines: impl IntoIterator<Item = AuditLine>,
    extent: Extent,
    believe: impl Fn(&AuditCheckpoint) -> Result<(), E>,
) -> Vec<ChainReport> {
    let mut chains: BTreeMap<String, Chain> = BTreeMap::new();
    let mut newest = Timestamp::MIN;
    for line in lines {
        match line {
            AuditLine::Record(record) => {
                newest = newest.max(record.at);
                chains.entry(record.replica.clone()).or_default().add(record);
            }
            AuditLine::Checkpoint(checkpoint) => {
                let chain = chains.entry(checkpoint.replica.clone()).or_default();
                if !chain.checkpoints.contains(&checkpoint) {
                    chain.checkpoints.push(checkpoint);
                }
            }
        }
    }
    chains.into_iter().map(|(replica, chain)| chain.report(replica, extent, newest, &believe)).collect()
}

#[derive(Default)]
struct Chain {
    records: BTreeMap<u64, AuditRecord>,
    checkpoints: Vec<AuditCheckpoint>,
    flaws: Vec<Flaw>,
}

impl Chain {
    fn add(&mut self, record: AuditRecord) {
        match self.records.get(&record.seq) {
            // An export may say a thing twice.
            Some(known) if *known == record => {}
            Some(_) => self.flaw(record.seq, FlawKind::Doubled, "two different records have this number"),
            None => drop(self.records.insert(record.seq, record)),
        }
    }

    fn flaw(&mut self, seq: u64, kind: FlawKind, message: impl Into<String>) {
        self.flaws.push(Flaw { seq, kind, message: message.into() });
    }

    fn report<E: std::fmt::Display>(
        mut self,
        replica: String,
        extent: Extent,
        newest: Timestamp,
        believe: &impl Fn(&AuditCheckpoint) -> Result<(), E>,
    ) -> ChainReport {
        let mut believed = Vec::new();
        for checkpoint in std::mem::take(&mut self.checkpoints) {
            match believe(&checkpoint) {
                Ok(()) => believed.push(checkpoint),
                Err(error) => self.flaw(checkpoint.seq, FlawKind::Forged, error.to_string()),
            }
        }
        believed.sort_by_key(|checkpoint| checkpoint.seq);
        let pruned_to =
            believed.iter().filter(|c| c.kind == CheckpointKind::Pruned).map(|c| c.seq).max().unwrap_or(0);
        self.links(extent, pruned_to);
        let signed = self.signatures(&believed, pruned_to);
        let signed_to = signed.map_or(0, |(seq, _)| seq);
        self.tail(signed_to.max(pruned_to), newest);
        self.flaws.sort_by_key(|flaw| flaw.seq);
        let count = |range: std::ops::RangeFrom<u64>| self.records.range(range).count() as u64;
        ChainReport {
            replica,
            records: count(0..),
            first: self.records.keys().next().copied().unwrap_or(0),
            last: self.records.keys().next_back().copied().unwrap_or(0),
            pruned_to,
            signed_to,
            signed_at: signed.map(|(_, at)| at),
            unsigned: count(signed_to + 1..),
            flaws: self.flaws,
        }
    }

    /// Every record's own hash, and its link to the one before.
    fn links(&mut self, extent: Extent, pruned_to: u64) {
        let mut before: Option<(u64, String)> = None;
        let mut found = Vec::new();
        for (seq, record) in &self.records {
            let hash = digest(record);
            if hash != record.hash {
                found.push((
                    *seq,
                    FlawKind::Altered,
                    "the record is not what its hash was made of".to_owned(),
                ));
            }
            match &before {
                None if *seq == 1 && record.previous.is_empty() => {}
                // Deleting goes on while somebody reads: the mark comes first.
                None if *seq > 1 && *seq <= pruned_to + 1 => {}
                None if extent == Extent::Part && *seq > 1 => {}
                None => found.push((
                    *seq,
                    FlawKind::Headless,
                    "the chain begins here, and nothing signed says that what came before was pruned"
                        .to_owned(),
                )),
                Some((last, _)) if last + 1 != *seq => {
                    found.push((
                        *seq,
                        FlawKind::Missing,
                        format!("records {} to {} are missing", last + 1, seq - 1),
                    ));
                }
                Some((last, hash)) if *hash != record.previous => {
                    found.push((*seq, FlawKind::Unlinked, format!("it does not follow from record {last}")));
                }
                Some(_) => {}
            }
            before = Some((*seq, hash));
        }
        for (seq, kind, message) in found {
            self.flaw(seq, kind, message);
        }
    }

    /// Holds believed checkpoints against the chain; the last one that fits.
    fn signatures(&mut self, believed: &[AuditCheckpoint], pruned_to: u64) -> Option<(u64, Timestamp)> {
        let first = self.records.keys().next().copied();
        let last = self.records.keys().next_back().copied().unwrap_or(0);
        let mut signed = None;
        for checkpoint in believed {
            let seq = checkpoint.seq;
            let stands = match (self.records.get(&seq), self.records.get(&(seq + 1))) {
                (Some(record), _) => digest(record) == checkpoint.hash,
                (None, Some(next)) => next.previous == checkpoint.hash,
                (None, None) if seq > last && seq > pruned_to => {
                    let message =
                        format!("a checkpoint of {} covers {seq}, the chain ends at {last}", checkpoint.at);
                    self.flaw(seq, FlawKind::Truncated, message);
                    continue;
                }
                // Before what was given, or in a hole that is a flaw already.
                (None, None) => first.is_none_or(|first| seq < first),
            };
            if stands {
                signed = Some((seq, checkpoint.at));
            } else if self.records.contains_key(&seq) || self.records.contains_key(&(seq + 1)) {
                let message = format!("the checkpoint of {} was signed over another past", checkpoint.at);
                self.flaw(seq, FlawKind::Rewritten, message);
            }
        }
        signed
    }

    fn tail(&mut self, signed_to: u64, newest: Timestamp) {
        let mut tail = self.records.range(signed_to + 1..);
        let Some((seq, oldest)) = tail.next() else { return };
        let count = 1 + tail.count() as u64;
        if count > UNSIGNED_MAX || newest.duration_since(oldest.at) > UNSIGNED_FOR {
            let (seq, message) =
                (*seq, format!("{count} records, the first of {}, have no checkpoint", oldest.at));
            self.flaw(seq, FlawKind::Unsigned, message);
        }
    }
}
