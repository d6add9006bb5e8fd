//! What somebody with write access to the store or to a file might do to the audit.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::{AuditCheckpoint, AuditLine, ChainReport, CheckpointKind, Extent, FlawKind, digest, verify};
use crate::rest::AuditRecord;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// Records 1 to `count`, one a second.
fn chain(replica: &str, count: u64) -> Vec<AuditRecord> {
    let mut records: Vec<AuditRecord> = Vec::new();
    for seq in 1..=count {
        records.push(AuditRecord {
            replica: replica.to_owned(),
            seq,
            at: at(seq as i64),
            by: "operator:ann".to_owned(),
            action: "run.create".to_owned(),
            subject: format!("r{seq}"),
            result: "ok".to_owned(),
            previous: records.last().map(|last| last.hash.clone()).unwrap_or_default(),
            hash: String::new(),
        });
        rehash(&mut records, seq);
    }
    records
}

/// As somebody would who can write, but not sign.
fn rehash(records: &mut [AuditRecord], from: u64) {
    for index in from as usize - 1..records.len() {
        records[index].previous = index.checked_sub(1).map(|i| records[i].hash.clone()).unwrap_or_default();
        records[index].hash = digest(&records[index]);
    }
}

/// Signed by writing "good" under it.
fn checkpoint(records: &[AuditRecord], seq: u64, kind: CheckpointKind) -> AuditCheckpoint {
    let record = &records[seq as usize - 1];
    AuditCheckpoint {
        replica: record.replica.clone(),
        seq,
        hash: record.hash.clone(),
        at: record.at,
        kind,
        chain_pem: String::new(),
        signature: "good".to_owned(),
    }
}

fn check(records: &[AuditRecord], checkpoints: &[AuditCheckpoint], extent: Extent) -> ChainReport {
    let lines = records.iter().cloned().map(AuditLine::Record);
    let lines = lines.chain(checkpoints.iter().cloned().map(AuditLine::Checkpoint));
    let believe = |c: &AuditCheckpoint| if c.signature == "good" { Ok(()) } else { Err("a bad signature") };
    verify(lines, extent, believe).remove(0)
}

fn flaws(report: &ChainReport) -> Vec<(u64, FlawKind)> {
    report.flaws.iter().map(|flaw| (flaw.seq, flaw.kind)).collect()
}

#[test]
fn a_whole_chain_has_no_flaw_and_its_tail_is_named() {
    let records = chain("a", 10);
    let report = check(&records, &[checkpoint(&records, 8, CheckpointKind::Progress)], Extent::Whole);
    assert_eq!(report.flaws, []);
    assert_eq!((report.records, report.first, report.last), (10, 1, 10));
    assert_eq!((report.signed_to, report.unsigned, report.signed_at), (8, 2, Some(at(8))));
}

#[test]
fn every_field_of_a_record_is_in_its_hash() {
    let change: [fn(&mut AuditRecord); 7] = [
        |r| r.at += SignedDuration::from_nanos(1),
        |r| r.by.push('x'),
        |r| r.action.push('x'),
        |r| r.subject.push('x'),
        |r| r.result.push('x'),
        |r| r.previous.push('x'),
        |r| r.seq += 100,
    ];
    for (index, change) in change.into_iter().enumerate() {
        let mut records = chain("a", 10);
        let signed = checkpoint(&records, 10, CheckpointKind::Progress);
        change(&mut records[4]);
        let report = check(&records, &[signed], Extent::Whole);
        assert!(flaws(&report).iter().any(|(_, kind)| *kind == FlawKind::Altered), "{index}: {report:?}");
    }
    // What moves from one field to the next makes another hash.
    let mut records = chain("a", 1);
    (records[0].by, records[0].action) = ("operator:annrun".to_owned(), ".create".to_owned());
    assert_ne!(digest(&records[0]), records[0].hash);
    // Another replica's name makes another chain of it.
    let mut records = chain("a", 1);
    records[0].replica = "b".to_owned();
    assert_eq!(flaws(&check(&records, &[], Extent::Whole)), [(1, FlawKind::Altered)]);
}

#[test]
fn a_changed_record_is_named_also_when_its_own_hash_was_made_to_fit() {
    let mut records = chain("a", 10);
    records[4].subject = "another".to_owned();
    let found = flaws(&check(&records, &[], Extent::Whole));
    assert_eq!(found, [(5, FlawKind::Altered), (6, FlawKind::Unlinked)]);
    records[4].hash = digest(&records[4]);
    assert_eq!(flaws(&check(&records, &[], Extent::Whole)), [(6, FlawKind::Unlinked)]);
}

#[test]
fn dropped_swapped_and_doubled_records_are_found() {
    let whole = chain("a", 10);
    let mut dropped = whole.clone();
    dropped.remove(4);
    assert_eq!(flaws(&check(&dropped, &[], Extent::Whole)), [(6, FlawKind::Missing)]);
    let mut swapped = whole.clone();
    (swapped[4].seq, swapped[5].seq) = (6, 5);
    let found = flaws(&check(&swapped, &[], Extent::Whole));
    assert_eq!(found[0], (5, FlawKind::Altered), "{found:?}");
    let mut doubled = whole.clone();
    doubled.push(AuditRecord { subject: "another".to_owned(), ..whole[4].clone() });
    assert_eq!(flaws(&check(&doubled, &[], Extent::Whole)), [(5, FlawKind::Doubled)]);
    // Neither the order of lines nor a repetition means anything: every line says its place.
    let mut turned: Vec<_> = whole.iter().rev().cloned().collect();
    turned.extend(whole.iter().take(3).cloned());
    assert_eq!(flaws(&check(&turned, &[], Extent::Whole)), []);
}

#[test]
fn a_cut_tail_and_a_past_written_anew_do_not_fit_the_checkpoint() {
    let whole = chain("a", 10);
    let signed = [checkpoint(&whole, 8, CheckpointKind::Progress)];
    assert_eq!(flaws(&check(&whole[..6], &signed, Extent::Whole)), [(8, FlawKind::Truncated)]);
    assert_eq!(flaws(&check(&whole[..8], &signed, Extent::Whole)), []);
    let mut anew = whole.clone();
    anew[4].subject = "another".to_owned();
    rehash(&mut anew, 5);
    assert_eq!(flaws(&check(&anew, &[], Extent::Whole)), [], "nothing but a signature can tell");
    assert_eq!(flaws(&check(&anew, &signed, Extent::Whole)), [(8, FlawKind::Rewritten)]);
    let mut forged = checkpoint(&anew, 8, CheckpointKind::Progress);
    forged.signature = "theirs".to_owned();
    let found = flaws(&check(&anew, &[forged], Extent::Whole));
    assert_eq!(found, [(8, FlawKind::Forged)]);
}

#[test]
fn only_a_signed_pruning_excuses_a_missing_beginning() {
    let whole = chain("a", 10);
    let progress = checkpoint(&whole, 4, CheckpointKind::Progress);
    let pruned = checkpoint(&whole, 4, CheckpointKind::Pruned);
    let rest = &whole[4..];
    assert_eq!(flaws(&check(rest, &[], Extent::Whole)), [(5, FlawKind::Headless)]);
    assert_eq!(
        flaws(&check(rest, std::slice::from_ref(&progress), Extent::Whole)),
        [(5, FlawKind::Headless)]
    );
    let report = check(rest, std::slice::from_ref(&pruned), Extent::Whole);
    assert_eq!((flaws(&report), report.pruned_to), (Vec::new(), 4));
    // Read while the deleting goes on.
    assert_eq!(flaws(&check(&whole[2..], std::slice::from_ref(&pruned), Extent::Whole)), []);
    // More is gone than was signed for.
    assert_eq!(
        flaws(&check(&whole[6..], std::slice::from_ref(&pruned), Extent::Whole)),
        [(7, FlawKind::Headless)]
    );
    // A beginning that another past leads to.
    let mut anew = whole.clone();
    anew[3].subject = "another".to_owned();
    rehash(&mut anew, 4);
    assert_eq!(
        flaws(&check(&anew[4..], std::slice::from_ref(&pruned), Extent::Whole)),
        [(4, FlawKind::Rewritten)]
    );
    // Everything was pruned.
    assert_eq!(flaws(&check(&[], &[pruned], Extent::Whole)), []);
    assert_eq!(flaws(&check(rest, &[], Extent::Part)), []);
}

#[test]
fn a_tail_is_not_unsigned_for_long() {
    let mut records = chain("a", 1030);
    assert_eq!(flaws(&check(&records, &[], Extent::Whole)), [(1, FlawKind::Unsigned)]);
    let signed = [checkpoint(&records, 20, CheckpointKind::Progress)];
    assert_eq!(flaws(&check(&records, &signed, Extent::Whole)), []);
    records.truncate(21);
    records[20].at = at(20 + 7200);
    rehash(&mut records, 21);
    assert_eq!(flaws(&check(&records, &signed, Extent::Whole)), []);
    assert_eq!(flaws(&check(&records, &[], Extent::Whole)), [(1, FlawKind::Unsigned)]);
}

#[test]
fn a_line_keeps_its_form() {
    let record = AuditLine::Record(chain("a", 1).remove(0));
    let text = serde_json::to_string(&record).unwrap();
    assert!(
        text.starts_with(r#"{"type":"record","replica":"a","seq":1,"at":"2027-01-15T08:00:01Z""#),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<AuditLine>(&text).unwrap(), record);
    // The hash is a promise to who checks without us: this one was made by another program.
    assert!(text.contains("b2e45a4c7e6dd10d0cfa5ba4b2dbd0db54d755f6a17d9906d0ca3ab5e6492d1f"), "{text}");
}

proptest! {
    #[test]
    fn whatever_is_done_to_signed_records_is_found(
        count in 2u64..12, at_index in 0usize..12, action in 0..3, recompute: bool,
    ) {
        let whole = chain("a", count);
        let signed = checkpoint(&whole, count, CheckpointKind::Progress);
        let mut records = whole.clone();
        let index = at_index % records.len();
        match action {
            0 => records[index].result = "denied".to_owned(),
            1 => drop(records.remove(index)),
            _ => records.truncate(index),
        }
        if recompute {
            for (index, record) in records.iter_mut().enumerate() {
                record.seq = index as u64 + 1;
            }
            rehash(&mut records, 1);
        }
        let report = check(&records, &[signed], Extent::Whole);
        prop_assert!(!report.flaws.is_empty());
    }
}
