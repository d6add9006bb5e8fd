//! A cluster, a centre and a daemon as values. `World::take` performs effects the way the driver does, and checks on
//! the way what must hold always.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use proto::assignment::{ClusterPhase, Desired, Intent, Observed, Origin, StopReason};
use proto::ceiling::{CeilingFrom, CeilingSpec};
use proto::cluster::{CapabilityState, NodeCapabilities, capability};
use proto::experiment::ExperimentSpec;
use proto::grant::Principal;
use proto::ids::{InjectionId, RunId};
use proto::injection::{EndReason, InjectionPhase, InjectionStatus};
use proto::plan::{Envelope, Owner};
use proto::wire::{Halts, Inject, NodeHello};
use serde_json::{Value, json};

use crate::cluster::{CeilingSeen, Inventory, LatchedHalts, NodeSeen, PodSeen, RunRecordHeld};
use crate::engine::runs::TARGETS_WITHIN_MS;
use crate::engine::state::Stage;
use crate::engine::{Effect, Event, Now, Settings, State, step};

pub(super) const NODE: &str = "n1";
pub(super) const AT_MOST: usize = 2;

#[derive(Clone)]
pub(super) struct World {
    pub(super) state: State,
    pub(super) spec: Value,
    ms: u64,
    /// Durable.
    pub(super) records: BTreeMap<RunId, RunRecordHeld>,
    pub(super) latched: LatchedHalts,
    /// Asked, not answered yet.
    pub(super) writes: Vec<(RunId, u64, Box<RunRecordHeld>)>,
    pub(super) halt_writes: Vec<LatchedHalts>,
    pub(super) specs: Vec<String>,
    pub(super) clocks: Vec<u64>,
    /// The centre's view.
    pub(super) latest: BTreeMap<RunId, Observed>,
    pub(super) envelopes: BTreeMap<RunId, Envelope>,
    pub(super) generations: BTreeMap<RunId, u64>,
    pub(super) start_before: BTreeMap<RunId, u64>,
    pub(super) plan_expires: BTreeMap<RunId, u64>,
    /// The daemon's journal.
    pub(super) held: BTreeMap<InjectionId, (InjectionStatus, Inject)>,
    pub(super) log: Vec<Effect>,
    injected: BTreeSet<InjectionId>,
    stopped: BTreeSet<RunId>,
    /// Forgotten before the last restart: the centre keeps tombstones and never names them again.
    buried: BTreeSet<RunId>,
    forgotten: BTreeSet<RunId>,
    nacked: usize,
}

impl World {
    pub(super) fn new(spec: Value) -> Self {
        let mut world = Self {
            state: State::new(Settings { cluster: "c2".parse().unwrap(), agent_epoch: 1 }),
            spec,
            ms: 5_000_000,
            records: BTreeMap::new(),
            latched: LatchedHalts::default(),
            writes: Vec::new(),
            halt_writes: Vec::new(),
            specs: Vec::new(),
            clocks: Vec::new(),
            latest: BTreeMap::new(),
            envelopes: BTreeMap::new(),
            generations: BTreeMap::new(),
            start_before: BTreeMap::new(),
            plan_expires: BTreeMap::new(),
            held: BTreeMap::new(),
            log: Vec::new(),
            injected: BTreeSet::new(),
            stopped: BTreeSet::new(),
            buried: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            nacked: 0,
        };
        world.boot();
        world
    }

    /// A leader begins: recovery first, then what is seen.
    fn boot(&mut self) {
        let records = self.records.values().cloned().collect();
        self.take(Event::Recovered { records, latched: self.latched.clone() });
        self.take(Event::Leadership { accepts_starts: true });
        self.take(Event::LocalHalts(Arc::new(vec![])));
        self.take(Event::Ceiling(ceiling()));
        self.take(Event::Inventory(Arc::new(inventory(4))));
    }

    /// The agent dies: what was not durable is lost, and what ran is never started again.
    pub(super) fn restart(&mut self) {
        self.writes.clear();
        self.halt_writes.clear();
        self.specs.clear();
        self.clocks.clear();
        self.buried.append(&mut self.forgotten);
        // What was dropped, or stopped without a durable word, the centre never starts again.
        self.stopped = self.records.keys().cloned().collect();
        let epoch = self.state.settings.agent_epoch + 1;
        self.state = State::new(Settings { cluster: "c2".parse().unwrap(), agent_epoch: epoch });
        self.boot();
    }

    pub(super) fn now(&self) -> Now {
        Now { wall: wall(self.ms), boottime_ms: self.ms }
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.ms += ms;
        self.take(Event::Tick);
    }

    pub(super) fn take(&mut self, event: Event) -> Vec<Effect> {
        let now = self.now();
        let effects = step(&mut self.state, event, now);
        for effect in &effects {
            self.perform(effect);
        }
        self.log.extend(effects.iter().cloned());
        effects
    }

    fn perform(&mut self, effect: &Effect) {
        match effect {
            Effect::SendObserved(observed) => {
                if let Some(plan) = &observed.plan {
                    self.envelopes.insert(observed.run.clone(), plan.envelope.clone());
                }
                self.latest.insert(observed.run.clone(), (**observed).clone());
            }
            Effect::RequestSpec { hash } => self.specs.push(hash.clone()),
            Effect::ProbeClock { id } => self.clocks.push(*id),
            Effect::PersistRecord { version, record } => {
                self.writes.push((record.run().clone(), *version, record.clone()));
            }
            Effect::DeleteRecord(run) => {
                self.writes.retain(|(r, _, _)| r != run);
                self.records.remove(run);
            }
            Effect::PersistHalts(halts) => self.halt_writes.push(halts.clone()),
            Effect::Inject { node, inject } => self.inject(node, inject),
            Effect::KillPod { run, injection, .. } => self.check(run, injection),
            Effect::Revert { injection, .. } => {
                if let Some((status, _)) =
                    self.held.get_mut(injection).filter(|(s, _)| !s.phase.is_terminal())
                {
                    status.phase = InjectionPhase::Reverted;
                    status.reason = Some(EndReason::Stopped);
                }
            }
            Effect::Nack(_) => self.nacked += 1,
            _ => {}
        }
    }

    /// What must hold whenever anything is made.
    fn check(&mut self, run: &RunId, injection: &InjectionId) {
        assert!(self.injected.insert(injection.clone()), "{injection} was handed over twice");
        assert!(!self.stopped.contains(run), "{run} started after it was stopped or recovered");
        let record = self.records.get(run).expect("a durable record before anything is made");
        assert!(record.injections.iter().any(|i| &i.id == injection), "{injection} is not in the record");
        assert!(record.started_at.is_some() && record.deadline.is_some() && record.link_loss.is_some());
        let bound = self.start_before[run];
        let t0 = record.started_at.unwrap().as_millisecond() as u64;
        assert!(t0 < bound, "started {} ms late", t0.saturating_sub(bound));
        let of_run = self.injected.iter().filter(|id| id.as_str().starts_with(&format!("{run}."))).count();
        assert!(of_run <= AT_MOST, "{of_run} pods hit");
        assert!(self.latched.halts.is_empty() || self.state.halts.latched.halts.is_empty(), "halted");
    }

    fn inject(&mut self, node: &str, inject: &Inject) {
        self.check(&inject.injection.run, &inject.injection.id);
        assert_eq!(node, inject.injection.target.node);
        assert!(self.state.connected(node));
        assert!(
            inject.remaining_ms <= self.longest_ms() && inject.remaining_ms > 0,
            "{}",
            inject.remaining_ms
        );
        assert_eq!(inject.agent_epoch, self.state.settings.agent_epoch);
        let status = crate::engine::admit::status(&inject.injection.id, &inject.injection.run, "nfqueue");
        self.held.insert(inject.injection.id.clone(), (status, inject.clone()));
    }

    fn longest_ms(&self) -> u64 {
        let spec: ExperimentSpec = serde_json::from_value(self.spec.clone()).unwrap();
        spec.last_fault_end_ms()
    }

    /// Everything that was asked is answered, until nothing is asked any more.
    pub(super) fn settle(&mut self) {
        for _ in 0..50 {
            if !(self.persist() | self.answer_specs() | self.answer_clocks(0)) {
                return;
            }
        }
        panic!("it never settles");
    }

    /// Settles with a plan: one that lacks targets is answered only after a while.
    pub(super) fn settle_plan(&mut self) {
        self.settle();
        if self.state.runs.values().any(|run| run.stage == Stage::AwaitingSpec) {
            self.pass(TARGETS_WITHIN_MS);
        }
    }

    pub(super) fn persist(&mut self) -> bool {
        let writes = std::mem::take(&mut self.writes);
        let halts = std::mem::take(&mut self.halt_writes);
        let any = !writes.is_empty() || !halts.is_empty();
        for (run, version, record) in writes {
            self.records.insert(run.clone(), *record);
            self.take(Event::RecordPersisted { run, version });
        }
        for latched in halts {
            self.latched = latched.clone();
            self.take(Event::HaltsPersisted(latched));
        }
        any
    }

    pub(super) fn answer_specs(&mut self) -> bool {
        let specs = std::mem::take(&mut self.specs);
        let body = serde_json::to_vec(&self.spec).unwrap();
        for hash in &specs {
            self.take(Event::Spec { hash: hash.clone(), body: body.clone() });
        }
        !specs.is_empty()
    }

    /// The centre's clock shows what ours shows; the answer takes `rtt_ms`.
    pub(super) fn answer_clocks(&mut self, rtt_ms: u64) -> bool {
        let clocks = std::mem::take(&mut self.clocks);
        for id in &clocks {
            let centre_at = wall(self.ms.saturating_sub(rtt_ms));
            self.take(Event::ClockReply { id: *id, centre_at, rtt_ms });
        }
        !clocks.is_empty()
    }

    pub(super) fn desired(&mut self, run: &str, intent: Intent) -> Desired {
        let run: RunId = run.parse().unwrap();
        let generation = self.generations.entry(run.clone()).or_insert(0);
        *generation += 1;
        let start = intent == Intent::Start;
        Desired {
            generation: *generation,
            intent,
            spec_hash: proto::hash::sha256_hex(&serde_json::to_vec(&self.spec).unwrap()),
            principal: Principal::Operator { name: "ann".into() },
            origin: Origin { cluster: None, labels: BTreeMap::new(), namespace: None },
            plan_hash: None,
            plan_expires: start.then(|| self.plan_expires.get(&run).map(|ms| wall(*ms))).flatten(),
            envelope: start.then(|| self.envelopes.get(&run).cloned().unwrap_or_default()),
            peers: BTreeMap::new(),
            start_before: None,
            run_deadline: start.then(|| wall(self.ms + 3_600_000)),
            stop_reason: (intent == Intent::Stop).then_some(StopReason::Requested),
            trace: proto::trace::TraceContext::NONE,
            run,
        }
    }

    /// The centre wants it; a start within `within_ms`.
    pub(super) fn want(&mut self, run: &str, intent: Intent, within_ms: u64) {
        if self.buried.contains(&run.parse().unwrap()) {
            return;
        }
        let mut desired = self.desired(run, intent);
        let mut start_within_ms = 0;
        if intent == Intent::Plan {
            let ttl_ms = proto::plan::PLAN_TTL_MS.unsigned_abs();
            self.plan_expires.insert(desired.run.clone(), self.ms + ttl_ms);
        }
        if intent == Intent::Start {
            desired.start_before = Some(wall(self.ms + within_ms));
            self.start_before.insert(desired.run.clone(), self.ms + within_ms);
            start_within_ms = within_ms;
        }
        self.take(Event::Desired { desired: Box::new(desired.clone()), start_within_ms });
        if intent == Intent::Forget {
            self.forgotten.insert(desired.run.clone());
        }
        if matches!(intent, Intent::Stop | Intent::Forget) {
            self.stopped.insert(desired.run);
        }
    }

    pub(super) fn node_up(&mut self) {
        let held = self.held.values().map(|(s, _)| s.clone()).collect();
        self.take(Event::NodeUp { node: NODE.into(), hello: Box::new(hello(held)) });
    }

    /// The daemon does what it was told and says so.
    pub(super) fn daemon(&mut self) {
        let now = self.ms;
        for (status, inject) in self.held.values_mut() {
            let over = inject.deadline.as_millisecond() as u64 <= now;
            match status.phase {
                InjectionPhase::Accepted => {
                    status.phase = InjectionPhase::Injected;
                    status.injected_at_unix_ms = Some(now as i64);
                }
                InjectionPhase::Injected if over => {
                    status.phase = InjectionPhase::Reverted;
                    status.reason = Some(EndReason::Deadline);
                }
                _ => {}
            }
        }
        if self.state.connected(NODE) {
            for status in self.held.values().map(|(s, _)| s.clone()).collect::<Vec<_>>() {
                self.take(Event::NodeState { node: NODE.into(), status: Box::new(status) });
            }
        }
    }

    pub(super) fn halt(&mut self, id: &str) {
        let halt =
            json!({ "id": id, "scope": { "type": "Fleet" }, "by": "ann", "at": "2026-11-23T00:00:00Z" });
        let halts = vec![serde_json::from_value(halt).unwrap()];
        let live: Vec<RunId> =
            self.state.runs.iter().filter(|(_, r)| r.is_live()).map(|(id, _)| id.clone()).collect();
        self.take(Event::Halts(Halts { halts, resumed: vec![] }));
        if !self.state.halts.latched.halts.is_empty() {
            self.stopped.extend(live);
        }
    }

    pub(super) fn resume(&mut self, id: &str) {
        self.take(Event::Halts(Halts { halts: vec![], resumed: vec![id.parse().unwrap()] }));
    }

    pub(super) fn run(&self, run: &str) -> &Observed {
        self.latest.get(&run.parse().unwrap()).expect("something was said of it")
    }

    /// Plans, starts, and brings it to Running with everything injected.
    pub(super) fn running(&mut self, run: &str) {
        self.take(Event::LinkUp { accepted: true });
        self.node_up();
        self.want(run, Intent::Plan, 0);
        self.settle();
        assert_eq!(self.run(run).phase, ClusterPhase::Planned, "{}", self.run(run).message);
        self.want(run, Intent::Start, 60_000);
        self.settle();
        self.daemon();
    }

    pub(super) fn nacks(&self) -> usize {
        self.nacked
    }
}

/// Our clock and the centre's: wall and boottime go together in this world.
pub(super) fn wall(ms: u64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_millis(ms as i64)
}

pub(super) fn hello(held: Vec<InjectionStatus>) -> NodeHello {
    let mut capabilities = NodeCapabilities::default();
    for name in [capability::CRI, capability::NFT_SETS, capability::NFQUEUE] {
        capabilities
            .capabilities
            .insert(name.into(), CapabilityState { present: true, detail: String::new() });
    }
    NodeHello {
        node: NODE.into(),
        version: "0".into(),
        boot_id: "b".into(),
        highest_epoch: 0,
        capabilities,
        held,
    }
}

pub(super) fn pod(n: usize) -> PodSeen {
    PodSeen {
        namespace: "shop".into(),
        name: format!("payments-{n}"),
        uid: format!("u{n}"),
        node: NODE.into(),
        ips: vec![format!("10.0.0.{}", n + 1).parse().unwrap()],
        labels: BTreeMap::from([("app".to_owned(), "payments".to_owned())]),
        owner: Owner {
            kind: "Deployment".into(),
            namespace: "shop".into(),
            name: "payments".into(),
            uid: "d1".into(),
        },
        containers: vec!["app".into()],
        host_network: false,
        running: true,
        terminating: false,
    }
}

pub(super) fn inventory(pods: usize) -> Inventory {
    Inventory {
        cluster_uid: "k".into(),
        own_namespace: "faultline".into(),
        nodes: BTreeMap::from([(NODE.to_owned(), NodeSeen { ready: true })]),
        pods: (0..pods).map(pod).map(|p| (p.uid.clone(), p)).collect(),
        ..Inventory::default()
    }
}

pub(super) fn ceiling_spec() -> CeilingSpec {
    CeilingSpec {
        from: vec![CeilingFrom { central: Some(true), ..CeilingFrom::default() }],
        namespaces: vec!["shop".into()],
        kinds: vec!["*".into()],
        ..CeilingSpec::default()
    }
}

pub(super) fn ceiling() -> CeilingSeen {
    CeilingSeen::Present(Arc::new(ceiling_spec()))
}

pub(super) fn delay() -> Value {
    json!({
        "clusters": { "names": ["c2"] },
        "targets": [{
            "name": "payments",
            "pods": { "namespaces": ["shop"], "labelSelector": { "matchLabels": { "app": "payments" } } },
            "pick": { "percent": 50 },
            "atMost": { "perCluster": AT_MOST }
        }],
        "faults": [{ "name": "late", "target": "payments", "for": "30s", "network": { "delay": { "latency": "200ms" } } }],
        "limits": { "clusterDeadline": "5m" }
    })
}
