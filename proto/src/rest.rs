//! Types of the REST API beside the documents themselves. One API serves the
//! CLI, a later UI and everyone else.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::assignment::{Intent, Observed};
use crate::cluster::{ClusterSpec, ClusterState, ClusterStatus};
use crate::grant::GrantSpec;
use crate::halt::{Halt, HaltLevel, HaltScope};
use crate::ids::ClusterId;
use crate::operator::Role;
use crate::plan::ClusterPlan;
use crate::run::{RunRecord, RunSpec};
use crate::status::RunSummary;

/// A page of things; `next` asks for the following one with `?after=`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// The things.
    pub items: Vec<T>,
    /// Cursor of the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `PUT /v1/experiments/{name}` stores, `GET` returns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExperimentView {
    /// Name in the centre's library, or in its namespace.
    pub name: String,
    /// `central`, or the member cluster's id.
    pub origin: String,
    /// Namespace there.
    pub namespace: String,
    /// The spec, as written.
    #[schema(value_type = Object)]
    pub spec: Value,
    /// SHA-256 of the spec.
    pub hash: String,
    /// Whose declarations it is part of (`faultline apply --owner`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// `POST /v1/runs`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateRun {
    /// Its name; once used, used for ever.
    pub name: String,
    /// The run, as in a Run manifest's spec.
    #[schema(value_type = Object)]
    pub spec: RunSpec,
    /// The definition itself, used instead of the library's: for plans and
    /// one-off runs that store nothing under a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub experiment: Option<Value>,
    /// Plan and stop there.
    #[serde(default)]
    pub plan_only: bool,
}

/// A run with all that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunView {
    /// As it was asked for.
    #[schema(value_type = Object)]
    pub record: RunRecord,
    /// Summed up.
    #[schema(value_type = Object)]
    pub summary: RunSummary,
    /// Per cluster; only in the view of one run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<RunCluster>,
}

/// One cluster of a run, in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunCluster {
    /// Its id.
    #[schema(value_type = String)]
    pub cluster: ClusterId,
    /// Its name.
    pub name: String,
    /// What is wanted.
    #[schema(value_type = String)]
    pub intent: Intent,
    /// Its generation.
    pub generation: u64,
    /// Whether its agent is connected.
    pub connected: bool,
    /// What it would hit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub plan: Option<ClusterPlan>,
    /// What it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub observed: Option<Observed>,
}

/// `POST /v1/halts`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetHalt {
    /// Id; assigned where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What to stop.
    #[schemars(with = "Value")]
    pub scope: HaltScope,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A halt and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HaltView {
    /// The halt.
    #[schema(value_type = Object)]
    pub halt: Halt,
    /// Per cluster name that it covers.
    #[schema(value_type = Object)]
    pub clusters: BTreeMap<String, HaltLevel>,
}

/// A stop or a halt that was taken: in force, whether the store has it yet or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Taken<T> {
    /// What it is about.
    #[serde(flatten)]
    pub view: T,
    /// The store has it. If not, it is written as soon as the store can be reached.
    #[serde(default = "yes")]
    pub persisted: bool,
    /// Who has it while the store does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Reached>,
}

fn yes() -> bool {
    true
}

/// Replicas of the centre beside the one that answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Reached {
    /// That have it in memory and told their clusters.
    pub told: u32,
    /// That were alive when the store was last heard of. The others are told until they have it.
    pub known: u32,
}

/// `POST /v1/clusters`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InviteCluster {
    /// Its name.
    pub name: String,
    /// Its labels; only the centre sets them.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Accept it as soon as it enrols.
    #[serde(default)]
    pub auto_accept: bool,
    /// Token life, for example `30m`; at most 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
}

/// `POST /v1/clusters/{cluster}/replace`
#[derive(
    Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, utoipa::ToSchema,
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplaceCluster {
    /// Accept it as soon as it enrols; otherwise it must be accepted again.
    #[serde(default)]
    pub auto_accept: bool,
    /// Token life, for example `30m`; at most 24h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
}

/// The token, shown once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Invitation {
    /// The new member's id.
    #[schema(value_type = String)]
    pub cluster: ClusterId,
    /// Its name.
    pub name: String,
    /// For `join.token` or `faultline serve host --join-token-file`.
    pub token: String,
    /// Until when it can be used.
    #[schema(value_type = String)]
    pub expires_at: Timestamp,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterView {
    /// What the centre decided.
    #[schema(value_type = Object)]
    pub spec: ClusterSpec,
    /// State.
    pub state: ClusterState,
    /// What it says.
    #[schema(value_type = Object)]
    pub status: ClusterStatus,
}

/// A grant by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantView {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub spec: GrantSpec,
    /// Whose declarations it is part of (`faultline apply --owner`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// Who the caller is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WhoAmI {
    /// The operator's name.
    pub name: String,
    /// What they may.
    pub role: Role,
}

/// The CA's root certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaView {
    /// PEM.
    pub bundle_pem: String,
    /// `sha256/` and the hash of its key, as in join tokens.
    pub pin: String,
}

/// One audit record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditRecord {
    /// Replica that wrote it.
    pub replica: String,
    /// Counts up per replica.
    pub seq: u64,
    /// When.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// What, for example `run.create`.
    pub action: String,
    /// On what.
    pub subject: String,
    /// `ok`, or the refusal's code.
    pub result: String,
    /// `hash` of the record before, empty in the first: one chain per replica.
    pub previous: String,
    /// SHA-256 of everything above, hex, as `audit::digest` encodes it.
    pub hash: String,
}
