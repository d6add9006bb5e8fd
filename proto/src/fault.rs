//! The faults that can be written. A fault's dotted kind is its path
//! (`network.delay`); exactly one kind per fault.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::Span;

/// One fault of an experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.pod), has(self.container), has(self.network), has(self.cpu)].filter(x, x).size() == 1",
    "message": "name exactly one fault kind"
}]))]
pub struct Fault {
    /// Unique within the experiment.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The target it acts on, by name.
    pub target: String,
    /// When it starts, from the cluster's own start. Default 0s.
    #[serde(default = "zero")]
    pub at: Span,
    /// How long it lasts. Required unless the kind is irreversible.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub lasts: Option<Span>,
    /// Faults of whole pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodFault>,
    /// Faults of containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerFault>,
    /// Faults of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkFault>,
    /// Faults of the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuFault>,
}

fn zero() -> Span {
    Span::from_ms(0)
}

/// `pod.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PodFault {
    /// Delete the pod through the API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kill: Option<PodKill>,
}

/// `container.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContainerFault {
    /// Freeze the container's processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<ContainerPause>,
}

/// `network.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.partition), has(self.delay)].filter(x, x).size() == 1",
    "message": "name exactly one of partition, delay"
}]))]
pub struct NetworkFault {
    /// Cut the target from its peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<NetworkPartition>,
    /// Delay the target's packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<NetworkDelay>,
}

/// `cpu.*`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CpuFault {
    /// Burn processor time inside the target's cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stress: Option<CpuStress>,
}

/// `pod.kill`: irreversible, recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PodKill {
    /// Grace period; default the pod's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Span>,
}

/// `container.pause`: no parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContainerPause {}

/// `network.partition`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NetworkPartition {
    /// Seen from the target. Default Both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// From whom; everyone where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub peers: Vec<Peer>,
    /// What happens to the packets. Default Drop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub how: Option<PartitionHow>,
}

/// What a partition does with a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PartitionHow {
    /// Silence: the sender times out.
    #[default]
    Drop,
    /// The sender is told at once.
    Reject,
}

/// `network.delay`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkDelay {
    /// Added to each packet, 1 ms to 60 s.
    pub latency: Span,
    /// Uniform, plus or minus; at most the latency. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Span>,
    /// Percent by which a packet's jitter follows the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub correlation: Option<i64>,
    /// Seen from the target. Default Egress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// To whom; everyone where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub peers: Vec<Peer>,
}

/// `cpu.stress`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CpuStress {
    /// Worker threads, 1 to 64.
    #[schemars(range(min = 1, max = 64))]
    pub workers: i64,
    /// Load of each, percent, 1 to 100. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub load: Option<i64>,
}

/// Direction of packets, seen from the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Direction {
    /// Sent by the target.
    Egress,
    /// Received by the target.
    Ingress,
    /// Both ways.
    Both,
}

/// The other end: a target of the same experiment, or a range.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Peer {
    /// A target of the same experiment, also in another cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// How the target's addresses are found. Default PodIPs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<PeerVia>,
    /// An address range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// Only these ports of the other end (TCP and UDP); all where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<i64>,
}

/// How a peer target's addresses are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PeerVia {
    /// The addresses of its pods.
    #[serde(rename = "PodIPs")]
    PodIps,
}

/// The one kind a fault names, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// `pod.kill`
    PodKill(&'a PodKill),
    /// `container.pause`
    ContainerPause(&'a ContainerPause),
    /// `network.partition`
    NetworkPartition(&'a NetworkPartition),
    /// `network.delay`
    NetworkDelay(&'a NetworkDelay),
    /// `cpu.stress`
    CpuStress(&'a CpuStress),
}

impl Kind<'_> {
    /// The dotted kind, for example `network.delay`.
    pub fn dotted(&self) -> &'static str {
        match self {
            Kind::PodKill(_) => "pod.kill",
            Kind::ContainerPause(_) => "container.pause",
            Kind::NetworkPartition(_) => "network.partition",
            Kind::NetworkDelay(_) => "network.delay",
            Kind::CpuStress(_) => "cpu.stress",
        }
    }

    /// The peers of a network kind; empty for the others.
    pub fn peers(&self) -> &[Peer] {
        match self {
            Kind::NetworkPartition(p) => &p.peers,
            Kind::NetworkDelay(d) => &d.peers,
            _ => &[],
        }
    }
}

impl Fault {
    /// Every kind the fault names; a valid fault names exactly one.
    pub fn kinds(&self) -> Vec<Kind<'_>> {
        let pod = self.pod.iter().flat_map(|p| p.kill.iter().map(Kind::PodKill));
        let container = self.container.iter().flat_map(|c| c.pause.iter().map(Kind::ContainerPause));
        let network = self.network.iter().flat_map(|n| {
            let partition = n.partition.iter().map(Kind::NetworkPartition);
            partition.chain(n.delay.iter().map(Kind::NetworkDelay))
        });
        let cpu = self.cpu.iter().flat_map(|c| c.stress.iter().map(Kind::CpuStress));
        pod.chain(container).chain(network).chain(cpu).collect()
    }

    /// The one kind, where there is exactly one.
    pub fn kind(&self) -> Option<Kind<'_>> {
        match self.kinds().as_slice() {
            [one] => Some(*one),
            _ => None,
        }
    }
}
