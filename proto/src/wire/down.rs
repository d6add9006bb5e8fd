//! Centre to agent.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::up::{AuthoredRef, halt_ids, halts, timestamp};
use super::{Nack, WireError, bad, bytes, document, missing, parse};
use crate::api::link as pb;
use crate::assignment::{Desired, Intent, Origin};
use crate::endpoints::SignedEndpoints;
use crate::grant::Principal;
use crate::halt::Halt;
use crate::ids::{ClusterId, HaltId, RunId};
use crate::trace::TraceContext;

/// Centre to agent.
#[derive(Debug, Clone, PartialEq)]
pub enum Down {
    /// Answers Hello.
    Welcome(Welcome),
    /// Alive.
    HeartbeatAck {
        /// Centre's wall clock.
        at: Timestamp,
        /// Echoed.
        seq: u64,
        /// Whether this cluster is accepted now.
        accepted: bool,
    },
    /// The latest of one run.
    Desired {
        /// What.
        desired: Box<Desired>,
        /// Time remaining to start when sent, ms; 0 = not a start.
        start_within_ms: u64,
    },
    /// Every run with a desired state here.
    DesiredList(Vec<RunId>),
    /// Committed.
    ObservedAck {
        /// Run.
        run: RunId,
        /// Epoch acknowledged.
        epoch: u64,
        /// Sequence acknowledged.
        seq: u64,
    },
    /// The centre's time now.
    ClockReply {
        /// Echoed.
        id: u64,
        /// Centre's wall clock.
        at: Timestamp,
    },
    /// A spec's body; empty: unknown hash.
    Spec {
        /// SHA-256, hex.
        hash: String,
        /// JSON.
        body: Vec<u8>,
    },
    /// Halts that apply here, and what was resumed.
    Halts(Halts),
    /// A status for an authored object.
    Mirror(Mirror),
    /// A new certificate.
    Renewed {
        /// Leaf first.
        chain_pem: String,
        /// Roots.
        bundle_pem: String,
    },
    /// Leave, and come back after so long.
    GoAway {
        /// CamelCase.
        reason: String,
        /// Milliseconds.
        reconnect_in_ms: u64,
    },
    /// Could not take something.
    Nack(Nack),
    /// Where the centre is from now on.
    Endpoints(Box<SignedEndpoints>),
}

/// Answers Hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Protocol chosen.
    pub protocol: u32,
    /// SemVer.
    pub version: String,
    /// Store epoch.
    pub store_epoch: String,
    /// False: heartbeat and inventory only.
    pub accepted: bool,
    /// Milliseconds.
    pub heartbeat_interval_ms: u64,
    /// This cluster's id.
    pub cluster: ClusterId,
    /// Names the session in both logs.
    pub session: String,
}

/// Halts that apply to a cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Halts {
    /// All of them.
    pub halts: Vec<Halt>,
    /// Lifted, by id.
    pub resumed: Vec<HaltId>,
}

/// A status for an authored object.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// Which.
    pub object: AuthoredRef,
    /// JSON of `status`.
    pub status: Vec<u8>,
}

impl From<Down> for pb::Down {
    fn from(down: Down) -> Self {
        use pb::down::Kind;
        let kind = match down {
            Down::Welcome(w) => Kind::Welcome(pb::Welcome {
                protocol: w.protocol,
                version: w.version,
                store_epoch: w.store_epoch,
                accepted: w.accepted,
                heartbeat_interval_ms: w.heartbeat_interval_ms,
                cluster: w.cluster.to_string(),
                session: w.session,
            }),
            Down::HeartbeatAck { at, seq, accepted } => {
                Kind::HeartbeatAck(pb::HeartbeatAck { centre_unix_ms: at.as_millisecond(), seq, accepted })
            }
            Down::Desired { desired, start_within_ms } => Kind::Desired(pb::Desired {
                run: desired.run.to_string(),
                generation: desired.generation,
                intent: desired.intent.as_str().to_owned(),
                spec_hash: desired.spec_hash.clone(),
                document: bytes(&desired),
                start_within_ms,
            }),
            Down::DesiredList(runs) => {
                Kind::DesiredList(pb::DesiredList { runs: runs.iter().map(ToString::to_string).collect() })
            }
            Down::ObservedAck { run, epoch, seq } => {
                Kind::ObservedAck(pb::ObservedAck { run: run.to_string(), agent_epoch: epoch, seq })
            }
            Down::ClockReply { id, at } => {
                Kind::ClockReply(pb::ClockReply { id, centre_unix_ms: at.as_millisecond() })
            }
            Down::Spec { hash, body } => Kind::Spec(pb::Spec { hash, body }),
            Down::Halts(h) => Kind::Halts(pb::Halts {
                halts: h.halts.iter().map(bytes).collect(),
                resumed: h.resumed.iter().map(ToString::to_string).collect(),
            }),
            Down::Mirror(m) => Kind::Mirror(pb::Mirror {
                kind: m.object.kind.as_str().to_owned(),
                namespace: m.object.namespace.to_string(),
                name: m.object.name.to_string(),
                uid: m.object.uid,
                status: m.status,
            }),
            Down::Renewed { chain_pem, bundle_pem } => Kind::Renewed(pb::Renewed { chain_pem, bundle_pem }),
            Down::GoAway { reason, reconnect_in_ms } => Kind::GoAway(pb::GoAway { reason, reconnect_in_ms }),
            Down::Nack(n) => Kind::Nack(n.into()),
            Down::Endpoints(signed) => {
                Kind::Endpoints(pb::Endpoints { sequence: signed.list.sequence, document: bytes(&signed) })
            }
        };
        pb::Down { kind: Some(kind) }
    }
}

/// A stop is obeyed by its envelope alone, whatever is written in a document that this version does not understand.
fn stop(envelope: &pb::Desired) -> Option<Desired> {
    let intent = Intent::parse(&envelope.intent).filter(|intent| *intent == Intent::Stop)?;
    Some(Desired {
        run: envelope.run.parse().ok()?,
        generation: envelope.generation,
        intent,
        spec_hash: envelope.spec_hash.clone(),
        principal: Principal::Operator { name: String::new() },
        origin: Origin { cluster: None, labels: BTreeMap::new(), namespace: None },
        plan_hash: None,
        plan_expires: None,
        envelope: None,
        peers: BTreeMap::new(),
        start_before: None,
        run_deadline: None,
        stop_reason: None,
        trace: TraceContext::default(),
    })
}

impl TryFrom<pb::Down> for Down {
    type Error = WireError;
    fn try_from(down: pb::Down) -> Result<Self, WireError> {
        use pb::down::Kind;
        Ok(match down.kind.ok_or_else(|| missing("down.kind"))? {
            Kind::Welcome(w) => Down::Welcome(Welcome {
                protocol: w.protocol,
                version: w.version,
                store_epoch: w.store_epoch,
                accepted: w.accepted,
                heartbeat_interval_ms: w.heartbeat_interval_ms.clamp(100, 3_600_000),
                cluster: parse("welcome.cluster", &w.cluster)?,
                session: w.session,
            }),
            Kind::HeartbeatAck(h) => Down::HeartbeatAck {
                at: timestamp("heartbeat_ack.centre_unix_ms", h.centre_unix_ms)?,
                seq: h.seq,
                accepted: h.accepted,
            },
            Kind::Desired(d) => {
                let desired: Desired =
                    document("desired.document", &d.document).or_else(|e| stop(&d).ok_or(e))?;
                let same = desired.run.as_str() == d.run
                    && desired.generation == d.generation
                    && desired.intent.as_str() == d.intent;
                if !same {
                    return Err(bad(
                        "desired.document",
                        "names another run, generation or intent than its envelope",
                    ));
                }
                Down::Desired { desired: Box::new(desired), start_within_ms: d.start_within_ms }
            }
            Kind::DesiredList(l) => Down::DesiredList(
                l.runs.iter().map(|r| parse("desired_list.runs", r)).collect::<Result<_, _>>()?,
            ),
            Kind::ObservedAck(a) => Down::ObservedAck {
                run: parse("observed_ack.run", &a.run)?,
                epoch: a.agent_epoch,
                seq: a.seq,
            },
            Kind::ClockReply(c) => {
                Down::ClockReply { id: c.id, at: timestamp("clock_reply.centre_unix_ms", c.centre_unix_ms)? }
            }
            Kind::Spec(s) => Down::Spec { hash: s.hash, body: s.body },
            Kind::Halts(h) => Down::Halts(Halts {
                halts: halts("halts.halts", &h.halts)?,
                resumed: halt_ids("halts.resumed", &h.resumed)?,
            }),
            Kind::Mirror(m) => Down::Mirror(Mirror {
                object: pb::AuthoredRef { kind: m.kind, namespace: m.namespace, name: m.name, uid: m.uid }
                    .try_into()?,
                status: m.status,
            }),
            Kind::Renewed(r) => Down::Renewed { chain_pem: r.chain_pem, bundle_pem: r.bundle_pem },
            Kind::GoAway(g) => Down::GoAway { reason: g.reason, reconnect_in_ms: g.reconnect_in_ms },
            Kind::Nack(n) => Down::Nack(n.into()),
            Kind::Endpoints(e) => {
                let signed: SignedEndpoints = document("endpoints.document", &e.document)?;
                if signed.list.sequence != e.sequence {
                    return Err(bad("endpoints.document", "is of another sequence than its envelope"));
                }
                Down::Endpoints(Box::new(signed))
            }
        })
    }
}
