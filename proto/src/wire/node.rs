//! Agent and node daemon.

use jiff::Timestamp;

use super::up::{halt_ids, halts, timestamp};
use super::{WireError, bad, bytes, document, missing, parse};
use crate::api::node as pb;
use crate::cluster::NodeCapabilities;
use crate::halt::Halt;
use crate::ids::{HaltId, InjectionId};
use crate::injection::{Injection, InjectionPhase, InjectionStatus};

/// Node daemon to agent.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeUp {
    /// First.
    Hello(Box<NodeHello>),
    /// Alive.
    Heartbeat {
        /// Counts up.
        seq: u64,
    },
    /// The latest of one injection.
    State(Box<InjectionStatus>),
    /// Asks for the agent's time now.
    ClockProbe {
        /// Echoed.
        id: u64,
    },
    /// Halts latched and clean on this node.
    HaltState(NodeHaltState),
    /// It is about to end: it takes no new start. Said again after each Hello.
    Draining,
}

/// First message of a node session.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeHello {
    /// Node name.
    pub node: String,
    /// SemVer.
    pub version: String,
    /// /proc/sys/kernel/random/boot_id
    pub boot_id: String,
    /// The highest agent epoch seen; starts from a lower one are refused.
    pub highest_epoch: u64,
    /// What this node can do.
    pub capabilities: NodeCapabilities,
    /// Every injection in the journal.
    pub held: Vec<InjectionStatus>,
}

/// Halts on a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeHaltState {
    /// Latched ids.
    pub latched: Vec<HaltId>,
    /// Of these, clean.
    pub clean: Vec<HaltId>,
    /// Made on this node by its halt file.
    pub local: Vec<Halt>,
}

/// Agent to node daemon.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeDown {
    /// Answers Hello.
    Welcome {
        /// The agent's epoch.
        agent_epoch: u64,
        /// Milliseconds.
        heartbeat_interval_ms: u64,
    },
    /// Alive.
    Heartbeat {
        /// Echoed.
        seq: u64,
    },
    /// Make a fault.
    Inject(Box<Inject>),
    /// Take it away; absorbing.
    Revert {
        /// Which.
        injection: InjectionId,
        /// CamelCase, for the record: Stopped, Halted, LinkLost.
        reason: String,
    },
    /// The agent's time now.
    ClockReply {
        /// Echoed.
        id: u64,
        /// Agent's wall clock.
        at: Timestamp,
    },
    /// Halts that apply to this node, and what was resumed.
    Halts {
        /// All of them.
        halts: Vec<Halt>,
        /// Lifted, by id.
        resumed: Vec<HaltId>,
    },
}

/// Make a fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Inject {
    /// What.
    pub injection: Injection,
    /// The sender's epoch.
    pub agent_epoch: u64,
    /// Until the deadline, ms, when sent.
    pub remaining_ms: u64,
    /// Deadline by the agent's clock; may only shorten.
    pub deadline: Timestamp,
    /// By the agent's clock; later is Missed.
    pub start_before: Timestamp,
}

impl From<NodeUp> for pb::NodeUp {
    fn from(up: NodeUp) -> Self {
        use pb::node_up::Kind;
        let kind = match up {
            NodeUp::Hello(h) => Kind::Hello(pb::NodeHello {
                node: h.node,
                version: h.version,
                boot_id: h.boot_id,
                highest_epoch: h.highest_epoch,
                capabilities: bytes(&h.capabilities),
                held: h.held.iter().map(state).collect(),
            }),
            NodeUp::Heartbeat { seq } => Kind::Heartbeat(pb::NodeHeartbeat { seq }),
            NodeUp::State(s) => Kind::State(state(&s)),
            NodeUp::ClockProbe { id } => Kind::ClockProbe(pb::NodeClockProbe { id }),
            NodeUp::HaltState(s) => Kind::HaltState(pb::NodeHaltState {
                latched: s.latched.iter().map(ToString::to_string).collect(),
                clean: s.clean.iter().map(ToString::to_string).collect(),
                local: s.local.iter().map(bytes).collect(),
            }),
            NodeUp::Draining => Kind::Draining(pb::NodeDraining {}),
        };
        pb::NodeUp { kind: Some(kind) }
    }
}

fn state(s: &InjectionStatus) -> pb::InjectionState {
    pb::InjectionState { injection: s.id.to_string(), run: s.run.to_string(), document: bytes(s) }
}

/// A state in words that this version does not know is Unknown, until the instant that it names.
fn unknown(s: &pb::InjectionState, error: WireError) -> Result<InjectionStatus, WireError> {
    let said: serde_json::Value = document("state.document", &s.document)?;
    let (Some(phase), false) = (said["phase"].as_str(), said["id"].is_null()) else { return Err(error) };
    let instant = |field: &str| said[field].as_i64();
    Ok(InjectionStatus {
        id: parse("state.document", said["id"].as_str().unwrap_or_default())?,
        run: parse("state.document", said["run"].as_str().unwrap_or_default())?,
        phase: InjectionPhase::Unknown,
        reason: None,
        message: format!(
            "the daemon says {phase:.40}, in a form that this version of the agent does not know"
        ),
        effect: None,
        backend: String::new(),
        injected_at_unix_ms: instant("injectedAtUnixMs"),
        reverted_at_unix_ms: None,
        resolves_at_unix_ms: instant("resolvesAtUnixMs"),
    })
}

/// A fault with a parameter that this version does not know would be another fault than the one that was planned.
fn injection(bytes: &[u8]) -> Result<Injection, WireError> {
    const FIELD: &str = "inject.document";
    let said: serde_json::Value = document(FIELD, bytes)?;
    let injection: Injection = document(FIELD, bytes)?;
    let known = serde_json::to_value(&injection.action).map_err(|e| bad(FIELD, e))?;
    match unknown_parameter(&said["action"], &known) {
        Some(name) => Err(bad(FIELD, format!("this version of {} has no {name}", injection.action.kind()))),
        None => Ok(injection),
    }
}

fn unknown_parameter(said: &serde_json::Value, known: &serde_json::Value) -> Option<String> {
    use serde_json::Value::{Array, Null, Object};
    match (said, known) {
        (Object(said), Object(known)) => said.iter().find_map(|(name, value)| match known.get(name) {
            Some(known) => unknown_parameter(value, known),
            None => (*value != Null).then(|| name.clone()),
        }),
        (Array(said), Array(known)) => said.iter().zip(known).find_map(|(s, k)| unknown_parameter(s, k)),
        _ => None,
    }
}

fn status(s: &pb::InjectionState) -> Result<InjectionStatus, WireError> {
    let status = document("state.document", &s.document).or_else(|e| unknown(s, e))?;
    if status.id.as_str() != s.injection || status.run.as_str() != s.run {
        return Err(bad("state.document", "names another injection than its envelope"));
    }
    Ok(status)
}

impl TryFrom<pb::NodeUp> for NodeUp {
    type Error = WireError;
    fn try_from(up: pb::NodeUp) -> Result<Self, WireError> {
        use pb::node_up::Kind;
        Ok(match up.kind.ok_or_else(|| missing("node_up.kind"))? {
            Kind::Hello(h) => NodeUp::Hello(Box::new(NodeHello {
                node: h.node,
                version: h.version,
                boot_id: h.boot_id,
                highest_epoch: h.highest_epoch,
                capabilities: document("hello.capabilities", &h.capabilities)?,
                held: h.held.iter().map(status).collect::<Result<_, _>>()?,
            })),
            Kind::Heartbeat(h) => NodeUp::Heartbeat { seq: h.seq },
            Kind::State(s) => NodeUp::State(Box::new(status(&s)?)),
            Kind::ClockProbe(p) => NodeUp::ClockProbe { id: p.id },
            Kind::HaltState(s) => NodeUp::HaltState(NodeHaltState {
                latched: halt_ids("halt_state.latched", &s.latched)?,
                clean: halt_ids("halt_state.clean", &s.clean)?,
                local: halts("halt_state.local", &s.local)?,
            }),
            Kind::Draining(_) => NodeUp::Draining,
        })
    }
}

impl From<NodeDown> for pb::NodeDown {
    fn from(down: NodeDown) -> Self {
        use pb::node_down::Kind;
        let kind = match down {
            NodeDown::Welcome { agent_epoch, heartbeat_interval_ms } => {
                Kind::Welcome(pb::NodeWelcome { agent_epoch, heartbeat_interval_ms })
            }
            NodeDown::Heartbeat { seq } => Kind::Heartbeat(pb::NodeHeartbeat { seq }),
            NodeDown::Inject(i) => Kind::Inject(pb::Inject {
                injection: i.injection.id.to_string(),
                run: i.injection.run.to_string(),
                agent_epoch: i.agent_epoch,
                remaining_ms: i.remaining_ms,
                deadline_unix_ms: i.deadline.as_millisecond(),
                start_before_unix_ms: i.start_before.as_millisecond(),
                document: bytes(&i.injection),
            }),
            NodeDown::Revert { injection, reason } => {
                Kind::Revert(pb::Revert { injection: injection.to_string(), reason })
            }
            NodeDown::ClockReply { id, at } => {
                Kind::ClockReply(pb::NodeClockReply { id, agent_unix_ms: at.as_millisecond() })
            }
            NodeDown::Halts { halts, resumed } => Kind::Halts(pb::NodeHalts {
                halts: halts.iter().map(bytes).collect(),
                resumed: resumed.iter().map(ToString::to_string).collect(),
            }),
        };
        pb::NodeDown { kind: Some(kind) }
    }
}

impl TryFrom<pb::NodeDown> for NodeDown {
    type Error = WireError;
    fn try_from(down: pb::NodeDown) -> Result<Self, WireError> {
        use pb::node_down::Kind;
        Ok(match down.kind.ok_or_else(|| missing("node_down.kind"))? {
            Kind::Welcome(w) => NodeDown::Welcome {
                agent_epoch: w.agent_epoch,
                heartbeat_interval_ms: w.heartbeat_interval_ms.clamp(100, 3_600_000),
            },
            Kind::Heartbeat(h) => NodeDown::Heartbeat { seq: h.seq },
            Kind::Inject(i) => {
                let injection = injection(&i.document)?;
                if injection.id.as_str() != i.injection || injection.run.as_str() != i.run {
                    return Err(bad("inject.document", "names another injection than its envelope"));
                }
                NodeDown::Inject(Box::new(Inject {
                    injection,
                    agent_epoch: i.agent_epoch,
                    remaining_ms: i.remaining_ms,
                    deadline: timestamp("inject.deadline_unix_ms", i.deadline_unix_ms)?,
                    start_before: timestamp("inject.start_before_unix_ms", i.start_before_unix_ms)?,
                }))
            }
            Kind::Revert(r) => {
                NodeDown::Revert { injection: parse("revert.injection", &r.injection)?, reason: r.reason }
            }
            Kind::ClockReply(c) => NodeDown::ClockReply {
                id: c.id,
                at: timestamp("clock_reply.agent_unix_ms", c.agent_unix_ms)?,
            },
            Kind::Halts(h) => NodeDown::Halts {
                halts: halts("halts.halts", &h.halts)?,
                resumed: halt_ids("halts.resumed", &h.resumed)?,
            },
        })
    }
}
