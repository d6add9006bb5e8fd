//! The fault catalogue: the single source for `faultline faults`, docs, plans
//! and placement.

use serde::Serialize;

/// What ends a fault when nobody is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum RevertClass {
    /// The match lives in an nft set element whose timeout is the time left.
    #[serde(rename = "kernel-timed")]
    KernelTimed,
    /// A small process of ours outside the pod holds the deadline and the undo.
    #[serde(rename = "keeper")]
    Keeper,
    /// Undo is in a FaultRecord object; any active agent reverts.
    #[serde(rename = "api-reverted")]
    ApiReverted,
    /// Needs the daemon back or the node rebooted.
    #[serde(rename = "restart")]
    Restart,
    /// There is nothing to take away; recorded.
    #[serde(rename = "irreversible")]
    Irreversible,
}

impl RevertClass {
    /// The word in plans and docs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KernelTimed => "kernel-timed",
            Self::Keeper => "keeper",
            Self::ApiReverted => "api-reverted",
            Self::Restart => "restart",
            Self::Irreversible => "irreversible",
        }
    }
}

/// One way to make a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Name in plans and statuses.
    pub name: &'static str,
    /// Capabilities a node needs for it; see `cluster::capability`.
    pub needs: &'static [&'static str],
    /// What ends it when nobody is alive.
    pub revert: RevertClass,
    /// Where what is felt differs from what was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caveat: Option<&'static str>,
}

/// One parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Type, unit, range, default.
    pub text: &'static str,
}

/// One kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Dotted kind.
    pub kind: &'static str,
    /// In a sentence.
    pub summary: &'static str,
    /// pod, container.
    pub acts_on: &'static str,
    /// agent (through the API) or node (through the daemon).
    pub made_by: &'static str,
    /// Parameters.
    pub parameters: &'static [Parameter],
    /// In order of preference.
    pub backends: &'static [Backend],
    /// What is read back before Injected is said.
    pub read_back: &'static str,
    /// How it is taken away.
    pub undo: &'static str,
    /// What a container restart, a node reboot and a vanished target mean.
    pub survives: &'static str,
}

use crate::cluster::capability as cap;

const NETWORK_SURVIVES: &str = "container restart: stays (it belongs to the pod's sandbox); node reboot: gone; target gone: gone with it";
const CONTAINER_SURVIVES: &str =
    "container restart: ends (TargetGone); node reboot: gone; target gone: gone with it";
const NFQUEUE_CAVEAT: &str = "a bulk TCP stream that the target sends gets slower than its longer round trip explains, \
                              because a packet that is held counts as not sent yet and TCP lets only so many of those \
                              pile up; requests and what the target receives are not affected";
const PEERS: Parameter = Parameter {
    name: "peers",
    text: "list of {target, via: PodIPs} or {cidr}, each with optional ports; everyone where empty",
};

/// Every kind, in the order of the dotted name.
pub const ENTRIES: &[Entry] = &[
    Entry {
        kind: "container.pause",
        summary: "freezes every process of a container",
        acts_on: "container",
        made_by: "node",
        parameters: &[],
        backends: &[Backend {
            name: "freezer",
            needs: &[cap::CRI, cap::FREEZER, cap::KEEPER],
            revert: RevertClass::Keeper,
            caveat: None,
        }],
        read_back: "the cgroup's frozen state",
        undo: "thaw the cgroup",
        survives: CONTAINER_SURVIVES,
    },
    Entry {
        kind: "cpu.stress",
        summary: "burns processor time inside the container's cgroup",
        acts_on: "container",
        made_by: "node",
        parameters: &[
            Parameter { name: "workers", text: "whole number, 1 to 64; required" },
            Parameter { name: "load", text: "percent of each worker, 1 to 100; default 100" },
        ],
        backends: &[Backend {
            name: "cgroup-worker",
            needs: &[cap::CRI, cap::CPU_CGROUP, cap::KEEPER],
            revert: RevertClass::Keeper,
            caveat: None,
        }],
        read_back: "the workers are members of the target's cgroup and its usage grows",
        undo: "end the workers",
        survives: CONTAINER_SURVIVES,
    },
    Entry {
        kind: "network.delay",
        summary: "delays the pod's packets",
        acts_on: "pod",
        made_by: "node",
        parameters: &[
            Parameter { name: "latency", text: "duration, 1ms to 60s; required" },
            Parameter { name: "jitter", text: "duration, at most the latency; default 0s" },
            Parameter { name: "correlation", text: "percent, 0 to 100; default 0" },
            Parameter {
                name: "direction",
                text: "Egress, Ingress or Both, seen from the target; default Egress",
            },
            PEERS,
        ],
        backends: &[
            Backend {
                name: "netem",
                needs: &[cap::CRI, cap::NFT_SETS, cap::NETEM],
                revert: RevertClass::KernelTimed,
                caveat: None,
            },
            Backend {
                name: "nfqueue",
                needs: &[cap::CRI, cap::NFT_SETS, cap::NFQUEUE],
                revert: RevertClass::KernelTimed,
                caveat: Some(NFQUEUE_CAVEAT),
            },
        ],
        read_back: "table, chains, rules and set elements (and the qdisc) equal the intent",
        undo: "delete our own table (and our own qdisc), end the worker",
        survives: NETWORK_SURVIVES,
    },
    Entry {
        kind: "network.partition",
        summary: "cuts the pod from its peers",
        acts_on: "pod",
        made_by: "node",
        parameters: &[
            Parameter {
                name: "direction",
                text: "Egress, Ingress or Both, seen from the target; default Both",
            },
            PEERS,
            Parameter { name: "how", text: "Drop or Reject; default Drop" },
        ],
        backends: &[Backend {
            name: "nftables",
            needs: &[cap::CRI, cap::NFT_SETS],
            revert: RevertClass::KernelTimed,
            caveat: None,
        }],
        read_back: "table, chains, rules and set elements equal the intent",
        undo: "delete our own table",
        survives: NETWORK_SURVIVES,
    },
    Entry {
        kind: "pod.kill",
        summary: "deletes the pod through the API",
        acts_on: "pod",
        made_by: "agent",
        parameters: &[Parameter { name: "grace", text: "duration, whole seconds; default the pod's own" }],
        backends: &[Backend { name: "api", needs: &[], revert: RevertClass::Irreversible, caveat: None }],
        read_back: "the pod with this uid is gone",
        undo: "none: irreversible, recorded",
        survives: "not applicable",
    },
];

/// The entry of a dotted kind.
pub fn entry(kind: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|e| e.kind == kind)
}

impl Entry {
    /// The first backend whose needs are all among the present capabilities,
    /// or what the most preferred reachable one lacks.
    pub fn choose(&self, present: impl Fn(&str) -> bool) -> Result<&'static Backend, Vec<&'static str>> {
        let mut lacking: Option<Vec<&'static str>> = None;
        for backend in self.backends {
            let missing: Vec<_> = backend.needs.iter().copied().filter(|n| !present(n)).collect();
            if missing.is_empty() {
                return Ok(backend);
            }
            if lacking.as_ref().is_none_or(|l| missing.len() < l.len()) {
                lacking = Some(missing);
            }
        }
        Err(lacking.unwrap_or_default())
    }
}
