//! What is counted of agents that come back by their identity key. Filled by enrolment.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Recoveries on this replica since it started.
#[derive(Debug, Clone, Default)]
pub struct Recoveries {
    /// Agents that came back.
    pub done: Counter,
    /// Requests that were refused.
    pub refused: Counter,
    /// Second holders of an identity: an operator must look.
    pub clones: Counter,
}

impl Recoveries {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let new = Self::default();
        let help = "agents that came back by their identity key after their certificate expired";
        registry.register("recoveries", help, new.done.clone());
        registry.register("recoveries_refused", "recoveries refused", new.refused.clone());
        let help = "times that a second holder of a cluster's identity showed up";
        registry.register("clones_suspected", help, new.clones.clone());
        new
    }
}
