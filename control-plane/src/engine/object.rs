//! What the engine reads and writes, typed: every object of the store that decides something.
//! `driver::codec` is the only place that turns these into keys and bytes.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proto::assignment::{Desired, Observed};
use proto::cluster::{ClusterSpec, ClusterStatus};
use proto::endpoints::SignedEndpoints;
use proto::grant::GrantSpec;
use proto::halt::Halt;
use proto::ids::{ClusterId, HaltId, RunId};
use proto::plan::ClusterPlan;
use proto::run::RunRecord;
use proto::status::RunSummary;
use serde::{Deserialize, Serialize};

/// The origin and the namespace of everything that is authored at the centre.
pub const CENTRAL: &str = "central";

/// A revision of the store; 0 stands for "does not exist".
pub type Revision = u64;

/// In place of a serial in [`ObjectKey::Revoked`]: every certificate of a cluster.
pub const ALL_SERIALS: &str = "all";

/// A value with the revision that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// The revision that wrote it.
    pub revision: Revision,
}

/// Names an Experiment: origin (`central` or a cluster id), namespace, name.
pub type ExperimentKey = (String, String, String);

/// The value of `experiments/<origin>/<ns>/<name>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredExperiment {
    /// As written.
    pub spec: serde_json::Value,
    /// SHA-256 of the spec's JSON.
    pub hash: String,
    /// metadata.generation, or a counter at the centre.
    pub generation: i64,
    /// Uid of the object, or empty at the centre.
    #[serde(default)]
    pub uid: String,
    /// Information only.
    #[serde(default)]
    pub author: String,
    /// When this spec was first stored.
    pub stored_at: Timestamp,
    /// Whose declarations it is part of; of the library only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// The value of `grants/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredGrant {
    /// What it allows.
    #[serde(flatten)]
    pub spec: GrantSpec,
    /// Whose declarations it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// The value of `session/<cluster>`: it lives on its replica's lease, so it is there exactly
/// while the cluster is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRecord {
    /// The replica that serves it.
    pub replica: String,
    /// The session's id.
    pub session: String,
    /// The agent's epoch: a lower one never replaces a higher one.
    pub agent_epoch: u64,
    /// When it was opened.
    pub opened_at: Timestamp,
}

/// The value of `replicas/<id>`: it lives on that replica's lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaRecord {
    /// `host:port` at which other replicas reach it; empty: they do not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub peer_address: String,
    /// The format of the store that it reads and writes.
    pub format: u32,
}

/// The value of `endpoints`: where agents find the centre.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredEndpoints {
    /// As agents get it.
    #[serde(flatten)]
    pub signed: SignedEndpoints,
    /// Who set it.
    pub by: String,
}

/// The value of `observed/<cluster>/<run>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedRecord {
    /// Agent epoch; (epoch, seq) only grows.
    pub agent_epoch: u64,
    /// Sequence within the epoch.
    pub seq: u64,
    /// What the agent says.
    #[serde(flatten)]
    pub observed: Observed,
}

/// The value of `specs/<sha256>` as the centre reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecBody {
    /// SHA-256 of `json`.
    pub hash: String,
    /// The effective spec, verbatim.
    pub json: String,
}

/// Names an object of the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of the key space")]
pub enum ObjectKey {
    ClusterSpec(ClusterId),
    ClusterStatus(ClusterId),
    Session(ClusterId),
    Experiment(ExperimentKey),
    Spec(String),
    Run(RunId),
    Summary(RunId),
    Plan(RunId, ClusterId),
    Desired(ClusterId, RunId),
    Observed(ClusterId, RunId),
    Grant(String),
    Halt(HaltId),
    Resumed(HaltId),
    /// Written with every change of a halt: one revision stands for all of them.
    HaltsRevision,
    /// A denied certificate, or `all` of a cluster.
    Revoked(String, String),
    /// A live replica.
    Replica(String),
    /// Where agents find the centre.
    Endpoints,
    /// An operator, by the hash of the bearer token.
    Operator(String),
    /// What the store's values are written in.
    Format,
}

/// An object of the store.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are those of the key space")]
pub enum Object {
    ClusterSpec(ClusterSpec),
    ClusterStatus(ClusterId, Box<ClusterStatus>),
    Session(ClusterId, SessionRecord),
    Experiment(ExperimentKey, StoredExperiment),
    Spec(SpecBody),
    Run(Box<RunRecord>),
    Summary(Box<RunSummary>),
    Plan(RunId, ClusterId, Box<ClusterPlan>),
    Desired(ClusterId, Box<Desired>),
    Observed(ClusterId, Box<ObservedRecord>),
    Grant(String, StoredGrant),
    Halt(Halt),
    Resumed(HaltId),
    HaltsRevision,
    Revoked(String, String),
    Replica(String, ReplicaRecord),
    Endpoints(Box<StoredEndpoints>),
    /// Its JSON: who may do what is not the engine's business.
    Operator(String, String),
    Format(u32),
}

impl Object {
    /// Where it is kept.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::ClusterSpec(spec) => ObjectKey::ClusterSpec(spec.id.clone()),
            Self::ClusterStatus(cluster, _) => ObjectKey::ClusterStatus(cluster.clone()),
            Self::Session(cluster, _) => ObjectKey::Session(cluster.clone()),
            Self::Experiment(key, _) => ObjectKey::Experiment(key.clone()),
            Self::Spec(body) => ObjectKey::Spec(body.hash.clone()),
            Self::Run(record) => ObjectKey::Run(record.id.clone()),
            Self::Summary(summary) => ObjectKey::Summary(summary.id.clone()),
            Self::Plan(run, cluster, _) => ObjectKey::Plan(run.clone(), cluster.clone()),
            Self::Desired(cluster, desired) => ObjectKey::Desired(cluster.clone(), desired.run.clone()),
            Self::Observed(cluster, record) => {
                ObjectKey::Observed(cluster.clone(), record.observed.run.clone())
            }
            Self::Grant(name, _) => ObjectKey::Grant(name.clone()),
            Self::Halt(halt) => ObjectKey::Halt(halt.id.clone()),
            Self::Resumed(id) => ObjectKey::Resumed(id.clone()),
            Self::HaltsRevision => ObjectKey::HaltsRevision,
            Self::Revoked(cluster, serial) => ObjectKey::Revoked(cluster.clone(), serial.clone()),
            Self::Replica(id, _) => ObjectKey::Replica(id.clone()),
            Self::Endpoints(_) => ObjectKey::Endpoints,
            Self::Operator(hash, _) => ObjectKey::Operator(hash.clone()),
            Self::Format(_) => ObjectKey::Format,
        }
    }
}

/// Everything known of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunEntry {
    /// `runs/<id>/spec`
    pub record: Option<Versioned<RunRecord>>,
    /// `runs/<id>/summary`; every decision writes it, so its revision orders all decisions.
    pub summary: Option<Versioned<RunSummary>>,
    /// `runs/<id>/plan/<cluster>`
    pub plans: BTreeMap<ClusterId, Versioned<ClusterPlan>>,
    /// `desired/<cluster>/<id>`
    pub desired: BTreeMap<ClusterId, Versioned<Desired>>,
    /// `observed/<cluster>/<id>`
    pub observed: BTreeMap<ClusterId, Versioned<ObservedRecord>>,
    /// A decision of ours is on its way to the store.
    pub in_flight: bool,
    /// Something of it changed since that decision was made.
    pub is_overtaken: bool,
    /// The revision of our last decision: nothing is decided before it was read back.
    pub decided_at: Revision,
    /// What the decision on its way writes.
    pub writes: Vec<ObjectKey>,
    /// What our last decision wrote. Its keys are followed by several watches, and come back one by one.
    pub wrote: Vec<ObjectKey>,
    /// Until when all of it is waited for; from then on the summary is enough.
    pub read_back_by: Option<Timestamp>,
    /// When something is due without any event.
    pub wake_at: Option<Timestamp>,
}

impl RunEntry {
    /// Whether nothing of it is left.
    pub fn is_empty(&self) -> bool {
        self.record.is_none()
            && self.summary.is_none()
            && self.plans.is_empty()
            && self.desired.is_empty()
            && self.observed.is_empty()
    }

    /// What our last decision wrote and does not stand here as it wrote it, or newer: at which revision it does.
    pub(super) fn unread(&self) -> impl Iterator<Item = (&ObjectKey, Revision)> {
        let known = |key: &ObjectKey| match key {
            ObjectKey::Run(_) => self.record.as_ref().map_or(0, |record| record.revision),
            ObjectKey::Summary(_) => self.summary.as_ref().map_or(0, |summary| summary.revision),
            ObjectKey::Desired(cluster, _) => self.desired.get(cluster).map_or(0, |desired| desired.revision),
            _ => Revision::MAX,
        };
        self.wrote
            .iter()
            .map(move |key| (key, known(key)))
            .filter(|(_, revision)| *revision < self.decided_at)
    }
}
