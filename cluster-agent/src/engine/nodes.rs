//! What node daemons, and the API for the agent's own kinds, say of injections.

use proto::ids::{InjectionId, RunId};
use proto::injection::{EndReason, InjectionPhase, InjectionStatus};
use proto::wire::NodeHello;

use super::state::{RunState, Tracked};
use super::{Effect, Now, State, halts, report, schedule};
use crate::cluster::PodDeletion;

/// A daemon came: what it holds is compared with what is wanted. Nothing is ever handed over a second time.
pub fn up(state: &mut State, node: &str, hello: NodeHello, now: Now, out: &mut Vec<Effect>) {
    let entry = state.nodes.entry(node.to_owned()).or_default();
    entry.connected = true;
    entry.draining = false;
    entry.capabilities = hello.capabilities;
    state.outranked |= hello.highest_epoch > state.settings.agent_epoch;
    for run in state.runs.values_mut() {
        for tracked in run.injections.iter_mut().filter(|t| t.recorded.target.node == node) {
            tracked.revert_sent = false;
            let known = hello.held.iter().any(|s| s.id == tracked.recorded.id);
            let lost = tracked.sent && !tracked.recorded.by_agent && !known && !tracked.heard;
            if lost && !tracked.status.phase.is_terminal() {
                tracked.status.phase = InjectionPhase::Missed;
                "it never reached the daemon".clone_into(&mut tracked.status.message);
                tracked.status.resolves_at_unix_ms = None;
                run.dirty = true;
            }
        }
    }
    for status in hello.held {
        reported(state, node, status, now, out);
    }
    halts::tell(state, node, out);
}

/// A daemon's session is gone: what it holds is not known until it comes back or the deadline has passed.
pub fn down(state: &mut State, node: &str, now: Now) {
    if let Some(entry) = state.nodes.get_mut(node) {
        entry.connected = false;
    }
    for run in state.runs.values_mut() {
        let start = run.start;
        for tracked in &mut run.injections {
            let held = tracked.sent && !tracked.recorded.by_agent && !tracked.status.phase.is_terminal();
            if tracked.recorded.target.node == node && held {
                tracked.status.phase = InjectionPhase::Unknown;
                let end = start.map(|s| now.wall_at(schedule::end_of(&s, tracked)).as_millisecond());
                tracked.status.resolves_at_unix_ms = end;
                "the node's daemon is not connected".clone_into(&mut tracked.status.message);
                run.dirty = true;
            }
        }
    }
}

/// The daemon goes on with what it holds, and takes nothing new: it says so again in each session.
pub fn draining(state: &mut State, node: &str) {
    if let Some(entry) = state.nodes.get_mut(node) {
        entry.draining = true;
    }
}

/// The latest of one injection, from the node it is on. What nobody wants any more is reverted.
pub fn reported(state: &mut State, node: &str, status: InjectionStatus, now: Now, out: &mut Vec<Effect>) {
    let tracked = state.runs.get_mut(&status.run).and_then(|run| {
        let at = run.injections.iter().position(|t| t.recorded.id == status.id)?;
        Some((run, at))
    });
    let Some((run, at)) = tracked else {
        if !status.phase.is_terminal() {
            out.push(Effect::Revert {
                node: node.to_owned(),
                injection: status.id,
                reason: "NotWanted".to_owned(),
            });
        }
        return;
    };
    let tracked = &mut run.injections[at];
    if tracked.recorded.target.node != node {
        return; // a daemon speaks for its own node only
    }
    let old = &tracked.status;
    if tracked.heard && old.phase.is_terminal() && !status.phase.is_terminal() {
        return; // an old word that was overtaken
    }
    tracked.heard = true;
    if *old == status {
        return;
    }
    let changed = old.phase != status.phase;
    tracked.status = status;
    if changed {
        let event = format!("{:?}", tracked.status.phase);
        let (subject, detail) = (tracked.recorded.id.to_string(), tracked.status.message.clone());
        report::note(run, now, &event, &subject, &detail);
    }
    let good = |phase| matches!(phase, InjectionPhase::Accepted | InjectionPhase::Injected);
    let more = run.injections.iter().any(|t| t.sent && t.status.phase == InjectionPhase::Accepted);
    if more && good(run.injections[at].status.phase) {
        run.progressed = true;
    } else {
        run.dirty = true;
    }
}

/// What came of deleting a pod.
pub fn pod_killed(
    state: &mut State,
    run: &RunId,
    injection: &InjectionId,
    result: Result<PodDeletion, String>,
    now: Now,
) {
    let Some(run) = state.runs.get_mut(run) else {
        return;
    };
    let Some(tracked) = run.injections.iter_mut().find(|t| &t.recorded.id == injection) else {
        return;
    };
    if tracked.status.phase.is_terminal() {
        return;
    }
    tracked.heard = true;
    match result {
        Ok(PodDeletion::Accepted) => "the deletion was accepted".clone_into(&mut tracked.status.message),
        Ok(PodDeletion::Gone) => {
            tracked.status.phase = InjectionPhase::TargetGone;
            "the pod was gone before".clone_into(&mut tracked.status.message);
        }
        Err(why) => {
            tracked.status.phase = InjectionPhase::Failed;
            tracked.status.message = why;
        }
    }
    let (subject, detail) = (injection.to_string(), tracked.status.message.clone());
    report::note(run, now, "PodDeletion", &subject, &detail);
    run.dirty = true;
}

/// Reads back the agent's own kinds from the inventory: a killed pod is terminating, then gone.
pub fn read_back(state: &State, run: &mut RunState, now: Now) {
    let Some(inventory) = &state.inventory else { return };
    let mut notes = Vec::new();
    for tracked in run.injections.iter_mut().filter(|t| t.recorded.by_agent && t.sent) {
        let phase = tracked.status.phase;
        if phase.is_terminal() || !(tracked.heard || run.adopted) {
            continue;
        }
        let pod = inventory.pods.get(&tracked.recorded.target.uid);
        let next = match pod {
            None => InjectionPhase::TargetGone,
            Some(pod) if pod.terminating => InjectionPhase::Injected,
            Some(_) if run.adopted => InjectionPhase::Missed,
            Some(_) => phase,
        };
        if next != phase {
            tracked.status.phase = next;
            if next != InjectionPhase::Missed {
                tracked.status.injected_at_unix_ms.get_or_insert(now.wall.as_millisecond());
            }
            notes.push((format!("{next:?}"), tracked.recorded.id.to_string()));
        }
    }
    for (event, subject) in notes {
        run.dirty = true;
        report::note(run, now, &event, &subject, "");
    }
}

/// A node that left the cluster, and the pod with it: once its faults have ended by themselves, nothing more will be
/// heard of them, and nothing waits for it.
pub fn vanished(state: &State, run: &mut RunState, now: Now) {
    let Some(inventory) = &state.inventory else { return };
    let mut notes = Vec::new();
    for tracked in &mut run.injections {
        let open =
            tracked.sent && !tracked.recorded.by_agent && tracked.status.phase == InjectionPhase::Unknown;
        let target = &tracked.recorded.target;
        let there = inventory.nodes.contains_key(&target.node) || inventory.pods.contains_key(&target.uid);
        if !open || there || holds(tracked, now) {
            continue;
        }
        tracked.status.phase = InjectionPhase::TargetGone;
        tracked.status.reason = Some(EndReason::TargetGone);
        tracked.status.message = format!("node {} left the cluster with the pod; not read back", target.node);
        tracked.status.resolves_at_unix_ms = None;
        notes.push(tracked.recorded.id.to_string());
    }
    for subject in notes {
        run.dirty = true;
        report::note(run, now, "TargetGone", &subject, "");
    }
}

/// Whether something of this run may be active now. Unknown counts until it has reverted by itself.
pub fn holds_any(run: &RunState, now: Now) -> bool {
    run.injections.iter().any(|t| t.sent && !t.recorded.by_agent && holds(t, now))
}

fn holds(tracked: &Tracked, now: Now) -> bool {
    match tracked.status.phase {
        InjectionPhase::Unknown => {
            let by = tracked.status.resolves_at_unix_ms;
            by.is_none_or(|by| now.wall.as_millisecond() < by.saturating_add(schedule::GRACE_MS as i64))
        }
        phase => phase.may_be_active(),
    }
}
