//! Dispatch: writes the Starts of what was planned, in transactions that take place only if the
//! run, every plan used, the Grants used and the halts are still what they were.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use proto::assignment::{Desired, Intent};
use proto::experiment::ExperimentSpec;
use proto::fault::Fault;
use proto::ids::ClusterId;
use proto::plan::{PLAN_TTL_MS, refusal};
use proto::run::RunRecord;
use proto::status::{RunPhase, RunSummary};

use super::object::{Object, ObjectKey, RunEntry};
use super::selection::Selection;
use super::state::State;
use super::{CHUNK, Commit, Decision, View, after, stopping};

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
    summary.plan_expires = expires(view);
    summary.planned_at = Some(now);
    summary.dispatched_at = Some(now);
    let Some(mut commit) = next(view, spec, summary, now) else {
        // Nothing to hit anywhere: only addresses would be read.
        let nothing = proto::plan::Refusal {
            code: refusal::NO_TARGETS.to_owned(),
            message: "no selected cluster has a target to act on".to_owned(),
            whose: "author".to_owned(),
            cure: "give a target that is not PeerOnly".to_owned(),
        };
        return super::planning::deny(view, vec![nothing], now);
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
pub(super) fn next(
    view: View<'_>,
    spec: &ExperimentSpec,
    summary: RunSummary,
    now: Timestamp,
) -> Option<Commit> {
    let dispatched_at = summary.dispatched_at?;
    let waiting: Vec<&ClusterId> = startable(view, now).take(CHUNK).collect();
    if waiting.is_empty() {
        return None;
    }
    let start_before = start_before(view.record, spec, dispatched_at);
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

/// The instant after which a Start of this dispatch is Missed.
pub(super) fn start_before(record: &RunRecord, spec: &ExperimentSpec, dispatched_at: Timestamp) -> Timestamp {
    let within = after(dispatched_at, spec.limits.start_within_ms());
    not_after(record).map_or(within, |not_after| within.min(not_after))
}

/// When what a cluster planned expires. A question without it is of an older centre: the run's own age counts.
fn plan_expires(record: &RunRecord, asked: &Desired) -> Timestamp {
    asked.plan_expires.unwrap_or_else(|| after(record.created_at, PLAN_TTL_MS.unsigned_abs()))
}

/// When the plan as a whole expires: with the first of its clusters.
pub(super) fn expires(view: View<'_>) -> Option<Timestamp> {
    view.entry.desired.values().map(|asked| plan_expires(view.record, &asked.value)).min()
}

/// Whether the cluster has a plan with something to hit.
fn is_planned(entry: &RunEntry, cluster: &ClusterId) -> bool {
    entry.plans.get(cluster).is_some_and(|plan| {
        plan.value.refusals.is_empty() && plan.value.envelope.targets.values().any(|target| !target.peer_only)
    })
}

/// Clusters that were planned, have something to hit, and were not told to start.
fn startable(view: View<'_>, now: Timestamp) -> impl Iterator<Item = &ClusterId> {
    let waits =
        move |desired: &Desired| desired.intent == Intent::Plan && plan_expires(view.record, desired) > now;
    let asked = view.entry.desired.iter().filter(move |(_, desired)| waits(&desired.value));
    asked.map(|(cluster, _)| cluster).filter(move |cluster| is_planned(view.entry, cluster))
}

/// Why a cluster that was planned but not told to start in this dispatch will not be told any more.
pub(super) fn missed(
    state: &State,
    entry: &RunEntry,
    cluster: &ClusterId,
    now: Timestamp,
) -> Option<&'static str> {
    let dispatched_at = entry.summary.as_ref()?.value.dispatched_at?;
    let (record, desired) = (&entry.record.as_ref()?.value, &entry.desired.get(cluster)?.value);
    let told = stopping::was_started(desired) || desired.stop_reason.is_some();
    if told || !is_planned(entry, cluster) {
        return None;
    }
    if plan_expires(record, desired) <= now {
        return Some(refusal::PLAN_EXPIRED);
    }
    let spec = state.specs.get(&record.spec_hash)?.spec.as_ref()?;
    (start_before(record, spec, dispatched_at) <= now).then_some(refusal::TOO_LATE)
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
