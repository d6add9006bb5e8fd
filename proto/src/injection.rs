//! Injection: one fault on one target until one deadline, on one node. This
//! is what an agent asks of a daemon and what the daemon says of it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::experiment::LinkLossAction;
use crate::fault::{Direction, PartitionHow};
use crate::ids::{HaltId, InjectionId, RunId};
use crate::trace::TraceContext;

/// A fault to make, all parameters resolved and in plain units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Injection {
    /// Its id; once stopped it never starts again.
    pub id: InjectionId,
    /// The run it belongs to.
    pub run: RunId,
    /// On what.
    pub target: TargetRef,
    /// Container in the pod; the daemon takes the first where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// What.
    pub action: Action,
    /// The backend the plan promised, for example `netem` or `nfqueue`.
    pub backend: String,
    /// Link between node and agent lost for so long (ms), then what.
    pub link_loss_after_ms: u64,
    /// Then what.
    pub link_loss: LinkLossAction,
    /// The trace it belongs to; no part of what is compared.
    #[serde(default, rename = "traceparent", skip_serializing_if = "TraceContext::is_none")]
    pub trace: TraceContext,
}

/// A pod on a node, by identity. In host mode a declared workload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// Namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// Pod uid.
    pub uid: String,
    /// Node it runs on.
    pub node: String,
    /// Its addresses.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
}

/// A daemon's fault, typed, in plain units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Action {
    /// Freeze the container's processes.
    #[serde(rename = "container.pause")]
    ContainerPause,
    /// Cut from peers.
    #[serde(rename = "network.partition")]
    NetworkPartition {
        /// Seen from the target.
        direction: Direction,
        /// From whom; everyone where empty.
        peers: Vec<PeerMatch>,
        /// Drop or Reject.
        how: PartitionHow,
    },
    /// Delay packets.
    #[serde(rename = "network.delay", rename_all = "camelCase")]
    NetworkDelay {
        /// Seen from the target.
        direction: Direction,
        /// To whom; everyone where empty.
        peers: Vec<PeerMatch>,
        /// Added to each packet.
        latency_ms: u64,
        /// Plus or minus.
        jitter_ms: u64,
        /// 0 to 100.
        correlation_percent: u8,
    },
    /// Burn processor time in the target's cgroup.
    #[serde(rename = "cpu.stress", rename_all = "camelCase")]
    CpuStress {
        /// Threads.
        workers: u32,
        /// Load of each, 1 to 100.
        load_percent: u8,
    },
}

impl Action {
    /// The dotted kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Action::ContainerPause => "container.pause",
            Action::NetworkPartition { .. } => "network.partition",
            Action::NetworkDelay { .. } => "network.delay",
            Action::CpuStress { .. } => "cpu.stress",
        }
    }

    /// Whether it acts on one container's processes, and so ends with them; network faults are the sandbox's.
    pub fn is_of_container(&self) -> bool {
        matches!(self, Action::ContainerPause | Action::CpuStress { .. })
    }
}

/// The other end of a network fault: ranges, and ports (all where empty).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerMatch {
    /// Ranges; never empty.
    pub nets: Vec<IpNet>,
    /// TCP and UDP ports of the other end.
    #[serde(default)]
    pub ports: Vec<u16>,
}

/// Where an injection stands. Each word was read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum InjectionPhase {
    /// Journalled, not made yet.
    Accepted,
    /// Made; the dump equals the intent.
    Injected,
    /// Being taken away.
    Reverting,
    /// Taken away and read back clean.
    Reverted,
    /// The target is gone, and the fault with it.
    TargetGone,
    /// Not started: bad parameters, conflict, limit, halt, lower epoch.
    Refused,
    /// Not started: too late, or no fresh clock.
    Missed,
    /// Could not be made; what was made was undone and read back.
    Failed,
    /// Something is left; listed until a person or a read-back clears it.
    Residue,
    /// Not known; `resolves_at_unix_ms` says until when.
    Unknown,
}

impl InjectionPhase {
    /// Nothing more will happen by itself.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Accepted | Self::Injected | Self::Reverting | Self::Unknown)
    }

    /// Whether the kernel may still hold something of it.
    pub fn may_be_active(self) -> bool {
        matches!(self, Self::Accepted | Self::Injected | Self::Reverting | Self::Residue | Self::Unknown)
    }
}

/// Whether anything was hit, separate from whether it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Counters moved.
    Seen,
    /// Counters did not move.
    NoTraffic,
}

/// Why an injection ended, or was never started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// Its deadline.
    Deadline,
    /// A stop of the run.
    Stopped,
    /// A halt.
    Halted,
    /// The link to the agent was lost.
    LinkLost,
    /// The daemon drained.
    DaemonDrain,
    /// The daemon came back after a crash and reverted.
    DaemonRestart,
    /// The node rebooted.
    Reboot,
    /// The pod or container is gone.
    TargetGone,
    /// See the message.
    Error,
}

/// What a daemon says of an injection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectionStatus {
    /// Which.
    pub id: InjectionId,
    /// Of which run.
    pub run: RunId,
    /// Where it stands.
    pub phase: InjectionPhase,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<EndReason>,
    /// For people; what was seen, or the residue and the command to run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Whether anything was hit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// The backend in use.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backend: String,
    /// Node's wall clock, ms; when read back as made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injected_at_unix_ms: Option<i64>,
    /// Node's wall clock, ms; when read back clean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverted_at_unix_ms: Option<i64>,
    /// The instant by which it reverts by itself, node's wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolves_at_unix_ms: Option<i64>,
}

/// A halt file on a node gives halts this id prefix.
pub const NODE_HALT_PREFIX: &str = "node-";

/// The id of the halt that a node's halt file is.
pub fn node_halt_id(node: &str) -> Result<HaltId, crate::ids::InvalidName> {
    let short: String = node.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(50).collect();
    HaltId::try_from(format!("{NODE_HALT_PREFIX}{}", short.trim_matches('-').to_lowercase()))
}
