//! `faultline serve node`: the daemon of one node.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use node_daemon::{AgentLink, Config, Resolver};
use proto::quantity::Span;

use crate::exit::Exit;
use crate::telemetry::TelemetryArgs;

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// The active agent, host:port
    #[arg(long, env = "FAULTLINE_AGENT")]
    agent: String,
    /// File with the roots of the agent's CA, PEM
    #[arg(long, env = "FAULTLINE_AGENT_BUNDLE")]
    agent_bundle: PathBuf,
    /// File with the projected service-account token
    #[arg(long, env = "FAULTLINE_TOKEN_FILE")]
    token_file: PathBuf,
    /// This node's name
    #[arg(long, env = "FAULTLINE_NODE_NAME")]
    node_name: String,
    /// Journal and locks; must outlive the daemon and its pod
    #[arg(long, env = "FAULTLINE_STATE_DIR", default_value = "/var/lib/faultline")]
    state_dir: PathBuf,
    /// The node's proc file system
    #[arg(long, env = "FAULTLINE_PROC_ROOT", default_value = "/proc")]
    proc_root: PathBuf,
    /// The node's cgroup mount point
    #[arg(long, env = "FAULTLINE_CGROUP_ROOT", default_value = "/sys/fs/cgroup")]
    cgroup_root: PathBuf,
    /// CRI socket; found in the usual places where absent
    #[arg(long, env = "FAULTLINE_RUNTIME_SOCKET")]
    runtime_socket: Option<PathBuf>,
    /// Health and metrics, loopback only
    #[arg(long, env = "FAULTLINE_HEALTH_ADDR", default_value = "127.0.0.1:9091")]
    health_addr: SocketAddr,
    /// The longest deadline that is accepted, whoever asks
    #[arg(long, env = "FAULTLINE_MAX_DEADLINE", default_value = "1h")]
    max_deadline: String,
    /// Told to end: take no new fault, and let those that are active end by themselves for so long; the
    /// rest is reverted. A second signal reverts at once
    #[arg(long, env = "FAULTLINE_DRAIN_WAIT", default_value = "60s")]
    drain_wait: String,
    /// Namespaces that are never touched, beside kube-system
    #[arg(long, env = "FAULTLINE_PROTECTED_NAMESPACES", value_delimiter = ',')]
    protected_namespaces: Vec<String>,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

pub(crate) fn main(args: &NodeArgs) -> anyhow::Result<Exit> {
    let (config, problems) = args.config();
    super::refuse(&problems)?;
    let _telemetry = args.telemetry.start("faultline-node")?;
    super::until_signals(|[shutdown, at_once]| node_daemon::run(config, shutdown, at_once))
}

impl NodeArgs {
    /// The configuration, and everything that is wrong with it.
    pub(crate) fn config(&self) -> (Config, Vec<String>) {
        let mut problems = Vec::new();
        let resolver = Resolver::Cri { socket: self.runtime_socket.clone() };
        let mut config = Config::new(self.node_name.clone(), self.state_dir.clone(), resolver);
        match Span::written(&self.max_deadline).ms() {
            Ok(0) => problems.push("--max-deadline: 0s allows no fault at all".to_owned()),
            Ok(ms) => config.max_deadline_ms = ms,
            Err(error) => problems.push(format!("--max-deadline: {error}")),
        }
        match Span::written(&self.drain_wait).ms() {
            Ok(ms) => config.drain_wait_ms = ms,
            Err(error) => problems.push(format!("--drain-wait: {error}")),
        }
        if proto::endpoints::host_of(&self.agent).is_none() {
            problems.push(format!("--agent {:?} is not host:port", self.agent));
        }
        config.agent = Some(AgentLink {
            address: self.agent.clone(),
            bundle: self.agent_bundle.clone(),
            token: self.token_file.clone(),
        });
        config.roots.proc.clone_from(&self.proc_root);
        config.roots.cgroup.clone_from(&self.cgroup_root);
        config.health_addr = Some(self.health_addr);
        config.protected_namespaces.extend(self.protected_namespaces.iter().cloned());
        problems.extend(self.telemetry.problems());
        problems.extend(config.problems());
        (config, problems)
    }
}
