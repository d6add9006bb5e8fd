//! Dispatch: writes the Starts of what was planned, in transactions that take place only if the
//! run, every plan used, the Grants used and the halts are still what they were.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use proto::assignment::{Desired, Intent};
use proto::experiment::ExperimentSpec;
use proto::fault::Fault;
use proto::ids::ClusterId;
use proto::run::RunRecord;
use proto::status::{RunPhase, RunSummary};

use super::object::{Object, ObjectKey};
use super::selection::Selection;
use super::{CHUNK, Commit, Decision, View, after};

/// The instant after which nothing of the run starts, where there is one.
pub(super) fn not_after(record: &RunRecord) -> Option<Timestamp> {
    // A text that is no instant was refused before; should one come through, nothing starts.
    record.spec.not_after.as_ref().map(|text| text.parse().unwrap_or(Timestamp::UNIX_EPOCH))
}

/// The first transaction: the run is Dispatching from here on.
pub(super) fn first(
    view: View<'_>,
    spec: &ExperimentSpec,
    selection: &Selection,
    plan_hash: String,
    now: Timestamp,
) -> Decision {
    let mut summary = view.summary.clone();
    summary.phase = RunPhase::Dispatching;
    summary.plan_hash = Some(plan_hash);
    summary.planned_at = Some(now);
    summary.dispatched_at = Some(now);
    let Some(mut commit) = next(view, spec, summary) else {
        // Nothing to hit anywhere: only addresses would be read.
        let refusal = proto::plan::Refusal {
            code: proto::plan::refusal::NO_TARGETS.to_owned(),
            message: "no selected cluster has a target to act on".to_owned(),
            whose: "author".to_owned(),
            cure: "give a target that is not PeerOnly".to_owned(),
        };
        return super::planning::deny(view, vec![refusal], now);
    };
    for name in &selection.grants {
        let revision = view.state.grants.get(name).map_or(0, |grant| grant.revision);
        commit.compare.push((ObjectKey::Grant(name.clone()), revision));
    }
    commit.note = Some(("run.dispatch", "ok".to_owned()));
    Decision::commit(commit)
}

/// The next clusters whose plan is to become a Start, written with `summary`; `None` when there
/// are none left.
pub(super) fn next(view: View<'_>, spec: &ExperimentSpec, summary: RunSummary) -> Option<Commit> {
    let dispatched_at = summary.dispatched_at?;
    let waiting: Vec<&ClusterId> = startable(view).take(CHUNK).collect();
    if waiting.is_empty() {
        return None;
    }
    let mut start_before = after(dispatched_at, spec.limits.start_within_ms());
    if let Some(not_after) = not_after(view.record) {
        start_before = start_before.min(not_after);
    }
    let run_deadline = after(dispatched_at, spec.limits.run_deadline_ms());
    let plan_hash = summary.plan_hash.clone();
    let mut commit = view.commit(summary);
    let revision = view.entry.record.as_ref().map_or(0, |record| record.revision);
    commit.compare.push((ObjectKey::Run(view.id.clone()), revision));
    commit.compare.push((ObjectKey::HaltsRevision, view.state.halts_revision));
    for cluster in waiting {
        let (Some(plan), Some(asked)) = (view.entry.plans.get(cluster), view.entry.desired.get(cluster))
        else {
            continue;
        };
        commit.compare.push((ObjectKey::Plan(view.id.clone(), cluster.clone()), plan.revision));
        commit.compare.push((ObjectKey::Desired(cluster.clone(), view.id.clone()), asked.revision));
        let member = view.state.clusters.get(cluster).and_then(|entry| entry.spec.as_ref());
        commit
            .compare
            .push((ObjectKey::ClusterSpec(cluster.clone()), member.map_or(0, |spec| spec.revision)));
        let start = Desired {
            generation: asked.value.generation + 1,
            intent: Intent::Start,
            plan_hash: plan_hash.clone(),
            envelope: Some(plan.value.envelope.clone()),
            peers: peers_of(view, spec, cluster),
            start_before: Some(start_before),
            run_deadline: Some(run_deadline),
            ..asked.value.clone()
        };
        commit.put.push(Object::Desired(cluster.clone(), Box::new(start)));
    }
    Some(commit)
}

/// Clusters that were planned, have something to hit, and were not told to start.
pub(super) fn startable(view: View<'_>) -> impl Iterator<Item = &ClusterId> {
    view.entry
        .desired
        .iter()
        .filter(|(_, desired)| desired.value.intent == Intent::Plan)
        .map(|(cluster, _)| cluster)
        .filter(move |cluster| {
            view.entry.plans.get(*cluster).is_some_and(|plan| {
                plan.value.refusals.is_empty()
                    && plan.value.envelope.targets.values().any(|target| !target.peer_only)
            })
        })
}

/// The addresses of targets in other clusters that faults name as peers.
fn peers_of(view: View<'_>, spec: &ExperimentSpec, cluster: &ClusterId) -> BTreeMap<String, Vec<IpAddr>> {
    let mut named = BTreeSet::new();
    for kind in spec.faults.iter().filter_map(Fault::kind) {
        named.extend(kind.peers().iter().filter_map(|peer| peer.target.clone()));
    }
    let mut peers = BTreeMap::new();
    for name in named {
        let mut addresses = BTreeSet::new();
        for (_, plan) in view.entry.plans.iter().filter(|(other, _)| *other != cluster) {
            if let Some(envelope) = plan.value.envelope.targets.get(&name) {
                addresses.extend(envelope.addresses.iter().copied());
            }
            let sample = plan.value.sample.get(&name).into_iter().flatten();
            addresses.extend(sample.flat_map(|pod| pod.ips.iter().copied()));
        }
        if !addresses.is_empty() {
            peers.insert(name, addresses.into_iter().collect());
        }
    }
    peers
}
