//! Packet rules of our own: one nf_tables table per injection, written and read by netlink in this
//! process. Every rule matches through a set whose elements carry a timeout, so that a rule stops
//! matching by itself at the deadline even when no process of ours is alive.
//!
//! [`TableSpec`] is the intent (serialised in journals), `ruleset` renders it into chains, sets and
//! rules, `expr` and `wire` turn those into netlink and back; [`TableState`] is what the kernel holds.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub(crate) mod expr;
pub(crate) mod ruleset;
pub(crate) mod wire;

use ruleset::Ruleset;

/// Prefix of every table of ours; nothing without it is ever deleted.
pub const TABLE_PREFIX: &str = "fl_";

/// One table of the `inet` family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableSpec {
    /// Unique in its namespace: [`TABLE_PREFIX`] and a short form of the injection id, at most 31 bytes.
    pub name: String,
    /// In order of evaluation; the first rule with a final verdict wins.
    pub rules: Vec<RuleSpec>,
}

/// One match of peers and what happens to the packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleSpec {
    /// Where packets are looked at.
    pub hook: Hook,
    /// Which address of the packet is the peer's (`Destination` for egress, `Source` for ingress).
    pub peer: Side,
    /// Which port `Peer::ports` is compared with.
    pub port: Side,
    /// Whom to match; everything is `0.0.0.0/0` and `::/0`. Overlaps are merged.
    pub peers: Vec<Peer>,
    /// What happens to a packet that matches.
    pub verdict: Verdict,
    /// Leave traffic over the loopback device alone.
    pub spare_loopback: bool,
}

/// Addresses, optionally narrowed to ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// An address block of either family.
    pub cidr: IpNet,
    /// TCP and UDP ports; empty means every packet whatever its protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
}

/// Where in the packet path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// To a process of this namespace.
    Input,
    /// Through this namespace.
    Forward,
    /// From a process of this namespace.
    Output,
    /// After routing.
    Postrouting,
}

/// One end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// What happens to a packet that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Thrown away silently.
    Drop,
    /// Answered by a TCP reset or an ICMP port-unreachable.
    Reject,
    /// Only counted.
    Count,
    /// Handed to the worker listening on that queue; accepted when none listens (bypass).
    Queue {
        /// NFQUEUE number within the namespace.
        number: u16,
    },
    /// Given to a traffic class: sets `skb->priority`, read by [`super::tc`].
    Priority {
        /// `major << 16 | minor`.
        class: u32,
    },
}

/// What the kernel holds of one table of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableState {
    pub(crate) ruleset: Ruleset,
    /// Per rule in order of the dump: packets and bytes that matched.
    pub(crate) counters: Vec<Counter>,
    /// Per set: the milliseconds each remaining element still has.
    pub(crate) remaining_ms: BTreeMap<String, Vec<u64>>,
}

/// How much a rule matched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets matched since installation.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl TableSpec {
    /// The name of the table of one injection: [`TABLE_PREFIX`] and the last letters and digits of its id.
    pub fn name_for(injection_id: &str) -> String {
        let alnum: String = injection_id.chars().filter(char::is_ascii_alphanumeric).collect();
        let tail = alnum.get(alnum.len().saturating_sub(24)..).unwrap_or_default().to_ascii_lowercase();
        format!("{TABLE_PREFIX}{tail}")
    }
}

impl TableState {
    /// What all rules matched together.
    pub fn total(&self) -> Counter {
        let add = |sum: Counter, one: &Counter| Counter {
            packets: sum.packets.saturating_add(one.packets),
            bytes: sum.bytes.saturating_add(one.bytes),
        };
        self.counters.iter().fold(Counter::default(), add)
    }

    /// Milliseconds until the last element ends by itself; `None` when none is left and the table
    /// matches nothing any more.
    pub fn remaining_ms(&self) -> Option<u64> {
        self.remaining_ms.values().flatten().copied().max()
    }

    /// Every difference from the intent, in words; empty means equal. Elements that ended by their
    /// timeout are differences.
    pub fn drift(&self, intent: &TableSpec) -> Vec<String> {
        match Ruleset::render(intent) {
            Ok(wanted) => self.ruleset.differences(&wanted),
            Err(error) => vec![error.to_string()],
        }
    }
}
