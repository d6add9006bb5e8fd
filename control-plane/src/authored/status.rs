//! The status that is mirrored to authored objects. Made from the run's summary alone, so that
//! every replica writes the same, and a condition's transition time is the instant it came true.

use jiff::Timestamp;
use proto::assignment::Outcome;
use proto::plan::Refusal;
use proto::run::RunRecord;
use proto::status::{AuthoredSample, AuthoredStatus, Condition, RunPhase, RunSummary};

fn word<T: serde::Serialize>(value: T) -> Option<String> {
    serde_json::to_value(value).ok()?.as_str().map(str::to_owned)
}

/// A message that names the missing key, whose it is, and the command that gives it.
fn message_of(refusal: &Refusal) -> String {
    let mut text = refusal.message.clone();
    if !refusal.whose.is_empty() {
        text = format!("{text} (to be given by the {})", refusal.whose);
    }
    if !refusal.cure.is_empty() {
        text = format!("{text}: {}", refusal.cure);
    }
    text
}

struct Conditions {
    list: Vec<Condition>,
    since: Timestamp,
}

impl Conditions {
    fn add(&mut self, kind: &str, at: Option<Timestamp>, reason: &str, message: &str) {
        let text = |yes: &str, no: &str| {
            if at.is_some() { yes.to_owned() } else { no.to_owned() }
        };
        self.list.push(Condition {
            kind: kind.to_owned(),
            status: text("True", "False"),
            reason: text(reason, "NotYet"),
            message: text(message, ""),
            last_transition_time: at.unwrap_or(self.since).to_string(),
            observed_generation: Some(1),
        });
    }
}

/// The status of a Run object. A Run's generation is 1 for ever: it is immutable.
pub fn run_status(record: &RunRecord, summary: &RunSummary) -> AuthoredStatus {
    let finished = summary.phase == RunPhase::Finished;
    let completed = finished && summary.outcome == Some(Outcome::Completed);
    let mut conditions = Conditions { list: Vec::new(), since: record.created_at };
    let refused = summary.outcome == Some(Outcome::Denied) && summary.dispatched_at.is_none();
    match summary.refusals.first().filter(|_| refused) {
        Some(refusal) => conditions.list.push(Condition {
            kind: "Accepted".to_owned(),
            status: "False".to_owned(),
            reason: refusal.code.clone(),
            message: message_of(refusal),
            last_transition_time: summary.finished_at.unwrap_or(record.created_at).to_string(),
            observed_generation: Some(1),
        }),
        None => conditions.add("Accepted", Some(record.created_at), "Recorded", ""),
    }
    let planned_at = summary.planned_at.filter(|_| summary.plan_hash.is_some());
    conditions.add("Planned", planned_at, "AllClustersAnswered", "");
    conditions.add("Injected", summary.injected_at, "ReadBack", "");
    conditions.add("Reverted", summary.reverted_at, "ReadBackClean", "");
    conditions.add("Complete", summary.finished_at.filter(|_| completed), "Completed", "");
    let reason = if summary.reason.is_empty() { "Failed" } else { &summary.reason };
    conditions.add("Failed", summary.finished_at.filter(|_| !completed), reason, &summary.message);
    AuthoredStatus {
        observed_generation: Some(1),
        phase: word(summary.phase),
        outcome: summary.outcome.and_then(word),
        verdict: word(summary.verdict).filter(|_| finished),
        residue: word(summary.residue),
        residue_resolves_at: summary.residue_resolves_at.map(|at| at.to_string()),
        run_id: Some(record.id.to_string()),
        plan_hash: summary.plan_hash.clone(),
        clusters: Some(summary.clusters),
        samples: summary.samples.iter().map(sample).collect(),
        conditions: conditions.list,
    }
}

fn sample(sample: &proto::status::ClusterSample) -> AuthoredSample {
    let phase = word(sample.phase).unwrap_or_default();
    let state = match sample.outcome.and_then(word) {
        Some(outcome) if sample.reason.is_empty() => format!("{phase}, {outcome}"),
        Some(outcome) => format!("{phase}, {outcome} ({})", sample.reason),
        None => phase,
    };
    AuthoredSample { cluster: sample.name.clone(), state, message: sample.message.clone() }
}

/// The status of an Experiment object that was stored.
pub fn experiment_status(generation: i64, stored_at: Timestamp) -> AuthoredStatus {
    accepted(generation, "True", "Stored", "", stored_at)
}

/// The status of an object that was not taken.
pub fn refused_status(generation: i64, reason: &str, message: &str, at: Timestamp) -> AuthoredStatus {
    accepted(generation, "False", reason, message, at)
}

fn accepted(generation: i64, status: &str, reason: &str, message: &str, at: Timestamp) -> AuthoredStatus {
    AuthoredStatus {
        observed_generation: Some(generation),
        conditions: vec![Condition {
            kind: "Accepted".to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.chars().take(4096).collect(),
            last_transition_time: at.to_string(),
            observed_generation: Some(generation),
        }],
        ..AuthoredStatus::default()
    }
}
