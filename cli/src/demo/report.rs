//! The one object that `faultline demo --json` prints: measured values only.

use serde::Serialize;

/// What was shown.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Cluster it was authored on.
    pub(crate) authored_on: String,
    /// Clusters it ran on.
    pub(crate) executed_on: Vec<String>,
    /// Dotted kind.
    pub(crate) fault: String,
    /// Backend that made it.
    pub(crate) backend: String,
    /// Medians of the client outside both clusters.
    pub(crate) latency_ms: Latency,
    /// Outcome of the run.
    pub(crate) outcome: String,
    /// Verdict of the run.
    pub(crate) verdict: String,
    /// Residue of the run.
    pub(crate) residue: String,
    /// Records in the centre's audit.
    pub(crate) audit_records: usize,
    /// From start to end.
    pub(crate) seconds: f64,
}

/// Medians in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) before: Option<f64>,
    pub(crate) during: Option<f64>,
    pub(crate) after: Option<f64>,
}
