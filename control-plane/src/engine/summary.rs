//! Summing up: a run's phase, outcome, verdict, residue and counters out of what its clusters
//! last said. The worst counts. What is not known is Unknown, with the instant by which it
//! reverts by itself.

use jiff::Timestamp;
use proto::assignment::{ClusterPhase, InjectionCounts, NOTHING_TO_HIT, Observed, Outcome, Residue, Verdict};
use proto::experiment::{Limits, defaults};
use proto::ids::{ClusterId, RunId};
use proto::plan::Refusal;
use proto::status::{ClusterCounts, ClusterSample, RunPhase, RunSummary};

use super::object::RunEntry;
use super::state::State;
use super::{after, dispatch, earlier, later, stopping};

/// How long after everything must have ended a cluster may take to say so.
pub const GRACE_MS: i64 = 30_000;
/// Clusters and refusals shown in a summary.
const MAX_SAMPLES: usize = 20;
/// What is said of a cluster that was planned and never told to start.
const NOT_TOLD: &str = "it was not told to start in time";
/// The reason of a cluster that was never heard of again.
pub const CLUSTER_LOST: &str = "ClusterLost";

/// How a run starts its life here.
pub fn initial(id: RunId) -> RunSummary {
    RunSummary {
        id,
        phase: RunPhase::Planning,
        outcome: None,
        reason: String::new(),
        message: String::new(),
        verdict: Verdict::NotMeasured,
        residue: Residue::Clean,
        residue_resolves_at: None,
        plan_hash: None,
        plan_expires: None,
        planned_at: None,
        dispatched_at: None,
        injected_at: None,
        reverted_at: None,
        finished_at: None,
        clusters: ClusterCounts::default(),
        samples: Vec::new(),
        refusals: Vec::new(),
    }
}

/// One cluster, as far as is known.
#[derive(Debug)]
struct Seen<'a> {
    id: &'a ClusterId,
    started: bool,
    observed: Option<&'a Observed>,
    connected: bool,
    lost: bool,
    /// Planned, not told to start in time, and why.
    missed: Option<&'static str>,
    bound: Option<Timestamp>,
}

impl Seen<'_> {
    fn phase(&self) -> ClusterPhase {
        match self.observed {
            _ if self.lost || self.missed.is_some() => ClusterPhase::Finished,
            Some(observed) => observed.phase,
            None => ClusterPhase::Pending,
        }
    }

    fn finished(&self) -> bool {
        self.phase() == ClusterPhase::Finished
    }

    /// `allowEmpty` let it through and no pod was there: it says nothing about the others.
    fn is_empty(&self) -> bool {
        self.observed.is_some_and(|observed| observed.reason == NOTHING_TO_HIT)
    }

    fn outcome(&self) -> Option<Outcome> {
        if self.missed.is_some() {
            return Some(Outcome::Missed);
        }
        let said = self.observed.filter(|observed| observed.phase == ClusterPhase::Finished);
        match said {
            Some(observed) => observed.outcome.or(Some(Outcome::Failed)),
            None => self.lost.then_some(Outcome::Failed),
        }
    }

    /// Something may be active there and nobody can tell.
    fn unknown(&self) -> bool {
        self.started && (!self.finished() || self.lost) && !self.connected
    }

    fn residue(&self) -> Residue {
        let said = self.observed.map_or(Residue::Clean, |observed| observed.residue);
        if self.unknown() { said.max(Residue::Unknown) } else { said }
    }
}

fn seen<'a>(state: &'a State, entry: &'a RunEntry, now: Timestamp) -> Vec<Seen<'a>> {
    entry
        .desired
        .iter()
        .map(|(id, desired)| Seen {
            id,
            started: stopping::was_started(&desired.value),
            observed: entry.observed.get(id).map(|record| &record.value.observed),
            connected: state.is_connected(id),
            lost: is_lost(state, entry, id, now),
            missed: dispatch::missed(state, entry, id, now),
            bound: bound(state, entry, id),
        })
        .collect()
}

/// The instant by which everything on this cluster has ended, whoever is dead; `None` when it was
/// never told to start.
fn bound(state: &State, entry: &RunEntry, cluster: &ClusterId) -> Option<Timestamp> {
    let desired =
        Some(&entry.desired.get(cluster)?.value).filter(|desired| stopping::was_started(desired))?;
    let limits =
        state.specs.get(&desired.spec_hash).and_then(|known| known.spec.as_ref()).map(|spec| &spec.limits);
    let deadline_ms = limits.map_or(defaults::CLUSTER_DEADLINE_MS, Limits::cluster_deadline_ms);
    let started_at = entry.observed.get(cluster).and_then(|record| record.value.observed.started_at);
    let from = started_at.or(desired.start_before)?;
    let end = after(from, deadline_ms);
    Some(desired.run_deadline.map_or(end, |deadline| end.min(deadline)))
}

/// Whether a started cluster should have reported its end by now and did not.
pub(super) fn is_lost(state: &State, entry: &RunEntry, cluster: &ClusterId, now: Timestamp) -> bool {
    let finished = entry
        .observed
        .get(cluster)
        .is_some_and(|record| record.value.observed.phase == ClusterPhase::Finished);
    let given_up = bound(state, entry, cluster).and_then(|bound| later(bound, GRACE_MS));
    !finished && given_up.is_some_and(|at| at <= now)
}

/// Whether nothing more is to be waited for.
pub(super) fn all_done(state: &State, entry: &RunEntry, now: Timestamp) -> bool {
    seen(state, entry, now).iter().all(|cluster| !cluster.started || cluster.finished())
}

/// When the clock alone will change something.
pub(super) fn next_bound(state: &State, entry: &RunEntry, now: Timestamp) -> Option<Timestamp> {
    let mut next = None;
    for cluster in seen(state, entry, now).iter().filter(|cluster| cluster.started && !cluster.finished()) {
        let deadline = entry.desired.get(cluster.id).and_then(|desired| desired.value.run_deadline);
        for at in [deadline, cluster.bound.and_then(|bound| later(bound, GRACE_MS))] {
            next = earlier(next, at.filter(|at| *at > now));
        }
    }
    next
}

/// The summary as it would be written now. The phase is never taken back.
pub(super) fn summarise(
    state: &State,
    id: &RunId,
    entry: &RunEntry,
    old: &RunSummary,
    now: Timestamp,
) -> RunSummary {
    let clusters = seen(state, entry, now);
    let started: Vec<&Seen<'_>> =
        clusters.iter().filter(|cluster| cluster.started || cluster.missed.is_some()).collect();
    let mut next = RunSummary { id: id.clone(), ..old.clone() };
    next.clusters = counts(&clusters, old);
    let untold = untold(state, id, entry, old);
    next.residue = clusters.iter().map(Seen::residue).chain(untold).max().unwrap_or(Residue::Clean);
    next.residue_resolves_at = resolves_at(&clusters).filter(|_| next.residue == Residue::Unknown);
    next.samples = samples(state, &clusters);
    if started.is_empty() {
        return next;
    }
    let verdict =
        |cluster: &&Seen<'_>| cluster.observed.map_or(Verdict::NotMeasured, |observed| observed.verdict);
    let acted_on = started.iter().filter(|cluster| !cluster.is_empty());
    next.verdict = acted_on.map(verdict).max().unwrap_or(Verdict::NotMeasured);
    next.phase = old.phase.max(phase(&started));
    let acting = || started.iter().filter_map(|cluster| cluster.observed).filter(|o| o.started_at.is_some());
    next.injected_at = next.injected_at.or_else(|| last_of(acting().map(|observed| observed.injected_at)));
    next.reverted_at = next.reverted_at.or_else(|| {
        let answered = |cluster: &&Seen<'_>| {
            cluster.missed.is_some()
                || cluster.observed.is_some_and(|observed| observed.phase >= ClusterPhase::Reverting)
        };
        let all_answered = started.iter().all(answered);
        last_of(acting().map(|observed| observed.reverted_at)).filter(|_| all_answered)
    });
    if started.iter().all(|cluster| cluster.finished()) {
        conclude(&mut next, &started);
    }
    next
}

/// What is left in clusters whose own word from us cannot be read any more: after the dispatch it may have been a start,
/// and is not known until the cluster says that it is over.
fn untold(state: &State, id: &RunId, entry: &RunEntry, old: &RunSummary) -> Option<Residue> {
    let told = state.unreadable_of(id).filter(|_| old.dispatched_at.is_some());
    let left = told.map(|cluster| match entry.observed.get(cluster).map(|record| &record.value.observed) {
        Some(observed) if observed.phase == ClusterPhase::Finished => observed.residue,
        _ => Residue::Unknown,
    });
    left.max()
}

/// The last instant, if there is one for each.
fn last_of(times: impl Iterator<Item = Option<Timestamp>>) -> Option<Timestamp> {
    let times: Option<Vec<_>> = times.collect();
    times?.into_iter().max()
}

fn phase(started: &[&Seen<'_>]) -> RunPhase {
    let all = |least: ClusterPhase| started.iter().all(|cluster| cluster.phase() >= least);
    let any = |least: ClusterPhase| started.iter().any(|cluster| cluster.phase() >= least);
    if all(ClusterPhase::Reverting) {
        RunPhase::Reverting
    } else if any(ClusterPhase::Accepted) {
        RunPhase::Running
    } else {
        RunPhase::Dispatching
    }
}

/// The worst cluster gives the run its outcome and its reason.
fn conclude(next: &mut RunSummary, started: &[&Seen<'_>]) {
    let ended = started.iter().filter_map(|cluster| Some((cluster.outcome()?, cluster)));
    let worst = ended.max_by_key(|(outcome, cluster)| (*outcome, !cluster.is_empty()));
    let Some((outcome, cluster)) = worst else { return };
    next.outcome = Some(outcome);
    if let Some(reason) = cluster.missed {
        reason.clone_into(&mut next.reason);
        NOT_TOLD.clone_into(&mut next.message);
    } else if let Some(observed) =
        cluster.observed.filter(|observed| observed.phase == ClusterPhase::Finished)
    {
        next.reason.clone_from(&observed.reason);
        next.message.clone_from(&observed.message);
    } else {
        CLUSTER_LOST.clone_into(&mut next.reason);
        "a cluster did not report its end".clone_into(&mut next.message);
    }
    for refusal in
        started.iter().filter_map(|cluster| cluster.observed).flat_map(|observed| &observed.refusals)
    {
        add_refusal(&mut next.refusals, refusal);
    }
}

fn add_refusal(refusals: &mut Vec<Refusal>, refusal: &Refusal) {
    if refusals.len() < MAX_SAMPLES && !refusals.contains(refusal) {
        refusals.push(refusal.clone());
    }
}

fn resolves_at(clusters: &[Seen<'_>]) -> Option<Timestamp> {
    let of = |cluster: &Seen<'_>| {
        let said = cluster.observed.and_then(|observed| observed.residue_resolves_at);
        if cluster.unknown() { cluster.bound.max(said) } else { said }
    };
    clusters.iter().filter(|cluster| cluster.residue() == Residue::Unknown).filter_map(of).max()
}

fn counts(clusters: &[Seen<'_>], old: &RunSummary) -> ClusterCounts {
    let total = i32::try_from(clusters.len()).unwrap_or(i32::MAX);
    let mut counts = ClusterCounts {
        total: (total + old.clusters.skipped).max(old.clusters.total),
        skipped: old.clusters.skipped,
        ..ClusterCounts::default()
    };
    for cluster in clusters {
        counts.planned +=
            i32::from(cluster.observed.is_some_and(|observed| observed.phase >= ClusterPhase::Planned));
        counts.unknown += i32::from(cluster.unknown());
        if cluster.started && !cluster.finished() {
            counts.running += i32::from(cluster.phase() >= ClusterPhase::Accepted);
        }
        match cluster.outcome() {
            None => {}
            Some(Outcome::Completed) => counts.completed += 1,
            Some(Outcome::Missed) => counts.missed += 1,
            Some(Outcome::Denied) => counts.denied += 1,
            Some(Outcome::Aborted) => counts.aborted += 1,
            Some(Outcome::Halted) => counts.halted += 1,
            Some(Outcome::Failed) => counts.failed += 1,
        }
    }
    counts
}

fn samples(state: &State, clusters: &[Seen<'_>]) -> Vec<ClusterSample> {
    let mut order: Vec<&Seen<'_>> = clusters.iter().collect();
    order.sort_by_key(|cluster| std::cmp::Reverse((cluster.residue(), cluster.outcome(), cluster.unknown())));
    order.into_iter().take(MAX_SAMPLES).map(|cluster| sample(state, cluster)).collect()
}

fn sample(state: &State, cluster: &Seen<'_>) -> ClusterSample {
    let observed = cluster.observed;
    let silent = cluster.lost && observed.is_none_or(|observed| observed.phase != ClusterPhase::Finished);
    let text = |said: Option<&String>, silent_text: &str| {
        if silent { silent_text.to_owned() } else { said.cloned().unwrap_or_default() }
    };
    let (reason, message) = match cluster.missed {
        Some(reason) => (reason.to_owned(), NOT_TOLD.to_owned()),
        None => (
            text(observed.map(|o| &o.reason), CLUSTER_LOST),
            text(observed.map(|o| &o.message), "did not report its end"),
        ),
    };
    ClusterSample {
        cluster: cluster.id.clone(),
        name: state.cluster_name(cluster.id),
        phase: cluster.phase(),
        outcome: cluster.outcome(),
        reason,
        message: message.chars().take(256).collect(),
        verdict: observed.map_or(Verdict::NotMeasured, |observed| observed.verdict),
        residue: cluster.residue(),
        counts: observed.map_or_else(InjectionCounts::default, |observed| observed.counts),
    }
}
