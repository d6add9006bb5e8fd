//! The first thing a daemon does: every record that is not known to be clean is undone, and nothing is
//! resumed. Called by `run` before the link, the health port or anything else is opened; its result is
//! what the engine starts from. [`undo_record`] is the one way a record is undone, here, in the driver
//! and in the keeper.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::ids::InjectionId;
use proto::injection::{EndReason, InjectionPhase, InjectionStatus};

use crate::engine::Remains;
use crate::journal::{Damaged, Ended, Journal, Loaded, Meta, Record, Stage};
use crate::spans;
use crate::step::{self, Undone};
use crate::system::System;

/// How often an undo is tried before what is left is reported.
const TRIES: u32 = 4;
/// Wait after the first failed try; doubled after each.
const WAIT_FIRST: Duration = Duration::from_millis(50);
/// Records undone side by side.
const AT_ONCE: usize = 16;

/// What the engine starts from.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Epoch and halts; `None` when damaged.
    pub meta: Option<Meta>,
    /// Over; `None` for one whose file is damaged.
    pub ended: BTreeMap<InjectionId, Option<Ended>>,
    /// Not clean even now.
    pub left: Vec<(Record, InjectionStatus)>,
    /// Whose record cannot be read.
    pub unreadable: Vec<InjectionStatus>,
}

/// Undoes everything a daemon before left. Blocks until each was tried.
pub fn recover(
    journal: &Journal,
    loaded: Loaded,
    system: &dyn System,
    boot_id: &str,
    wall_ms: i64,
) -> Recovered {
    let mut recovered = Recovered {
        meta: loaded.meta,
        ended: loaded.ended,
        left: Vec::new(),
        unreadable: loaded.damaged.iter().filter_map(unreadable).collect(),
    };
    for group in loaded.records.chunks(AT_ONCE) {
        let results: Vec<Result<(), Remains>> = std::thread::scope(|scope| {
            let undo = |record| scope.spawn(move || undo_of_boot(journal, system, record, boot_id));
            let threads: Vec<_> = group.iter().map(undo).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(panicked()))).collect()
        });
        for (record, result) in group.iter().zip(results) {
            let status = status_of(record, &result, boot_id, wall_ms);
            tracing::info!(injection = %record.injection.id, phase = ?status.phase, "recovered");
            match result {
                Ok(()) => {
                    let ended = Ended { status, at_unix_ms: wall_ms };
                    if let Err(error) = journal.folders().end(&ended) {
                        // Undone again at the next start, which is harmless.
                        tracing::warn!(injection = %record.injection.id, %error, "end not written");
                    }
                    recovered.ended.insert(record.injection.id.clone(), Some(ended));
                }
                Err(_) => recovered.left.push((record.clone(), status)),
            }
        }
    }
    recovered
}

/// Takes every step away, last first, and reads back. Tried again a few times with growing waits (about
/// a second in all), then what is left is named.
pub fn undo_record(system: &dyn System, record: &Record) -> Result<(), Remains> {
    let span = spans::of(&record.injection, "undo").entered();
    let result = undo_steps(system, record);
    spans::failed(&span, result.as_ref().err().map(ToString::to_string));
    result
}

fn undo_steps(system: &dyn System, record: &Record) -> Result<(), Remains> {
    let mut wait = WAIT_FIRST;
    for tried in 1.. {
        let left: Vec<(String, String)> = record
            .steps
            .iter()
            .rev()
            .filter_map(|step| match undo_step(system, step) {
                Undone::Clean => None,
                Undone::Residue { what, command } => Some((what, command)),
            })
            .collect();
        if left.is_empty() {
            break;
        }
        if tried == TRIES {
            let (what, command): (Vec<String>, Vec<String>) = left.into_iter().unzip();
            return Err(Remains { what: what.join("; "), command: command.join("; ") });
        }
        std::thread::sleep(wait);
        wait *= 2;
    }
    Ok(())
}

/// Undo and read-back are one.
fn undo_step(system: &dyn System, step: &step::Step) -> Undone {
    tracing::info_span!("undo step", faultline.step = step.name()).in_scope(|| step::undo(system, step))
}

/// Nothing of an earlier boot is left: its namespaces, processes and cgroups ended with it, and their
/// numbers may name others now. So nothing is touched.
fn undo_of_boot(
    journal: &Journal,
    system: &dyn System,
    record: &Record,
    boot_id: &str,
) -> Result<(), Remains> {
    if record.boot_id != boot_id {
        return Ok(());
    }
    let _lock = journal.folders().lock_record(&record.injection.id);
    undo_record(system, record)
}

fn status_of(record: &Record, result: &Result<(), Remains>, boot_id: &str, wall_ms: i64) -> InjectionStatus {
    let rebooted = record.boot_id != boot_id;
    let (phase, message) = match result {
        Err(remains) => (InjectionPhase::Residue, remains.to_string()),
        Ok(()) if rebooted => (InjectionPhase::Reverted, "the node was rebooted, which ended it".to_owned()),
        Ok(()) => {
            let what = match record.stage {
                Stage::Intended => "the daemon ended while it was being made or just after",
                Stage::Injected => "the daemon ended while it was active",
                Stage::Residue => "what an earlier undo left was removed",
            };
            (InjectionPhase::Reverted, what.to_owned())
        }
    };
    InjectionStatus {
        id: record.injection.id.clone(),
        run: record.injection.run.clone(),
        phase,
        reason: Some(if rebooted { EndReason::Reboot } else { EndReason::DaemonRestart }),
        message,
        effect: None,
        backend: record.injection.backend.clone(),
        injected_at_unix_ms: record.injected_at_unix_ms,
        reverted_at_unix_ms: result.is_ok().then_some(wall_ms),
        resolves_at_unix_ms: None,
    }
}

/// A record that cannot be read is listed until a person has looked.
fn unreadable(damaged: &Damaged) -> Option<InjectionStatus> {
    let id = damaged.id.clone()?;
    let run = id.as_str().split('.').next().and_then(|run| run.parse().ok())?;
    let message = format!(
        "its journal record is damaged ({}); matches and workers end at their deadline by themselves, the rest \
         is not known. Look at the target, then: rm {}",
        damaged.why,
        damaged.path.display()
    );
    Some(InjectionStatus {
        id,
        run,
        phase: InjectionPhase::Residue,
        reason: Some(EndReason::Error),
        message,
        effect: None,
        backend: String::new(),
        injected_at_unix_ms: None,
        reverted_at_unix_ms: None,
        resolves_at_unix_ms: None,
    })
}

fn panicked() -> Remains {
    Remains { what: "the undo did not end".to_owned(), command: "restart the daemon".to_owned() }
}
