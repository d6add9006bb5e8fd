//! How a run ends in one cluster: why, with which outcome, and what is then said and written down. The life before
//! the end is in `runs`, which calls this; the first reason stands.

use proto::assignment::{ClusterPhase, NOTHING_TO_HIT, Outcome};
use proto::injection::{EndReason, InjectionPhase};
use proto::plan::Refusal;

use super::runs::persist;
use super::state::{End, RunState, Stage, Tracked};
use super::{Effect, Now, probing, report};
use crate::cluster::RecordState;

/// Ends a run; the first reason stands.
pub fn end(
    run: &mut RunState,
    now: Now,
    outcome: Outcome,
    reason: &str,
    message: &str,
    revert: &'static str,
) {
    if run.end.is_some() || run.stage == Stage::Finished {
        return;
    }
    run.end = Some(End { outcome, reason: reason.to_owned(), message: message.to_owned(), revert });
    run.dirty = true;
    report::note(run, now, "Stop", reason, message);
}

/// What injections say about the run: one that could not be made, or ended early, ends it.
pub fn judge(run: &mut RunState, now: Now) {
    if run.end.is_some() {
        return;
    }
    let found = run.injections.iter().find_map(|tracked| {
        let status = &tracked.status;
        let word = word(status.phase, status.reason, run.adopted)?;
        Some((word, format!("{}: {}", tracked.recorded.id, status.message)))
    });
    if let Some(((outcome, reason), message)) = found {
        end(
            run,
            now,
            outcome,
            reason,
            &message,
            if outcome == Outcome::Halted { "Halted" } else { "Stopped" },
        );
    }
}

/// What one injection in this phase makes of its run; nothing while the run goes on.
fn word(phase: InjectionPhase, reason: Option<EndReason>, adopted: bool) -> Option<(Outcome, &'static str)> {
    use InjectionPhase::{Failed, Missed, Refused, Residue, Reverted};
    Some(match (phase, reason) {
        (phase, Some(EndReason::Halted)) if phase.is_terminal() => (Outcome::Halted, "Halted"),
        (Missed, _) if adopted => (Outcome::Aborted, "AgentRestart"),
        // Whether it was made already when its daemon was told to end is chance.
        (Refused | Reverted, Some(EndReason::DaemonDrain)) => (Outcome::Aborted, "DaemonDrain"),
        (Refused, _) => (Outcome::Failed, "InjectionRefused"),
        (Missed, _) => (Outcome::Failed, "InjectionMissed"),
        (Residue, _) => (Outcome::Failed, "Residue"),
        (Reverted, Some(EndReason::DaemonRestart)) => (Outcome::Aborted, "DaemonRestart"),
        (Reverted, Some(EndReason::Reboot)) => (Outcome::Aborted, "Reboot"),
        (Reverted, Some(EndReason::LinkLost)) => (Outcome::Aborted, "LinkLost"),
        (Failed, _) | (Reverted, Some(EndReason::Error)) => (Outcome::Failed, "InjectionFailed"),
        (Reverted, Some(EndReason::Stopped)) => (Outcome::Aborted, "Stopped"),
        _ => return None,
    })
}

/// Everything that can be known is known.
pub fn close(run: &mut RunState, now: Now, out: &mut Vec<Effect>) {
    let unknown = run.injections.iter().find(|t| !t.status.phase.is_terminal() && !t.recorded.by_agent);
    let end = match (run.end.clone().or_else(|| gone(run)), unknown) {
        (Some(end), _) => end,
        (None, Some(lost)) => End {
            outcome: Outcome::Failed,
            reason: "NodeLost".to_owned(),
            message: format!("nothing was heard of {} after its deadline", lost.recorded.id),
            revert: "Stopped",
        },
        (None, None) => End {
            outcome: Outcome::Completed,
            reason: String::new(),
            message: String::new(),
            revert: "Deadline",
        },
    };
    finish(run, now, &end, out);
}

/// Targets that went away, where nothing else ended the run. That is no failure of anybody, but no full run either.
fn gone(run: &RunState) -> Option<End> {
    let made = run.injections.iter().any(|t| t.status.injected_at_unix_ms.is_some());
    let left = |t: &&Tracked| t.status.phase == InjectionPhase::TargetGone && !(t.recorded.by_agent && made);
    let gone = run.injections.iter().filter(left).count();
    let total = run.injections.len();
    let (outcome, message) = match (gone, made) {
        (0, _) => return None,
        (_, true) => {
            (Outcome::Completed, format!("{gone} of {total} targets went away before the fault ended"))
        }
        (_, false) => (Outcome::Failed, format!("{gone} of {total} targets were gone, no fault was made")),
    };
    Some(End { outcome, reason: "TargetGone".to_owned(), message, revert: "Deadline" })
}

/// Nothing was selected, and the spec permits that.
pub fn nothing_to_hit() -> End {
    End {
        outcome: Outcome::Completed,
        reason: NOTHING_TO_HIT.to_owned(),
        message: "no pod matches here, which allowEmpty permits: nothing was done".to_owned(),
        revert: "Stopped",
    }
}

/// Refuses what was not sent yet; it never will be.
pub fn cancel(run: &mut RunState, end: &End) {
    for tracked in run.injections.iter_mut().filter(|t| !t.sent && !t.status.phase.is_terminal()) {
        tracked.status.phase = InjectionPhase::Refused;
        tracked.status.reason =
            Some(if end.revert == "Halted" { EndReason::Halted } else { EndReason::Stopped });
    }
}

/// Too late to start; nothing was made.
pub fn missed(run: &mut RunState, now: Now, reason: &str, message: &str, out: &mut Vec<Effect>) {
    for tracked in &mut run.injections {
        tracked.status.phase = InjectionPhase::Missed;
    }
    let end = End {
        outcome: Outcome::Missed,
        reason: reason.to_owned(),
        message: message.to_owned(),
        revert: "Stopped",
    };
    finish(run, now, &end, out);
}

/// Nothing was made, and nothing will be.
pub fn denied(run: &mut RunState, now: Now, refusals: Vec<Refusal>, out: &mut Vec<Effect>) {
    let first = refusals.first();
    let end = End {
        outcome: Outcome::Denied,
        reason: first.map(|r| r.code.clone()).unwrap_or_default(),
        message: first.map(|r| r.message.clone()).unwrap_or_default(),
        revert: "Stopped",
    };
    cancel(run, &end);
    run.observed.refusals = refusals;
    finish(run, now, &end, out);
}

/// Says and writes down the end.
pub fn finish(run: &mut RunState, now: Now, end: &End, out: &mut Vec<Effect>) {
    run.end = Some(end.clone());
    run.observed.plan = None;
    run.observed.outcome = Some(end.outcome);
    run.observed.reason.clone_from(&end.reason);
    run.observed.message.clone_from(&end.message);
    run.observed.verdict = probing::verdict(run);
    run.observed.finished_at = Some(now.wall);
    report::phase(run, now, ClusterPhase::Finished);
    run.stage = Stage::Finished;
    run.dirty = true;
    report::refresh(run, now);
    persist(run, RecordState::Finished, now, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_injection_that_ended_early_names_the_end_of_its_run() {
        use InjectionPhase::{Injected, Missed, Refused, Reverted};
        let aborted = |reason| Some((Outcome::Aborted, reason));
        let failed = |reason| Some((Outcome::Failed, reason));
        for (phase, reason, adopted, expected) in [
            (Refused, Some(EndReason::DaemonDrain), false, aborted("DaemonDrain")),
            (Reverted, Some(EndReason::DaemonDrain), false, aborted("DaemonDrain")),
            (Refused, Some(EndReason::Error), false, failed("InjectionRefused")),
            (Refused, Some(EndReason::Halted), false, Some((Outcome::Halted, "Halted"))),
            (Refused, None, false, failed("InjectionRefused")),
            (Missed, None, false, failed("InjectionMissed")),
            (Missed, None, true, aborted("AgentRestart")),
            (Reverted, Some(EndReason::Error), false, failed("InjectionFailed")),
            (Reverted, Some(EndReason::Deadline), false, None),
            (Injected, None, false, None),
        ] {
            assert_eq!(word(phase, reason, adopted), expected, "{phase:?} {reason:?} {adopted}");
        }
    }
}
