//! The two scripted ends and the agent between them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cluster_agent::clock::Clock;
use cluster_agent::cluster::memory::Memory;
use cluster_agent::cluster::{CeilingSeen, Inventory, Leadership, NodeSeen, PodSeen};
use cluster_agent::engine::{Now, Settings};
use cluster_agent::leading::Leading;
use cluster_agent::link::Backoff;
use cluster_agent::link::dial::{Dial, DialError};
use cluster_agent::link::renewal::Renewal;
use cluster_agent::link::session::Connection;
use cluster_agent::nodes::session::NodeConnection;
use cluster_agent::probes::Denied;
use jiff::Timestamp;
use proto::assignment::{ClusterPhase, Desired, Intent, Observed, Origin};
use proto::ceiling::{CeilingFrom, CeilingSpec};
use proto::cluster::{CapabilityState, NodeCapabilities, capability};
use proto::grant::Principal;
use proto::ids::RunId;
use proto::injection::{EndReason, Injection, InjectionPhase, InjectionStatus};
use proto::plan::{Envelope, Owner};
use proto::wire::{Down, Inject, NodeDown, NodeHello, NodeUp, Up, Welcome};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

pub(crate) const NODE: &str = "n1";
/// Longer than anything here takes, in paused time.
pub(crate) const PATIENCE: Duration = Duration::from_mins(10);

#[derive(Debug)]
pub(crate) struct PausedClock(Instant);

impl PausedClock {
    pub(crate) fn wall_at_zero() -> Timestamp {
        "2026-11-23T00:00:00Z".parse().unwrap()
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Now {
        let ms = u64::try_from(self.0.elapsed().as_millis()).unwrap();
        let wall = Timestamp::from_millisecond(Self::wall_at_zero().as_millisecond() + ms as i64).unwrap();
        Now { wall, boottime_ms: 1_000_000 + ms }
    }
}

/// Hands out one connection per dial; the test holds the other ends.
#[derive(Debug)]
struct Scripted(Mutex<mpsc::Receiver<Connection>>);

#[async_trait]
impl Dial for Scripted {
    async fn dial(&self, _attempt: usize) -> Result<Connection, DialError> {
        match self.0.lock().await.recv().await {
            Some(connection) => Ok(connection),
            None => std::future::pending().await,
        }
    }
}

/// The centre's end of one session.
pub(crate) struct Centre {
    pub(crate) up: mpsc::Receiver<Up>,
    pub(crate) down: mpsc::Sender<Down>,
    /// Added to the agent's time in clock replies.
    pub(crate) ahead_ms: i64,
    clock: Arc<PausedClock>,
    spec: Vec<u8>,
    pub(crate) latest: BTreeMap<RunId, Observed>,
    pub(crate) phases: Vec<ClusterPhase>,
    pub(crate) nacks: Vec<String>,
}

/// The daemon's end of one session.
pub(crate) struct Daemon {
    pub(crate) up: mpsc::Sender<NodeUp>,
    pub(crate) down: mpsc::Receiver<NodeDown>,
}

pub(crate) struct Agent {
    pub(crate) memory: Memory,
    pub(crate) clock: Arc<PausedClock>,
    dials: mpsc::Sender<Connection>,
    nodes: mpsc::Sender<NodeConnection>,
    tasks: JoinSet<()>,
    epoch: u64,
}

impl Agent {
    pub(crate) fn start() -> Self {
        let memory = Memory::new();
        memory.set_inventory(inventory(4));
        memory.set_ceiling(ceiling());
        memory.set_local_halts(vec![]);
        memory.set_authored(BTreeMap::new());
        Self::over(memory, Arc::new(PausedClock(Instant::now())), 1)
    }

    fn over(memory: Memory, clock: Arc<PausedClock>, epoch: u64) -> Self {
        memory.set_leadership(Leadership::Active { epoch });
        let (dials, dialled) = mpsc::channel(4);
        let (nodes, mut connections) = mpsc::channel(4);
        let leading = Leading {
            settings: Settings { cluster: "c2".parse().unwrap(), agent_epoch: epoch },
            doors: memory.doors(),
            dial: Arc::new(Scripted(Mutex::new(dialled))),
            renewal: Renewal::none(),
            backoff: Backoff::default(),
            node_heartbeat: Duration::from_secs(5),
            denied: Denied { api: vec![], allow_loopback: true },
            clock: clock.clone(),
            metrics: cluster_agent::health::Metrics::default(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { leading.run(&mut connections).await.unwrap() });
        Self { memory, clock, dials, nodes, tasks, epoch }
    }

    /// Kills it and starts the next leader on the same cluster.
    pub(crate) async fn restart(mut self) -> Self {
        self.tasks.shutdown().await;
        Self::over(self.memory.clone(), self.clock.clone(), self.epoch + 1)
    }

    pub(crate) async fn connect(&self, spec: &Value) -> Centre {
        self.connect_to("e1", spec).await
    }

    /// To a centre on the store of this epoch.
    pub(crate) async fn connect_to(&self, store_epoch: &str, spec: &Value) -> Centre {
        let (up, ups) = mpsc::channel(64);
        let (downs, down) = mpsc::channel(64);
        self.dials.send(Connection { up, down, pumps: JoinSet::new(), address: None }).await.unwrap();
        let mut centre = Centre {
            up: ups,
            down: downs,
            ahead_ms: 0,
            clock: self.clock.clone(),
            spec: serde_json::to_vec(spec).unwrap(),
            latest: BTreeMap::new(),
            phases: Vec::new(),
            nacks: Vec::new(),
        };
        let hello = centre.next().await;
        assert!(matches!(&hello, Up::Hello(h) if h.agent_epoch == self.epoch), "{hello:?}");
        let welcome = Welcome {
            protocol: 1,
            version: "0".into(),
            store_epoch: store_epoch.into(),
            accepted: true,
            heartbeat_interval_ms: 5000,
            cluster: "c2".parse().unwrap(),
            session: "s1".into(),
        };
        centre.down.send(Down::Welcome(welcome)).await.unwrap();
        centre
    }

    pub(crate) async fn node(&self, held: Vec<InjectionStatus>) -> Daemon {
        let (up, ups) = mpsc::channel(64);
        let (downs, down) = mpsc::channel(64);
        let connection = NodeConnection { node: NODE.into(), up: ups, down: downs };
        self.nodes.send(connection).await.unwrap();
        let mut capabilities = NodeCapabilities::default();
        for name in [capability::CRI, capability::NFT_SETS, capability::NFQUEUE, capability::KEEPER] {
            capabilities
                .capabilities
                .insert(name.into(), CapabilityState { present: true, detail: String::new() });
        }
        let hello = NodeHello {
            node: NODE.into(),
            version: "0".into(),
            boot_id: "b".into(),
            highest_epoch: 0,
            capabilities,
            held,
        };
        up.send(NodeUp::Hello(Box::new(hello))).await.unwrap();
        let mut daemon = Daemon { up, down };
        let welcome = daemon.next().await;
        assert!(matches!(welcome, NodeDown::Welcome { agent_epoch, .. } if agent_epoch == self.epoch));
        daemon
    }
}

impl Centre {
    pub(crate) async fn next(&mut self) -> Up {
        timeout(PATIENCE, self.up.recv())
            .await
            .expect("the agent says something")
            .expect("the session is open")
    }

    /// Answers what a centre answers until `until` holds for the latest of the run.
    pub(crate) async fn until(&mut self, run: &str, until: impl Fn(&Observed) -> bool) -> Observed {
        let id: RunId = run.parse().unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = self.latest.get(&id).filter(|o| until(o)) {
                return found.clone();
            }
            assert!(Instant::now() < deadline, "never came: {:?}", self.latest.get(&id));
            self.serve().await;
        }
    }

    /// Takes and answers one message.
    pub(crate) async fn serve(&mut self) {
        match self.next().await {
            Up::Heartbeat { seq, .. } => {
                let at = self.clock.now().wall;
                self.down.send(Down::HeartbeatAck { at, seq, accepted: true }).await.unwrap();
            }
            Up::SpecRequest { hash } => {
                self.down.send(Down::Spec { hash, body: self.spec.clone() }).await.unwrap();
            }
            Up::ClockProbe { id } => {
                let at = self.clock.now().wall + jiff::SignedDuration::from_millis(self.ahead_ms);
                self.down.send(Down::ClockReply { id, at }).await.unwrap();
            }
            Up::Observed { observed, epoch, seq } => {
                if self.phases.last() != Some(&observed.phase) {
                    self.phases.push(observed.phase);
                }
                let run = observed.run.clone();
                self.latest.insert(run.clone(), *observed);
                self.down.send(Down::ObservedAck { run, epoch, seq }).await.unwrap();
            }
            Up::Nack(nack) => self.nacks.push(nack.code),
            _ => {}
        }
    }

    pub(crate) async fn want(&self, desired: &Desired) {
        let start_within_ms = if desired.intent == Intent::Start { 600_000 } else { 0 };
        let desired = Box::new(desired.clone());
        self.down.send(Down::Desired { desired, start_within_ms }).await.unwrap();
    }

    /// Plans and gives back the assignment to start.
    pub(crate) async fn plan(&mut self, run: &str, spec: &Value) -> Desired {
        let mut desired = desired(run, spec);
        self.want(&desired).await;
        let planned = self.until(run, |o| o.phase == ClusterPhase::Planned).await;
        let plan = planned.plan.expect("a plan");
        assert_eq!(plan.refusals, vec![]);
        desired.generation = 2;
        desired.intent = Intent::Start;
        desired.envelope = Some(plan.envelope);
        let now = self.clock.now().wall + jiff::SignedDuration::from_millis(self.ahead_ms);
        desired.start_before = Some(now + jiff::SignedDuration::from_secs(60));
        desired.run_deadline = Some(now + jiff::SignedDuration::from_secs(3600));
        desired
    }
}

impl Daemon {
    pub(crate) async fn next(&mut self) -> NodeDown {
        timeout(PATIENCE, self.down.recv())
            .await
            .expect("the agent says something")
            .expect("the session is open")
    }

    pub(crate) async fn inject(&mut self) -> Inject {
        loop {
            match self.next().await {
                NodeDown::Inject(inject) => return *inject,
                NodeDown::Halts { .. } | NodeDown::Heartbeat { .. } => {}
                other => panic!("expected Inject, got {other:?}"),
            }
        }
    }

    pub(crate) async fn revert(&mut self) -> (String, String) {
        loop {
            match self.next().await {
                NodeDown::Revert { injection, reason } => return (injection.to_string(), reason),
                NodeDown::Halts { .. } | NodeDown::Heartbeat { .. } => {}
                other => panic!("expected Revert, got {other:?}"),
            }
        }
    }

    pub(crate) async fn say(&self, status: InjectionStatus) {
        self.up.send(NodeUp::State(Box::new(status))).await.unwrap();
    }

    /// Keeps the session alive for ever.
    pub(crate) fn beat(&self, tasks: &mut JoinSet<()>) {
        let up = self.up.clone();
        tasks.spawn(async move {
            let mut seq = 0;
            while up.send(NodeUp::Heartbeat { seq }).await.is_ok() {
                seq += 1;
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        });
    }
}

pub(crate) fn word(
    injection: &Injection,
    phase: InjectionPhase,
    reason: Option<EndReason>,
) -> InjectionStatus {
    let made = matches!(phase, InjectionPhase::Injected | InjectionPhase::Reverted);
    InjectionStatus {
        id: injection.id.clone(),
        run: injection.run.clone(),
        phase,
        reason,
        message: String::new(),
        effect: None,
        backend: injection.backend.clone(),
        injected_at_unix_ms: made.then_some(1),
        reverted_at_unix_ms: None,
        resolves_at_unix_ms: None,
    }
}

pub(crate) fn inventory(pods: usize) -> Inventory {
    let pod = |n: usize| {
        let (name, uid) = (format!("payments-{n}"), format!("u{n}"));
        PodSeen {
            namespace: "shop".into(),
            name,
            uid,
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
    };
    Inventory {
        cluster_uid: "k1".into(),
        own_namespace: "faultline".into(),
        nodes: BTreeMap::from([(NODE.to_owned(), NodeSeen { ready: true })]),
        pods: (0..pods).map(pod).map(|p| (p.uid.clone(), p)).collect(),
        ..Inventory::default()
    }
}

pub(crate) fn ceiling() -> CeilingSeen {
    CeilingSeen::Present(Arc::new(CeilingSpec {
        from: vec![CeilingFrom { central: Some(true), ..CeilingFrom::default() }],
        namespaces: vec!["shop".into()],
        kinds: vec!["*".into()],
        ..CeilingSpec::default()
    }))
}

pub(crate) fn spec(fault: &Value) -> Value {
    let mut with = json!({ "name": "late", "target": "payments" });
    with.as_object_mut().unwrap().extend(fault.as_object().unwrap().clone());
    json!({
        "clusters": { "names": ["c2"] },
        "targets": [{
            "name": "payments",
            "pods": { "namespaces": ["shop"], "labelSelector": { "matchLabels": { "app": "payments" } } },
            "pick": { "one": true },
            "atMost": { "perCluster": 2 }
        }],
        "faults": [with]
    })
}

pub(crate) fn delay() -> Value {
    spec(&json!({ "for": "30s", "network": { "delay": { "latency": "200ms" } } }))
}

pub(crate) fn desired(run: &str, spec: &Value) -> Desired {
    Desired {
        run: run.parse().unwrap(),
        generation: 1,
        intent: Intent::Plan,
        spec_hash: proto::hash::sha256_hex(&serde_json::to_vec(spec).unwrap()),
        principal: Principal::Operator { name: "ann".into() },
        origin: Origin { cluster: None, labels: BTreeMap::new(), namespace: None },
        plan_hash: None,
        plan_expires: None,
        envelope: None::<Envelope>,
        peers: BTreeMap::new(),
        start_before: None,
        run_deadline: None,
        stop_reason: None,
        trace: proto::trace::TraceContext::NONE,
    }
}
