//! What is said to the centre of a run: counted from what was observed, latest only, at most a few KB.

use jiff::Timestamp;
use proto::assignment::{ClusterPhase, InjectionCounts, Residue, TimelineEntry};
use proto::injection::{InjectionPhase, InjectionStatus};

use super::state::{RunState, Stage};
use super::{Effect, Now, Sample, State, probing};

/// Samples alone are said at most this often.
pub const SAMPLES_EVERY_MS: u64 = 500;
/// While faults are being made, how far that is is said at most this often: each word costs every store on its way,
/// and those who wait for the last one wait behind it.
pub const PROGRESS_EVERY_MS: u64 = 100;
const TIMELINE: usize = 40;
const INJECTIONS: usize = 20;

/// Puts something on the run's timeline.
pub fn note(run: &mut RunState, now: Now, event: &str, subject: &str, detail: &str) {
    push(
        run,
        TimelineEntry {
            at: now.wall,
            event: event.to_owned(),
            subject: subject.to_owned(),
            latency_ms: None,
            good: None,
            detail: detail.chars().take(200).collect(),
        },
    );
}

/// Puts a sample on the run's timeline.
pub fn sampled(run: &mut RunState, now: Now, sample: &Sample) {
    run.sampled = true;
    push(
        run,
        TimelineEntry {
            at: now.wall,
            event: "ProbeSample".to_owned(),
            subject: sample.probe.clone(),
            latency_ms: sample.latency_ms,
            good: Some(sample.good),
            detail: sample.detail.chars().take(200).collect(),
        },
    );
}

/// Events outlive samples: the oldest sample goes first.
fn push(run: &mut RunState, entry: TimelineEntry) {
    let timeline = &mut run.observed.timeline;
    if timeline.len() >= TIMELINE {
        let oldest = timeline.iter().position(|e| e.event == "ProbeSample").unwrap_or(0);
        timeline.remove(oldest);
    }
    timeline.push(entry);
}

/// When something is due that is not worth a word of its own at once.
pub fn said_again_at(run: &RunState) -> Option<u64> {
    let samples = run.sampled.then_some(SAMPLES_EVERY_MS);
    let progress = run.progressed.then_some(PROGRESS_EVERY_MS);
    samples.into_iter().chain(progress).min().map(|every| run.said_ms.saturating_add(every))
}

/// Says every run that changed.
pub fn publish(state: &mut State, now: Now, out: &mut Vec<Effect>) {
    for run in state.runs.values_mut() {
        if !(run.dirty || said_again_at(run).is_some_and(|at| now.boottime_ms >= at)) {
            continue;
        }
        refresh(run, now);
        run.dirty = false;
        (run.sampled, run.progressed) = (false, false);
        run.said_ms = now.boottime_ms;
        // Before a first answer there is nothing to say.
        if run.observed.phase != ClusterPhase::Pending {
            out.push(Effect::SendObserved(Box::new(run.observed.clone())));
        }
    }
}

/// Counts anew everything that is derived from injections and samples.
pub fn refresh(run: &mut RunState, now: Now) {
    run.observed.generation = run.desired.generation;
    run.observed.probes =
        if run.probes.is_empty() { std::mem::take(&mut run.observed.probes) } else { probing::reports(run) };
    if run.injections.is_empty() {
        return;
    }
    let counts = counts(run);
    run.observed.counts = counts;
    let mut worst: Vec<&InjectionStatus> = run.injections.iter().map(|t| &t.status).collect();
    worst.sort_by_key(|s| std::cmp::Reverse((s.phase, s.id.clone())));
    let target = |s: &&InjectionStatus| {
        let tracked = run.injections.iter().find(|t| t.recorded.id == s.id)?;
        Some((s.id.clone(), tracked.recorded.target.clone()))
    };
    run.observed.targets = worst.iter().take(INJECTIONS).filter_map(target).collect();
    run.observed.injections = worst.into_iter().take(INJECTIONS).cloned().collect();
    let settled = run.injections.iter().all(|t| t.status.phase.is_terminal());
    if counts.injected > 0 && counts.injected + counts.failed >= counts.total {
        run.observed.injected_at.get_or_insert(injected_at(run, now));
    }
    if settled && counts.residue == 0 && counts.injected > 0 {
        run.observed.reverted_at.get_or_insert(now.wall);
    }
    let (residue, by) = residue(run, now);
    run.observed.residue = residue;
    run.observed.residue_resolves_at = by;
}

/// When the last of a run's faults was made. A successor learns of it later than it was, so the daemons' word counts.
fn injected_at(run: &RunState, now: Now) -> Timestamp {
    let told = run.injections.iter().filter_map(|tracked| tracked.status.injected_at_unix_ms).max();
    let told = told.filter(|_| run.adopted).and_then(|ms| Timestamp::from_millisecond(ms).ok());
    told.map_or(now.wall, |told| told.min(now.wall))
}

fn counts(run: &RunState) -> InjectionCounts {
    let mut counts = InjectionCounts::default();
    for tracked in &run.injections {
        counts.total += 1;
        counts.injected += u32::from(tracked.status.injected_at_unix_ms.is_some());
        match tracked.status.phase {
            InjectionPhase::Accepted => {}
            InjectionPhase::Injected | InjectionPhase::Reverting => counts.active += 1,
            InjectionPhase::Reverted | InjectionPhase::TargetGone => counts.reverted += 1,
            InjectionPhase::Refused | InjectionPhase::Missed | InjectionPhase::Failed => counts.failed += 1,
            InjectionPhase::Residue => counts.residue += 1,
            InjectionPhase::Unknown => counts.unknown += 1,
        }
    }
    counts
}

fn residue(run: &RunState, now: Now) -> (Residue, Option<Timestamp>) {
    if run.injections.iter().any(|t| t.status.phase == InjectionPhase::Residue) {
        return (Residue::Dirty, None);
    }
    let open =
        run.injections.iter().filter(|t| t.sent && !t.recorded.by_agent && !t.status.phase.is_terminal());
    let bounds = open.map(|t| {
        let said = t.status.resolves_at_unix_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        said.or_else(|| run.start.map(|s| now.wall_at(super::schedule::end_of(&s, t))))
    });
    match bounds.max() {
        None => (Residue::Clean, None),
        Some(by) => (Residue::Unknown, by),
    }
}

/// Whether the run's phase word changed; says it.
pub fn phase(run: &mut RunState, now: Now, phase: ClusterPhase) {
    if run.observed.phase == phase || (run.stage == Stage::Finished && phase != ClusterPhase::Finished) {
        return;
    }
    run.observed.phase = phase;
    run.dirty = true;
    note(run, now, "Stage", &format!("{phase:?}"), "");
}
