//! Ceiling: the member cluster owner's half of the authority. Cluster-scoped,
//! named `default`; without it nothing is allowed. The agent only reads it.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::Span;
use crate::selector::ClusterSelector;

/// The name of the one Ceiling that counts.
pub const CEILING_NAME: &str = "default";

/// The limits of this cluster's owner.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "faultline.dev",
    version = "v1alpha1",
    kind = "Ceiling",
    plural = "ceilings",
    shortname = "flceil",
    category = "faultline",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name == 'default'").message("the Ceiling is named default")
)]
#[serde(rename_all = "camelCase", default)]
pub struct CeilingSpec {
    /// From whom; nobody where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub from: Vec<CeilingFrom>,
    /// Namespaces whose pods may be hit, or named as peers; `*` is every one
    /// but the protected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub namespaces: Vec<String>,
    /// Kinds that may be used: dotted, `network.*`, or `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub kinds: Vec<String>,
    /// Targets of one run at most. Default 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_targets: Option<i64>,
    /// The longest fault. Default 1h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_duration: Option<Span>,
    /// Hosts that probes may ask beside Services of the target namespaces:
    /// host or host:port, exact or `*.suffix`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub probe_hosts: Vec<String>,
}

/// Whom the owner lets in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CeilingFrom {
    /// Operators of the centre.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub central: Option<bool>,
    /// Authors in these clusters, by the name the centre gives them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clusters: Option<ClusterSelector>,
    /// And in these namespaces; `*` is every namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub namespaces: Vec<String>,
}

impl CeilingSpec {
    /// Targets of one run at most.
    pub fn max_targets(&self) -> u32 {
        self.max_targets.map_or(10, |n| u32::try_from(n).unwrap_or(0))
    }
    /// The longest fault, in milliseconds. A text that is no duration allows none.
    pub fn max_duration_ms(&self) -> u64 {
        self.max_duration.as_ref().map_or(3_600_000, |d| d.ms().unwrap_or(0))
    }
}
