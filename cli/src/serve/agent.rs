//! `faultline serve agent`: one per member cluster, active or standby.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use cluster_agent::Config;

use crate::exit::Exit;
use crate::telemetry::TelemetryArgs;

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// File with the join token; needed until the cluster is enrolled
    #[arg(long, env = "FAULTLINE_JOIN_TOKEN_FILE")]
    join_token_file: Option<PathBuf>,
    /// The agent's own namespace
    #[arg(long, env = "FAULTLINE_NAMESPACE")]
    namespace: String,
    /// The agent's own pod
    #[arg(long, env = "FAULTLINE_POD_NAME")]
    pod_name: String,
    /// The node it runs on
    #[arg(long, env = "FAULTLINE_NODE_NAME", default_value = "")]
    node_name: String,
    /// Where node daemons dial
    #[arg(long, env = "FAULTLINE_NODE_LINK_ADDR", default_value = "0.0.0.0:7446")]
    node_link_addr: SocketAddr,
    /// The name by which they dial it: the Service in front of the active agent
    #[arg(long, env = "FAULTLINE_NODE_SERVICE", value_delimiter = ',', required = true)]
    node_service: Vec<String>,
    /// Health and metrics, plain HTTP
    #[arg(long, env = "FAULTLINE_HEALTH_ADDR", default_value = "0.0.0.0:9090")]
    health_addr: SocketAddr,
    /// Secret of the identity
    #[arg(long, env = "FAULTLINE_IDENTITY_SECRET", default_value = "faultline-agent-identity")]
    identity_secret: String,
    /// Secret of the node CA
    #[arg(long, env = "FAULTLINE_NODE_CA_SECRET", default_value = "faultline-agent-node-ca")]
    node_ca_secret: String,
    /// ConfigMap with the node CA's root
    #[arg(long, env = "FAULTLINE_NODE_BUNDLE_CONFIGMAP", default_value = "faultline-node-bundle")]
    node_bundle_configmap: String,
    /// Lease of the leader
    #[arg(long, env = "FAULTLINE_LEASE_NAME", default_value = "faultline-agent")]
    lease_name: String,
    /// Link endpoints (host:port) instead of those that enrolment or the centre's list gave
    #[arg(long, env = "FAULTLINE_LINK_ENDPOINTS", value_delimiter = ',')]
    link_endpoints: Vec<String>,
    /// Installed without node daemons: only faults on Kubernetes objects can be made
    #[arg(long, env = "FAULTLINE_NO_NODE_DAEMONS")]
    no_node_daemons: bool,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

pub(crate) fn main(args: &AgentArgs) -> anyhow::Result<Exit> {
    let (config, problems) = args.config();
    super::refuse(&problems)?;
    let _telemetry = args.telemetry.start("faultline-agent")?;
    super::until_signal(|shutdown| cluster_agent::kubernetes::run(config, shutdown))
}

impl AgentArgs {
    /// The configuration, and everything that is wrong with it.
    pub(crate) fn config(&self) -> (Config, Vec<String>) {
        let (proxy, mut problems) = super::proxy();
        let config = Config {
            join_token_file: self.join_token_file.clone(),
            namespace: self.namespace.clone(),
            pod_name: self.pod_name.clone(),
            node_name: self.node_name.clone(),
            node_link_addr: Some(self.node_link_addr),
            node_service: self.node_service.clone(),
            health_addr: Some(self.health_addr),
            identity_secret: self.identity_secret.clone(),
            node_ca_secret: self.node_ca_secret.clone(),
            node_bundle_configmap: self.node_bundle_configmap.clone(),
            lease_name: self.lease_name.clone(),
            link_endpoints: self.link_endpoints.clone(),
            node_daemons: !self.no_node_daemons,
            proxy,
            ..Config::default()
        };
        problems.extend(self.telemetry.problems());
        problems.extend(config.problems());
        (config, problems)
    }
}
