//! The only owner of the engine's state and the only reader of the clocks: event, step, effects, over and
//! over. What blocks runs on blocking threads within bounds; an undo is never waited for by anything that
//! could be cancelled, and the loop itself leaves only when nothing can be active any more, or when the
//! drain's time is over and the keeper has to do the rest.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::{Event, Now, State, step};
use crate::health::Vitals;
use crate::journal::{Journal, Write};
use crate::keeper::Keeper;
use crate::link::Outbox;
use crate::metrics::Metrics;
use crate::resolve::Resolve;
use crate::system::target::Roots;
use crate::system::{System, clock};

mod acts;
mod effects;

/// Applies, looks and lookups side by side.
const ACTS_AT_ONCE: usize = 16;
/// Undos side by side; they wait for nothing else.
const UNDOS_AT_ONCE: usize = 32;
/// The longest time without a tick, a look at the halt file, and a sign of life.
const TICK: Duration = Duration::from_secs(1);

/// The clocks of this node.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Both, read together.
    fn now(&self) -> Now;
}

/// The real ones.
#[derive(Debug, Default)]
pub struct NodeClock;

impl Clock for NodeClock {
    fn now(&self) -> Now {
        let wall_ms = i64::try_from(clock::wall_ms()).unwrap_or(i64::MAX);
        Now { boottime_ms: clock::boottime_ms(), wall_ms }
    }
}

/// Everything outside the engine.
#[derive(Debug, Clone)]
pub struct Doors {
    /// The kernel.
    pub system: Arc<dyn System>,
    /// Who targets are.
    pub resolver: Arc<dyn Resolve>,
    /// The keeper.
    pub keeper: Arc<dyn Keeper>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// The journal.
    pub journal: Arc<Journal>,
    /// Where the node's file systems are.
    pub roots: Roots,
}

/// Who waits for a write.
#[derive(Debug)]
enum Waiting {
    Recorded(proto::ids::InjectionId),
    Meta(u64),
    Nobody,
}

/// See the module.
#[derive(Debug)]
pub struct Driver {
    state: State,
    doors: Doors,
    outbox: Arc<Outbox>,
    events: mpsc::Receiver<Event>,
    vitals: watch::Sender<Vitals>,
    metrics: Metrics,
    halt_file: PathBuf,
    halt_content: Option<String>,
    acts: JoinSet<Done>,
    act_permits: Arc<Semaphore>,
    undo_permits: Arc<Semaphore>,
    writes: Vec<(Write, Waiting)>,
    is_writing: bool,
    /// After a write that failed.
    write_after: Option<Instant>,
    is_looking_at_halt: bool,
    drain_wait: Duration,
    at_once: CancellationToken,
}

/// How far the end has come, and how long this part of it may last.
#[derive(Debug, Clone, Copy)]
enum Ending {
    NotAsked,
    /// What is held goes on to its own end; nothing new is taken.
    Waiting(Instant),
    /// The rest is taken away.
    Reverting(Instant),
}

/// What came back from a blocking thread.
#[derive(Debug)]
enum Done {
    Event(Event),
    Written(Vec<(Write, Waiting)>, Result<(), String>),
    HaltFile(Option<String>),
}

impl Driver {
    /// A driver over a recovered state. `events` are those of the link; the halt file was read once
    /// already, so that nothing can start before it is known.
    pub fn new(
        mut state: State,
        doors: Doors,
        outbox: Arc<Outbox>,
        events: mpsc::Receiver<Event>,
        vitals: watch::Sender<Vitals>,
    ) -> Self {
        let halt_file = doors.journal.folders().halt_file();
        let halt_content = acts::read_halt_file(&halt_file);
        let first = step(&mut state, Event::HaltFile(halt_content.clone()), doors.clock.now());
        let metrics = vitals.borrow().metrics.clone();
        let mut driver = Self {
            state,
            doors,
            outbox,
            events,
            metrics,
            vitals,
            halt_file,
            halt_content,
            acts: JoinSet::new(),
            act_permits: Arc::new(Semaphore::new(ACTS_AT_ONCE)),
            undo_permits: Arc::new(Semaphore::new(UNDOS_AT_ONCE)),
            writes: Vec::new(),
            is_writing: false,
            write_after: None,
            is_looking_at_halt: false,
            drain_wait: Duration::ZERO,
            at_once: CancellationToken::new(),
        };
        driver.carry_out(first);
        driver
    }

    /// At a shutdown, first lets what is held end by itself, for so long at most and not after `at_once`.
    #[must_use]
    pub fn waiting(self, drain_wait: Duration, at_once: CancellationToken) -> Self {
        Self { drain_wait, at_once, ..self }
    }

    /// Runs until `shutdown`; then takes nothing new, waits as told until nothing is held, and reverts what
    /// is left within `drain_within`. Returns whether nothing is left that could be active.
    pub async fn run(mut self, shutdown: CancellationToken, drain_within: Duration) -> bool {
        let (mut ending, at_once) = (Ending::NotAsked, self.at_once.clone());
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.write_group();
            match ending {
                Ending::Waiting(_) if self.state.is_drained() => ending = self.revert_all(drain_within),
                Ending::Reverting(_) if self.state.is_drained() && self.is_at_rest() => {
                    return self.state.held() == 0;
                }
                _ => {}
            }
            let wake = self.until_wake();
            tokio::select! {
                Some(event) = self.events.recv() => self.take(event),
                Some(done) = self.acts.join_next(), if !self.acts.is_empty() => match done {
                    Ok(done) => self.done(done),
                    Err(error) => tracing::error!(%error, "act lost"),
                },
                _ = ticks.tick() => self.tick(),
                () = tokio::time::sleep(wake) => self.take(Event::Tick),
                () = shutdown.cancelled(), if matches!(ending, Ending::NotAsked) => {
                    tracing::info!(held = self.state.held(), wait = ?self.drain_wait, "draining");
                    ending = Ending::Waiting(Instant::now() + self.drain_wait);
                    self.take(Event::TakeNoMore);
                }
                () = at_once.cancelled(), if matches!(ending, Ending::Waiting(_)) => {
                    ending = self.revert_all(drain_within);
                }
                () = ending.over() => {
                    if matches!(ending, Ending::Reverting(_)) {
                        tracing::error!(held = self.state.held(), "drain not finished in time, left to the keeper");
                        return false;
                    }
                    ending = self.revert_all(drain_within);
                }
            }
        }
    }

    fn revert_all(&mut self, within: Duration) -> Ending {
        tracing::info!(held = self.state.held(), "reverting what is held");
        self.take(Event::Drain);
        Ending::Reverting(Instant::now() + within)
    }

    fn is_at_rest(&self) -> bool {
        self.writes.is_empty() && !self.is_writing && self.acts.is_empty()
    }

    fn until_wake(&self) -> Duration {
        let now_ms = self.doors.clock.now().boottime_ms;
        let wake = self.state.next_wake_ms().map(|at| Duration::from_millis(at.saturating_sub(now_ms)));
        wake.unwrap_or(TICK).min(TICK)
    }

    fn take(&mut self, event: Event) {
        if matches!(event, Event::Connected) {
            self.metrics.session_opened();
        }
        let effects = step(&mut self.state, event, self.doors.clock.now());
        self.carry_out(effects);
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Event(event) => self.take(event),
            Done::HaltFile(content) => {
                self.is_looking_at_halt = false;
                if content != self.halt_content {
                    tracing::warn!(halted = content.is_some(), "halt file changed");
                    self.halt_content.clone_from(&content);
                    self.take(Event::HaltFile(content));
                }
            }
            Done::Written(writes, result) => {
                self.is_writing = false;
                self.written(writes, &result);
            }
        }
    }

    fn written(&mut self, writes: Vec<(Write, Waiting)>, result: &Result<(), String>) {
        if let Err(error) = result {
            tracing::error!(%error, writes = writes.len(), "journal not written");
        }
        let mut kept = Vec::new();
        for (write, waiting) in writes {
            match (waiting, result) {
                (Waiting::Recorded(id), _) => self.take(Event::Recorded { id, result: result.clone() }),
                (Waiting::Meta(revision), Ok(())) => self.take(Event::MetaWritten { revision }),
                (Waiting::Nobody, Ok(())) => {}
                // Kept until the disk takes it, before later writes of the same file.
                (waiting, Err(_)) => kept.push((write, waiting)),
            }
        }
        if !kept.is_empty() {
            self.write_after = Some(Instant::now() + TICK);
            kept.append(&mut self.writes);
            self.writes = kept;
        }
    }

    fn tick(&mut self) {
        self.take(Event::Tick);
        self.metrics.counted(&self.state.census());
        self.vitals.send_modify(|vitals| vitals.alive_at = Some(Instant::now()));
        if !self.is_looking_at_halt {
            self.is_looking_at_halt = true;
            let path = self.halt_file.clone();
            self.acts.spawn(async move {
                let read = tokio::task::spawn_blocking(move || acts::read_halt_file(&path)).await;
                // On doubt halted.
                Done::HaltFile(read.unwrap_or_else(|_| Some(String::new())))
            });
        }
    }
}

impl Ending {
    /// The time of this part has passed.
    async fn over(self) {
        match self {
            Self::Waiting(at) | Self::Reverting(at) => tokio::time::sleep_until(at).await,
            Self::NotAsked => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests;
