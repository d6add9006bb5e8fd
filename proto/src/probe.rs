//! Steady-state probes as written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::Span;

/// One steady-state measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.http), has(self.tcp)].filter(x, x).size() == 1",
    "message": "name exactly one of http, tcp"
}]))]
pub struct Probe {
    /// Unique within the experiment.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// An HTTP GET without redirects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    /// A TCP connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpProbe>,
    /// What counts as good.
    #[serde(default)]
    pub expect: Expect,
    /// Interval between samples. Default 1s, at least 100ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<Span>,
    /// Consecutive bad samples that make a breach. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub breach_after: Option<i64>,
    /// When it is measured. Default Before, During, After.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub when: Vec<ProbeStage>,
    /// From where. Default TargetClusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ProbeFrom>,
    /// What a breach during the faults does. Default Abort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_breach: Option<OnBreach>,
}

/// What a breach during the faults does to the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnBreach {
    /// The cluster's faults are reverted at once; outcome Aborted, verdict Broken.
    #[default]
    Abort,
    /// Only measured; verdict Broken.
    Record,
}

/// GET of a URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpProbe {
    /// http:// only; host is a Service of the target namespaces unless the
    /// Ceiling allows more.
    #[schemars(length(min = 1, max = 2048))]
    pub url: String,
}

/// Connect to an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TcpProbe {
    /// host:port
    #[schemars(length(min = 1, max = 300))]
    pub address: String,
}

/// What counts as good.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Expect {
    /// Accepted HTTP status codes. Default 200 to 299.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 100, max = 599)))]
    pub status: Vec<i64>,
    /// Time limit of one sample. Default 1s, at most 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
}

/// Stage of a run, seen by a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ProbeStage {
    /// The baseline, before any fault.
    Before,
    /// While faults are injected.
    During,
    /// After all is reverted.
    After,
}

/// Where a probe runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProbeFrom {
    /// In every cluster with targets, by its agent.
    #[default]
    TargetClusters,
}
