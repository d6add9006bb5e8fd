//! Plan: an experiment resolved against live inventory. What was planned and
//! approved is what runs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::ClusterId;
use crate::injection::TargetRef;

/// A plan expires so long after it was asked for, milliseconds. What has expired is never dispatched, and a start
/// that arrives later is Missed.
pub const PLAN_TTL_MS: i64 = 15 * 60 * 1000;
/// The most pods of one cluster that a plan names by uid (`planBinding: Exact`): plans stay small.
pub const EXACT_PODS_MAX: usize = 200;
/// The most addresses of one cluster's peers that a plan carries, for the same reason.
pub const PEER_ADDRESSES_MAX: usize = 200;

/// An agent's answer to "what would this hit here".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPlan {
    /// Hash of the spec that was planned.
    pub spec_hash: String,
    /// When, by the agent's clock.
    pub planned_at: Timestamp,
    /// What it stays within; hashed, approved, and enforced again at start.
    pub envelope: Envelope,
    /// The pods that would be hit now, at most 50 per target; a sample.
    #[serde(default)]
    pub sample: BTreeMap<String, Vec<TargetRef>>,
    /// How each fault would be made and taken away here.
    #[serde(default)]
    pub faults: Vec<FaultPlan>,
    /// What stands in the way; empty = it can start.
    #[serde(default)]
    pub refusals: Vec<Refusal>,
    /// Worth knowing, not in the way.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The bounds inside which pods are resolved again at dispatch. Leaving it
/// voids the plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Envelope {
    /// Per target name.
    pub targets: BTreeMap<String, TargetEnvelope>,
}

/// Bounds of one target in one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetEnvelope {
    /// The workloads that own the matching pods, sorted.
    pub owners: Vec<Owner>,
    /// At most so many pods.
    pub max_count: u32,
    /// `planBinding: Exact`: uids of the pods that may be hit, sorted; no others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<String>,
    /// Seed of the choice.
    pub seed: u64,
    /// PeerOnly: never hit.
    pub peer_only: bool,
    /// PeerOnly targets: their addresses at planning time, sorted.
    pub addresses: Vec<IpAddr>,
}

/// A workload by identity. For a pod without owner, the pod itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, Pod, Workload.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// How one fault would be made and taken away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultPlan {
    /// Its name in the experiment.
    pub name: String,
    /// Dotted kind.
    pub kind: String,
    /// Target name.
    pub target: String,
    /// Injections it makes here.
    pub count: u32,
    /// Backend per node group, for example `nfqueue`.
    pub backend: String,
    /// kernel-timed, keeper, api-reverted, restart, irreversible.
    pub revert_class: String,
    /// How it is taken away, in a sentence.
    pub undo: String,
    /// From the cluster's start, milliseconds.
    pub at_ms: u64,
    /// Milliseconds; 0 for irreversible kinds.
    pub for_ms: u64,
}

/// What stands in the way, whose it is, and the cure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// A CamelCase code, for example NoGrant, NoCeiling, TooManyTargets.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whose it is to give: `centre`, `cluster owner`, `author`.
    pub whose: String,
    /// The command or change that cures it.
    pub cure: String,
}

/// Codes of refusals, one place for agent, centre, CLI and docs.
pub mod refusal {
    /// No Grant of the centre covers it.
    pub const NO_GRANT: &str = "NoGrant";
    /// The cluster has no Ceiling.
    pub const NO_CEILING: &str = "NoCeiling";
    /// The Ceiling does not cover it.
    pub const ABOVE_CEILING: &str = "AboveCeiling";
    /// A selected cluster is not connected.
    pub const CLUSTER_UNAVAILABLE: &str = "ClusterUnavailable";
    /// A selected cluster is not accepted yet.
    pub const CLUSTER_PENDING: &str = "ClusterPending";
    /// No cluster is selected.
    pub const NO_CLUSTERS: &str = "NoClusters";
    /// No pod matches.
    pub const NO_TARGETS: &str = "NoTargets";
    /// More pods than `atMost`.
    pub const TOO_MANY_TARGETS: &str = "TooManyTargets";
    /// A target's node has no daemon.
    pub const NO_DAEMON: &str = "NoDaemon";
    /// A node lacks what the kind needs.
    pub const MISSING_CAPABILITY: &str = "MissingCapability";
    /// A node's daemon is about to end and takes no new start.
    pub const DRAINING: &str = "Draining";
    /// Our own pods, kube-system, or the centre's.
    pub const PROTECTED: &str = "Protected";
    /// A probe's address is not allowed.
    pub const PROBE_HOST: &str = "ProbeHost";
    /// A host-network pod for a pod-only fault.
    pub const HOST_NETWORK: &str = "HostNetwork";
    /// A halt is in force.
    pub const HALTED: &str = "Halted";
    /// This name and uid ran before.
    pub const ALREADY_RAN: &str = "AlreadyRan";
    /// The definition is absent.
    pub const NO_EXPERIMENT: &str = "NoExperiment";
    /// The definition or an override is not valid.
    pub const INVALID: &str = "Invalid";
    /// The baseline did not hold.
    pub const BASELINE_BROKEN: &str = "BaselineBroken";
    /// `notAfter` has passed.
    pub const TOO_LATE: &str = "TooLate";
    /// Peers' addresses cannot be used across these clusters.
    pub const NETWORK_LABEL: &str = "NetworkLabel";
    /// The agent is stop-only.
    pub const STOP_ONLY: &str = "StopOnly";
    /// The targets left the planned envelope.
    pub const LEFT_ENVELOPE: &str = "LeftEnvelope";
    /// The plan is too old to start. Nothing stands in the way: the run is Missed.
    pub const PLAN_EXPIRED: &str = "PlanExpired";
}

/// A complete plan: what the hash covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Hash of the effective spec.
    pub spec_hash: String,
    /// Per cluster id.
    pub clusters: BTreeMap<ClusterId, Envelope>,
}

impl Plan {
    /// The plan's hash: fault parameters (by spec hash) and envelopes.
    pub fn hash(&self) -> Result<String, serde_json::Error> {
        crate::hash::of_json(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(pods: &[&str]) -> Plan {
        let target = TargetEnvelope {
            max_count: 2,
            pods: pods.iter().map(|&uid| uid.to_owned()).collect(),
            ..TargetEnvelope::default()
        };
        let envelope = Envelope { targets: [("web".to_owned(), target)].into() };
        Plan { spec_hash: "ab".into(), clusters: [("c1".parse().expect("valid"), envelope)].into() }
    }

    #[test]
    fn the_hash_covers_the_pods_and_a_plan_without_them_is_as_it_was() {
        let hash = |pods: &[&str]| plan(pods).hash().expect("JSON");
        assert_eq!(hash(&["u1", "u2"]), hash(&["u1", "u2"]));
        assert_ne!(hash(&["u1", "u2"]), hash(&["u1", "u3"]));
        assert_ne!(hash(&["u1"]), hash(&[]));
        let json = serde_json::to_string(&plan(&[])).expect("JSON");
        assert!(
            !json.contains("pods"),
            "the hash of plans that bind workloads is that of older versions: {json}"
        );
        let back: Plan =
            serde_json::from_str(&serde_json::to_string(&plan(&["u1"])).expect("JSON")).expect("valid");
        assert_eq!(back, plan(&["u1"]));
    }
}
