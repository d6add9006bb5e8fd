//! What a daemon is told at its start; made by the command line, checked by `run` before anything is
//! opened.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use proto::injection::node_halt_id;

use crate::engine::Limits;
use crate::link::dial::AgentLink;
use crate::system::target::Roots;

/// How targets are found.
#[derive(Debug, Clone)]
pub enum Resolver {
    /// Pods, by the container runtime.
    Cri {
        /// Its socket; found in the usual places where absent.
        socket: Option<PathBuf>,
    },
    /// Declared workloads, by this file.
    Workloads(PathBuf),
}

/// Everything a daemon is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node's name, as in `spec.nodeName`.
    pub node: String,
    /// Journal, halts, locks. Must outlive the daemon and the pod.
    pub state_dir: PathBuf,
    /// Where the node's proc and cgroup file systems are.
    pub roots: Roots,
    /// How targets are found.
    pub resolver: Resolver,
    /// The agent to dial; `run` needs it, `run_with` does not.
    pub agent: Option<AgentLink>,
    /// Health and metrics; none where absent.
    pub health_addr: Option<SocketAddr>,
    /// The longest time left that is accepted, ms.
    pub max_deadline_ms: u64,
    /// Namespaces that are never touched.
    pub protected_namespaces: BTreeSet<String>,
    /// How long a daemon that is told to end lets its faults end by themselves, ms.
    pub drain_wait_ms: u64,
}

impl Config {
    /// With the defaults for everything that has one.
    pub fn new(node: impl Into<String>, state_dir: impl Into<PathBuf>, resolver: Resolver) -> Self {
        let limits = Limits::default();
        Self {
            node: node.into(),
            state_dir: state_dir.into(),
            roots: Roots::default(),
            resolver,
            agent: None,
            health_addr: None,
            max_deadline_ms: limits.max_deadline_ms,
            protected_namespaces: limits.protected_namespaces,
            drain_wait_ms: 0,
        }
    }

    /// Everything that is wrong with it, each as one sentence.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if node_halt_id(&self.node).is_err() {
            found.push(format!("--node-name {:?} has no letter or digit", self.node));
        }
        if !self.state_dir.is_absolute() {
            found.push(format!("--state-dir {} is not an absolute path", self.state_dir.display()));
        }
        if !self.roots.proc.join("self").exists() {
            found.push(format!("--proc-root {} is no proc file system", self.roots.proc.display()));
        }
        if let Resolver::Workloads(path) = &self.resolver
            && let Err(why) = crate::resolve::workloads::read(path)
        {
            found.push(why);
        }
        if self.health_addr.is_some_and(|addr| !addr.ip().is_loopback()) {
            found.push(
                "--health-addr must be a loopback address: a daemon listens for nobody else".to_owned(),
            );
        }
        found
    }

    /// The engine's limits.
    pub fn limits(&self) -> Limits {
        Limits {
            max_deadline_ms: self.max_deadline_ms,
            protected_namespaces: self.protected_namespaces.clone(),
            ..Limits::default()
        }
    }
}
