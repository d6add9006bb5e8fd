//! What the centre asks, checked before it is taken: generations, completeness, hashes. Stop and Forget need no
//! generation, and what once stopped or started never starts again, across restarts too.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use proto::assignment::{ClusterPhase, Desired, Intent, Outcome, Residue, StopReason};
use proto::ids::RunId;
use proto::injection::InjectionPhase;
use proto::plan::refusal;
use proto::validate;
use proto::wire::Nack;

use super::resolve::refuse;
use super::state::{RunState, Stage, Start, Tracked};
use super::{Effect, Now, State, admit, endings, report, runs, schedule};
use crate::cluster::{LatchedHalts, RecordState, RecordedInjection, RunRecordHeld};

/// Runs held at once; more are refused, so that a centre gone wild cannot fill the agent.
const MAX_RUNS: usize = 512;

/// Takes an assignment, or says why not.
pub fn desired(state: &mut State, new: Desired, start_within_ms: u64, now: Now, out: &mut Vec<Effect>) {
    match new.intent {
        Intent::Stop => return stop(state, &new, now, out),
        Intent::Forget => return forget(state, &new, now),
        Intent::Plan | Intent::Start => {}
    }
    if let Err((code, detail)) = acceptable(state, &new) {
        let (run, generation) = (new.run.to_string(), new.generation);
        return out.push(Effect::Nack(Nack { run, generation, code: code.to_owned(), detail }));
    }
    let bound = (start_within_ms > 0).then(|| now.boottime_ms.saturating_add(start_within_ms));
    let Some(run) = state.runs.get_mut(&new.run) else {
        let mut run = RunState::new(new);
        run.arrival_bound_ms = bound;
        state.runs.insert(run.desired.run.clone(), run);
        return;
    };
    run.dirty = true;
    if run.desired == new {
        return; // said again, so answered again
    }
    if run.end.is_some() || run.stage >= Stage::Journalling {
        run.desired.generation = new.generation; // it had its one start
        return;
    }
    if run.desired.spec_hash != new.spec_hash {
        run.spec = None;
    }
    run.desired = new;
    run.arrival_bound_ms = bound;
    run.planned_by_ms = None;
    run.bounds = None;
    run.asked = false;
    run.stage = Stage::AwaitingSpec;
}

fn acceptable(state: &State, new: &Desired) -> Result<(), (&'static str, String)> {
    if let Some(run) = state.runs.get(&new.run) {
        if new.generation < run.desired.generation {
            return Err(("StaleGeneration", format!("generation {} is held", run.desired.generation)));
        }
        if new.generation == run.desired.generation && *new != run.desired {
            return Err(("GenerationReused", "the same generation came with other content".to_owned()));
        }
    } else if state.runs.len() >= MAX_RUNS {
        return Err(("TooManyRuns", format!("{MAX_RUNS} runs are held")));
    }
    if state.forgotten.contains(&new.run) {
        return Err(("Forgotten", "this run was dropped here".to_owned()));
    }
    let complete = new.start_before.is_some() && new.run_deadline.is_some() && new.envelope.is_some();
    if new.intent == Intent::Start && !complete {
        return Err(("Incomplete", "a start needs startBefore, runDeadline and envelope".to_owned()));
    }
    Ok(())
}

fn stop(state: &mut State, new: &Desired, now: Now, out: &mut Vec<Effect>) {
    let reason = new.stop_reason.unwrap_or(StopReason::Requested);
    let run = state.runs.entry(new.run.clone()).or_insert_with(|| RunState::new(new.clone()));
    run.desired.generation = run.desired.generation.max(new.generation);
    // Held durably and said in Hello: a centre that forgot the stop is given it back.
    (run.desired.intent, run.desired.stop_reason) = (Intent::Stop, Some(reason));
    run.dirty = true;
    let (outcome, word, revert) = match reason {
        StopReason::Requested => (Outcome::Aborted, "Stopped", "Stopped"),
        StopReason::Deleted => (Outcome::Aborted, "Deleted", "Stopped"),
        StopReason::RunAborted => (Outcome::Aborted, "RunAborted", "Stopped"),
        StopReason::Halted => (Outcome::Halted, "Halted", "Halted"),
    };
    let fresh = run.end.is_none();
    endings::end(run, now, outcome, word, "the centre asked for it", revert);
    if fresh && run.is_live() {
        runs::persist(run, RecordState::Stopped, now, out);
    }
}

fn forget(state: &mut State, new: &Desired, now: Now) {
    if let Some(run) = state.runs.get_mut(&new.run) {
        run.forget = true;
        endings::end(run, now, Outcome::Aborted, "Forgotten", "the centre forgot it", "Stopped");
    } else {
        state.remember_forgotten(new.run.clone());
    }
}

/// What is held and not named has nothing to do here any more: stopped, then dropped.
pub fn desired_list(state: &mut State, named: &[RunId], now: Now, _out: &mut Vec<Effect>) {
    let named: BTreeSet<&RunId> = named.iter().collect();
    for (_, run) in state.runs.iter_mut().filter(|(id, _)| !named.contains(id)) {
        run.forget = true;
        endings::end(run, now, Outcome::Aborted, "Forgotten", "the centre does not know it", "Stopped");
    }
}

/// A spec came for every run that waits for it.
pub fn spec(state: &mut State, hash: &str, body: &[u8], now: Now, out: &mut Vec<Effect>) {
    let parsed = parse(hash, body);
    for run in state.runs.values_mut().filter(|r| r.desired.spec_hash == hash && r.spec.is_none()) {
        match &parsed {
            Ok(spec) => runs::with_spec(run, &Arc::clone(spec)),
            Err(why) if run.stage == Stage::AwaitingSpec => {
                let cure = "create another Run; if it stays, upgrade this agent";
                let refusal = refuse(refusal::INVALID, format!("spec {hash}: {why}"), "author", cure);
                endings::denied(run, now, vec![refusal], out);
            }
            Err(_) => {}
        }
    }
}

fn parse(hash: &str, body: &[u8]) -> Result<Arc<proto::experiment::ExperimentSpec>, String> {
    if body.is_empty() {
        return Err("the centre does not have it".to_owned());
    }
    if proto::hash::sha256_hex(body) != hash {
        return Err("its bytes have another hash".to_owned());
    }
    let value = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    validate::experiment(&value).map(Arc::new).map_err(|problems| problems.to_string())
}

/// After a restart: nothing starts again. What may be active is watched to its end; what never began is over.
pub fn recovered(state: &mut State, records: Vec<RunRecordHeld>, latched: LatchedHalts, now: Now) {
    state.halts.latched = latched.clone();
    state.halts.durable = Some(latched);
    state.link.down_since_ms = Some(now.boottime_ms);
    for record in records {
        let run = adopt(record, now);
        state.runs.insert(run.desired.run.clone(), run);
    }
}

fn adopt(record: RunRecordHeld, now: Now) -> RunState {
    let mut run = RunState::new(record.desired);
    run.adopted = true;
    run.dirty = true;
    run.observed.started_at = record.started_at;
    run.start = record.started_at.zip(record.deadline).map(|(at, deadline)| resumed(at, deadline, now));
    run.link_loss = record.link_loss;
    let (id, start) = (run.desired.run.clone(), run.start);
    let held = record.injections.into_iter().map(|recorded| adopted(recorded, &id, start, now));
    if let Some(last) = record.observed.filter(|_| record.state == RecordState::Finished) {
        if last.residue != Residue::Clean {
            run.injections = held.collect();
        }
        run.observed = *last;
        run.stage = Stage::Finished;
        return run;
    }
    run.injections = held.collect();
    run.stage = Stage::Running;
    run.observed.phase = ClusterPhase::Running;
    if record.state == RecordState::Stopped {
        let message = "stopped before the agent was restarted";
        let (outcome, reason, revert) = match record.end_reason.as_str() {
            "Halted" => (Outcome::Halted, "Halted", "Halted"),
            "" => (Outcome::Aborted, "Stopped", "Stopped"),
            reason => (Outcome::Aborted, reason, "Stopped"),
        };
        endings::end(&mut run, now, outcome, reason, message, revert);
    } else if start.is_none() {
        let message = "the agent was restarted before anything was made";
        endings::end(&mut run, now, Outcome::Aborted, "AgentRestart", message, "Stopped");
    }
    report::note(&mut run, now, "Adopted", "AgentRestart", "");
    run
}

/// The bounds of a run that began before the restart. A wall clock that was set back must not lengthen anything.
fn resumed(at: Timestamp, deadline: Timestamp, now: Now) -> Start {
    let most = deadline.as_millisecond().saturating_sub(at.as_millisecond()).max(0) as u64;
    let deadline_ms = now.boottime_at(deadline).min(now.boottime_ms.saturating_add(most));
    Start { at_ms: now.boottime_ms, at, deadline_ms, deadline }
}

/// Not known until its daemon comes, or never made where the run had not begun.
fn adopted(recorded: RecordedInjection, run: &RunId, start: Option<Start>, now: Now) -> Tracked {
    // What is left of it by the wall clock, and never more than it was given: 0 stands for the deadline.
    let whole_ms = recorded.at_ms.saturating_add(recorded.for_ms);
    let since_ms =
        start.map_or(0, |s| now.wall.as_millisecond().saturating_sub(s.at.as_millisecond()).max(0));
    let left_ms = whole_ms.saturating_sub(since_ms.unsigned_abs()).max(1);
    let mut tracked = Tracked {
        status: admit::status(&recorded.id, run, ""),
        injection: None,
        grace_s: None,
        at_ms: 0,
        for_ms: if recorded.for_ms == 0 { 0 } else { left_ms },
        sent: start.is_some(),
        revert_sent: false,
        heard: false,
        recorded,
    };
    tracked.status.phase = InjectionPhase::Missed;
    if let Some(start) = start {
        let end = now.wall_at(schedule::end_of(&start, &tracked)).as_millisecond();
        tracked.status.phase = InjectionPhase::Unknown;
        tracked.status.resolves_at_unix_ms = Some(end);
    }
    tracked
}
