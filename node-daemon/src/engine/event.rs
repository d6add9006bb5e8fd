//! What the engine is told and what it wants done: the vocabulary between it and the driver.

use std::sync::Arc;

use proto::ids::InjectionId;
use proto::injection::{Injection, InjectionStatus};
use proto::wire::{NodeDown, NodeUp};

use crate::journal::{Ended, Meta, Record};
use crate::resolve::Identity;
use crate::step::{self, Step};

/// The clocks, read by the driver before each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of `CLOCK_BOOTTIME`.
    pub boottime_ms: u64,
    /// Wall clock, ms since 1970.
    pub wall_ms: i64,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A session with an agent was opened; Hello is due.
    Connected,
    /// It ended.
    Disconnected,
    /// The agent said this.
    Down(NodeDown),
    /// Who the target is, and what would be done to it.
    Resolved {
        /// Of which injection.
        id: InjectionId,
        /// Steps, or why there are none.
        result: Result<Plan, Unfit>,
    },
    /// Its record is on disk, or is not.
    Recorded {
        /// Of which injection.
        id: InjectionId,
        /// Why not.
        result: Result<(), String>,
    },
    /// Epoch and halts are on disk.
    MetaWritten {
        /// As in [`Effect::WriteMeta`].
        revision: u64,
    },
    /// It was made and read back, or was not and is undone.
    Applied {
        /// Which.
        id: InjectionId,
        /// What its counters say, or what went wrong.
        result: Result<step::Effect, Failure>,
    },
    /// It was looked at.
    Looked {
        /// Which.
        id: InjectionId,
        /// What was seen.
        look: Look,
    },
    /// It was taken away.
    Undone {
        /// Which.
        id: InjectionId,
        /// Clean, or what is left.
        result: Result<(), Remains>,
    },
    /// The halt file appeared with this content, or disappeared.
    HaltFile(Option<String>),
    /// Start nothing more; what is held goes on to its own end.
    TakeNoMore,
    /// Revert everything, start nothing.
    Drain,
    /// Time has passed.
    Tick,
}

/// What is to be done. The order within one step is kept for writes and messages.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Tell the agent. Only the latest of one injection need arrive.
    Send(NodeUp),
    /// Find the target and turn the action into steps.
    Resolve(Arc<Injection>),
    /// Write epoch and halts.
    WriteMeta {
        /// Grows.
        revision: u64,
        /// What to write.
        meta: Arc<Meta>,
    },
    /// Write a record and say so when it is on disk.
    WriteRecord(Arc<Record>),
    /// Write that it is over and remove its record.
    WriteEnded(Arc<Ended>),
    /// Forget that it ever was.
    Forget(InjectionId),
    /// Make it, unless it is later than this.
    Apply {
        /// What.
        record: Arc<Record>,
        /// Boottime ms.
        start_before_ms: u64,
    },
    /// Look at what the kernel holds.
    Look(Arc<Record>),
    /// Take it away.
    Undo(Arc<Record>),
}

/// A target found, and the steps for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Who exactly.
    pub identity: Identity,
    /// What, in order.
    pub steps: Vec<Step>,
}

/// Why there are no steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// No such target here.
    TargetGone(String),
    /// The action does not fit the target or this node.
    Refused(String),
}

/// Why it could not be made. What was made of it was undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Its time to start was over.
    Late,
    /// The target went away.
    TargetGone(String),
    /// In words.
    Error(String),
    /// And the undo left something.
    Residue(Remains),
}

/// What an undo left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remains {
    /// What, and why.
    pub what: String,
    /// What a person would run on the node.
    pub command: String,
}

/// What a look saw, of all steps together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// As intended.
    Intended(step::Effect),
    /// Something else under our name.
    Drifted(Vec<String>),
    /// A part is not there any more.
    Absent(String),
    /// The target is not there any more.
    TargetGone,
    /// It could not be looked at.
    Failed(String),
}

impl Effect {
    pub(super) fn tell(status: &InjectionStatus) -> Self {
        Self::Send(NodeUp::State(Box::new(status.clone())))
    }
}

impl std::fmt::Display for Remains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; to remove it by hand: {}", self.what, self.command)
    }
}
