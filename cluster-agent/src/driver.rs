//! The one owner of the engine's state and the one reader of clocks on its behalf: event, step, effects. It never
//! waits for the centre, a node, the apiserver or a disk; all of these run beside it and answer with an [`Input`].

mod announcer;
mod census;
mod effects;
mod said;
mod seen;
mod spans;
pub mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use proto::ids::{InjectionId, RunId};
use proto::wire::{Down, NodeDown};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::DropGuard;

use self::announcer::Announcer;
use self::seen::Seen;
use self::writer::Writer;
use crate::clock::Clock;
use crate::cluster::{Announcement, AuthoredSet, Doors, LatchedHalts, Leadership, PodDeletion};
use crate::engine::{Event, Sample, Settings, State, step};
use crate::health::Metrics;
use crate::link::outbox::Outbox;
use crate::link::session::LinkEvent;
use crate::nodes::session::NodeEvent;
use crate::probes::{Denied, Probes};

/// Inputs waiting for the driver before their senders wait.
pub const INPUTS: usize = 1024;
/// Nothing is looked at more often than this because of time alone.
const TICK_AT_LEAST: Duration = Duration::from_millis(20);
/// Monotonic sleeps do not count a suspended machine's time: look at boottime again after so long.
/// (what is Unknown becomes clean by time alone, too).
const TICK_AT_MOST: Duration = Duration::from_secs(1);
/// Inventory is said at most this often.
const INVENTORY_EVERY: Duration = Duration::from_secs(2);

/// Everything that happens to the driver, but for what the cluster shows.
#[derive(Debug)]
pub enum Input {
    /// From the link.
    Link(LinkEvent),
    /// From a node session.
    Node(NodeEvent),
    /// From a probe.
    Sample(Sample),
    /// A pod deletion was answered.
    Killed {
        /// The run.
        run: RunId,
        /// The injection.
        injection: InjectionId,
        /// The answer.
        result: Result<PodDeletion, String>,
    },
    /// A record is durable.
    Persisted {
        /// The run.
        run: RunId,
        /// Its version.
        version: u64,
    },
    /// Latched halts are durable.
    HaltsPersisted(LatchedHalts),
}

/// The open session of a node; dropping it ends that session.
struct NodePort {
    session: u64,
    down: mpsc::Sender<NodeDown>,
    _end: DropGuard,
}

/// The driver of one leadership.
pub struct Driver {
    state: State,
    doors: Doors,
    clock: Arc<dyn Clock>,
    outbox: Arc<Outbox>,
    inputs: mpsc::Receiver<Input>,
    tell: mpsc::Sender<Input>,
    seen: Seen,
    ports: BTreeMap<String, NodePort>,
    lost: Vec<String>,
    probes: Probes,
    denied: Denied,
    journal: Writer,
    statuses: Writer,
    announcer: Announcer,
    announced: Option<mpsc::Receiver<Announcement>>,
    tasks: JoinSet<()>,
    asked_ms: BTreeMap<u64, u64>,
    said_authored: Option<Arc<AuthoredSet>>,
    traces: said::Traces,
    inventory_due: Option<Instant>,
    metrics: Metrics,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("settings", &self.state.settings).finish_non_exhaustive()
    }
}

impl Driver {
    /// A driver that has not looked at anything yet.
    pub fn new(
        settings: Settings,
        doors: Doors,
        clock: Arc<dyn Clock>,
        outbox: Arc<Outbox>,
        channel: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
        denied: Denied,
    ) -> Self {
        let (tell, inputs) = channel;
        let seen = Seen::of(&*doors.sight);
        let (announcer, announced) = Announcer::new();
        Self {
            state: State::new(settings),
            doors,
            clock,
            outbox,
            inputs,
            probes: Probes::new(tell.clone()),
            tell,
            seen,
            ports: BTreeMap::new(),
            lost: Vec::new(),
            denied,
            journal: Writer::default(),
            statuses: Writer::default(),
            announcer,
            announced: Some(announced),
            tasks: JoinSet::new(),
            asked_ms: BTreeMap::new(),
            said_authored: None,
            traces: said::Traces::new(),
            inventory_due: None,
            metrics: Metrics::default(),
        }
    }

    /// Measures into these.
    #[must_use]
    pub fn measured(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Recovers, then runs until it is dropped; ends only when something that must not end did.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let records = self.doors.records.list().await.context("read the records")?;
        let latched = self.doors.records.latched().await.context("read the latched halts")?;
        tracing::info!(records = records.len(), halts = latched.halts.len(), "recovered");
        let announced = self.announced.take().context("a driver runs once")?;
        let mut writers = JoinSet::new();
        writers.spawn(self.journal.clone().run(self.doors.clone(), self.tell.clone()));
        writers.spawn(self.statuses.clone().run(self.doors.clone(), self.tell.clone()));
        writers.spawn(announcer::carry(self.doors.acts.clone(), announced));
        self.look();
        self.take(Event::Recovered { records, latched });
        loop {
            let wake = self.next_tick();
            let inventory = self.inventory_due;
            tokio::select! {
                input = self.inputs.recv() => {
                    let input = input.context("every sender is gone")?;
                    self.input(input);
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => self.take(Event::Tick),
                () = sleep_until(inventory.unwrap_or_else(Instant::now)), if inventory.is_some() => self.say_inventory(),
                seen = self.seen.changed() => {
                    seen.context("the cluster door is gone")?;
                    self.look();
                }
                Some(ended) = self.tasks.join_next() => ended.context("an act of the driver failed")?,
                Some(ended) = writers.join_next() => {
                    ended.context("the writer failed")?;
                    anyhow::bail!("the writer ended");
                }
            }
        }
    }

    fn next_tick(&self) -> Option<Instant> {
        if self.state.runs.is_empty() {
            return None;
        }
        let wake = self.state.wake_at().unwrap_or(u64::MAX);
        let left = wake.saturating_sub(self.clock.now().boottime_ms);
        Some(Instant::now() + Duration::from_millis(left).clamp(TICK_AT_LEAST, TICK_AT_MOST))
    }

    fn take(&mut self, event: Event) {
        let now = self.clock.now();
        for effect in step(&mut self.state, event, now) {
            self.perform(effect);
        }
        while let Some(node) = self.lost.pop() {
            if self.ports.remove(&node).is_some() {
                for effect in step(&mut self.state, Event::NodeDown { node }, now) {
                    self.perform(effect);
                }
            }
        }
        self.outbox.set_facts(said::facts(&self.state));
        census::take(&self.state, &self.metrics, self.ports.len(), now);
    }

    /// Takes every snapshot that the cluster shows now.
    fn look(&mut self) {
        let leadership = *self.seen.leadership.borrow_and_update();
        self.take(Event::Leadership { accepts_starts: matches!(leadership, Leadership::Active { .. }) });
        let ceiling = self.seen.ceiling.borrow_and_update().clone();
        self.take(Event::Ceiling(ceiling));
        let halts = self.seen.halts.borrow_and_update().clone();
        if let Some(halts) = halts {
            self.take(Event::LocalHalts(halts));
        }
        let inventory = self.seen.inventory.borrow_and_update().clone();
        if let Some(inventory) = inventory {
            self.take(Event::Inventory(inventory));
        }
        let authored = self.seen.authored.borrow_and_update().clone();
        if let Some(authored) = authored {
            self.say_authored(&authored);
        }
        self.inventory_soon(INVENTORY_EVERY);
    }

    fn inventory_soon(&mut self, after: Duration) {
        let at = Instant::now() + after;
        self.inventory_due = Some(self.inventory_due.map_or(at, |due| due.min(at)));
    }

    fn say_inventory(&mut self) {
        self.inventory_due = None;
        if self.state.link.up {
            self.outbox.inventory(said::inventory(&self.state));
        }
    }

    /// Says what changed since it was last said on this session; all of it on a new one.
    fn say_authored(&mut self, set: &Arc<AuthoredSet>) {
        if !(self.state.link.up && self.state.link.accepted) {
            return;
        }
        let before = self.said_authored.replace(set.clone()).unwrap_or_default();
        if Arc::ptr_eq(&before, set) {
            return;
        }
        let cluster = self.state.settings.cluster.clone();
        said::authored(&self.outbox, &cluster, &mut self.traces, &before, set);
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Link(event) => self.link(event),
            Input::Node(event) => self.node(event),
            Input::Sample(sample) => self.take(Event::Sample(sample)),
            Input::Killed { run, injection, result } => {
                self.take(Event::PodKilled { run, injection, result });
            }
            Input::Persisted { run, version } => self.take(Event::RecordPersisted { run, version }),
            Input::HaltsPersisted(latched) => self.take(Event::HaltsPersisted(latched)),
        }
    }

    fn link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up(welcome) => {
                self.metrics.sessions.inc();
                self.link_up(welcome.accepted);
            }
            LinkEvent::Accepted(accepted) => self.link_up(accepted),
            LinkEvent::Down => {
                self.asked_ms.clear();
                self.take(Event::LinkDown);
            }
            LinkEvent::Message(down) => self.message(down),
        }
    }

    fn link_up(&mut self, accepted: bool) {
        self.take(Event::LinkUp { accepted });
        self.said_authored = None;
        let authored = self.seen.authored.borrow().clone();
        if let Some(authored) = authored {
            self.say_authored(&authored);
        }
        self.inventory_soon(Duration::ZERO);
    }

    fn message(&mut self, down: Down) {
        match down {
            Down::Desired { desired, start_within_ms } => {
                spans::desired(&self.state.settings.cluster, &desired)
                    .in_scope(|| self.take(Event::Desired { desired, start_within_ms }));
            }
            Down::DesiredList(runs) => self.take(Event::DesiredList(runs)),
            Down::Spec { hash, body } => self.take(Event::Spec { hash, body }),
            Down::ClockReply { id, at } => {
                if let Some(asked) = self.asked_ms.remove(&id) {
                    let rtt_ms = self.clock.now().boottime_ms.saturating_sub(asked);
                    self.take(Event::ClockReply { id, centre_at: at, rtt_ms });
                }
            }
            Down::Halts(halts) => self.take(Event::Halts(halts)),
            Down::Mirror(mirror) => {
                self.announcer.mirrored(&mirror, self.clock.now().wall);
                self.statuses.status(mirror);
            }
            // The session deals with the rest.
            _ => {}
        }
    }

    fn node(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::Up { node, session, hello, down, end } => {
                if self.ports.get(&node).is_some_and(|port| port.session > session) {
                    return;
                }
                self.ports.insert(node.clone(), NodePort { session, down, _end: end.drop_guard() });
                self.take(Event::NodeUp { node, hello });
                self.inventory_soon(Duration::from_millis(100));
            }
            NodeEvent::Down { node, session } => {
                if self.is_current(&node, session) {
                    self.ports.remove(&node);
                    self.take(Event::NodeDown { node });
                    self.inventory_soon(INVENTORY_EVERY);
                }
            }
            NodeEvent::State { node, session, status } => {
                if self.is_current(&node, session) {
                    self.take(Event::NodeState { node, status });
                }
            }
            NodeEvent::Halts { node, session, state } => {
                if self.is_current(&node, session) {
                    self.take(Event::NodeHalts { node, state });
                }
            }
            NodeEvent::Draining { node, session } => {
                if self.is_current(&node, session) {
                    tracing::info!(%node, "the daemon is about to end and takes no new start");
                    self.take(Event::NodeDraining { node });
                    self.inventory_soon(Duration::ZERO);
                }
            }
        }
    }

    fn is_current(&self, node: &str, session: u64) -> bool {
        self.ports.get(node).is_some_and(|port| port.session == session)
    }
}
