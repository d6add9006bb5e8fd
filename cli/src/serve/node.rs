//! `faultline serve node`: the daemon of one node.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use node_daemon::{AgentLink, Config, Resolver};
use proto::quantity::Span;

use super::LogArgs;
use crate::exit::Exit;

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
    /// Namespaces that are never touched, beside kube-system
    #[arg(long, env = "FAULTLINE_PROTECTED_NAMESPACES", value_delimiter = ',')]
    protected_namespaces: Vec<String>,
    #[command(flatten)]
    log: LogArgs,
}

pub(crate) fn main(args: NodeArgs) -> anyhow::Result<Exit> {
    let mut problems = Vec::new();
    let mut config =
        Config::new(args.node_name, args.state_dir, Resolver::Cri { socket: args.runtime_socket });
    match Span::written(&args.max_deadline).ms() {
        Ok(ms) => config.max_deadline_ms = ms,
        Err(error) => problems.push(format!("--max-deadline: {error}")),
    }
    config.agent = Some(AgentLink { address: args.agent, bundle: args.agent_bundle, token: args.token_file });
    config.roots.proc = args.proc_root;
    config.roots.cgroup = args.cgroup_root;
    config.health_addr = Some(args.health_addr);
    config.protected_namespaces.extend(args.protected_namespaces);
    problems.extend(config.problems());
    super::refuse(&problems)?;
    args.log.start()?;
    super::until_signal(|shutdown| node_daemon::run(config, shutdown))
}
