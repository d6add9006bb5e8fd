//! Agent to centre.

use jiff::Timestamp;

use super::{Nack, WireError, bad, bytes, document, missing, parse};
use crate::api::link as pb;
use crate::assignment::{Intent, Observed};
use crate::cluster::InventorySummary;
use crate::halt::Halt;
use crate::ids::{HaltId, Name, RunId};
use crate::trace::TraceContext;

/// Agent to centre.
#[derive(Debug, Clone, PartialEq)]
pub enum Up {
    /// First.
    Hello(Hello),
    /// Alive.
    Heartbeat {
        /// Agent's wall clock.
        at: Timestamp,
        /// Counts up.
        seq: u64,
    },
    /// The latest of one run.
    Observed {
        /// What.
        observed: Box<Observed>,
        /// Agent epoch.
        epoch: u64,
        /// Grows within the epoch.
        seq: u64,
    },
    /// Asks for the centre's time now.
    ClockProbe {
        /// Echoed.
        id: u64,
    },
    /// Could not take something.
    Nack(Nack),
    /// Wants a spec's body.
    SpecRequest {
        /// SHA-256, hex.
        hash: String,
    },
    /// An authored object, or that it is gone.
    Authored(Authored),
    /// All authored objects that exist, after a complete list.
    AuthoredList(Vec<AuthoredRef>),
    /// Halts latched and clean here.
    HaltState(HaltState),
    /// What is seen here.
    Inventory(Box<InventorySummary>),
    /// Wants a new certificate.
    Renew {
        /// CSR, PEM.
        csr_pem: String,
        /// CSR of the identity key, which is registered where the centre has none; may be empty.
        identity_csr_pem: String,
    },
    /// Keeps this list of the centre's addresses.
    EndpointsKept {
        /// Its sequence.
        sequence: u64,
    },
}

/// First message of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    /// Lowest protocol spoken.
    pub protocol_min: u32,
    /// Highest protocol spoken.
    pub protocol_max: u32,
    /// SemVer.
    pub version: String,
    /// Grows with each leader of the cluster's Lease.
    pub agent_epoch: u64,
    /// The last store epoch seen; empty at first.
    pub store_epoch: String,
    /// What is held, per run.
    pub held: Vec<Held>,
    /// Every halt latched here: what the centre forgot is given back.
    pub halts: Vec<Halt>,
    /// Checked attribute, not the identity.
    pub kube_system_uid: String,
    /// False: stop-only.
    pub accepts_starts: bool,
    /// Sequence of the list of the centre's addresses that is kept, 0 for none; absent: knows nothing of such lists.
    pub endpoints_sequence: Option<u64>,
}

/// A run that an agent holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The run.
    pub run: RunId,
    /// Generation held.
    pub generation: u64,
    /// Intent held.
    pub intent: Intent,
}

/// The kinds that are authored in member clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthoredKind {
    /// Experiment.
    Experiment,
    /// Run.
    Run,
}

impl AuthoredKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthoredKind::Experiment => "Experiment",
            AuthoredKind::Run => "Run",
        }
    }
}

impl std::str::FromStr for AuthoredKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "Experiment" => Ok(Self::Experiment),
            "Run" => Ok(Self::Run),
            other => Err(format!("unknown kind {other:?}")),
        }
    }
}

/// Names an authored object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuthoredRef {
    /// Its kind.
    pub kind: AuthoredKind,
    /// Its namespace.
    pub namespace: Name,
    /// Its name.
    pub name: Name,
    /// Its uid.
    pub uid: String,
}

/// An authored object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authored {
    /// Which.
    pub object: AuthoredRef,
    /// metadata.generation.
    pub generation: i64,
    /// faultline.dev/author, or empty. Information only.
    pub author: String,
    /// JSON of `spec`, verbatim; empty: the object is gone.
    pub body: Vec<u8>,
    /// The trace it belongs to; no part of what is compared.
    pub trace: TraceContext,
}

/// Halts on a cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HaltState {
    /// Latched ids.
    pub latched: Vec<HaltId>,
    /// Of these, clean.
    pub clean: Vec<HaltId>,
    /// Made in this cluster without the centre.
    pub local: Vec<Halt>,
}

pub(super) fn halts(field: &'static str, list: &[Vec<u8>]) -> Result<Vec<Halt>, WireError> {
    list.iter().map(|h| halt(field, h)).collect()
}

pub(super) fn halt(field: &'static str, bytes: &[u8]) -> Result<Halt, WireError> {
    crate::halt::read(document(field, bytes)?).map_err(|e| bad(field, e))
}

pub(super) fn halt_ids(field: &'static str, list: &[String]) -> Result<Vec<HaltId>, WireError> {
    list.iter().map(|h| parse(field, h)).collect()
}

fn texts<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

impl From<Up> for pb::Up {
    fn from(up: Up) -> Self {
        use pb::up::Kind;
        let kind = match up {
            Up::Hello(h) => Kind::Hello(h.into()),
            Up::Heartbeat { at, seq } => {
                Kind::Heartbeat(pb::Heartbeat { agent_unix_ms: at.as_millisecond(), seq })
            }
            Up::Observed { observed, epoch, seq } => Kind::Observed(pb::Observed {
                run: observed.run.to_string(),
                generation: observed.generation,
                agent_epoch: epoch,
                seq,
                document: bytes(&observed),
            }),
            Up::ClockProbe { id } => Kind::ClockProbe(pb::ClockProbe { id }),
            Up::Nack(n) => Kind::Nack(n.into()),
            Up::SpecRequest { hash } => Kind::SpecRequest(pb::SpecRequest { hash }),
            Up::Authored(a) => Kind::Authored(pb::Authored {
                kind: a.object.kind.as_str().to_owned(),
                namespace: a.object.namespace.to_string(),
                name: a.object.name.to_string(),
                uid: a.object.uid,
                generation: a.generation,
                author: a.author,
                body: a.body,
                traceparent: a.trace.as_str().to_owned(),
            }),
            Up::AuthoredList(refs) => {
                Kind::AuthoredList(pb::AuthoredList { refs: refs.into_iter().map(Into::into).collect() })
            }
            Up::HaltState(s) => Kind::HaltState(pb::HaltState {
                latched: texts(&s.latched),
                clean: texts(&s.clean),
                local: s.local.iter().map(bytes).collect(),
            }),
            Up::Inventory(i) => Kind::Inventory(pb::Inventory { document: bytes(&i) }),
            Up::EndpointsKept { sequence } => Kind::EndpointsKept(pb::EndpointsKept { sequence }),
            Up::Renew { csr_pem, identity_csr_pem } => {
                Kind::Renew(pb::RenewRequest { csr_pem, identity_csr_pem })
            }
        };
        pb::Up { kind: Some(kind) }
    }
}

impl From<Hello> for pb::Hello {
    fn from(h: Hello) -> Self {
        let held = |h: Held| pb::Held {
            run: h.run.to_string(),
            generation: h.generation,
            intent: h.intent.as_str().to_owned(),
        };
        pb::Hello {
            protocol_min: h.protocol_min,
            protocol_max: h.protocol_max,
            version: h.version,
            agent_epoch: h.agent_epoch,
            store_epoch: h.store_epoch,
            held: h.held.into_iter().map(held).collect(),
            halts: h.halts.iter().map(bytes).collect(),
            kube_system_uid: h.kube_system_uid,
            accepts_starts: h.accepts_starts,
            endpoints_sequence: h.endpoints_sequence,
        }
    }
}

impl From<AuthoredRef> for pb::AuthoredRef {
    fn from(r: AuthoredRef) -> Self {
        pb::AuthoredRef {
            kind: r.kind.as_str().to_owned(),
            namespace: r.namespace.to_string(),
            name: r.name.to_string(),
            uid: r.uid,
        }
    }
}

impl From<Nack> for pb::Nack {
    fn from(n: Nack) -> Self {
        let detail = n.detail.chars().take(1000).collect();
        pb::Nack { run: n.run, generation: n.generation, code: n.code, detail }
    }
}

impl From<pb::Nack> for Nack {
    fn from(n: pb::Nack) -> Self {
        let detail = n.detail.chars().take(1000).collect();
        Nack { run: n.run, generation: n.generation, code: n.code, detail }
    }
}

impl TryFrom<pb::Up> for Up {
    type Error = WireError;
    fn try_from(up: pb::Up) -> Result<Self, WireError> {
        use pb::up::Kind;
        Ok(match up.kind.ok_or_else(|| missing("up.kind"))? {
            Kind::Hello(h) => Up::Hello(h.try_into()?),
            Kind::Heartbeat(h) => {
                Up::Heartbeat { at: timestamp("heartbeat.agent_unix_ms", h.agent_unix_ms)?, seq: h.seq }
            }
            Kind::Observed(o) => {
                let observed: Observed = document("observed.document", &o.document)?;
                if observed.run.as_str() != o.run || observed.generation != o.generation {
                    return Err(bad(
                        "observed.document",
                        "names another run or generation than its envelope",
                    ));
                }
                Up::Observed { observed: Box::new(observed), epoch: o.agent_epoch, seq: o.seq }
            }
            Kind::ClockProbe(p) => Up::ClockProbe { id: p.id },
            Kind::Nack(n) => Up::Nack(n.into()),
            Kind::SpecRequest(r) => Up::SpecRequest { hash: r.hash },
            Kind::Authored(a) => Up::Authored(a.try_into()?),
            Kind::AuthoredList(l) => {
                Up::AuthoredList(l.refs.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?)
            }
            Kind::HaltState(s) => Up::HaltState(HaltState {
                latched: halt_ids("halt_state.latched", &s.latched)?,
                clean: halt_ids("halt_state.clean", &s.clean)?,
                local: halts("halt_state.local", &s.local)?,
            }),
            Kind::Inventory(i) => Up::Inventory(Box::new(document("inventory.document", &i.document)?)),
            Kind::EndpointsKept(k) => Up::EndpointsKept { sequence: k.sequence },
            Kind::Renew(r) => Up::Renew { csr_pem: r.csr_pem, identity_csr_pem: r.identity_csr_pem },
        })
    }
}

pub(super) fn timestamp(field: &'static str, unix_ms: i64) -> Result<Timestamp, WireError> {
    Timestamp::from_millisecond(unix_ms).map_err(|e| bad(field, e))
}

impl TryFrom<pb::Hello> for Hello {
    type Error = WireError;
    fn try_from(h: pb::Hello) -> Result<Self, WireError> {
        // What is held by an intent that is not known here counts as not held: it is sent again.
        let held = |h: pb::Held| {
            let intent = Intent::parse(&h.intent)?;
            Some(parse("hello.held.run", &h.run).map(|run| Held { run, generation: h.generation, intent }))
        };
        Ok(Hello {
            protocol_min: h.protocol_min,
            protocol_max: h.protocol_max,
            version: h.version,
            agent_epoch: h.agent_epoch,
            store_epoch: h.store_epoch,
            held: h.held.into_iter().filter_map(held).collect::<Result<_, WireError>>()?,
            halts: halts("hello.halts", &h.halts)?,
            kube_system_uid: h.kube_system_uid,
            accepts_starts: h.accepts_starts,
            endpoints_sequence: h.endpoints_sequence,
        })
    }
}

impl TryFrom<pb::AuthoredRef> for AuthoredRef {
    type Error = WireError;
    fn try_from(r: pb::AuthoredRef) -> Result<Self, WireError> {
        Ok(AuthoredRef {
            kind: parse("authored.kind", &r.kind)?,
            namespace: parse("authored.namespace", &r.namespace)?,
            name: parse("authored.name", &r.name)?,
            uid: uid("authored.uid", r.uid)?,
        })
    }
}

impl TryFrom<pb::Authored> for Authored {
    type Error = WireError;
    fn try_from(a: pb::Authored) -> Result<Self, WireError> {
        let object =
            pb::AuthoredRef { kind: a.kind, namespace: a.namespace, name: a.name, uid: a.uid }.try_into()?;
        if a.body.len() > super::MAX_DOCUMENT_BYTES {
            return Err(bad("authored.body", "too large"));
        }
        Ok(Authored {
            object,
            generation: a.generation,
            author: a.author.chars().take(256).collect(),
            body: a.body,
            trace: TraceContext::parse(&a.traceparent),
        })
    }
}

fn uid(field: &'static str, text: String) -> Result<String, WireError> {
    let ok =
        !text.is_empty() && text.len() <= 64 && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
    if ok { Ok(text) } else { Err(bad(field, "not a uid")) }
}
