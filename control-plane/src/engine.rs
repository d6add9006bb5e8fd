//! The decisions of the centre, and nothing else: `step` takes an event and the time and answers
//! what is to be written. No clock, no randomness, no I/O. The driver feeds it the store's changes
//! and commits its effects; a commit that loses a race changes nothing, and the newer state brings
//! the run up again. Every decision compares and writes the run's summary, so its revision puts all
//! decisions about one run in one order, whoever leads.

mod active;
mod dispatch;
mod finished;
pub mod object;
pub mod planning;
pub mod prune;
mod selection;
pub mod state;
pub mod stopping;
pub mod summary;

use std::collections::BTreeSet;

use jiff::Timestamp;
use object::{Object, ObjectKey, Revision, RunEntry};
use proto::assignment::ClusterPhase;
use proto::ids::{ClusterId, RunId};
use proto::run::RunRecord;
use proto::status::{RunPhase, RunSummary};
use state::State;

/// Clusters written in one transaction: three comparisons each stay below the store's bound.
pub const CHUNK: usize = 25;
/// How long after a failed or lost commit a run is looked at again.
const RETRY_MS: i64 = 500;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The store holds this object now.
    Stored(Box<Object>, Revision),
    /// The store holds it no more.
    Deleted(ObjectKey),
    /// The store holds something there that this version cannot read: as good as nothing, but the key is not free.
    Unreadable(ObjectKey),
    /// Every prefix was listed.
    Complete,
    /// This replica decides from now on, or no longer.
    Leading(bool),
    /// A commit of ours ended: at this revision, or not at all.
    Committed(RunId, Option<Revision>),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// To be written in one transaction, fenced by the leader's key.
    Commit(Commit),
}

/// A transaction of typed writes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Commit {
    /// The run it is about.
    pub run: Option<RunId>,
    /// Each key must stand at this revision; 0: not exist.
    pub compare: Vec<(ObjectKey, Revision)>,
    /// Written.
    pub put: Vec<Object>,
    /// Deleted.
    pub delete: Vec<ObjectKey>,
    /// For the audit: action and result.
    pub note: Option<(&'static str, String)>,
}

/// What `decide` says about one run.
#[derive(Debug, Default, PartialEq)]
struct Decision {
    commit: Option<Commit>,
    wake_at: Option<Timestamp>,
}

impl Decision {
    fn commit(commit: Commit) -> Self {
        Self { commit: Some(commit), wake_at: None }
    }

    fn wait(until: Option<Timestamp>) -> Self {
        Self { commit: None, wake_at: until }
    }
}

/// A run as decisions see it.
#[derive(Debug, Clone, Copy)]
struct View<'a> {
    state: &'a State,
    id: &'a RunId,
    entry: &'a RunEntry,
    record: &'a RunRecord,
    summary: &'a RunSummary,
}

impl View<'_> {
    /// A decision that writes this summary, ordered by the one it was made from.
    fn commit(&self, summary: RunSummary) -> Commit {
        let revision = self.entry.summary.as_ref().map_or(0, |summary| summary.revision);
        Commit {
            run: Some(self.id.clone()),
            compare: vec![(ObjectKey::Summary(self.id.clone()), revision)],
            put: vec![Object::Summary(Box::new(summary))],
            delete: Vec::new(),
            note: None,
        }
    }
}

/// Takes one event in and answers what is to be written.
pub fn step(state: &mut State, event: Event, now: Timestamp) -> Vec<Effect> {
    let touched = apply(state, event, now);
    if !state.leading || !state.complete {
        return Vec::new();
    }
    let mut effects = Vec::new();
    for id in touched {
        let decision = decide(state, &id, now);
        if let Some(run) = state.runs.get_mut(&id) {
            run.wake_at = decision.wake_at;
            run.is_overtaken = run.in_flight;
            if let Some(commit) = &decision.commit {
                run.in_flight = true;
                run.writes = commit.put.iter().map(Object::key).collect();
            }
        }
        effects.extend(decision.commit.map(Effect::Commit));
    }
    effects
}

/// Changes the world and names the runs to look at.
fn apply(state: &mut State, event: Event, now: Timestamp) -> BTreeSet<RunId> {
    match event {
        Event::Stored(object, revision) => {
            let touched = touched_by(state, &object.key());
            state.put(*object, revision);
            touched
        }
        Event::Deleted(key) => {
            let touched = touched_by(state, &key);
            state.delete(&key);
            touched
        }
        Event::Unreadable(key) => {
            let touched = touched_by(state, &key);
            state.delete(&key);
            state.unreadable.insert(key);
            touched
        }
        Event::Complete => {
            state.complete = true;
            all(state)
        }
        Event::Leading(leading) => {
            state.leading = leading;
            for run in state.runs.values_mut() {
                run.in_flight = false;
            }
            all(state)
        }
        Event::Committed(id, revision) => {
            if let Some(run) = state.runs.get_mut(&id) {
                run.in_flight = false;
                let is_overtaken = std::mem::take(&mut run.is_overtaken);
                let writes = std::mem::take(&mut run.writes);
                let again = later(now, RETRY_MS);
                let Some(revision) = revision else {
                    run.wake_at = again;
                    // What made it lose is here already: nothing more would bring the run up.
                    return if is_overtaken { BTreeSet::from([id]) } else { BTreeSet::new() };
                };
                run.decided_at = run.decided_at.max(revision);
                run.wrote = writes;
                run.read_back_by = again;
            }
            BTreeSet::from([id])
        }
        Event::Tick => {
            let due = |run: &RunEntry| run.wake_at.is_some_and(|at| at <= now);
            state.runs.iter().filter(|(_, run)| due(run)).map(|(id, _)| id.clone()).collect()
        }
    }
}

fn all(state: &State) -> BTreeSet<RunId> {
    state.runs.keys().cloned().collect()
}

fn unfinished(state: &State) -> impl Iterator<Item = (&RunId, &RunEntry)> {
    let live =
        |run: &RunEntry| run.summary.as_ref().is_none_or(|summary| summary.value.phase != RunPhase::Finished);
    state.runs.iter().filter(move |(_, run)| live(run))
}

/// The runs that an object may mean something to.
fn touched_by(state: &State, key: &ObjectKey) -> BTreeSet<RunId> {
    match key {
        ObjectKey::Run(id)
        | ObjectKey::Summary(id)
        | ObjectKey::Plan(id, _)
        | ObjectKey::Desired(_, id)
        | ObjectKey::Observed(_, id) => BTreeSet::from([id.clone()]),
        ObjectKey::Session(cluster) => of_cluster(state, cluster),
        ObjectKey::ClusterStatus(_)
        | ObjectKey::Resumed(_)
        | ObjectKey::Revoked(..)
        | ObjectKey::Replica(_)
        | ObjectKey::Endpoints
        | ObjectKey::Operator(_)
        | ObjectKey::Format => BTreeSet::new(),
        _ => unfinished(state).map(|(id, _)| id.clone()).collect(),
    }
}

/// What is not over there, also of a run that was given up: whether it is connected says what is Unknown.
fn of_cluster(state: &State, cluster: &ClusterId) -> BTreeSet<RunId> {
    let planning = |run: &RunEntry| run.desired.is_empty();
    let open = |run: &RunEntry| {
        let said = run.observed.get(cluster).map(|observed| observed.value.observed.phase);
        run.desired.contains_key(cluster) && said != Some(ClusterPhase::Finished)
    };
    let planning = unfinished(state).filter(|(_, run)| planning(run));
    planning.chain(state.runs.iter().filter(|(_, run)| open(run))).map(|(id, _)| id.clone()).collect()
}

/// What is to be done about one run, from its state alone.
fn decide(state: &State, id: &RunId, now: Timestamp) -> Decision {
    let Some(entry) = state.runs.get(id) else {
        return Decision::default();
    };
    let (Some(record), Some(summary)) = (&entry.record, &entry.summary) else {
        return Decision::default();
    };
    if entry.in_flight || summary.revision < entry.decided_at {
        // The end of the commit, or its reading back, brings it up again.
        return Decision::default();
    }
    // A clock that was set back does not make the wait longer.
    let still = |by: Timestamp| now < by && later(now, RETRY_MS).is_none_or(|most| by <= most);
    if entry.unread().next().is_some() && entry.read_back_by.is_some_and(still) {
        // On half of it the same would be decided once more, in vain.
        return Decision::wait(entry.read_back_by);
    }
    let view = View { state, id, entry, record: &record.value, summary: &summary.value };
    match summary.value.phase {
        RunPhase::Finished => finished::decide(view, now),
        _ if record.value.stop.is_some() => stopping::decide(view, now),
        RunPhase::Planning | RunPhase::AwaitingApproval => planning::decide(view, now),
        RunPhase::Dispatching | RunPhase::Running | RunPhase::Reverting => active::decide(view, now),
    }
}

/// `ms` milliseconds after `at`; `None` at the end of the calendar.
fn later(at: Timestamp, ms: i64) -> Option<Timestamp> {
    at.checked_add(jiff::SignedDuration::from_millis(ms)).ok()
}

/// The same, clamped.
fn after(at: Timestamp, ms: u64) -> Timestamp {
    later(at, i64::try_from(ms).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX)
}

/// The earlier of two optional instants.
fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests;
