//! Stopping: absorbing, and easier than starting. A stop needs no plan, no Grant and no answer;
//! once it is recorded no Start is ever written again.

use jiff::Timestamp;
use proto::assignment::{Desired, Intent, Outcome, Residue, StopReason};
use proto::ids::ClusterId;

use super::object::{Object, ObjectKey, Versioned};
use super::{CHUNK, Commit, Decision, View, active, planning, summary};

/// What a cluster is told when it is to stop what it was told before.
pub fn stop_of(desired: &Desired, reason: StopReason) -> Desired {
    Desired {
        generation: desired.generation + 1,
        intent: Intent::Stop,
        stop_reason: Some(reason),
        ..desired.clone()
    }
}

/// Whether this cluster was ever told to start.
pub fn was_started(desired: &Desired) -> bool {
    desired.plan_hash.is_some()
}

/// The word for people.
fn reason_text(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Requested => "Stopped",
        StopReason::Deleted => "Deleted",
        StopReason::Halted => "Halted",
        StopReason::RunAborted => "RunAborted",
    }
}

/// A run that somebody stopped.
pub(super) fn decide(view: View<'_>, now: Timestamp) -> Decision {
    let Some(stop) = &view.record.stop else {
        return Decision::default();
    };
    let started = view.entry.desired.values().any(|desired| was_started(&desired.value));
    if !started {
        let outcome = if stop.reason == StopReason::Halted { Outcome::Halted } else { Outcome::Aborted };
        let mut summary = planning::finish(view, outcome, reason_text(stop.reason), now);
        summary.message = match summary.residue {
            Residue::Clean => format!("stopped by {} before anything started", stop.by),
            _ => format!("stopped by {}; what a cluster was told before cannot be read any more", stop.by),
        };
        let mut commit = view.commit(summary);
        // A Start may be among what is not read back: then this is void, and decided again when it is here.
        commit.compare.extend(view.entry.unread().map(|(key, revision)| (key.clone(), revision)));
        commit.note = Some(("run.stopped", reason_text(stop.reason).to_owned()));
        return Decision::commit(commit);
    }
    let stoppable =
        |desired: &Versioned<Desired>| !matches!(desired.value.intent, Intent::Stop | Intent::Forget);
    let clusters: Vec<_> = view
        .entry
        .desired
        .iter()
        .filter(|(_, desired)| stoppable(desired))
        .map(|(cluster, _)| (cluster.clone(), stop.reason))
        .take(CHUNK)
        .collect();
    if clusters.is_empty() {
        return active::conclude(view, now);
    }
    Decision::commit(write(view, &clusters, now))
}

/// The Stops of these clusters.
pub(super) fn write(view: View<'_>, clusters: &[(ClusterId, StopReason)], now: Timestamp) -> Commit {
    let summary = summary::summarise(view.state, view.id, view.entry, view.summary, now);
    let mut commit = view.commit(summary);
    for (cluster, reason) in clusters {
        let Some(desired) = view.entry.desired.get(cluster) else {
            continue;
        };
        commit.compare.push((ObjectKey::Desired(cluster.clone(), view.id.clone()), desired.revision));
        commit.put.push(Object::Desired(cluster.clone(), Box::new(stop_of(&desired.value, *reason))));
    }
    if let Some((_, reason)) = clusters.first() {
        commit.note = Some(("run.stop", reason_text(*reason).to_owned()));
    }
    commit
}
