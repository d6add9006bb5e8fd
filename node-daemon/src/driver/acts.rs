//! What the driver does on blocking threads: make, look, take away. Each is bounded in time by the door
//! it goes through.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use proto::catalogue::RevertClass;

use super::Doors;
use crate::engine::{Failure, Look, Remains};
use crate::fault;
use crate::journal::Record;
use crate::recover::undo_record;
use crate::spans;
use crate::step::{self, Effect, Observation, Window};
use crate::system::{System, spoken};

/// Makes every step and reads all of them back. On any failure what was made is undone.
pub(super) fn apply(doors: &Doors, record: &Record, start_before_ms: u64) -> Result<Effect, Failure> {
    let span = spans::of(&record.injection, "inject").entered();
    let result = apply_steps(doors, record, start_before_ms);
    spans::failed(&span, result.as_ref().err().map(|why| format!("{why:?}")));
    result
}

fn apply_steps(doors: &Doors, record: &Record, start_before_ms: u64) -> Result<Effect, Failure> {
    if fault::revert_class(&record.injection) == RevertClass::Keeper {
        let kept = doors.keeper.ensure();
        kept.map_err(|why| Failure::Error(format!("no keeper could hold its deadline: {why}")))?;
        return make(doors, record, start_before_ms);
    }
    // The kernel ends this kind by itself; the keeper only sweeps up. Nobody waits for it, or a stop would as well.
    keep_meanwhile(doors, record);
    make(doors, record, start_before_ms)
}

/// Starts the keeper beside; each look tries again where that fails.
fn keep_meanwhile(doors: &Doors, record: &Record) {
    let (keeper, id) = (Arc::clone(&doors.keeper), record.injection.id.clone());
    let keeping = move || {
        if let Err(why) = keeper.ensure() {
            tracing::warn!(injection = %id, why, "no keeper");
        }
    };
    if let Err(error) = std::thread::Builder::new().name("keeping".to_owned()).spawn(keeping) {
        tracing::warn!(injection = %record.injection.id, %error, "no thread to start the keeper");
    }
}

fn make(doors: &Doors, record: &Record, start_before_ms: u64) -> Result<Effect, Failure> {
    let _lock = doors.journal.folders().lock_record(&record.injection.id);
    let now = doors.clock.now();
    if now.boottime_ms > start_before_ms || record.deadline.has_passed(now.boottime_ms, now.wall_ms) {
        return Err(Failure::Late);
    }
    for step in &record.steps {
        let now_ms = doors.clock.now().boottime_ms;
        let window = Window { now_ms, deadline_ms: record.deadline.boottime_ms };
        let made = tracing::info_span!("apply step", faultline.step = step.name())
            .in_scope(|| step::apply(&*doors.system, step, window));
        if let Err(error) = made {
            let why = spoken(&error);
            let failure = if error.is_target_gone() { Failure::TargetGone(why) } else { Failure::Error(why) };
            return Err(take_back(doors, record, failure));
        }
    }
    match tracing::info_span!("read back").in_scope(|| look(&*doors.system, record)) {
        Look::Intended(effect) => Ok(effect),
        Look::TargetGone => {
            Err(take_back(doors, record, Failure::TargetGone("the target went away".to_owned())))
        }
        other => {
            let why = format!("it was made but not read back as intended: {other:?}");
            Err(take_back(doors, record, Failure::Error(why)))
        }
    }
}

fn take_back(doors: &Doors, record: &Record, failure: Failure) -> Failure {
    match undo_record(&*doors.system, record) {
        Ok(()) => failure,
        Err(Remains { what, command }) => {
            let cause = match failure {
                Failure::Error(why) | Failure::TargetGone(why) => why,
                Failure::Late | Failure::Residue(_) => String::new(),
            };
            Failure::Residue(Remains { what: format!("{cause}; {what}"), command })
        }
    }
}

/// A look at one that is active. A keeper that died is started again on the way; without one the
/// deadline of some kinds is nobody's but ours, which is not what Injected promises.
pub(super) fn watch(doors: &Doors, record: &Record) -> Look {
    let kept = doors.keeper.ensure();
    match (look(&*doors.system, record), kept) {
        (Look::Intended(_), Err(why)) if fault::revert_class(&record.injection) == RevertClass::Keeper => {
            Look::Failed(format!("no keeper holds its deadline: {why}"))
        }
        (seen, _) => seen,
    }
}

/// What the kernel holds of all steps together; the worst counts.
fn look(system: &dyn System, record: &Record) -> Look {
    if is_container_gone(system, record) {
        return Look::TargetGone;
    }
    let mut effect = Effect::NotCounted;
    let (mut absent, mut drift, mut failed) = (None, Vec::new(), None);
    for one in &record.steps {
        match step::read_back(system, one) {
            Ok(Observation::Intended(seen)) => effect = effect.max(seen),
            Ok(Observation::Drifted(what)) => drift.extend(what),
            Ok(Observation::Absent) => absent = Some(one.name()),
            Ok(Observation::TargetGone) => return Look::TargetGone,
            Err(error) => failed = Some(spoken(&error)),
        }
    }
    match (absent, failed) {
        (Some(what), _) => Look::Absent(what.to_owned()),
        (None, _) if !drift.is_empty() => Look::Drifted(drift),
        (None, Some(why)) => Look::Failed(why),
        (None, None) => Look::Intended(effect),
    }
}

/// Faults of a container end with its run; those of its network belong to the sandbox and stay.
fn is_container_gone(system: &dyn System, record: &Record) -> bool {
    let of_container = record.injection.action.is_of_container();
    let Some(container) = record.identity.container.as_ref().filter(|_| of_container) else {
        return false;
    };
    match system.identify(container.process.pid) {
        Ok(target) => target.process != container.process,
        Err(error) => error.is_target_gone(),
    }
}

/// Takes it away. The keeper may do the same at the same time.
pub(super) fn undo(doors: &Doors, record: &Record) -> Result<(), Remains> {
    let _lock = doors.journal.folders().lock_record(&record.injection.id);
    undo_record(&*doors.system, record)
}

/// Its content where it is there. One that cannot be read halts as well.
pub(super) fn read_halt_file(path: &Path) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(content) => Some(content),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => Some(format!("the halt file cannot be read: {error}")),
    }
}
