//! A run's life in one cluster, which `step` calls after every event. `advance_all` is level-triggered: it looks at
//! what is known and takes every step that is possible now, so that events may come in any order and any number of
//! times. How a life ends is in `endings`.

use std::sync::Arc;

use jiff::Timestamp;
use proto::assignment::{ClusterPhase, Intent, Outcome};
use proto::experiment::ExperimentSpec;
use proto::ids::RunId;
use proto::plan::refusal;
use proto::probe::ProbeStage;

use super::endings::{cancel, close, denied, end, finish, judge, missed, nothing_to_hit};
use super::probing::{self, Progress};
use super::resolve::refuse;
use super::state::{ClockBounds, RunState, Stage, Start};
use super::{Effect, Now, State, admit, halts, link_loss, nodes, plan, report, schedule};
use crate::cluster::{LinkLoss, RecordState, RunRecordHeld};

/// Steps of one run taken per event; more are a defect, not a reason to hang.
const MAX_STEPS: usize = 16;
/// A record that took longer to become durable names a t0 that is too far back: another is written.
const RECORDED_WITHIN_MS: u64 = 1000;
/// Who asks for a plan may have seen its pods run a moment before they are seen here: that there are none is answered
/// only after so long.
pub const TARGETS_WITHIN_MS: u64 = 2000;

/// Takes every run as far as it goes now.
pub fn advance_all(state: &mut State, now: Now, out: &mut Vec<Effect>) {
    let ids: Vec<RunId> = state.runs.keys().cloned().collect();
    for id in ids {
        let Some(mut run) = state.runs.remove(&id) else {
            continue;
        };
        for _ in 0..MAX_STEPS {
            let before = (run.stage, run.record_written, run.end.is_some());
            advance(state, &mut run, now, out);
            if before == (run.stage, run.record_written, run.end.is_some()) {
                break;
            }
        }
        if run.forget && run.stage == Stage::Finished {
            state.remember_forgotten(id.clone());
            out.push(Effect::DeleteRecord(id));
        } else {
            state.runs.insert(id, run);
        }
    }
}

fn advance(state: &mut State, run: &mut RunState, now: Now, out: &mut Vec<Effect>) {
    guard(state, run, now);
    match run.stage {
        Stage::AwaitingSpec => awaiting_spec(state, run, now, out),
        Stage::AwaitingClock { id } => awaiting_clock(state, run, id, now, out),
        Stage::Journalling | Stage::Baseline => before_start(run, now, out),
        Stage::Running => running(state, run, now, out),
        Stage::Settling => settling(run, now, out),
        Stage::Planned => {
            if let Some(end) = run.end.clone() {
                finish(run, now, &end, out);
            }
        }
        Stage::Finished => {
            nodes::read_back(state, run, now);
            nodes::vanished(state, run, now);
        }
    }
}

/// Ends what must not go on: halts, the lost link, a breached probe.
fn guard(state: &State, run: &mut RunState, now: Now) {
    if !run.is_live() || run.end.is_some() {
        return;
    }
    if let Some(halt) = halts::over(state, run) {
        let message = format!("halt {halt}");
        end(run, now, Outcome::Halted, "Halted", &message, "Halted");
    } else if link_loss::due(state, run).is_some_and(|due| now.boottime_ms >= due) {
        end(run, now, Outcome::Aborted, "LinkLost", "the link to the centre was lost", "LinkLost");
    } else if let Some(probe) = probing::abort(run).filter(|_| run.stage == Stage::Running) {
        let message = format!("probe {probe} did not hold");
        end(run, now, Outcome::Aborted, "SteadyStateBroken", &message, "Stopped");
    }
}

fn awaiting_spec(state: &State, run: &mut RunState, now: Now, out: &mut Vec<Effect>) {
    if let Some(end) = run.end.clone() {
        return finish(run, now, &end, out);
    }
    if run.arrival_bound_ms.is_some_and(|bound| now.boottime_ms >= bound) {
        return missed(run, now, refusal::TOO_LATE, "the spec did not come in time", out);
    }
    let Some(spec) = run.spec.clone() else {
        return ask_spec(state, run, out);
    };
    match run.desired.intent {
        Intent::Plan => {
            let Some(inventory) = &state.inventory else { return };
            let plan = plan::plan(state, inventory, &run.desired, &spec, now);
            let until_ms =
                *run.planned_by_ms.get_or_insert(now.boottime_ms.saturating_add(TARGETS_WITHIN_MS));
            if now.boottime_ms < until_ms && plan.refusals.iter().any(|r| r.code == refusal::NO_TARGETS) {
                return;
            }
            run.observed.plan = Some(plan);
            run.stage = Stage::Planned;
            report::phase(run, now, ClusterPhase::Planned);
            run.dirty = true;
        }
        Intent::Start => run.stage = Stage::AwaitingClock { id: 0 },
        Intent::Stop | Intent::Forget => {}
    }
}

/// Asks for the spec, once per session; after a restart too, for what it says of a lost link.
fn ask_spec(state: &State, run: &mut RunState, out: &mut Vec<Effect>) {
    if run.spec.is_none() && state.link.up && state.link.accepted && !run.asked {
        run.asked = true;
        out.push(Effect::RequestSpec { hash: run.desired.spec_hash.clone() });
    }
}

fn awaiting_clock(state: &mut State, run: &mut RunState, id: u64, now: Now, out: &mut Vec<Effect>) {
    if let Some(end) = run.end.clone() {
        return finish(run, now, &end, out);
    }
    if run.arrival_bound_ms.is_some_and(|bound| now.boottime_ms >= bound) {
        return missed(run, now, refusal::TOO_LATE, "the centre's clock could not be read in time", out);
    }
    let Some(bounds) = run.bounds else {
        if id == 0 && state.link.up && state.link.accepted {
            state.last_clock_id += 1;
            run.stage = Stage::AwaitingClock { id: state.last_clock_id };
            out.push(Effect::ProbeClock { id: state.last_clock_id });
        }
        return;
    };
    if now.boottime_ms >= bounds.start_before_ms {
        return missed(run, now, refusal::TOO_LATE, "the assignment came too late", out);
    }
    if bounds.plan_expires_ms.is_some_and(|at| now.boottime_ms >= at) {
        let message = "the plan had expired when its start came; create another run";
        return missed(run, now, refusal::PLAN_EXPIRED, message, out);
    }
    let (Some(spec), Some(inventory)) = (run.spec.clone(), state.inventory.clone()) else {
        return;
    };
    match admit::start(state, &inventory, run, &spec) {
        Err(refusals) => denied(run, now, refusals, out),
        // allowEmpty: nothing to make, so nothing to measure either.
        Ok(none) if none.is_empty() => finish(run, now, &nothing_to_hit(), out),
        Ok(injections) => {
            run.injections = injections;
            run.observed.plan = None;
            run.stage = Stage::Journalling;
            if !probing::has(run, ProbeStage::Before) {
                // Nothing comes between the record and t0: one record names both.
                run.start = Some(start_of(run, now));
            }
            persist(run, RecordState::Started, now, out);
            report::phase(run, now, ClusterPhase::Accepted);
        }
    }
}

/// The centre's clock was read on this connection: the bounds by ours, on the safe side.
pub fn clock(state: &mut State, id: u64, centre_at: Timestamp, rtt_ms: u64, now: Now) {
    let asked = |run: &&mut RunState| run.stage == Stage::AwaitingClock { id } && id != 0;
    let Some(run) = state.runs.values_mut().find(asked) else {
        return;
    };
    // At the latest it is this late at the centre: its answer was made after we asked.
    let centre_ms = centre_at.as_millisecond().saturating_add(i64::try_from(rtt_ms).unwrap_or(i64::MAX));
    let bound = |at: Option<Timestamp>| {
        let left = at.map_or(0, |at| at.as_millisecond().saturating_sub(centre_ms)).max(0);
        now.boottime_ms.saturating_add(left as u64)
    };
    let start_before = bound(run.desired.start_before);
    run.bounds = Some(ClockBounds {
        start_before_ms: run.arrival_bound_ms.map_or(start_before, |a| a.min(start_before)),
        run_deadline_ms: bound(run.desired.run_deadline),
        plan_expires_ms: run.desired.plan_expires.map(|at| bound(Some(at))),
    });
}

fn before_start(run: &mut RunState, now: Now, out: &mut Vec<Effect>) {
    if let Some(end) = run.end.clone() {
        out.push(Effect::StopProbes { run: run.desired.run.clone() });
        run.start = None;
        cancel(run, &end);
        return finish(run, now, &end, out);
    }
    if run.bounds.is_none_or(|b| now.boottime_ms >= b.start_before_ms) {
        out.push(Effect::StopProbes { run: run.desired.run.clone() });
        run.start = None;
        return missed(run, now, refusal::TOO_LATE, "the baseline took too long", out);
    }
    if !run.journalled() {
        return;
    }
    if run.stage == Stage::Journalling {
        if probing::start(run, ProbeStage::Before, out) {
            run.stage = Stage::Baseline;
            report::phase(run, now, ClusterPhase::Baseline);
        } else {
            begin(run, now, out);
        }
        return;
    }
    match probing::baseline(run) {
        Progress::Open => {}
        Progress::Steady => begin(run, now, out),
        Progress::Broken(probe) => {
            out.push(Effect::StopProbes { run: run.desired.run.clone() });
            let message = format!("probe {probe} does not hold even without any fault");
            let cure = format!("repair what steadyState[{probe}] measures, or correct the probe");
            denied(run, now, vec![refuse(refusal::BASELINE_BROKEN, message, "author", cure)], out);
        }
    }
}

/// t0. Faults fall due from here; none is made before the record with it is durable.
fn begin(run: &mut RunState, now: Now, out: &mut Vec<Effect>) {
    let recorded =
        run.start.filter(|start| now.boottime_ms <= start.at_ms.saturating_add(RECORDED_WITHIN_MS));
    let start = recorded.unwrap_or_else(|| start_of(run, now));
    run.start = Some(start);
    run.observed.started_at = Some(start.at);
    run.stage = Stage::Running;
    if recorded.is_none() {
        persist(run, RecordState::Started, now, out);
    }
    report::phase(run, now, ClusterPhase::Running);
    probing::start(run, ProbeStage::During, out);
}

fn start_of(run: &RunState, now: Now) -> Start {
    let limit = run.spec.as_ref().map_or(0, |s| s.limits.cluster_deadline_ms());
    let run_deadline = run.bounds.map_or(0, |b| b.run_deadline_ms);
    let deadline_ms = now.boottime_ms.saturating_add(limit).min(run_deadline);
    Start { at_ms: now.boottime_ms, at: now.wall, deadline_ms, deadline: now.wall_at(deadline_ms) }
}

fn running(state: &State, run: &mut RunState, now: Now, out: &mut Vec<Effect>) {
    if run.end.is_none() && !run.adopted {
        let late = run.start.is_some_and(|s| now.boottime_ms >= s.at_ms.saturating_add(schedule::LATE_MS));
        if run.journalled() {
            schedule::fire(state, run, now, out);
        } else if late {
            end(run, now, Outcome::Failed, "NotRecorded", "the record could not be written", "Stopped");
        }
    }
    ask_spec(state, run, out);
    nodes::read_back(state, run, now);
    nodes::vanished(state, run, now);
    judge(run, now);
    schedule::revert(state, run, now, out);
    report::phase(run, now, schedule::phase(run, now));
    if !schedule::is_over(run, now) {
        return;
    }
    let settle = run.end.as_ref().is_none_or(|end| end.reason == "SteadyStateBroken");
    if settle && !run.adopted && probing::start(run, ProbeStage::After, out) {
        run.stage = Stage::Settling;
        run.settling_since_ms = now.boottime_ms;
        report::phase(run, now, ClusterPhase::Settling);
        return;
    }
    out.push(Effect::StopProbes { run: run.desired.run.clone() });
    close(run, now, out);
}

fn settling(run: &mut RunState, now: Now, out: &mut Vec<Effect>) {
    let late = probing::settle_by(run).is_none_or(|by| now.boottime_ms >= by);
    let ended = run.end.as_ref().is_some_and(|end| end.reason != "SteadyStateBroken");
    if !late && !ended && probing::recovery(run) == Progress::Open {
        return;
    }
    out.push(Effect::StopProbes { run: run.desired.run.clone() });
    close(run, now, out);
}

/// Asks for the record to be written as the run stands now.
pub fn persist(run: &mut RunState, state: RecordState, now: Now, out: &mut Vec<Effect>) {
    run.record_written += 1;
    let deadline =
        run.start.map(|s| s.deadline).or_else(|| run.bounds.map(|b| now.wall_at(b.run_deadline_ms)));
    let record = RunRecordHeld {
        desired: run.desired.clone(),
        state,
        started_at: run.start.map(|s| s.at),
        deadline,
        link_loss: run.link_loss,
        injections: run.injections.iter().map(|t| t.recorded.clone()).collect(),
        end_reason: run.end.as_ref().map(|e| e.reason.clone()).unwrap_or_default(),
        observed: (state == RecordState::Finished).then(|| Box::new(run.observed.clone())),
    };
    out.push(Effect::PersistRecord { version: run.record_written, record: Box::new(record) });
}

/// The effective spec came.
pub fn with_spec(run: &mut RunState, spec: &Arc<ExperimentSpec>) {
    run.spec = Some(Arc::clone(spec));
    run.link_loss = Some(LinkLoss::from(&spec.limits));
}
