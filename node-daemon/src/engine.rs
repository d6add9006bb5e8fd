//! What the daemon decides, without doing anything: which injections are admitted, when each ends, what
//! halts mean, what the agent is told. The driver alone calls [`step`], with the clocks it read, and
//! carries out the effects; their results come back as events.
//!
//! Invariants, each tested: nothing is applied that was not journalled; whatever may have been applied
//! is undone; an id that was stopped never starts; nothing starts late, halted, while draining, or for
//! an agent of a lower epoch; no deadline is ever moved.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::cluster::NodeCapabilities;
use proto::halt::Halt;
use proto::ids::{HaltId, InjectionId};
use proto::injection::{EndReason, Injection, InjectionPhase, InjectionStatus};
use proto::wire::{Inject, NodeDown, NodeHaltState, NodeHello, NodeUp};

use crate::journal::{Deadline, Ended, Meta, Record};

mod admit;
mod conflict;
mod event;
mod halts;
mod life;

pub use event::{Effect, Event, Failure, Look, Now, Plan, Remains, Unfit};

/// Why nothing new starts on a node whose daemon was told to end.
const DRAINING: &str = "Draining: the daemon of this node is about to end and takes no new start";

/// What is counted once a second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Injections that are not over.
    pub held: usize,
    /// Of these read back as made, by kind.
    pub active: BTreeMap<&'static str, usize>,
    /// Injections that left something.
    pub residue: usize,
    /// Halts in force.
    pub halts: usize,
    /// Whether an agent is heard.
    pub linked: bool,
}

/// The daemon's own last limits; nobody can talk it out of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The longest time left that is accepted, ms.
    pub max_deadline_ms: u64,
    /// Namespaces that are never touched.
    pub protected_namespaces: BTreeSet<String>,
    /// Injections held at once.
    pub max_held: usize,
    /// Time between two looks at what the kernel holds, ms.
    pub look_every_ms: u64,
    /// Time between two tries to remove what an undo left, ms.
    pub residue_retry_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_deadline_ms: 3_600_000,
            protected_namespaces: ["kube-system", "faultline-system"].map(str::to_owned).into(),
            max_held: 1000,
            look_every_ms: 3000,
            residue_retry_ms: 30_000,
        }
    }
}

/// What does not change while the daemon runs.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// SemVer of this daemon.
    pub version: String,
    /// This boot.
    pub boot_id: String,
    /// The id of the halt that its halt file is.
    pub halt_id: HaltId,
    /// What it can do.
    pub capabilities: NodeCapabilities,
}

/// Where an injection is on its way.
#[derive(Debug, Clone, PartialEq)]
enum Progress {
    /// Waiting for the agent's time, asked for after the start was read.
    Clock { probe: u64, asked_ms: u64, inject: Box<Inject> },
    /// Waiting for who the target is.
    Resolving,
    /// Waiting for the disk.
    Journalling,
    /// Being made.
    Applying,
    /// Made and read back.
    Active { look_at_ms: u64, looking: bool },
    /// Being taken away.
    Undoing,
    /// Something is left; tried again at that time.
    Residue { retry_at_ms: u64 },
}

/// One injection that is not over.
#[derive(Debug, Clone)]
struct Held {
    injection: Arc<Injection>,
    status: InjectionStatus,
    progress: Progress,
    deadline: Deadline,
    /// Boottime ms after which it may not be applied any more.
    start_before_ms: u64,
    /// Why it is to end; the first reason stays.
    end: Option<(EndReason, String)>,
    record: Option<Arc<Record>>,
}

/// Everything the daemon knows.
#[derive(Debug)]
pub struct State {
    node: Node,
    limits: Limits,
    held: BTreeMap<InjectionId, Held>,
    /// Over, and never to start again.
    ended: BTreeMap<InjectionId, Option<Arc<Ended>>>,
    meta: Meta,
    /// The file of `meta` was damaged: nothing may start.
    meta_damaged: bool,
    meta_revision: u64,
    meta_written: u64,
    /// The revision that brought the halts as they are.
    halts_revision: u64,
    local_halt: Option<Halt>,
    /// What the agent of this session knows of halts; nothing yet where absent.
    halts_told: Option<NodeHaltState>,
    connected: bool,
    /// Boottime ms since when no agent is heard.
    lost_since_ms: Option<u64>,
    next_probe: u64,
    draining: bool,
}

/// Takes one event, changes the state, says what is to be done.
pub fn step(state: &mut State, event: Event, now: Now) -> Vec<Effect> {
    let mut effects = Vec::new();
    match event {
        Event::Connected => {
            state.connected = true;
            effects.push(Effect::Send(NodeUp::Hello(Box::new(state.hello(now)))));
            effects.extend(state.draining.then_some(Effect::Send(NodeUp::Draining)));
            state.halts_told = None;
        }
        Event::Disconnected => state.disconnected(now, &mut effects),
        Event::Down(down) => state.down(down, now, &mut effects),
        Event::Resolved { id, result } => state.resolved(&id, result, now, &mut effects),
        Event::Recorded { id, result } => state.recorded(&id, result, now, &mut effects),
        Event::MetaWritten { revision } => state.meta_written = state.meta_written.max(revision),
        Event::Applied { id, result } => state.applied(&id, result, now, &mut effects),
        Event::Looked { id, look } => state.looked(&id, look, now, &mut effects),
        Event::Undone { id, result } => state.undone(&id, result, now, &mut effects),
        Event::HaltFile(content) => state.halt_file(content, now, &mut effects),
        Event::TakeNoMore => state.take_no_more(now, &mut effects),
        Event::Drain => {
            state.take_no_more(now, &mut effects);
            let ids: Vec<_> = state.held.keys().cloned().collect();
            for id in ids {
                state.begin_end(&id, EndReason::DaemonDrain, "the daemon stops", now, &mut effects);
            }
        }
        Event::Tick => {}
    }
    state.timers(now, &mut effects);
    state.tell_halts(&mut effects);
    effects
}

impl State {
    /// The state at start: what recovery could not clean is held, what is over is remembered.
    pub fn new(node: Node, limits: Limits, recovered: crate::recover::Recovered, now: Now) -> Self {
        let mut state = Self {
            node,
            limits,
            held: BTreeMap::new(),
            ended: BTreeMap::new(),
            meta_damaged: recovered.meta.is_none(),
            meta: recovered.meta.unwrap_or_default(),
            meta_revision: 0,
            meta_written: 0,
            halts_revision: 0,
            local_halt: None,
            halts_told: None,
            connected: false,
            lost_since_ms: None,
            next_probe: 1,
            draining: false,
        };
        for (id, ended) in recovered.ended {
            state.ended.insert(id, ended.map(Arc::new));
        }
        for (record, status) in recovered.left {
            let held = Held {
                injection: Arc::new(record.injection.clone()),
                end: Some((status.reason.unwrap_or(EndReason::DaemonRestart), String::new())),
                status,
                progress: Progress::Residue { retry_at_ms: now.boottime_ms + state.limits.residue_retry_ms },
                deadline: record.deadline,
                start_before_ms: 0,
                record: Some(Arc::new(record)),
            };
            state.held.insert(held.injection.id.clone(), held);
        }
        for status in recovered.unreadable {
            state.ended.insert(status.id.clone(), Some(Arc::new(Ended { status, at_unix_ms: now.wall_ms })));
        }
        state
    }

    /// When [`step`] must be called again at the latest, boottime ms.
    pub fn next_wake_ms(&self) -> Option<u64> {
        self.held.values().filter_map(|held| self.wake_of(held)).min()
    }

    /// Injections not over.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// For the metrics.
    pub fn census(&self) -> Census {
        let mut active = BTreeMap::new();
        for held in self.held.values().filter(|held| held.status.phase == InjectionPhase::Injected) {
            *active.entry(held.injection.action.kind()).or_default() += 1;
        }
        let ended = self.ended.values().flatten().map(|ended| &ended.status);
        let statuses = self.held.values().map(|held| &held.status).chain(ended);
        Census {
            held: self.held.len(),
            active,
            residue: statuses.filter(|status| status.phase == InjectionPhase::Residue).count(),
            halts: self.meta.halts.len() + usize::from(self.local_halt.is_some()),
            linked: self.is_linked(),
        }
    }

    /// Whether nothing can be active any more but what an undo left.
    pub fn is_drained(&self) -> bool {
        self.held.values().all(|held| matches!(held.progress, Progress::Residue { .. }))
    }

    /// Whether an agent is heard.
    pub fn is_linked(&self) -> bool {
        self.connected && self.lost_since_ms.is_none()
    }

    /// Every status that an agent should know: all that is held, and the latest that ended.
    pub fn statuses(&self, now: Now) -> Vec<InjectionStatus> {
        const RECENT_MS: i64 = 3_600_000;
        const RECENT_MAX: usize = 200;
        let mut recent: Vec<&Arc<Ended>> = self.ended.values().flatten().collect();
        recent.retain(|ended| {
            ended.status.phase.may_be_active() || now.wall_ms.saturating_sub(ended.at_unix_ms) < RECENT_MS
        });
        recent.sort_by_key(|ended| std::cmp::Reverse(ended.at_unix_ms));
        let ended = recent.into_iter().take(RECENT_MAX).map(|ended| ended.status.clone());
        self.held.values().map(|held| held.status.clone()).chain(ended).collect()
    }

    /// What is not being made yet never will be.
    fn take_no_more(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        effects.push(Effect::Send(NodeUp::Draining));
        let unmade = |held: &&Held| {
            matches!(held.progress, Progress::Clock { .. } | Progress::Resolving | Progress::Journalling)
        };
        let ids: Vec<_> = self.held.values().filter(unmade).map(Held::id).collect();
        for id in ids {
            self.begin_end(&id, EndReason::DaemonDrain, DRAINING, now, effects);
        }
    }

    fn hello(&self, now: Now) -> NodeHello {
        NodeHello {
            node: self.node.name.clone(),
            version: self.node.version.clone(),
            boot_id: self.node.boot_id.clone(),
            highest_epoch: self.meta.highest_epoch,
            capabilities: self.node.capabilities.clone(),
            held: self.statuses(now),
        }
    }

    fn down(&mut self, down: NodeDown, now: Now, effects: &mut Vec<Effect>) {
        match down {
            NodeDown::Welcome { agent_epoch, .. } => {
                self.lost_since_ms = None;
                self.raise_epoch(agent_epoch, effects);
            }
            NodeDown::Heartbeat { .. } => {}
            NodeDown::Inject(inject) => self.admit(*inject, now, effects),
            NodeDown::ClockReply { id, at } => self.clock_reply(id, at, now, effects),
            NodeDown::Revert { injection, reason } => self.revert(&injection, &reason, now, effects),
            NodeDown::Halts { halts, resumed } => self.latch(halts, &resumed, now, effects),
        }
    }

    fn raise_epoch(&mut self, epoch: u64, effects: &mut Vec<Effect>) {
        if epoch > self.meta.highest_epoch {
            self.meta.highest_epoch = epoch;
            self.write_meta(effects);
        }
    }

    fn write_meta(&mut self, effects: &mut Vec<Effect>) {
        self.meta_revision += 1;
        effects.push(Effect::WriteMeta { revision: self.meta_revision, meta: Arc::new(self.meta.clone()) });
    }

    /// A start that waits for the agent's time waits in vain now.
    fn disconnected(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.connected = false;
        self.lost_since_ms.get_or_insert(now.boottime_ms);
        let waiting = |held: &Held| matches!(held.progress, Progress::Clock { .. });
        let ids: Vec<_> = self.held.values().filter(|held| waiting(held)).map(Held::id).collect();
        for id in ids {
            let why = "the link was lost before the agent's time was known";
            self.finish(&id, InjectionPhase::Missed, Some(EndReason::LinkLost), why.to_owned(), now, effects);
        }
    }

    /// Takes away, or remembers that it must never start.
    fn revert(&mut self, id: &InjectionId, reason: &str, now: Now, effects: &mut Vec<Effect>) {
        let reason = match reason {
            "Halted" => EndReason::Halted,
            "LinkLost" => EndReason::LinkLost,
            "Deadline" => EndReason::Deadline,
            "TargetGone" => EndReason::TargetGone,
            _ => EndReason::Stopped,
        };
        if self.held.contains_key(id) {
            return self.begin_end(id, reason, "asked for by the agent", now, effects);
        }
        if let Some(ended) = self.ended.get(id) {
            effects.extend(ended.iter().map(|ended| Effect::tell(&ended.status)));
            return;
        }
        // Stopped before it was ever heard of. The run is the id's first part.
        let Some(run) = id.as_str().split('.').next().and_then(|run| run.parse().ok()) else {
            return;
        };
        let status = InjectionStatus {
            id: id.clone(),
            run,
            phase: InjectionPhase::Refused,
            reason: Some(reason),
            message: "stopped before it was started here".to_owned(),
            effect: None,
            backend: String::new(),
            injected_at_unix_ms: None,
            reverted_at_unix_ms: None,
            resolves_at_unix_ms: None,
        };
        self.remember(status, now, effects);
    }

    /// Puts an injection among the ended ones, on disk and towards the agent.
    fn remember(&mut self, status: InjectionStatus, now: Now, effects: &mut Vec<Effect>) {
        let ended = Arc::new(Ended { status, at_unix_ms: now.wall_ms });
        effects.push(Effect::tell(&ended.status));
        effects.push(Effect::WriteEnded(Arc::clone(&ended)));
        self.ended.insert(ended.status.id.clone(), Some(ended));
    }

    fn halt_ids(&self) -> impl Iterator<Item = &HaltId> {
        self.meta.halts.iter().chain(&self.local_halt).map(|halt| &halt.id)
    }
}

impl Held {
    fn id(&self) -> InjectionId {
        self.injection.id.clone()
    }
}

#[cfg(test)]
mod tests;
