//! Cluster: a member, and what its agent sees there.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::ClusterId;

/// What the centre decided about a member. Labels are set here only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// Assigned with the token.
    pub id: ClusterId,
    /// Unique among members.
    pub name: String,
    /// Set by the centre only.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The second of the two opt-ins.
    pub accepted: bool,
    /// Its certificates are refused.
    #[serde(default)]
    pub revoked: bool,
    /// When it was invited.
    pub created_at: Timestamp,
}

/// State of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub enum ClusterState {
    /// Invited, no agent enrolled or not accepted.
    Pending,
    /// Accepted, never seen.
    Accepted,
    /// A live session.
    Connected,
    /// No live session.
    Unknown,
    /// Its certificates are refused.
    Revoked,
}

/// What a member last said of itself. Nothing here decides anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStatus {
    /// Agent's version.
    pub version: String,
    /// kube-system uid, as enrolled.
    pub kube_system_uid: String,
    /// When the last session was opened.
    pub connected_at: Option<Timestamp>,
    /// When the last session ended; absent while one is live.
    pub disconnected_at: Option<Timestamp>,
    /// Last instant of the certificate that was issued last.
    pub certificate_not_after: Option<Timestamp>,
    /// When a second holder of its identity showed up: nobody recovers with it until the cluster is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clone_suspected_at: Option<Timestamp>,
    /// Latest inventory.
    pub inventory: InventorySummary,
    /// Halts acknowledged: id to level.
    pub halts: BTreeMap<String, crate::halt::HaltLevel>,
    /// Sequence of the list of the centre's addresses that its agent keeps, 0 for none; absent: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints_sequence: Option<u64>,
    /// When its agent last refused this centre, because it has gone over to a newer copy of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_as_old_at: Option<Timestamp>,
}

/// What an agent sees, in short; at most a few KB.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InventorySummary {
    /// Pods seen.
    pub pods: u32,
    /// Nodes and what each can do, at most 100.
    pub nodes: Vec<NodeSummary>,
    /// Nodes in all.
    pub node_count: u32,
    /// Nodes with a connected daemon.
    pub daemons: u32,
    /// Whether a Ceiling exists.
    pub has_ceiling: bool,
    /// Whether this agent accepts starts (false: stop-only).
    pub accepts_starts: bool,
    /// Installed without node daemons: only faults that are changes to Kubernetes objects can be made here.
    pub api_faults_only: bool,
    /// Pods that no daemon can reach into: sandboxed ones, and those on skipped nodes.
    pub skipped_pods: u32,
}

/// A node in short.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSummary {
    /// Its name.
    pub name: String,
    /// Whether its daemon is connected.
    pub daemon: bool,
    /// Its daemon is about to end and takes no new start.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// What the daemon found missing, by capability name.
    pub missing: Vec<String>,
    /// Why no daemon can work on it (Windows, a virtual node); empty where one can.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub skipped: String,
}

/// What a node's kernel and runtime can do, as probed by its daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeCapabilities {
    /// Kernel release.
    pub kernel: String,
    /// Capability by name.
    pub capabilities: BTreeMap<String, CapabilityState>,
}

/// One probed capability.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CapabilityState {
    /// Whether it is there.
    pub present: bool,
    /// What was seen, or what is missing.
    pub detail: String,
}

/// Names of capabilities, one place for daemon, agent and catalogue.
pub mod capability {
    /// nf_tables with set element timeouts.
    pub const NFT_SETS: &str = "nft-sets";
    /// NFQUEUE, as nft expression or xt target.
    pub const NFQUEUE: &str = "nfqueue";
    /// sch_netem under a classful root.
    pub const NETEM: &str = "sch_netem";
    /// cgroup freezer, v1 or v2.
    pub const FREEZER: &str = "cgroup-freezer";
    /// cpu cgroup of containers reachable.
    pub const CPU_CGROUP: &str = "cgroup-cpu";
    /// A container runtime's CRI socket.
    pub const CRI: &str = "cri";
    /// A cgroup of our own outside the pod, for the keeper.
    pub const KEEPER: &str = "keeper";
}
