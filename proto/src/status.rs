//! Status of a run, as the centre sums it up and as it is mirrored to the
//! authored object.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::assignment::{ClusterPhase, InjectionCounts, Outcome, Residue, Verdict};
use crate::ids::{ClusterId, RunId};
use crate::plan::Refusal;

/// Phase of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub enum RunPhase {
    /// Clusters resolve their targets.
    Planning,
    /// The plan waits for an approval.
    AwaitingApproval,
    /// Starts are on their way.
    Dispatching,
    /// At least one cluster has started.
    Running,
    /// Faults are being taken away.
    Reverting,
    /// Nothing more happens by itself.
    Finished,
}

/// The value of `runs/<id>/summary`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunSummary {
    /// The run.
    pub id: RunId,
    /// Phase.
    pub phase: RunPhase,
    /// The worst of the clusters'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// CamelCase reason of the outcome.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The worst of the clusters'.
    pub verdict: Verdict,
    /// The worst of the clusters'.
    pub residue: Residue,
    /// Unknown residue reverts by itself by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residue_resolves_at: Option<Timestamp>,
    /// Hash of the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_hash: Option<String>,
    /// When the plan expires: not dispatched later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan_expires: Option<Timestamp>,
    /// When the plan was complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_at: Option<Timestamp>,
    /// When starts were written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispatched_at: Option<Timestamp>,
    /// When every started cluster was Injected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injected_at: Option<Timestamp>,
    /// When every started cluster was Reverted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverted_at: Option<Timestamp>,
    /// When it was finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Clusters by state.
    pub clusters: ClusterCounts,
    /// At most 20 clusters, the worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<ClusterSample>,
    /// What stood in the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// Clusters of a run by state.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema,
)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterCounts {
    /// Selected.
    pub total: i32,
    /// Skipped as unavailable.
    pub skipped: i32,
    /// Planned.
    pub planned: i32,
    /// Started and not finished.
    pub running: i32,
    /// Finished: ran to the end.
    pub completed: i32,
    /// Finished: too late.
    pub missed: i32,
    /// Finished: not allowed.
    pub denied: i32,
    /// Finished: stopped early.
    pub aborted: i32,
    /// Finished: halted.
    pub halted: i32,
    /// Finished: failed.
    pub failed: i32,
    /// No live session while something may be active there.
    pub unknown: i32,
}

/// One cluster of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSample {
    /// Its id.
    #[schema(value_type = String)]
    pub cluster: ClusterId,
    /// Its name.
    pub name: String,
    /// Its phase.
    pub phase: ClusterPhase,
    /// How it ended there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// CamelCase reason.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What was learnt there.
    pub verdict: Verdict,
    /// What is left there.
    pub residue: Residue,
    /// Injections there.
    pub counts: InjectionCounts,
}

/// Status subresource of Experiment and Run objects in member clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthoredStatus {
    /// The generation this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Phase of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Residue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residue: Option<String>,
    /// Unknown residue reverts by itself by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residue_resolves_at: Option<String>,
    /// The centre's id of the run.
    #[serde(rename = "runID", skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Hash of the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan_hash: Option<String>,
    /// Clusters by state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clusters: Option<ClusterCounts>,
    /// At most 20 clusters, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<AuthoredSample>,
    /// Accepted, Planned, Injected, Reverted, Complete, Failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One cluster of a run, in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthoredSample {
    /// The cluster's name.
    pub cluster: String,
    /// Phase and outcome there.
    pub state: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A Kubernetes condition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Accepted, Planned, Injected, Reverted, Complete, Failed.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// CamelCase.
    pub reason: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// RFC 3339.
    pub last_transition_time: String,
    /// The generation this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Annotated per-cluster detail for `describe`.
pub type PerCluster<T> = BTreeMap<ClusterId, T>;
