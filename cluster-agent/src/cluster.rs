//! The cluster door: everything the agent sees of, keeps in and does to its own cluster, as traits. The driver and
//! the link client are written against these; `kube` is the real thing, [`memory`] the twin for tests, and
//! [`host`] a machine without Kubernetes. `tests/cluster_door/contract.rs` is the one suite that all of them pass.
//!
//! Rules for who implements them:
//! - What is *seen* is a `watch` of whole snapshots, level-triggered: the latest wins, nothing queues. A snapshot
//!   is published only when it is complete: before the first full list the value is `None` (or `Unknown`), and
//!   whatever is not known denies. After a broken watch keep the last snapshot and re-list.
//! - What is *done* is idempotent and returns after it is durable (fsync, or the apiserver's answer). The driver
//!   retries what failed with `retryable()`, so a call may be repeated at any time.
//! - No method blocks on the centre or on a node, and none keeps a lock across an await.

pub mod host;
pub mod kube;
pub mod memory;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use proto::assignment::{Desired, Observed};
use proto::ceiling::CeilingSpec;
use proto::experiment::{Limits, LinkLossAction};
use proto::halt::{Halt, HaltLevel};
use proto::ids::{HaltId, InjectionId, RunId};
use proto::injection::TargetRef;
use proto::plan::Owner;
use proto::wire::{Authored, AuthoredRef, Mirror};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Why something could not be done in the cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not now: the apiserver or the disk did not answer. Trying again may help.
    #[error("{what}: {why}")]
    Unavailable {
        /// A bare verb phrase, for example `put record r1`.
        what: String,
        /// What the other side said.
        why: String,
    },
    /// Refused for good: not allowed, not valid, or changed meanwhile.
    #[error("{what}: {why}")]
    Refused {
        /// A bare verb phrase.
        what: String,
        /// What the other side said.
        why: String,
    },
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// What the agent sees. Every receiver yields the current snapshot at once.
pub trait Sight: Send + Sync + Debug {
    /// Nodes and pods; `None` before the first complete list.
    fn inventory(&self) -> watch::Receiver<Option<Arc<Inventory>>>;
    /// The Ceiling named `default`.
    fn ceiling(&self) -> watch::Receiver<CeilingSeen>;
    /// Halt objects of this cluster; `None` before the first complete list (nothing starts until then).
    fn local_halts(&self) -> watch::Receiver<Option<Arc<Vec<LocalHalt>>>>;
    /// Experiment and Run objects of this cluster; `None` before the first complete list.
    fn authored(&self) -> watch::Receiver<Option<Arc<AuthoredSet>>>;
    /// Whether this process is the one that acts.
    fn leadership(&self) -> watch::Receiver<Leadership>;
}

/// What must survive a restart of the agent. Records are keyed by run id.
#[async_trait]
pub trait Records: Send + Sync + Debug {
    /// Writes or replaces a record. Durable when it returns: nothing is made before that.
    async fn put(&self, record: &RunRecordHeld) -> Result<(), Error>;
    /// Every record there is, in the order of the run ids.
    async fn list(&self) -> Result<Vec<RunRecordHeld>, Error>;
    /// Removes a record; fine when there is none.
    async fn delete(&self, run: &RunId) -> Result<(), Error>;
    /// The halts latched here, as last put; empty at first.
    async fn latched(&self) -> Result<LatchedHalts, Error>;
    /// Replaces the latched halts. Durable when it returns.
    async fn put_latched(&self, halts: &LatchedHalts) -> Result<(), Error>;
}

/// Small secret documents by name: `identity` and `node-ca` (see [`secret`]). Values are JSON.
#[async_trait]
pub trait Secrets: Send + Sync + Debug {
    /// The document, or `None` where there is none.
    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Error>;
    /// Writes or replaces it; readable by this agent only. Durable when it returns.
    async fn put(&self, name: &str, value: &[u8]) -> Result<(), Error>;
    /// Publishes the roots that node daemons are to trust (a ConfigMap, or a file). PEM.
    async fn publish_node_bundle(&self, bundle_pem: &str) -> Result<(), Error>;
}

/// Names of the documents in [`Secrets`].
pub mod secret {
    /// Key, certificate, roots, endpoints and cluster id of this agent.
    pub const IDENTITY: &str = "identity";
    /// The CA that signs the node daemons' certificates.
    pub const NODE_CA: &str = "node-ca";
}

/// What the agent does to its cluster.
#[async_trait]
pub trait Acts: Send + Sync + Debug {
    /// Deletes the pod only if it still has this uid. `grace_s`: seconds; the pod's own where `None`.
    async fn delete_pod(&self, target: &TargetRef, grace_s: Option<u64>) -> Result<PodDeletion, Error>;
    /// Writes `status` of an authored object, if it still exists with this uid (else fine: nothing to write on).
    async fn write_status(&self, mirror: &Mirror) -> Result<(), Error>;
    /// Writes how far a Halt object has come; fine when it is gone.
    async fn set_halt_status(&self, name: &str, level: HaltLevel) -> Result<(), Error>;
    /// Says something on an object, for people who look at it; fine where it was said before, or the object is
    /// gone. Nothing depends on it.
    async fn announce(&self, announcement: &Announcement) -> Result<(), Error>;
}

/// A word on an object: a Kubernetes event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The object.
    pub on: ObjectRef,
    /// What makes it the same word again, together with the object and the reason: an injection's id, a condition.
    pub key: String,
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Whether a person should look.
    pub warning: bool,
    /// When it happened.
    pub at: Timestamp,
}

/// An object of this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRef {
    /// For example `v1`.
    pub api_version: String,
    /// For example `Pod`.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// Who a node daemon is, before it has a certificate of ours.
#[async_trait]
pub trait NodeAuth: Send + Sync + Debug {
    /// The node that the bearer of this token runs on (TokenReview, then the pod's `spec.nodeName`).
    /// Refused for any doubt: other audience, not our daemon's service account, no pod, pod gone.
    async fn node_of(&self, token: &str) -> Result<String, Error>;
}

/// The doors that a running agent needs.
#[derive(Debug, Clone)]
pub struct Doors {
    /// Seeing.
    pub sight: Arc<dyn Sight>,
    /// Keeping.
    pub records: Arc<dyn Records>,
    /// Keeping secrets.
    pub secrets: Arc<dyn Secrets>,
    /// Doing.
    pub acts: Arc<dyn Acts>,
    /// Naming nodes; absent where node links come over channels only (host mode).
    pub node_auth: Option<Arc<dyn NodeAuth>>,
}

/// Whether this process acts for the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// Another one does: no link, no node links, nothing written.
    Standby,
    /// This one does. The epoch grows with each leader and never goes back (lease transitions + 1).
    Active {
        /// Fences node daemons: they refuse starts from a lower one.
        epoch: u64,
    },
    /// It did, and cannot renew because the apiserver is unreachable: links stay, Stop and Halt are obeyed,
    /// Start is refused.
    StopOnly {
        /// As before.
        epoch: u64,
    },
}

impl Leadership {
    /// The epoch while links are kept.
    pub fn epoch(self) -> Option<u64> {
        match self {
            Self::Standby => None,
            Self::Active { epoch } | Self::StopOnly { epoch } => Some(epoch),
        }
    }
}

/// The cluster owner's limits as seen now.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum CeilingSeen {
    /// Not read yet, or not readable: denies.
    #[default]
    Unknown,
    /// There is none: denies with NoCeiling.
    Absent,
    /// There is one.
    Present(Arc<CeilingSpec>),
}

/// Nodes and pods of this cluster at one instant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inventory {
    /// Uid of kube-system (or of the machine in host mode): a checked attribute of the cluster.
    pub cluster_uid: String,
    /// The agent's own namespace; its pods are protected.
    pub own_namespace: String,
    /// By name.
    pub nodes: BTreeMap<String, NodeSeen>,
    /// By uid.
    pub pods: BTreeMap<String, PodSeen>,
    /// Addresses of the apiserver: probes never go there.
    pub api_addresses: Vec<IpAddr>,
    /// Nodes that no daemon can work on, by name, and why: Windows, virtual nodes.
    pub skipped_nodes: BTreeMap<String, String>,
    /// Pods that no daemon can reach into, by uid, and why: those on such nodes, and sandboxed ones.
    pub skipped_pods: BTreeMap<String, String>,
    /// Installed without node daemons: only faults that are changes to Kubernetes objects can be made here.
    pub api_faults_only: bool,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSeen {
    /// Condition Ready.
    pub ready: bool,
}

/// Owner kind of declared workloads: nothing can be done to them through an API.
pub const DECLARED: &str = "Workload";

/// A pod, or in host mode a declared workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSeen {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Node it is bound to; empty while it is not.
    pub node: String,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The workload at the top of its owner chain (ReplicaSet resolved to Deployment, Job to CronJob); the pod
    /// itself where it has none. A declared workload (host mode) is its own owner of kind [`DECLARED`].
    pub owner: Owner,
    /// Names, in the order of the spec.
    pub containers: Vec<String>,
    /// Shares the node's network.
    pub host_network: bool,
    /// `status.phase` is Running.
    pub running: bool,
    /// Has a deletion timestamp.
    pub terminating: bool,
}

/// A halt made in this cluster without the centre: an object (or a file in host mode). It lasts as long as that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalHalt {
    /// The object's name.
    pub name: String,
    /// Why.
    pub reason: String,
    /// Only this namespace; the whole cluster where `None`.
    pub namespace: Option<String>,
    /// When it was made.
    pub at: Timestamp,
}

/// Every authored object that exists, body included.
pub type AuthoredSet = BTreeMap<AuthoredRef, Authored>;

/// What came of a pod deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodDeletion {
    /// The apiserver took it; the pod is terminating or gone.
    Accepted,
    /// There is no pod of this uid (any more).
    Gone,
}

/// Halts of the centre latched here, and ids that were resumed (so that a late halt of that id stays lifted).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LatchedHalts {
    /// In force here.
    #[serde(deserialize_with = "proto::halt::read_all")]
    pub halts: Vec<Halt>,
    /// Lifted, the latest 256.
    pub resumed: Vec<HaltId>,
}

/// What an agent holds durably of a run (a FaultRecord object, or a file). JSON, a few KB.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRecordHeld {
    /// The latest assignment taken, verbatim.
    pub desired: Desired,
    /// How far it has come.
    pub state: RecordState,
    /// The cluster's own start (t0), agent's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// No fault of this run outlives it, agent's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// What a lost link does, as the spec says; the spec itself is not kept. Absent before the spec was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_loss: Option<LinkLoss>,
    /// Every injection that was ever going to be made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub injections: Vec<RecordedInjection>,
    /// Why it is being ended, for the report after a restart.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub end_reason: String,
    /// The last word on it, once finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Box<Observed>>,
}

impl RunRecordHeld {
    /// The run it is about.
    pub fn run(&self) -> &RunId {
        &self.desired.run
    }
}

/// What a lost link to the centre does to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkLoss {
    /// How long the link must be gone, milliseconds.
    pub after_ms: u64,
    /// Then what.
    #[serde(rename = "do")]
    pub action: LinkLossAction,
}

impl From<&Limits> for LinkLoss {
    fn from(limits: &Limits) -> Self {
        let (after_ms, action) = limits.link_loss();
        Self { after_ms, action }
    }
}

/// How far a recorded run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordState {
    /// Faults may exist.
    Started,
    /// Stopped or ended; faults may still exist. It never starts again.
    Stopped,
    /// Over, and the last word is in `observed`. It never starts again.
    Finished,
}

/// One injection of a recorded run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordedInjection {
    /// Its id.
    pub id: InjectionId,
    /// Name of the fault.
    pub fault: String,
    /// On what; the node is in it.
    pub target: TargetRef,
    /// Made by the agent itself through the API (pod.kill).
    #[serde(default)]
    pub by_agent: bool,
    /// Due so long after t0, milliseconds.
    #[serde(default)]
    pub at_ms: u64,
    /// Lasts so long, milliseconds; 0: to the deadline, or irreversible.
    #[serde(default)]
    pub for_ms: u64,
}
