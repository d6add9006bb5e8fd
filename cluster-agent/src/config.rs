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
    /// Link endpoints (host:port) instead of those that enrolment or the centre's list gave; normally empty.
    pub link_endpoints: Vec<String>,
    /// A forward proxy on the way to the centre, for enrolment and link.
    pub proxy: Option<certs::Proxy>,
    /// Whether node daemons are installed; without them only faults on Kubernetes objects can be made.
    pub node_daemons: bool,
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
            proxy: None,
            node_daemons: true,
            backoff: Backoff::default(),
            node_heartbeat: Duration::from_secs(5),
            denied: crate::probes::Denied::default(),
        }
    }
}

impl Config {
    /// Everything that is wrong with it, each as one sentence. A join token that is not there is no mistake: an
    /// enrolled cluster needs none.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(file) = &self.join_token_file {
            match std::fs::read_to_string(file) {
                Ok(text) => {
                    if let Err(error) = text.parse::<certs::JoinToken>() {
                        found.push(format!("--join-token-file {}: {error}", file.display()));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => found.push(format!("--join-token-file {}: {error}", file.display())),
            }
        }
        for (flag, value) in [
            ("--namespace", &self.namespace),
            ("--identity-secret", &self.identity_secret),
            ("--node-ca-secret", &self.node_ca_secret),
            ("--node-bundle-configmap", &self.node_bundle_configmap),
            ("--lease-name", &self.lease_name),
        ] {
            if let Err(error) = value.parse::<proto::ids::Name>() {
                found.push(format!("{flag} {value:?}: {error}"));
            }
        }
        for endpoint in &self.link_endpoints {
            if !is_host_port(endpoint) {
                found.push(format!("--link-endpoints {endpoint:?} is not host:port"));
            }
        }
        for name in &self.node_service {
            if name.is_empty() || name.contains([':', '/', ' ']) {
                found.push(format!("--node-service {name:?} is neither a DNS name nor an address"));
            }
        }
        found
    }
}

fn is_host_port(text: &str) -> bool {
    let parsed = text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>()));
    matches!(parsed, Some((host, Ok(port))) if port > 0 && !host.is_empty() && !host.contains(['/', '@', ' ']))
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn every_mistake_is_reported_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "flj1.cut-off").unwrap();
        let config = Config {
            join_token_file: Some(token),
            namespace: "Not A Name".to_owned(),
            lease_name: String::new(),
            link_endpoints: vec!["hub:7444".to_owned(), "hub".to_owned(), "https://hub:1".to_owned()],
            node_service: vec!["a:7446".to_owned()],
            ..Config::default()
        };
        let problems = config.problems();
        assert_eq!(problems.len(), 6, "{problems:#?}");
        for flag in ["--join-token-file", "--namespace", "--lease-name", "--link-endpoints", "--node-service"]
        {
            assert!(problems.iter().any(|problem| problem.starts_with(flag)), "{flag} in {problems:#?}");
        }
        let absent = Some(folder.path().join("absent"));
        let fine = Config { join_token_file: absent, ..Config::default() };
        assert!(fine.problems().is_empty(), "{:?}", fine.problems());
    }
}
