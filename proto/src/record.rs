//! FaultRecord: what an agent has started, written before it acts, in its own
//! namespace. A restarted agent that finds one never starts that run again.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The durable record of one run on one cluster.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "faultline.dev",
    version = "v1alpha1",
    kind = "FaultRecord",
    plural = "faultrecords",
    shortname = "flrec",
    category = "faultline",
    namespaced,
    derive = "PartialEq",
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".spec.state"}"#,
    printcolumn = r#"{"name":"Deadline","type":"string","jsonPath":".spec.deadline"}"#
)]
#[serde(rename_all = "camelCase", default)]
pub struct FaultRecordSpec {
    /// The run's id; also the object's name.
    pub run: String,
    /// Generation that was started.
    pub generation: i64,
    /// Started, Stopped or Finished, for people.
    pub state: String,
    /// No fault of it outlives this instant (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// The agent's own record as JSON, with undo data of API faults.
    pub document: String,
}
