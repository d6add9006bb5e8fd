//! Run: one execution of one plan; immutable.

use jiff::Timestamp;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::assignment::{Origin, StopReason};
use crate::grant::Principal;
use crate::ids::RunId;
use crate::quantity::Span;
use crate::trace::TraceContext;

/// Asks for one execution of an Experiment. Immutable; runs once for its name
/// and uid, ever. Deleting it stops the run.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "faultline.dev",
    version = "v1alpha1",
    kind = "Run",
    plural = "runs",
    shortname = "flrun",
    category = "faultline",
    namespaced,
    status = "crate::status::AuthoredStatus",
    derive = "PartialEq",
    validation = Rule::new("self.spec == oldSelf.spec").message("a Run is immutable: create another under a new name"),
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Outcome","type":"string","jsonPath":".status.outcome"}"#,
    printcolumn = r#"{"name":"Verdict","type":"string","jsonPath":".status.verdict"}"#,
    printcolumn = r#"{"name":"Residue","type":"string","jsonPath":".status.residue"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct RunSpec {
    /// The definition.
    pub experiment_ref: ExperimentRef,
    /// After this instant nothing starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub not_after: Option<String>,
    /// Overrides of settable paths.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub set: Vec<SetPath>,
    /// Kept at the centre for so long after it finished. Default 168h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_after_finished: Option<Span>,
}

/// The definition a run executes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExperimentRef {
    /// Its name, in the run's own namespace (or the centre's library).
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Central: from the centre's library. Default the run's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<ExperimentScope>,
}

/// Where a definition is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExperimentScope {
    /// Beside the run.
    Namespace,
    /// In the centre's library.
    Central,
}

/// One override.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SetPath {
    /// A settable path of the experiment.
    #[schemars(length(min = 1, max = 256))]
    pub path: String,
    /// Its value: text, whole number or boolean.
    #[schemars(schema_with = "any_scalar")]
    pub value: serde_json::Value,
}

fn any_scalar(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// The centre's record of a run: the value of `runs/<id>/spec`. Immutable but
/// for `stop`, which is absorbing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRecord {
    /// Assigned by the centre.
    pub id: RunId,
    /// Namespace it was authored in; `central` at the centre.
    pub namespace: String,
    /// Name it was authored under.
    pub name: String,
    /// Uid of the Run object, or the run id at the centre.
    pub uid: String,
    /// Who asked.
    pub principal: Principal,
    /// The user, where the author annotation is guaranteed. Information only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// As the Ceiling sees it.
    pub origin: Origin,
    /// As written.
    pub spec: RunSpec,
    /// The effective spec (overrides applied), by hash; empty where there is none.
    pub spec_hash: String,
    /// Only plan; never dispatch.
    #[serde(default)]
    pub plan_only: bool,
    /// When it was created here.
    pub created_at: Timestamp,
    /// A stop was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<StopRequest>,
    /// The trace it belongs to; no part of what is compared.
    #[serde(default, rename = "traceparent", skip_serializing_if = "TraceContext::is_none")]
    pub trace: TraceContext,
}

/// A stop, absorbing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StopRequest {
    /// Why.
    pub reason: StopReason,
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
}
