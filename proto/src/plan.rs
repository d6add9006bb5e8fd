//! Plan: an experiment resolved against live inventory. What was planned and
//! approved is what runs.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::ClusterId;
use crate::injection::TargetRef;

/// A plan expires after this long.
pub const PLAN_TTL_MS: i64 = 15 * 60 * 1000;

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
