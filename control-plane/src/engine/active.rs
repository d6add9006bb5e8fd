//! A dispatched run: goes on dispatching, stops what a halt or the run's deadline ends, sums up,
//! and finishes it when every cluster is done or lost.

use jiff::Timestamp;
use proto::assignment::{ClusterPhase, Intent, StopReason};
use proto::experiment::ExperimentSpec;
use proto::ids::ClusterId;
use proto::status::RunPhase;

use super::{CHUNK, Decision, View, dispatch, stopping, summary};
use crate::authority::Aim;

pub(super) fn decide(view: View<'_>, now: Timestamp) -> Decision {
    let spec = view.state.specs.get(&view.record.spec_hash).and_then(|known| known.spec.as_ref());
    let stops: Vec<_> = view
        .entry
        .desired
        .keys()
        .filter_map(|cluster| Some((cluster.clone(), why_stop(view, spec, cluster, now)?)))
        .take(CHUNK)
        .collect();
    if !stops.is_empty() {
        return Decision::commit(stopping::write(view, &stops, now));
    }
    if let Some(spec) = spec
        && view.summary.phase == RunPhase::Dispatching
        && may_still_start(view, spec, now)
        && let Some(commit) = dispatch::next(view, spec, view.summary.clone(), now)
    {
        return Decision::commit(commit);
    }
    conclude(view, now)
}

/// Sums up; writes only what changed.
pub(super) fn conclude(view: View<'_>, now: Timestamp) -> Decision {
    let mut next = summary::summarise(view.state, view.id, view.entry, view.summary, now);
    if summary::all_done(view.state, view.entry, now) {
        next.phase = RunPhase::Finished;
        next.finished_at = Some(now);
        let mut commit = view.commit(next);
        commit.note = Some(("run.finish", "ok".to_owned()));
        return Decision::commit(commit);
    }
    let wake_at = summary::next_bound(view.state, view.entry, now);
    if next == *view.summary {
        return Decision::wait(wake_at);
    }
    Decision { commit: Some(view.commit(next)), wake_at }
}

fn may_still_start(view: View<'_>, spec: &ExperimentSpec, now: Timestamp) -> bool {
    view.summary.dispatched_at.is_some_and(|at| now < dispatch::start_before(view.record, spec, at))
}

/// Why a cluster that was told to start is to stop now.
fn why_stop(
    view: View<'_>,
    spec: Option<&ExperimentSpec>,
    cluster: &ClusterId,
    now: Timestamp,
) -> Option<StopReason> {
    let desired = &view.entry.desired.get(cluster)?.value;
    let done = view
        .entry
        .observed
        .get(cluster)
        .is_some_and(|observed| observed.value.observed.phase == ClusterPhase::Finished);
    if done || !matches!(desired.intent, Intent::Start | Intent::Plan) {
        return None;
    }
    let member = view.state.spec_of(cluster);
    let aim = spec.zip(member).map(|(spec, member)| Aim::of(spec, &member.name, &member.labels));
    let halted = match &aim {
        Some(aim) => view.state.halted(cluster, aim.namespaces()).is_some(),
        // On doubt the widest.
        None => view.state.halted(cluster, []).is_some(),
    };
    if halted {
        return Some(StopReason::Halted);
    }
    let over = desired.run_deadline.is_some_and(|deadline| deadline <= now);
    (over || lost(view, cluster, now)).then_some(StopReason::RunAborted)
}

/// Given up: should it come back, it is to stop.
fn lost(view: View<'_>, cluster: &ClusterId, now: Timestamp) -> bool {
    summary::is_lost(view.state, view.entry, cluster, now)
}
