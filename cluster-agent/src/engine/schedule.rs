//! When each fault is made and when it must be gone. Made only after the record is durable, at most once, and not
//! late; daemons end them by themselves, and are told again where they did not.

use proto::assignment::ClusterPhase;
use proto::injection::{EndReason, InjectionPhase};
use proto::wire::Inject;

use super::state::{RunState, Stage, Start, Tracked};
use super::{Effect, Now, State, link_loss, probing, report};

/// A fault that could not be handed over within so long after it fell due is Missed.
pub const LATE_MS: u64 = 30_000;
/// A daemon that has not ended a fault so long after its deadline is told to.
pub const GRACE_MS: u64 = 2_000;
/// What a connected daemon has not answered so long after the deadline is reported as not known.
pub const GIVE_UP_MS: u64 = 60_000;

/// Boottime at which an injection must be gone: its own end or the cluster's deadline.
pub fn end_of(start: &Start, tracked: &Tracked) -> u64 {
    if tracked.for_ms == 0 {
        return start.deadline_ms;
    }
    start.at_ms.saturating_add(tracked.at_ms).saturating_add(tracked.for_ms).min(start.deadline_ms)
}

/// Hands over what is due. The record that names it is durable.
pub fn fire(state: &State, run: &mut RunState, now: Now, out: &mut Vec<Effect>) {
    let Some(start) = run.start else { return };
    let mut notes = Vec::new();
    for tracked in &mut run.injections {
        let due = start.at_ms.saturating_add(tracked.at_ms);
        if tracked.sent || tracked.status.phase.is_terminal() || now.boottime_ms < due {
            continue;
        }
        let end = end_of(&start, tracked);
        let id = &tracked.recorded.id;
        let node = &tracked.recorded.target.node;
        let late = now.boottime_ms > due.saturating_add(LATE_MS) || now.boottime_ms >= end;
        let problem = match &tracked.injection {
            _ if late => Some("it was too late to start".to_owned()),
            Some(_) if !state.connected(node) => Some(format!("the daemon of node {node} is not connected")),
            _ => None,
        };
        if let Some(problem) = problem {
            tracked.status.phase = InjectionPhase::Missed;
            tracked.status.message = problem;
            notes.push(("Missed", id.to_string()));
            continue;
        }
        tracked.sent = true;
        out.push(match &tracked.injection {
            Some(injection) => Effect::Inject {
                node: node.clone(),
                inject: Box::new(Inject {
                    injection: injection.clone(),
                    agent_epoch: state.settings.agent_epoch,
                    remaining_ms: end - now.boottime_ms,
                    deadline: now.wall_at(end),
                    start_before: now.wall_at(due.saturating_add(LATE_MS).min(end)),
                }),
            },
            None => Effect::KillPod {
                run: run.desired.run.clone(),
                injection: id.clone(),
                target: tracked.recorded.target.clone(),
                grace_s: tracked.grace_s,
            },
        });
        notes.push(("Sent", id.to_string()));
    }
    for (event, subject) in notes {
        run.dirty = true;
        report::note(run, now, event, &subject, "");
    }
}

/// Takes away what the end of the run or the deadline asks for; what was not made is never made.
pub fn revert(state: &State, run: &mut RunState, now: Now, out: &mut Vec<Effect>) {
    for tracked in &mut run.injections {
        if !tracked.sent {
            if let (Some(end), false) = (&run.end, tracked.status.phase.is_terminal()) {
                tracked.status.phase = InjectionPhase::Refused;
                tracked.status.reason =
                    Some(if end.revert == "Halted" { EndReason::Halted } else { EndReason::Stopped });
                "the run ended before it was due".clone_into(&mut tracked.status.message);
                run.dirty = true;
            }
            continue;
        }
        let node = &tracked.recorded.target.node;
        let done = tracked.status.phase.is_terminal() || tracked.recorded.by_agent || tracked.revert_sent;
        if done || !state.connected(node) {
            continue;
        }
        let overdue =
            run.start.is_some_and(|s| now.boottime_ms >= end_of(&s, tracked).saturating_add(GRACE_MS));
        let reason = match &run.end {
            Some(end) => end.revert,
            None if overdue => "Deadline",
            None => continue,
        };
        tracked.revert_sent = true;
        let injection = tracked.recorded.id.clone();
        out.push(Effect::Revert { node: node.clone(), injection, reason: reason.to_owned() });
    }
}

/// Whether nothing more is to be expected of any injection.
pub fn is_over(run: &RunState, now: Now) -> bool {
    let Some(start) = run.start else { return true };
    run.injections.iter().all(|tracked| {
        let end = end_of(&start, tracked);
        match tracked.status.phase {
            phase if phase.is_terminal() => true,
            InjectionPhase::Unknown => now.boottime_ms >= end.saturating_add(GRACE_MS),
            _ => now.boottime_ms >= end.saturating_add(GIVE_UP_MS),
        }
    })
}

/// Running, or Reverting once the end is near for everything that was made.
pub fn phase(run: &RunState, now: Now) -> ClusterPhase {
    let past = |start: Start| run.injections.iter().all(|t| now.boottime_ms >= end_of(&start, t));
    if run.end.is_some() || run.start.is_some_and(past) {
        ClusterPhase::Reverting
    } else {
        ClusterPhase::Running
    }
}

/// The next instant at which time alone changes something for a run.
pub fn wake_at(state: &State, run: &RunState) -> Option<u64> {
    let mut instants = Vec::new();
    instants.extend(link_loss::due(state, run));
    instants.extend(report::said_again_at(run).filter(|_| !run.dirty));
    match run.stage {
        Stage::AwaitingSpec | Stage::AwaitingClock { .. } => {
            instants.extend(run.arrival_bound_ms.into_iter().chain(run.planned_by_ms));
        }
        Stage::Journalling | Stage::Baseline => instants.extend(run.bounds.map(|b| b.start_before_ms)),
        Stage::Running => instants.extend(running(run)),
        Stage::Settling => instants.extend(probing::settle_by(run)),
        _ => {}
    }
    instants.into_iter().min()
}

fn running(run: &RunState) -> Option<u64> {
    let start = run.start?;
    let next = |tracked: &Tracked| {
        let end = end_of(&start, tracked);
        if !tracked.sent && run.end.is_none() {
            let wait = if run.journalled() { tracked.at_ms } else { LATE_MS };
            return Some(start.at_ms.saturating_add(wait));
        }
        // Each of these passes once: the driver asks for what is still ahead.
        (!tracked.status.phase.is_terminal()).then(|| match tracked.status.phase {
            InjectionPhase::Unknown => end.saturating_add(GRACE_MS),
            _ if run.observed.phase != ClusterPhase::Reverting => end,
            _ if tracked.revert_sent || tracked.recorded.by_agent => end.saturating_add(GIVE_UP_MS),
            _ => end.saturating_add(GRACE_MS),
        })
    };
    run.injections.iter().filter_map(next).min()
}
