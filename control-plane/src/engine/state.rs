//! The engine's world: what the store holds, typed and indexed. Owned by the driver, read through
//! the cache by sessions and by the service.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proto::cluster::{ClusterSpec, ClusterStatus};
use proto::experiment::ExperimentSpec;
use proto::halt::Halt;
use proto::ids::{ClusterId, HaltId, RunId};
use proto::injection::NODE_HALT_PREFIX;

use super::object::{
    ExperimentKey, Object, ObjectKey, ReplicaRecord, Revision, RunEntry, SessionRecord, StoredEndpoints,
    StoredExperiment, StoredGrant, Versioned,
};

/// Everything known of a member.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterEntry {
    /// What the centre decided.
    pub spec: Option<Versioned<ClusterSpec>>,
    /// What it says of itself.
    pub status: Option<Versioned<ClusterStatus>>,
    /// Its live session.
    pub session: Option<Versioned<SessionRecord>>,
}

/// An effective spec, as text for the agents and parsed for the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownSpec {
    /// Verbatim.
    pub json: String,
    /// Parsed; a spec that does not parse is never planned.
    pub spec: Option<ExperimentSpec>,
}

/// The world.
#[derive(Debug, Default)]
pub struct State {
    /// Members.
    pub clusters: BTreeMap<ClusterId, ClusterEntry>,
    /// Experiments of the library and of members.
    pub experiments: BTreeMap<ExperimentKey, Versioned<StoredExperiment>>,
    /// Effective specs by hash.
    pub specs: BTreeMap<String, KnownSpec>,
    /// Runs.
    pub runs: BTreeMap<RunId, RunEntry>,
    /// Grants by name.
    pub grants: BTreeMap<String, Versioned<StoredGrant>>,
    /// Halts in force.
    pub halts: BTreeMap<HaltId, Versioned<Halt>>,
    /// Halts lifted, for ever.
    pub resumed: BTreeSet<HaltId>,
    /// Stands for all halts in comparisons.
    pub halts_revision: Revision,
    /// Denied certificates: (cluster, serial or `all`).
    pub revoked: BTreeSet<(String, String)>,
    /// Live replicas, this one included.
    pub replicas: BTreeMap<String, ReplicaRecord>,
    /// Where agents find the centre; absent until somebody said so.
    pub endpoints: Option<StoredEndpoints>,
    /// What every live replica can read: what is newer is not written yet. None: nothing was noted.
    pub format: Option<Versioned<u32>>,
    /// Operators by the hash of their token, as JSON.
    pub operators: BTreeMap<String, String>,
    /// Keys whose value cannot be read: nobody writes there as if nothing were.
    pub unreadable: BTreeSet<ObjectKey>,
    /// Whether this replica decides.
    pub leading: bool,
    /// Whether every prefix was listed once: nothing is decided on half a world.
    pub complete: bool,
}

impl State {
    /// Whether the member has a live session.
    pub fn is_connected(&self, cluster: &ClusterId) -> bool {
        self.clusters.get(cluster).is_some_and(|entry| entry.session.is_some())
    }

    /// The member's name, or its id where it is not known.
    pub fn cluster_name(&self, cluster: &ClusterId) -> String {
        self.spec_of(cluster).map_or_else(|| cluster.to_string(), |spec| spec.name.clone())
    }

    /// What the centre decided about a member.
    pub fn spec_of(&self, cluster: &ClusterId) -> Option<&ClusterSpec> {
        Some(&self.clusters.get(cluster)?.spec.as_ref()?.value)
    }

    /// The member of this name.
    pub fn cluster_by_name(&self, name: &str) -> Option<(&ClusterId, &ClusterEntry)> {
        self.clusters
            .iter()
            .find(|(_, entry)| entry.spec.as_ref().is_some_and(|spec| spec.value.name == name))
    }

    /// The id of the member of this name or id.
    pub fn cluster_by_name_or_id(&self, text: &str) -> Option<ClusterId> {
        let by_id = || text.parse().ok().filter(|id| self.spec_of(id).is_some());
        self.cluster_by_name(text).map(|(id, _)| id.clone()).or_else(by_id)
    }

    /// The first halt that stops any of these namespaces of this cluster; without namespaces,
    /// anything in it.
    pub fn halted<'a>(
        &'a self,
        cluster: &ClusterId,
        namespaces: impl IntoIterator<Item = &'a str>,
    ) -> Option<&'a Halt> {
        let spec = self.spec_of(cluster)?;
        let namespaces: Vec<&str> = namespaces.into_iter().collect();
        self.halts.values().map(|halt| &halt.value).find(|halt| {
            !is_of_a_node(halt)
                && applies_to(halt, spec)
                && (namespaces.is_empty()
                    || namespaces
                        .iter()
                        .any(|namespace| halt.covers(cluster, &spec.name, &spec.labels, Some(namespace))))
        })
    }

    /// Runs with something desired on this cluster.
    pub fn runs_on<'a>(&'a self, cluster: &'a ClusterId) -> impl Iterator<Item = (&'a RunId, &'a RunEntry)> {
        self.runs.iter().filter(move |(_, entry)| entry.desired.contains_key(cluster))
    }

    /// Clusters of which what they were told about this run cannot be read.
    pub fn unreadable_of<'a>(&'a self, id: &'a RunId) -> impl Iterator<Item = &'a ClusterId> {
        self.unreadable.iter().filter_map(move |key| match key {
            ObjectKey::Desired(cluster, run) if run == id => Some(cluster),
            _ => None,
        })
    }

    /// When the next run is due without any event; never for who does not decide.
    pub fn next_wake(&self) -> Option<Timestamp> {
        if !self.leading || !self.complete {
            return None;
        }
        self.runs.values().filter_map(|run| run.wake_at).min()
    }

    /// Takes an object in.
    pub(super) fn put(&mut self, object: Object, revision: Revision) {
        if !self.unreadable.is_empty() {
            self.unreadable.remove(&object.key());
        }
        match object {
            Object::ClusterSpec(value) => {
                let entry = self.clusters.entry(value.id.clone()).or_default();
                entry.spec = Some(Versioned { value, revision });
            }
            Object::ClusterStatus(id, value) => {
                self.clusters.entry(id).or_default().status = Some(Versioned { value: *value, revision });
            }
            Object::Session(id, value) => {
                self.clusters.entry(id).or_default().session = Some(Versioned { value, revision });
            }
            Object::Experiment(key, value) => {
                self.experiments.insert(key, Versioned { value, revision });
            }
            Object::Spec(body) => {
                let spec = serde_json::from_str(&body.json).ok();
                self.specs.insert(body.hash, KnownSpec { json: body.json, spec });
            }
            Object::Grant(name, value) => {
                self.grants.insert(name, Versioned { value, revision });
            }
            Object::Halt(value) => {
                self.halts.insert(value.id.clone(), Versioned { value, revision });
            }
            Object::Resumed(id) => {
                self.resumed.insert(id);
            }
            Object::HaltsRevision => self.halts_revision = revision,
            Object::Revoked(cluster, serial) => {
                self.revoked.insert((cluster, serial));
            }
            Object::Replica(id, value) => drop(self.replicas.insert(id, value)),
            Object::Endpoints(value) => self.endpoints = Some(*value),
            Object::Operator(hash, json) => drop(self.operators.insert(hash, json)),
            Object::Format(value) => self.format = Some(Versioned { value, revision }),
            other => self.put_of_run(other, revision),
        }
    }

    fn put_of_run(&mut self, object: Object, revision: Revision) {
        match object {
            Object::Run(value) => {
                let run = self.runs.entry(value.id.clone()).or_default();
                run.record = Some(Versioned { value: *value, revision });
            }
            Object::Summary(value) => {
                let run = self.runs.entry(value.id.clone()).or_default();
                run.summary = Some(Versioned { value: *value, revision });
            }
            Object::Plan(run, cluster, value) => {
                self.runs
                    .entry(run)
                    .or_default()
                    .plans
                    .insert(cluster, Versioned { value: *value, revision });
            }
            Object::Desired(cluster, value) => {
                let run = self.runs.entry(value.run.clone()).or_default();
                run.desired.insert(cluster, Versioned { value: *value, revision });
            }
            Object::Observed(cluster, value) => {
                let run = self.runs.entry(value.observed.run.clone()).or_default();
                run.observed.insert(cluster, Versioned { value: *value, revision });
            }
            _ => {}
        }
    }

    /// Forgets an object.
    pub(super) fn delete(&mut self, key: &ObjectKey) {
        self.unreadable.remove(key);
        match key {
            ObjectKey::ClusterSpec(id) => self.of_cluster(id, |entry| entry.spec = None),
            ObjectKey::ClusterStatus(id) => self.of_cluster(id, |entry| entry.status = None),
            ObjectKey::Session(id) => self.of_cluster(id, |entry| entry.session = None),
            ObjectKey::Experiment(key) => drop(self.experiments.remove(key)),
            ObjectKey::Spec(hash) => drop(self.specs.remove(hash)),
            ObjectKey::Run(id) => self.of_run(id, |run| run.record = None),
            ObjectKey::Summary(id) => self.of_run(id, |run| run.summary = None),
            ObjectKey::Plan(id, cluster) => self.of_run(id, |run| drop(run.plans.remove(cluster))),
            ObjectKey::Desired(cluster, id) => self.of_run(id, |run| drop(run.desired.remove(cluster))),
            ObjectKey::Observed(cluster, id) => self.of_run(id, |run| drop(run.observed.remove(cluster))),
            ObjectKey::Grant(name) => drop(self.grants.remove(name)),
            ObjectKey::Halt(id) => drop(self.halts.remove(id)),
            // Lifted is lifted: a record that was pruned does not bring a halt back.
            ObjectKey::Resumed(_) => {}
            ObjectKey::HaltsRevision => self.halts_revision = 0,
            ObjectKey::Revoked(cluster, serial) => {
                self.revoked.remove(&(cluster.clone(), serial.clone()));
            }
            ObjectKey::Replica(id) => drop(self.replicas.remove(id)),
            ObjectKey::Endpoints => self.endpoints = None,
            ObjectKey::Operator(hash) => drop(self.operators.remove(hash)),
            ObjectKey::Format => self.format = None,
        }
    }

    fn of_cluster(&mut self, id: &ClusterId, change: impl FnOnce(&mut ClusterEntry)) {
        if let Some(entry) = self.clusters.get_mut(id) {
            change(entry);
            if *entry == ClusterEntry::default() {
                self.clusters.remove(id);
            }
        }
    }

    fn of_run(&mut self, id: &RunId, change: impl FnOnce(&mut RunEntry)) {
        if let Some(run) = self.runs.get_mut(id) {
            change(run);
            if run.is_empty() {
                self.runs.remove(id);
            }
        }
    }
}

/// Whether a halt is about this cluster at all: one that a cluster set by itself stops nobody else.
pub fn applies_to(halt: &Halt, cluster: &ClusterSpec) -> bool {
    halt.origin.as_ref().is_none_or(|origin| *origin == cluster.id)
        && halt.covers(&cluster.id, &cluster.name, &cluster.labels, None)
}

/// A halt file stops its node only: the daemon there and its agent see to it. Here it is shown, not decided on.
/// Halt objects of a cluster have ids of their own form, so that nobody can pass one off as a node's.
fn is_of_a_node(halt: &Halt) -> bool {
    let own = halt.origin.as_ref().and_then(|origin| halt.id.as_str().strip_prefix(origin.as_str()));
    own.and_then(|own| own.strip_prefix('.')).is_some_and(|own| own.starts_with(NODE_HALT_PREFIX))
}
