//! Delay and loss by netem where the kernel has it: a `prio` root of our own, netem under its fourth
//! band, and nothing else. A packet enters that band only when an nft rule with a timed set gave it the
//! priority [`NetemSpec::class`], so the effect ends at the deadline without us; without such a rule the
//! tree changes nothing.

use serde::{Deserialize, Serialize};

pub(crate) mod wire;

/// Major number of our root's handle; with it we know our own again.
pub const ROOT_MAJOR: u16 = 0xf117;
/// The band of the root that leads to netem.
const NETEM_BAND: u16 = 4;

/// One netem under a classful root on one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetemSpec {
    /// Name of the device inside the namespace, e.g. `eth0`.
    pub device: String,
    /// Delay added, in microseconds.
    pub latency_us: u64,
    /// Largest deviation from it, in microseconds.
    pub jitter_us: u64,
    /// How much one packet's deviation follows the one before, in percent.
    pub correlation_percent: u8,
    /// Packets held at most.
    pub limit_packets: u32,
}

/// What the kernel holds on a device whose root is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetemState {
    /// As dumped.
    pub spec: NetemSpec,
    /// Packets netem has sent on.
    pub packets: u64,
}

impl NetemSpec {
    /// The `skb->priority` that leads a packet into netem, for [`super::nft::Verdict::Priority`].
    pub const fn class() -> u32 {
        ((ROOT_MAJOR as u32) << 16) | NETEM_BAND as u32
    }
}
