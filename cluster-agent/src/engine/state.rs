//! What the engine knows. One owner: the driver.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use proto::assignment::{Desired, Observed, Outcome};
use proto::cluster::NodeCapabilities;
use proto::experiment::ExperimentSpec;
use proto::halt::Halt;
use proto::ids::{ClusterId, RunId};
use proto::injection::{Injection, InjectionStatus};
use proto::wire::{HaltState, NodeHaltState};

use super::probing::ProbeTally;
use crate::cluster::{CeilingSeen, Inventory, LatchedHalts, LinkLoss, LocalHalt, RecordedInjection};

/// Dropped runs remembered.
pub const FORGOTTEN_KEPT: usize = 1024;

/// What does not change while this agent leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// This cluster's id, as the centre gave it.
    pub cluster: ClusterId,
    /// Of this leader.
    pub agent_epoch: u64,
}

/// Everything.
#[derive(Debug, Clone)]
pub struct State {
    /// Fixed.
    pub settings: Settings,
    /// The link to the centre.
    pub link: Link,
    /// False: stop-only.
    pub accepts_starts: bool,
    /// A daemon has heard of a later leader: this agent was one, and starts nothing more.
    pub outranked: bool,
    /// Nodes and pods, once known.
    pub inventory: Option<Arc<Inventory>>,
    /// The owner's limits.
    pub ceiling: CeilingSeen,
    /// Nodes whose daemon has said Hello since this agent leads.
    pub nodes: BTreeMap<String, NodeState>,
    /// Halts.
    pub halts: HaltsHeld,
    /// Runs.
    pub runs: BTreeMap<RunId, RunState>,
    /// Runs that were dropped, the latest [`FORGOTTEN_KEPT`]: a late message does not bring them back.
    pub forgotten: VecDeque<RunId>,
    /// Last id of a clock probe.
    pub last_clock_id: u64,
}

/// The link to the centre.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// A session is open.
    pub up: bool,
    /// Both opt-ins are given.
    pub accepted: bool,
    /// When it went down, boottime; absent while up or before the first session.
    pub down_since_ms: Option<u64>,
}

/// A node's daemon.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeState {
    /// Its session is open.
    pub connected: bool,
    /// It is about to end and takes no new start.
    pub draining: bool,
    /// What the node can do.
    pub capabilities: NodeCapabilities,
    /// Halts there.
    pub halts: NodeHaltState,
}

/// Halts in force here, by where they came from.
#[derive(Debug, Clone, Default)]
pub struct HaltsHeld {
    /// Of the centre, latched.
    pub latched: LatchedHalts,
    /// What of it is known to be durable.
    pub durable: Option<LatchedHalts>,
    /// Halt objects of this cluster; `None` before they are known.
    pub objects: Option<Vec<LocalHalt>>,
    /// The last word to the centre, to say only what is new.
    pub said: Option<HaltState>,
    /// The last word to Halt objects.
    pub said_objects: BTreeMap<String, proto::halt::HaltLevel>,
}

/// Where a run stands here. The order is that of a run's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The spec is on its way.
    AwaitingSpec,
    /// The plan was answered.
    Planned,
    /// The centre's clock is asked.
    AwaitingClock {
        /// The probe that must answer; 0 = not asked yet.
        id: u64,
    },
    /// The record is being written; nothing was made.
    Journalling,
    /// The baseline is measured; nothing was made.
    Baseline,
    /// Faults are made as they fall due (once the record with t0 is confirmed) and watched.
    Running,
    /// All faults are gone; the After stage is measured.
    Settling,
    /// Over.
    Finished,
}

/// Why a run ends or ended. Absorbing: the first one stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// How.
    pub outcome: Outcome,
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
    /// What daemons are told.
    pub revert: &'static str,
}

/// The bounds in time that the clock measurement gave, as boottime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockBounds {
    /// Later is Missed.
    pub start_before_ms: u64,
    /// No fault outlives it.
    pub run_deadline_ms: u64,
    /// A start is not accepted later; absent where the centre does not say.
    pub plan_expires_ms: Option<u64>,
}

/// The cluster's own start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// t0, boottime.
    pub at_ms: u64,
    /// t0, wall clock.
    pub at: Timestamp,
    /// No fault outlives it, boottime.
    pub deadline_ms: u64,
    /// The same by the wall clock at t0.
    pub deadline: Timestamp,
}

/// One injection of a run.
#[derive(Debug, Clone)]
pub struct Tracked {
    /// Durable part.
    pub recorded: RecordedInjection,
    /// What the daemon is asked; `None` for the agent's own kinds and after a restart.
    pub injection: Option<Injection>,
    /// Grace of a pod.kill, seconds.
    pub grace_s: Option<u64>,
    /// From t0, milliseconds.
    pub at_ms: u64,
    /// Milliseconds; 0 for irreversible kinds.
    pub for_ms: u64,
    /// Handed over: never again.
    pub sent: bool,
    /// A revert was sent on the node's open session.
    pub revert_sent: bool,
    /// The daemon has said something of it.
    pub heard: bool,
    /// Latest word.
    pub status: InjectionStatus,
}

/// One run.
#[derive(Debug, Clone)]
pub struct RunState {
    /// The latest assignment taken.
    pub desired: Desired,
    /// Time left to start counts from its arrival: boottime after which it is Missed; absent for other intents.
    pub arrival_bound_ms: Option<u64>,
    /// When a plan that lacks targets is answered, boottime; absent before the first look.
    pub planned_by_ms: Option<u64>,
    /// What is said of it.
    pub observed: Observed,
    /// Where it stands.
    pub stage: Stage,
    /// The effective spec, once here.
    pub spec: Option<Arc<ExperimentSpec>>,
    /// What a lost link does, once the spec was here; kept across restarts.
    pub link_loss: Option<LinkLoss>,
    /// Absorbing.
    pub end: Option<End>,
    /// The spec was asked for on the open session.
    pub asked: bool,
    /// Drop it when it is finished.
    pub forget: bool,
    /// Found in a record after a restart: watched, never continued.
    pub adopted: bool,
    /// After the clock was measured.
    pub bounds: Option<ClockBounds>,
    /// After the baseline.
    pub start: Option<Start>,
    /// Everything that is or was going to be made.
    pub injections: Vec<Tracked>,
    /// Per probe.
    pub probes: BTreeMap<String, ProbeTally>,
    /// Version of the record last asked to be written.
    pub record_written: u64,
    /// Version of the record known to be durable.
    pub record_confirmed: u64,
    /// Something changed that is said at once.
    pub dirty: bool,
    /// Only samples changed: said at intervals.
    pub sampled: bool,
    /// Some of its injections came further while others are still being made.
    pub progressed: bool,
    /// When it was last said, boottime.
    pub said_ms: u64,
    /// When the After stage began, boottime.
    pub settling_since_ms: u64,
}

impl State {
    /// Nothing known, nothing held.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            link: Link::default(),
            accepts_starts: false,
            outranked: false,
            inventory: None,
            ceiling: CeilingSeen::Unknown,
            nodes: BTreeMap::new(),
            halts: HaltsHeld::default(),
            runs: BTreeMap::new(),
            forgotten: VecDeque::new(),
            last_clock_id: 0,
        }
    }

    /// The boottime at which [`super::Event::Tick`] is due, if any.
    pub fn wake_at(&self) -> Option<u64> {
        self.runs.values().filter_map(|run| super::schedule::wake_at(self, run)).min()
    }

    /// Remembers a dropped run.
    pub fn remember_forgotten(&mut self, run: RunId) {
        if !self.forgotten.contains(&run) {
            self.forgotten.push_back(run);
        }
        if self.forgotten.len() > FORGOTTEN_KEPT {
            self.forgotten.pop_front();
        }
    }

    /// Whether this node's daemon is connected.
    pub fn connected(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|n| n.connected)
    }

    /// Every halt in force, from wherever.
    pub fn all_halts(&self) -> Vec<Halt> {
        super::halts::all(self)
    }
}

impl RunState {
    /// A run just heard of.
    pub fn new(desired: Desired) -> Self {
        let observed =
            Observed::new(desired.run.clone(), desired.generation, proto::assignment::ClusterPhase::Pending);
        Self {
            desired,
            arrival_bound_ms: None,
            planned_by_ms: None,
            observed,
            stage: Stage::AwaitingSpec,
            spec: None,
            link_loss: None,
            end: None,
            asked: false,
            forget: false,
            adopted: false,
            bounds: None,
            start: None,
            injections: Vec::new(),
            probes: BTreeMap::new(),
            record_written: 0,
            record_confirmed: 0,
            dirty: false,
            sampled: false,
            progressed: false,
            said_ms: 0,
            settling_since_ms: 0,
        }
    }

    /// Whether faults may exist or be made.
    pub fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Journalling | Stage::Baseline | Stage::Running | Stage::Settling)
    }

    /// Whether everything asked to be written is durable.
    pub fn journalled(&self) -> bool {
        self.record_written > 0 && self.record_confirmed >= self.record_written
    }

    /// Whether the kernel of some node, or the API, may still hold something of it.
    pub fn may_be_active(&self) -> bool {
        self.injections.iter().any(|t| t.sent && t.status.phase.may_be_active())
    }
}
