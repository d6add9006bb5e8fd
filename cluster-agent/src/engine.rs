//! The agent's decisions, pure: `step` takes what happened and the time, changes the state, and says what to do.
//! The driver is its only caller in a running agent; tests and the simulator call it directly. No async, clock,
//! randomness or I/O in here.

pub mod admit;
pub mod endings;
pub mod halts;
pub mod hosts;
pub mod intake;
pub mod link_loss;
pub mod nodes;
pub mod pick;
pub mod plan;
pub mod probing;
pub mod report;
pub mod resolve;
pub mod runs;
pub mod schedule;
pub mod state;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::Timestamp;
use proto::assignment::{Desired, Observed};
use proto::halt::{Halt, HaltLevel};
use proto::ids::{HaltId, InjectionId, RunId};
use proto::injection::{InjectionStatus, TargetRef};
use proto::probe::{Probe, ProbeStage};
use proto::wire::{HaltState, Halts, Inject, Nack, NodeHaltState, NodeHello};

use crate::cluster::{CeilingSeen, Inventory, LatchedHalts, LocalHalt, PodDeletion, RunRecordHeld};

pub use state::{Settings, State};

/// The time, read once per event by the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Wall clock.
    pub wall: Timestamp,
    /// CLOCK_BOOTTIME, milliseconds: grows while suspended, never jumps.
    pub boottime_ms: u64,
}

impl Now {
    /// The wall clock's reading when boottime will be (or was) `boottime_ms`.
    pub fn wall_at(&self, boottime_ms: u64) -> Timestamp {
        let ahead = i64::try_from(boottime_ms).unwrap_or(i64::MAX) - self.boottime_ms as i64;
        let ms = self.wall.as_millisecond().saturating_add(ahead);
        Timestamp::from_millisecond(ms).unwrap_or(self.wall)
    }

    /// The boottime when the wall clock reads `at`; now where that is past.
    pub fn boottime_at(&self, at: Timestamp) -> u64 {
        let ahead = at.as_millisecond().saturating_sub(self.wall.as_millisecond()).max(0);
        self.boottime_ms.saturating_add(ahead as u64)
    }
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// First of all: what was held durably.
    Recovered {
        /// Records of runs.
        records: Vec<RunRecordHeld>,
        /// Latched halts.
        latched: LatchedHalts,
    },
    /// A session with the centre is open.
    LinkUp {
        /// Both opt-ins are given.
        accepted: bool,
    },
    /// The session is gone.
    LinkDown,
    /// The latest assignment of a run.
    Desired {
        /// What.
        desired: Box<Desired>,
        /// Time left to start when it was sent, milliseconds; 0 = not a start.
        start_within_ms: u64,
    },
    /// Every run with an assignment here.
    DesiredList(Vec<RunId>),
    /// A spec's body; empty = unknown to the centre.
    Spec {
        /// As asked for.
        hash: String,
        /// JSON.
        body: Vec<u8>,
    },
    /// The centre's clock, asked on this connection.
    ClockReply {
        /// As asked.
        id: u64,
        /// The centre's wall clock.
        centre_at: Timestamp,
        /// From asking to this event, milliseconds.
        rtt_ms: u64,
    },
    /// Halts of the centre that apply here.
    Halts(Halts),
    /// Latched halts are durable.
    HaltsPersisted(LatchedHalts),
    /// Halt objects of this cluster.
    LocalHalts(Arc<Vec<LocalHalt>>),
    /// A daemon's session is open.
    NodeUp {
        /// The authenticated node.
        node: String,
        /// Its first message.
        hello: Box<NodeHello>,
    },
    /// A daemon's session is gone.
    NodeDown {
        /// The node.
        node: String,
    },
    /// The latest of one injection.
    NodeState {
        /// The authenticated node.
        node: String,
        /// What it says.
        status: Box<InjectionStatus>,
    },
    /// Halts on a node.
    NodeHalts {
        /// The authenticated node.
        node: String,
        /// What it says.
        state: NodeHaltState,
    },
    /// A daemon is about to end and takes no new start.
    NodeDraining {
        /// The authenticated node.
        node: String,
    },
    /// Nodes and pods.
    Inventory(Arc<Inventory>),
    /// The owner's limits.
    Ceiling(CeilingSeen),
    /// One measurement.
    Sample(Sample),
    /// What came of deleting a pod.
    PodKilled {
        /// The run.
        run: RunId,
        /// The injection.
        injection: InjectionId,
        /// Deleted, gone before, or why not.
        result: Result<PodDeletion, String>,
    },
    /// A record is durable.
    RecordPersisted {
        /// The run.
        run: RunId,
        /// The version that [`Effect::PersistRecord`] named.
        version: u64,
    },
    /// Whether this agent may start anything.
    Leadership {
        /// False: stop-only.
        accepts_starts: bool,
    },
    /// The instant of [`State::wake_at`] has come.
    Tick,
}

/// One measurement of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The run.
    pub run: RunId,
    /// The stage it was started for.
    pub stage: ProbeStage,
    /// The probe's name.
    pub probe: String,
    /// Whether it met the expectation.
    pub good: bool,
    /// Milliseconds, where it was answered.
    pub latency_ms: Option<u64>,
    /// For people, short.
    pub detail: String,
}

/// What to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Say it to the centre, again until acknowledged.
    SendObserved(Box<Observed>),
    /// Ask the centre for a spec.
    RequestSpec {
        /// SHA-256, hex.
        hash: String,
    },
    /// Ask the centre for its time, on the open session.
    ProbeClock {
        /// To be echoed.
        id: u64,
    },
    /// Tell the centre that one message was not taken.
    Nack(Nack),
    /// Make a record durable, then say [`Event::RecordPersisted`]. Retried until a newer version replaces it.
    PersistRecord {
        /// Grows per run.
        version: u64,
        /// What.
        record: Box<RunRecordHeld>,
    },
    /// Drop a record.
    DeleteRecord(RunId),
    /// Make a fault.
    Inject {
        /// On which node.
        node: String,
        /// What.
        inject: Box<Inject>,
    },
    /// Take a fault away.
    Revert {
        /// On which node.
        node: String,
        /// Which.
        injection: InjectionId,
        /// CamelCase.
        reason: String,
    },
    /// Delete a pod, then say [`Event::PodKilled`].
    KillPod {
        /// The run.
        run: RunId,
        /// The injection.
        injection: InjectionId,
        /// Which pod, by uid.
        target: TargetRef,
        /// Seconds; the pod's own where absent.
        grace_s: Option<u64>,
    },
    /// Measure, from now on, for this stage only (replaces what is measured for the run).
    StartProbes {
        /// The run.
        run: RunId,
        /// The stage.
        stage: ProbeStage,
        /// What.
        probes: Vec<Probe>,
    },
    /// Measure nothing more for the run.
    StopProbes {
        /// The run.
        run: RunId,
    },
    /// Make the latched halts durable, then say [`Event::HaltsPersisted`].
    PersistHalts(LatchedHalts),
    /// Acknowledge halts to the centre.
    SendHaltState(HaltState),
    /// Pass halts on to a node.
    NodeHalts {
        /// Which node.
        node: String,
        /// All that apply.
        halts: Vec<Halt>,
        /// Lifted.
        resumed: Vec<HaltId>,
    },
    /// Write how far a Halt object has come.
    HaltObjectLevel {
        /// Its name.
        name: String,
        /// How far.
        level: HaltLevel,
    },
}

/// Takes one event. Every effect that makes a fault comes after the record that names it was confirmed.
pub fn step(state: &mut State, event: Event, now: Now) -> Vec<Effect> {
    let mut out = Vec::new();
    match event {
        Event::Recovered { records, latched } => intake::recovered(state, records, latched, now),
        Event::LinkUp { accepted } => link_loss::up(state, accepted, &mut out),
        Event::LinkDown => link_loss::down(state, now),
        Event::Desired { desired, start_within_ms } => {
            intake::desired(state, *desired, start_within_ms, now, &mut out);
        }
        Event::DesiredList(runs) => intake::desired_list(state, &runs, now, &mut out),
        Event::Spec { hash, body } => intake::spec(state, &hash, &body, now, &mut out),
        Event::ClockReply { id, centre_at, rtt_ms } => runs::clock(state, id, centre_at, rtt_ms, now),
        Event::Halts(halts) => halts::received(state, halts, &mut out),
        Event::HaltsPersisted(latched) => state.halts.durable = Some(latched),
        Event::LocalHalts(halts) => halts::local(state, &halts, &mut out),
        Event::NodeUp { node, hello } => nodes::up(state, &node, *hello, now, &mut out),
        Event::NodeDown { node } => nodes::down(state, &node, now),
        Event::NodeState { node, status } => nodes::reported(state, &node, *status, now, &mut out),
        Event::NodeHalts { node, state: halts } => halts::node(state, &node, halts, &mut out),
        Event::NodeDraining { node } => nodes::draining(state, &node),
        Event::Inventory(inventory) => state.inventory = Some(inventory),
        Event::Ceiling(ceiling) => state.ceiling = ceiling,
        Event::Sample(sample) => probing::sample(state, &sample, now),
        Event::PodKilled { run, injection, result } => {
            nodes::pod_killed(state, &run, &injection, result, now);
        }
        Event::RecordPersisted { run, version } => {
            if let Some(run) = state.runs.get_mut(&run) {
                run.record_confirmed = run.record_confirmed.max(version);
            }
        }
        Event::Leadership { accepts_starts } => state.accepts_starts = accepts_starts,
        Event::Tick => {}
    }
    runs::advance_all(state, now, &mut out);
    halts::acknowledge(state, now, &mut out);
    report::publish(state, now, &mut out);
    out
}
