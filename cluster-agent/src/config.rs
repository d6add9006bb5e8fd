//! What the process is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::link::Backoff;

/// Configuration of an agent in Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// File with the join token; needed until the cluster is enrolled.
    pub join_token_file: Option<PathBuf>,
    /// The agent's own namespace.
    pub namespace: String,
    /// The agent's own pod.
    pub pod_name: String,
    /// The node it runs on.
    pub node_name: String,
    /// Where node daemons dial; absent where links come over channels (host mode).
    pub node_link_addr: Option<SocketAddr>,
    /// The names by which they dial it, as DNS names or addresses.
    pub node_service: Vec<String>,
    /// Health and metrics; absent for none.
    pub health_addr: Option<SocketAddr>,
    /// Secret of the identity.
    pub identity_secret: String,
    /// Secret of the node CA.
    pub node_ca_secret: String,
    /// ConfigMap with the node CA's root.
    pub node_bundle_configmap: String,
    /// Lease of the leader.
    pub lease_name: String,
    /// Link endpoints (host:port) instead of those that enrolment gave; normally empty.
    pub link_endpoints: Vec<String>,
    /// Waits between dials.
    pub backoff: Backoff,
    /// Between heartbeats with node daemons.
    pub node_heartbeat: Duration,
    /// Where probes never go, beside the apiserver.
    pub denied: crate::probes::Denied,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            join_token_file: None,
            namespace: "faultline".to_owned(),
            pod_name: String::new(),
            node_name: String::new(),
            node_link_addr: None,
            node_service: vec!["faultline-agent-nodes.faultline.svc".to_owned()],
            health_addr: None,
            identity_secret: "faultline-agent-identity".to_owned(),
            node_ca_secret: "faultline-agent-node-ca".to_owned(),
            node_bundle_configmap: "faultline-node-bundle".to_owned(),
            lease_name: "faultline-agent".to_owned(),
            link_endpoints: Vec::new(),
            backoff: Backoff::default(),
            node_heartbeat: Duration::from_secs(5),
            denied: crate::probes::Denied::default(),
        }
    }
}
