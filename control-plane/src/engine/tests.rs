//! Tables and properties of the decisions. A tiny store stands in for the real one: it takes a
//! commit only if its comparisons hold, and feeds the result back as events.

mod properties;
mod read_back;
mod table;

use std::collections::BTreeMap;

use jiff::Timestamp;
use proto::assignment::{ClusterPhase, Desired, Intent, Observed, Origin, Outcome, Residue};
use proto::cluster::ClusterSpec;
use proto::grant::Principal;
use proto::halt::{Halt, HaltScope};
use proto::ids::{ClusterId, RunId};
use proto::plan::{ClusterPlan, Envelope, TargetEnvelope};
use proto::run::RunRecord;
use proto::status::RunSummary;
use serde_json::json;

use super::object::{Object, ObjectKey, ObservedRecord, Revision, SessionRecord, SpecBody};
use super::state::State;
use super::{Commit, Effect, Event, later, step, summary};

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

pub(super) fn cluster(name: &str) -> ClusterId {
    format!("c-{name}").parse().unwrap()
}

pub(super) fn run_id() -> RunId {
    "run-1".parse().unwrap()
}

/// The store of these tests.
pub(super) struct World {
    pub(super) state: State,
    objects: BTreeMap<ObjectKey, (Object, Revision)>,
    revision: Revision,
    pub(super) now: Timestamp,
    /// Every desired state ever written, in order.
    pub(super) written: Vec<(ClusterId, Desired)>,
    pub(super) commits: Vec<Commit>,
    pub(super) conflicts: usize,
    /// The store takes so many commits more.
    pub(super) commits_left: Option<usize>,
}

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self {
            state: State::default(),
            objects: BTreeMap::new(),
            revision: 1,
            now: at(0),
            written: Vec::new(),
            commits: Vec::new(),
            conflicts: 0,
            commits_left: None,
        };
        world.feed(Event::Complete);
        world.feed(Event::Leading(true));
        world
    }

    /// Puts something as another writer would.
    pub(super) fn put(&mut self, object: Object) {
        self.revision += 1;
        self.objects.insert(object.key(), (object.clone(), self.revision));
        self.feed(Event::Stored(Box::new(object), self.revision));
    }

    pub(super) fn delete(&mut self, key: ObjectKey) {
        self.revision += 1;
        self.objects.remove(&key);
        self.feed(Event::Deleted(key));
    }

    pub(super) fn pass(&mut self, seconds: i64) {
        self.now = later(self.now, seconds * 1000).unwrap();
        self.feed(Event::Tick);
    }

    /// One event and everything that follows from it.
    pub(super) fn feed(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for Effect::Commit(commit) in step(&mut self.state, event, self.now) {
                self.commits.push(commit.clone());
                assert!(self.commits.len() < 500, "the engine never comes to rest");
                let run = commit.run.clone().unwrap();
                let stored = self.commit(commit);
                // Popped from the back: first the end of the commit, then what it wrote.
                let ended = Event::Committed(run, stored.as_ref().map(|_| self.revision));
                events.extend(stored.into_iter().flatten());
                events.push(ended);
            }
        }
    }

    fn commit(&mut self, commit: Commit) -> Option<Vec<Event>> {
        if let Some(left) = &mut self.commits_left {
            *left = left.checked_sub(1)?;
        }
        let revision_of = |key: &ObjectKey| self.objects.get(key).map_or(0, |(_, revision)| *revision);
        if !commit.compare.iter().all(|(key, revision)| revision_of(key) == *revision) {
            self.conflicts += 1;
            return None;
        }
        self.revision += 1;
        let mut events = Vec::new();
        for object in commit.put {
            if let Object::Desired(cluster, desired) = &object {
                self.written.push((cluster.clone(), (**desired).clone()));
            }
            self.objects.insert(object.key(), (object.clone(), self.revision));
            events.push(Event::Stored(Box::new(object), self.revision));
        }
        for key in commit.delete {
            self.objects.remove(&key);
            events.push(Event::Deleted(key));
        }
        Some(events)
    }

    pub(super) fn member(&mut self, name: &str) {
        self.put(Object::ClusterSpec(ClusterSpec {
            id: cluster(name),
            name: name.to_owned(),
            labels: BTreeMap::from([("network".to_owned(), "flat".to_owned())]),
            accepted: true,
            revoked: false,
            created_at: at(0),
        }));
        self.connect(name);
    }

    pub(super) fn connect(&mut self, name: &str) {
        let record = SessionRecord {
            replica: "r".to_owned(),
            session: "s".to_owned(),
            agent_epoch: 1,
            opened_at: self.now,
        };
        self.put(Object::Session(cluster(name), record));
    }

    pub(super) fn disconnect(&mut self, name: &str) {
        self.delete(ObjectKey::Session(cluster(name)));
    }

    pub(super) fn grant(&mut self) {
        let grant = json!({
            "from": { "operators": ["ann"] },
            "to": { "clusters": { "names": ["west", "east"] }, "namespaces": ["shop"], "kinds": ["network.*"], "maxTargets": 5 }
        });
        self.put(Object::Grant("g".to_owned(), serde_json::from_value(grant).unwrap()));
    }

    /// A run over these members, with its spec in place.
    pub(super) fn run(&mut self, clusters: &[&str]) {
        self.run_with(clusters, |_| {});
    }

    pub(super) fn run_with(&mut self, clusters: &[&str], change: impl FnOnce(&mut RunRecord)) {
        self.run_of(&spec(clusters), change);
    }

    pub(super) fn run_of(&mut self, spec: &serde_json::Value, change: impl FnOnce(&mut RunRecord)) {
        let spec = spec.to_string();
        let hash = proto::hash::sha256_hex(spec.as_bytes());
        self.put(Object::Spec(SpecBody { hash: hash.clone(), json: spec }));
        let mut record = RunRecord {
            id: run_id(),
            namespace: "central".to_owned(),
            name: "r".to_owned(),
            uid: "u".to_owned(),
            principal: Principal::Operator { name: "ann".to_owned() },
            author: None,
            origin: Origin { cluster: None, labels: BTreeMap::new(), namespace: None },
            spec: serde_json::from_value(json!({ "experimentRef": { "name": "x" } })).unwrap(),
            spec_hash: hash,
            plan_only: false,
            created_at: self.now,
            stop: None,
            trace: proto::trace::TraceContext::NONE,
        };
        change(&mut record);
        self.put(Object::Run(Box::new(record)));
        self.put(Object::Summary(Box::new(summary::initial(run_id()))));
    }

    pub(super) fn record(&self) -> RunRecord {
        self.state.runs[&run_id()].record.as_ref().unwrap().value.clone()
    }

    pub(super) fn summary(&self) -> RunSummary {
        self.state.runs[&run_id()].summary.as_ref().unwrap().value.clone()
    }

    pub(super) fn desired(&self, name: &str) -> Option<Desired> {
        Some(self.state.runs.get(&run_id())?.desired.get(&cluster(name))?.value.clone())
    }

    pub(super) fn intent(&self, name: &str) -> Option<Intent> {
        self.desired(name).map(|desired| desired.intent)
    }

    /// The cluster answers with a plan of so many pods.
    pub(super) fn plan(&mut self, name: &str, pods: u32) {
        let envelope = TargetEnvelope { max_count: pods, ..TargetEnvelope::default() };
        let plan = ClusterPlan {
            spec_hash: self.record().spec_hash,
            planned_at: self.now,
            envelope: Envelope { targets: BTreeMap::from([("web".to_owned(), envelope)]) },
            sample: BTreeMap::new(),
            faults: Vec::new(),
            refusals: Vec::new(),
            warnings: Vec::new(),
        };
        self.put(Object::Plan(run_id(), cluster(name), Box::new(plan)));
    }

    pub(super) fn observe(&mut self, name: &str, phase: ClusterPhase, outcome: Option<Outcome>) {
        self.observe_left(name, phase, outcome, Residue::Clean);
    }

    pub(super) fn observe_left(
        &mut self,
        name: &str,
        phase: ClusterPhase,
        outcome: Option<Outcome>,
        residue: Residue,
    ) {
        let mut observed = Observed::new(run_id(), 2, phase);
        observed.outcome = outcome;
        observed.residue = residue;
        observed.started_at = (phase >= ClusterPhase::Running).then_some(self.now);
        observed.injected_at = observed.started_at;
        observed.reverted_at = (phase >= ClusterPhase::Settling).then_some(self.now);
        let record = ObservedRecord { agent_epoch: 1, seq: self.revision, observed };
        self.put(Object::Observed(cluster(name), Box::new(record)));
    }

    /// The cluster has Completed, with these further words.
    pub(super) fn observe_as(&mut self, name: &str, change: impl FnOnce(&mut Observed)) {
        let mut observed = Observed::new(run_id(), 2, ClusterPhase::Finished);
        observed.outcome = Some(Outcome::Completed);
        change(&mut observed);
        let record = ObservedRecord { agent_epoch: 1, seq: self.revision, observed };
        self.put(Object::Observed(cluster(name), Box::new(record)));
    }

    pub(super) fn stop(&mut self) {
        let mut record = self.record();
        record.stop = Some(proto::run::StopRequest {
            reason: proto::assignment::StopReason::Requested,
            by: "ann".to_owned(),
            at: self.now,
        });
        self.put(Object::Run(Box::new(record)));
    }

    pub(super) fn halt(&mut self, id: &str, scope: HaltScope) {
        let halt = Halt {
            id: id.parse().unwrap(),
            scope,
            reason: String::new(),
            by: "ann".to_owned(),
            at: self.now,
            origin: None,
        };
        self.put(Object::Halt(halt));
        self.put(Object::HaltsRevision);
    }
}

pub(super) fn spec(clusters: &[&str]) -> serde_json::Value {
    json!({
        "clusters": { "names": clusters },
        "targets": [{
            "name": "web",
            "pods": { "namespaces": ["shop"], "labelSelector": { "matchLabels": { "app": "web" } } },
            "atMost": { "perCluster": 5, "total": 6 }
        }],
        "faults": [{ "name": "late", "target": "web", "at": "0s", "for": "10s", "network": { "delay": { "latency": "200ms" } } }],
        "limits": { "clusterDeadline": "1m", "runDeadline": "10m", "startWithin": "2m" }
    })
}
