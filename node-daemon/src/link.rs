//! The daemon's end of the node link. [`Session`] is the whole logic, over a pair of bounded channels, so
//! that it is the same in host mode (in one process with the agent), in tests, and behind gRPC, which
//! `dial` pumps. [`Outbox`] stands between the driver and whatever session is open: it holds the latest of
//! each thing, never a queue, so a slow agent costs no memory and no waiting.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::ids::InjectionId;
use proto::injection::InjectionStatus;
use proto::wire::{NodeDown, NodeHaltState, NodeUp};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::engine::Event;

pub mod dial;

/// Until the agent says another.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(5);
/// So many heartbeats without a word from the agent and the link is lost.
const MISSES: u32 = 3;
/// Clock probes that are not sent yet, at most; an older one is of no use any more.
const PROBES_MAX: usize = 1024;

/// Both directions of one session.
#[derive(Debug)]
pub struct Channels {
    /// To the agent.
    pub up: mpsc::Sender<NodeUp>,
    /// From the agent.
    pub down: mpsc::Receiver<NodeDown>,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The agent's side was closed.
    Closed,
    /// Nothing was heard for three heartbeats.
    Silent,
    /// The driver is gone.
    Driver,
}

/// The latest of everything the agent is to be told.
#[derive(Debug, Default)]
pub struct Outbox {
    pending: Mutex<Pending>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    is_open: bool,
    hello: Option<NodeUp>,
    is_draining: bool,
    halts: Option<NodeHaltState>,
    probes: VecDeque<u64>,
    states: BTreeMap<InjectionId, InjectionStatus>,
}

impl Outbox {
    /// Takes a message; it replaces an earlier one about the same thing. Hello opens a session and holds
    /// all that came before it; without a session everything else is dropped, the next Hello tells it.
    pub fn push(&self, up: NodeUp) {
        let mut pending = self.pending();
        match up {
            NodeUp::Hello(_) => *pending = Pending { is_open: true, hello: Some(up), ..Pending::default() },
            _ if !pending.is_open => return,
            NodeUp::State(status) => {
                pending.states.insert(status.id.clone(), *status);
            }
            NodeUp::HaltState(state) => pending.halts = Some(state),
            NodeUp::Draining => pending.is_draining = true,
            NodeUp::ClockProbe { id } => {
                if pending.probes.len() == PROBES_MAX {
                    pending.probes.pop_front();
                }
                pending.probes.push_back(id);
            }
            // The session's own.
            NodeUp::Heartbeat { .. } => return,
        }
        drop(pending);
        self.filled.notify_one();
    }

    /// Whether everything was taken by the session, or nobody is there to take it.
    pub fn is_empty(&self) -> bool {
        let pending = self.pending();
        !pending.is_open || pending.is_empty()
    }

    fn pop(&self) -> Option<NodeUp> {
        let mut pending = self.pending();
        if let Some(hello) = pending.hello.take() {
            return Some(hello);
        }
        if std::mem::take(&mut pending.is_draining) {
            return Some(NodeUp::Draining);
        }
        if let Some(state) = pending.halts.take() {
            return Some(NodeUp::HaltState(state));
        }
        if let Some(id) = pending.probes.pop_front() {
            return Some(NodeUp::ClockProbe { id });
        }
        pending.states.pop_first().map(|(_, status)| NodeUp::State(Box::new(status)))
    }

    async fn filled(&self) {
        while self.pending().is_empty() {
            self.filled.notified().await;
        }
    }

    fn close(&self) {
        *self.pending() = Pending::default();
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        let is_short = self.hello.is_none() && !self.is_draining && self.halts.is_none();
        is_short && self.probes.is_empty() && self.states.is_empty()
    }
}

/// The session logic; one after another, never two at once.
#[derive(Debug, Clone)]
pub struct Session {
    /// From the driver.
    pub outbox: Arc<Outbox>,
    /// To the driver.
    pub events: mpsc::Sender<Event>,
}

impl Session {
    /// Runs one session to its end. Reading never waits for writing, so that a Revert arrives whatever
    /// the agent does with what it is told. Says whether the agent said Welcome.
    pub async fn run(&self, channels: Channels) -> (SessionEnd, bool) {
        if self.events.send(Event::Connected).await.is_err() {
            return (SessionEnd::Driver, false);
        }
        let mut welcomed = false;
        let end = self.converse(channels, &mut welcomed).await;
        self.outbox.close();
        let _ = self.events.send(Event::Disconnected).await;
        (end, welcomed)
    }

    async fn converse(&self, mut channels: Channels, welcomed: &mut bool) -> SessionEnd {
        let mut every = HEARTBEAT_DEFAULT;
        let mut beat_at = Instant::now() + every;
        // In own heartbeats and not in time: a process that was stopped sleeps through one of them, and must not
        // take its own sleep for the agent's silence.
        let mut unheard = 0;
        let mut seq = 0;
        loop {
            let room = async {
                self.outbox.filled().await;
                channels.up.reserve().await
            };
            tokio::select! {
                down = channels.down.recv() => {
                    let Some(down) = down else { return SessionEnd::Closed };
                    unheard = 0;
                    if let NodeDown::Welcome { heartbeat_interval_ms, .. } = &down {
                        *welcomed = true;
                        every = Duration::from_millis((*heartbeat_interval_ms).max(10));
                        beat_at = Instant::now();
                    }
                    if self.events.send(Event::Down(down)).await.is_err() {
                        return SessionEnd::Driver;
                    }
                }
                permit = room => {
                    let Ok(permit) = permit else { return SessionEnd::Closed };
                    if let Some(up) = self.outbox.pop() {
                        permit.send(up);
                    }
                }
                () = tokio::time::sleep_until(beat_at) => {
                    unheard += 1;
                    if unheard > MISSES {
                        return SessionEnd::Silent;
                    }
                    // A full channel means an agent that does not read: the silence will tell.
                    if *welcomed && channels.up.try_send(NodeUp::Heartbeat { seq }).is_ok() {
                        seq += 1;
                    }
                    beat_at = Instant::now() + every;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
