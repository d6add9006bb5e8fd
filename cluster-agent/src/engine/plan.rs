//! The answer to Intent::Plan: what would be hit here, how it would be made and taken away, and what stands in the
//! way.

use std::collections::{BTreeMap, BTreeSet};

use proto::assignment::Desired;
use proto::catalogue::RevertClass;
use proto::experiment::ExperimentSpec;
use proto::fault::{Fault, Kind};
use proto::plan::{
    ClusterPlan, EXACT_PODS_MAX, Envelope, FaultPlan, PEER_ADDRESSES_MAX, Refusal, TargetEnvelope, refusal,
};

use super::resolve::{Resolution, ResolvedFault, ResolvedTarget, refuse, resolve, target_ref};
use super::{Now, State, admit};
use crate::cluster::Inventory;

/// At most so many pods of a target are shown.
const SAMPLE: usize = 50;
/// At most so many pods that are left out are named.
const SKIPPED_SAID: usize = 20;

/// Resolves and judges; nothing is changed.
pub fn plan(
    state: &State,
    inventory: &Inventory,
    desired: &Desired,
    spec: &ExperimentSpec,
    now: Now,
) -> ClusterPlan {
    let mut found = resolve(state, inventory, desired, spec);
    let mut refusals = std::mem::take(&mut found.refusals);
    refusals.extend(admit::judge(state, inventory, desired, spec, &found));
    refusals.extend(too_many_to_name(spec, &found));
    let envelope = envelope(spec, &found);
    refusals.extend(too_many_peers(&envelope));
    let sample = found.targets.iter().map(|(name, target)| {
        let pods = target.picked.iter().take(SAMPLE).map(|pod| target_ref(pod)).collect();
        ((*name).to_owned(), pods)
    });
    ClusterPlan {
        spec_hash: desired.spec_hash.clone(),
        planned_at: now.wall,
        envelope,
        sample: sample.collect(),
        faults: found.faults.iter().map(fault_plan).collect(),
        refusals,
        warnings: warnings(&found),
    }
}

/// The bounds that what was resolved sets.
pub fn envelope(spec: &ExperimentSpec, found: &Resolution<'_>) -> Envelope {
    let named = |kind: Kind<'_>| kind.peers().iter().filter_map(|p| p.target.clone()).collect::<Vec<_>>();
    let peers: BTreeSet<String> = spec.faults.iter().filter_map(Fault::kind).flat_map(named).collect();
    let targets = found.targets.iter();
    let exact = spec.limits.binds_pods();
    Envelope {
        targets: targets
            .map(|(name, t)| ((*name).to_owned(), bounds(t, peers.contains(*name), exact)))
            .collect(),
    }
}

fn too_many_to_name(spec: &ExperimentSpec, found: &Resolution<'_>) -> Option<Refusal> {
    let victims = found.targets.values().filter(|t| !t.target.is_peer_only());
    let pods: usize = victims.map(|t| t.picked.len()).sum();
    (spec.limits.binds_pods() && pods > EXACT_PODS_MAX).then(|| {
        let message =
            format!("planBinding Exact names {pods} pods here, at most {EXACT_PODS_MAX} can be named");
        let cure = "pick fewer pods, or write limits.planBinding: Workload";
        refuse(refusal::TOO_MANY_TARGETS, message, "author", cure)
    })
}

/// A plan that is too large is refused; the centre stores no more of it than fits.
fn too_many_peers(envelope: &Envelope) -> Option<Refusal> {
    let addresses: usize = envelope.targets.values().map(|t| t.addresses.len()).sum();
    (addresses > PEER_ADDRESSES_MAX).then(|| {
        let message =
            format!("peers have {addresses} addresses here, a plan carries at most {PEER_ADDRESSES_MAX}");
        refuse(refusal::TOO_MANY_TARGETS, message, "author", "narrow the peer target, or name a cidr instead")
    })
}

fn bounds(target: &ResolvedTarget<'_>, is_peer: bool, exact: bool) -> TargetEnvelope {
    let owners: BTreeSet<_> = target.matching.iter().map(|pod| pod.owner.clone()).collect();
    let addresses: BTreeSet<_> = target.matching.iter().flat_map(|pod| pod.ips.iter().copied()).collect();
    let peer_only = target.target.is_peer_only();
    let picked: BTreeSet<_> = target.picked.iter().map(|pod| pod.uid.clone()).collect();
    let named = exact && !peer_only && picked.len() <= EXACT_PODS_MAX;
    TargetEnvelope {
        owners: owners.into_iter().collect(),
        max_count: u32::try_from(target.picked.len()).unwrap_or(u32::MAX),
        pods: if named { picked.into_iter().collect() } else { Vec::new() },
        seed: target.seed,
        peer_only,
        addresses: if peer_only || is_peer { addresses.into_iter().collect() } else { Vec::new() },
    }
}

fn fault_plan(fault: &ResolvedFault<'_>) -> FaultPlan {
    let mut groups: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for hit in &fault.hits {
        groups.entry(hit.backend.name).or_default().insert(&hit.pod.node);
    }
    let backend = match groups.len() {
        0 | 1 => groups.keys().next().copied().unwrap_or_default().to_owned(),
        _ => groups
            .iter()
            .map(|(name, nodes)| format!("{name} ({} nodes)", nodes.len()))
            .collect::<Vec<_>>()
            .join(", "),
    };
    let revert =
        fault.hits.first().map(|h| h.backend.revert).or(fault.entry.backends.first().map(|b| b.revert));
    FaultPlan {
        name: fault.fault.name.clone(),
        kind: fault.entry.kind.to_owned(),
        target: fault.fault.target.clone(),
        count: u32::try_from(fault.hits.len()).unwrap_or(u32::MAX),
        backend,
        revert_class: revert.map(RevertClass::as_str).unwrap_or_default().to_owned(),
        undo: fault.entry.undo.to_owned(),
        at_ms: fault.fault.at.ms().unwrap_or(0),
        for_ms: fault.fault.lasts.as_ref().and_then(|l| l.ms().ok()).unwrap_or(0),
    }
}

fn warnings(found: &Resolution<'_>) -> Vec<String> {
    let whole = |t: &&ResolvedTarget<'_>| !t.target.is_peer_only() && t.picked.len() == t.matching.len();
    let all = found.targets.values().filter(whole).filter(|t| t.matching.len() > 1);
    let all = all.map(|t| format!("target {} would hit all of its {} pods", t.target.name, t.matching.len()));
    let empty = found.targets.values().filter(|t| t.matching.is_empty());
    let empty = empty.map(|t| format!("target {} has no pod here: nothing would be hit", t.target.name));
    let skipped =
        found.targets.values().flat_map(|t| t.skipped.iter().map(|skipped| (&t.target.name, skipped)));
    let skipped = skipped.take(SKIPPED_SAID).map(|(target, (pod, why))| {
        format!("target {target} leaves out {}/{}: {why}", pod.namespace, pod.name)
    });
    all.chain(empty).chain(skipped).collect()
}
