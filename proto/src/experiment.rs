//! Experiment: an inert definition. One serde type for YAML, REST and CRD.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::probe::Probe;
use crate::quantity::Span;
use crate::selector::{ClusterSelector, PodSelector};

/// API group of every kind of ours.
pub const GROUP: &str = "faultline.dev";
/// API version of every kind of ours.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` as people write it.
pub const API_VERSION: &str = "faultline.dev/v1alpha1";
/// A spec's size limit in bytes, as JSON or YAML.
pub const MAX_SPEC_BYTES: usize = 16 * 1024;

/// What to break, where, for how long, and what must keep working. Storing or
/// re-applying it never runs anything.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "faultline.dev",
    version = "v1alpha1",
    kind = "Experiment",
    plural = "experiments",
    shortname = "flexp",
    category = "faultline",
    namespaced,
    status = "crate::status::AuthoredStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ExperimentSpec {
    /// What is believed, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub hypothesis: Option<String>,
    /// Typed paths that a Run may override, for example
    /// `faults[late].network.delay.latency`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub settable: Vec<String>,
    /// Where; targets may name their own.
    #[serde(default)]
    pub clusters: ClusterSelector,
    /// At what.
    #[schemars(length(min = 1, max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub targets: Vec<Target>,
    /// What must keep working.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub steady_state: Vec<Probe>,
    /// What is broken.
    #[schemars(length(min = 1, max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub faults: Vec<Fault>,
    /// Bounds in time.
    #[serde(default)]
    pub limits: Limits,
}

/// A named set of pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Unique within the experiment.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// PeerOnly: only its addresses are used; read authority is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<TargetRole>,
    /// Its own clusters, instead of the experiment's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<ClusterSelector>,
    /// The pods.
    #[serde(default)]
    pub pods: PodSelector,
    /// Containers by name; the first where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub containers: Vec<String>,
    /// How many of the matching pods, per cluster. Default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pick: Option<Pick>,
    /// The most that may be hit; more refuses, never truncates. Required
    /// unless PeerOnly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<AtMost>,
    /// A cluster without any matching pod is fine: nothing is done there.
    /// Default false: no match refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_empty: Option<bool>,
}

/// What a target is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetRole {
    /// Faults act on it.
    Victim,
    /// Only its addresses are used.
    PeerOnly,
}

/// How many of the matching pods, per cluster. Exactly one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Pick {
    /// One.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one: Option<bool>,
    /// All.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// So many; fewer matching refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub count: Option<i64>,
    /// Percent, rounded down, at least one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub percent: Option<i64>,
    /// Makes the choice repeatable; recorded in the plan when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub seed: Option<i64>,
}

/// The most that may be hit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AtMost {
    /// In each cluster.
    #[schemars(range(min = 1, max = 100_000))]
    pub per_cluster: i64,
    /// In all clusters together. Default per cluster times clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub total: Option<i64>,
}

/// Bounds in time, and how closely a plan binds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// From each cluster's own start; every `at` + `for` must fit. Default 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_deadline: Option<Span>,
    /// From the dispatch, for the whole run. Default 1h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_deadline: Option<Span>,
    /// From an assignment's dispatch; later is Missed. Default 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_within: Option<Span>,
    /// What losing the link does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_link_loss: Option<OnLinkLoss>,
    /// How closely a start is held to its plan. Default Workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan_binding: Option<PlanBinding>,
}

/// How closely a start is held to its plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PlanBinding {
    /// Pods of the planned workloads, at most as many as were planned.
    #[default]
    Workload,
    /// The planned pods themselves: one that was replaced is not hit, the
    /// cluster is Denied. At most 200 pods in a cluster.
    Exact,
}

/// What losing the link does. Agent to centre is judged by the agent, node to
/// agent by the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OnLinkLoss {
    /// How long the link must be gone. Default 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Span>,
    /// Then what.
    #[serde(rename = "do")]
    pub action: LinkLossAction,
}

/// What to do when the link is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LinkLossAction {
    /// Revert the faults.
    #[default]
    Revert,
    /// Keep them to their deadline: for drills that cut the agent off by design.
    RunToDeadline,
}

/// Defaults of [`Limits`], in milliseconds.
pub mod defaults {
    /// `clusterDeadline`
    pub const CLUSTER_DEADLINE_MS: u64 = 600_000;
    /// `runDeadline`
    pub const RUN_DEADLINE_MS: u64 = 3_600_000;
    /// `startWithin`
    pub const START_WITHIN_MS: u64 = 600_000;
    /// `onLinkLoss.after`
    pub const LINK_LOSS_AFTER_MS: u64 = 60_000;
}

impl Limits {
    fn or(span: Option<&Span>, default: u64) -> u64 {
        span.and_then(|s| s.ms().ok()).unwrap_or(default)
    }
    /// Milliseconds from a cluster's own start.
    pub fn cluster_deadline_ms(&self) -> u64 {
        Self::or(self.cluster_deadline.as_ref(), defaults::CLUSTER_DEADLINE_MS)
    }
    /// Milliseconds from the dispatch.
    pub fn run_deadline_ms(&self) -> u64 {
        Self::or(self.run_deadline.as_ref(), defaults::RUN_DEADLINE_MS)
    }
    /// Milliseconds from the dispatch.
    pub fn start_within_ms(&self) -> u64 {
        Self::or(self.start_within.as_ref(), defaults::START_WITHIN_MS)
    }
    /// Whether the plan names its pods by uid.
    pub fn binds_pods(&self) -> bool {
        self.plan_binding == Some(PlanBinding::Exact)
    }
    /// Milliseconds without link, and then what.
    pub fn link_loss(&self) -> (u64, LinkLossAction) {
        let Some(loss) = &self.on_link_loss else {
            return (defaults::LINK_LOSS_AFTER_MS, LinkLossAction::Revert);
        };
        (Self::or(loss.after.as_ref(), defaults::LINK_LOSS_AFTER_MS), loss.action)
    }
}

impl ExperimentSpec {
    /// The target of this name.
    pub fn target(&self, name: &str) -> Option<&Target> {
        self.targets.iter().find(|t| t.name == name)
    }

    /// The clusters a target is looked for in.
    pub fn clusters_of<'a>(&'a self, target: &'a Target) -> &'a ClusterSelector {
        target.clusters.as_ref().unwrap_or(&self.clusters)
    }

    /// The instant, from a cluster's start, when the last fault ends.
    pub fn last_fault_end_ms(&self) -> u64 {
        let end =
            |f: &Fault| f.at.ms().unwrap_or(0) + f.lasts.as_ref().and_then(|l| l.ms().ok()).unwrap_or(0);
        self.faults.iter().map(end).max().unwrap_or(0)
    }
}

impl Target {
    /// Whether only its addresses are used.
    pub fn is_peer_only(&self) -> bool {
        self.role == Some(TargetRole::PeerOnly)
    }

    /// Whether a cluster without a matching pod is fine.
    pub fn allows_empty(&self) -> bool {
        self.allow_empty == Some(true)
    }
}
