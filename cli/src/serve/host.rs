//! `faultline serve host`: agent and node daemon in one process, on a machine
//! without Kubernetes. It joins like any cluster.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use cluster_agent::cluster::host::HostConfig;
use cluster_agent::nodes::session::NodeConnection;
use node_daemon::{Resolver, link::Channels};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;
use crate::telemetry::TelemetryArgs;

/// Messages on their way between agent and daemon.
const LINK: usize = 64;
/// A daemon whose session ended is connected again after this long.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    /// File with the join token; needed until this machine is enrolled
    #[arg(long, env = "FAULTLINE_JOIN_TOKEN_FILE")]
    join_token_file: Option<PathBuf>,
    /// Identity, records, journal; must outlive the process
    #[arg(long, env = "FAULTLINE_STATE_DIR", default_value = "/var/lib/faultline")]
    state_dir: PathBuf,
    /// The workloads of this machine, YAML
    #[arg(long, env = "FAULTLINE_WORKLOADS", default_value = "/etc/faultline/workloads.yaml")]
    workloads: PathBuf,
    /// The owner's limits, YAML; without the file nothing is allowed
    #[arg(long, env = "FAULTLINE_CEILING", default_value = "/etc/faultline/ceiling.yaml")]
    ceiling: PathBuf,
    /// Folder of Experiment and Run manifests authored here
    #[arg(long, env = "FAULTLINE_AUTHORED_DIR", default_value = "/etc/faultline/authored")]
    authored_dir: PathBuf,
    /// This machine's name as a node; default its host name
    #[arg(long, env = "FAULTLINE_NODE_NAME")]
    node_name: Option<String>,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

/// A host-mode cluster, checked.
#[derive(Debug, Clone)]
pub(crate) struct HostRole {
    pub(crate) host: HostConfig,
    pub(crate) agent: cluster_agent::Config,
    pub(crate) node: node_daemon::Config,
}

pub(crate) fn main(args: &HostArgs) -> anyhow::Result<Exit> {
    let (role, problems) = args.role()?;
    super::refuse(&problems)?;
    let _telemetry = args.telemetry.start("faultline-host")?;
    super::until_signal(|shutdown| role.run(shutdown))
}

impl HostArgs {
    /// The role, and everything that is wrong with it.
    pub(crate) fn role(&self) -> anyhow::Result<(HostRole, Vec<String>)> {
        let node_name = match &self.node_name {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname()?.to_string_lossy().into_owned(),
        };
        let host = HostConfig {
            state_dir: self.state_dir.join("agent"),
            workloads: self.workloads.clone(),
            ceiling: self.ceiling.clone(),
            authored_dir: self.authored_dir.clone(),
            node_name,
            denied: Vec::new(),
        };
        let mut role = HostRole::new(host, self.join_token_file.clone(), self.state_dir.join("node"));
        let (proxy, mut problems) = super::proxy();
        role.agent.proxy = proxy;
        problems.extend(self.telemetry.problems());
        problems.extend(role.node.problems());
        problems.extend(role.agent.problems());
        Ok((role, problems))
    }
}

impl HostRole {
    pub(crate) fn new(host: HostConfig, join_token_file: Option<PathBuf>, journal: PathBuf) -> Self {
        let resolver = Resolver::Workloads(host.workloads.clone());
        let node = node_daemon::Config::new(host.node_name.clone(), journal, resolver);
        let agent = cluster_agent::Config { join_token_file, ..cluster_agent::Config::default() };
        Self { host, agent, node }
    }

    /// Runs both until `shutdown`, or until one of them ends, which is an error.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let (links, nodes) = mpsc::channel(1);
        let agent = cluster_agent::host::run(self.host, self.agent, nodes, shutdown.clone());
        let daemon = daemon(self.node, links, shutdown.clone());
        tokio::pin!(agent, daemon);
        tokio::select! {
            ended = &mut agent => {
                shutdown.cancel();
                let reverted = daemon.await;
                ended.context("the agent ended").and(reverted)
            }
            // The daemon reverts first; the agent hears of it before it ends.
            ended = &mut daemon => {
                shutdown.cancel();
                agent.await?;
                ended.context("the node daemon ended")
            }
        }
    }
}

/// The daemon with its link to the agent in this process.
async fn daemon(
    config: node_daemon::Config,
    links: mpsc::Sender<NodeConnection>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let node = config.node.clone();
    let (up, up_agent) = mpsc::channel(LINK);
    let (down_agent, down) = mpsc::channel(LINK);
    let connection = NodeConnection { node, up: up_agent, down: down_agent };
    tokio::time::timeout(AGAIN, links.send(connection)).await.context("hand the link to the agent")??;
    node_daemon::run_with(Channels { up, down }, config, shutdown).await
}
