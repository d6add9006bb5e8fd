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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proto::assignment::Origin;
    use proto::grant::Principal;

    use super::*;
    use crate::engine::summary::initial;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn record() -> RunRecord {
        let spec = serde_json::json!({ "experimentRef": { "name": "x" } });
        RunRecord {
            id: "run-1".parse().unwrap(),
            namespace: "shop".to_owned(),
            name: "r".to_owned(),
            uid: "u".to_owned(),
            principal: Principal::Operator { name: "ann".to_owned() },
            author: None,
            origin: Origin { cluster: None, labels: BTreeMap::new(), namespace: None },
            spec: serde_json::from_value(spec).unwrap(),
            spec_hash: String::new(),
            plan_only: false,
            created_at: at(0),
            stop: None,
            trace: proto::trace::TraceContext::NONE,
        }
    }

    /// Each condition as `Kind=Reason since`, `-` before the reason where it is not so.
    fn told(summary: &RunSummary) -> Vec<String> {
        let status = run_status(&record(), summary);
        let since = |c: &Condition| {
            c.last_transition_time.parse::<Timestamp>().unwrap().duration_since(at(0)).as_secs()
        };
        let sign = |c: &Condition| if c.status == "True" { "" } else { "-" };
        let tell = |c: &Condition| format!("{}={}{} {}", c.kind, sign(c), c.reason, since(c));
        status.conditions.iter().map(tell).collect()
    }

    #[test]
    fn every_condition_comes_true_at_its_instant_with_a_reason() {
        let mut summary = initial("run-1".parse().unwrap());
        let waits = ["Planned=-NotYet 0", "Injected=-NotYet 0", "Reverted=-NotYet 0"];
        let ends = ["Complete=-NotYet 0", "Failed=-NotYet 0"];
        assert_eq!(told(&summary), [&["Accepted=Recorded 0"][..], &waits, &ends].concat());
        (summary.planned_at, summary.plan_hash) = (Some(at(1)), Some("h".to_owned()));
        (summary.dispatched_at, summary.injected_at) = (Some(at(2)), Some(at(3)));
        (summary.reverted_at, summary.finished_at) = (Some(at(4)), Some(at(5)));
        (summary.phase, summary.outcome) = (RunPhase::Finished, Some(Outcome::Completed));
        let steps = [
            "Accepted=Recorded 0",
            "Planned=AllClustersAnswered 1",
            "Injected=ReadBack 3",
            "Reverted=ReadBackClean 4",
        ];
        assert_eq!(told(&summary), [&steps[..], &["Complete=Completed 5", "Failed=-NotYet 0"]].concat());
        (summary.outcome, summary.reason) = (Some(Outcome::Aborted), "LinkLost".to_owned());
        assert_eq!(told(&summary), [&steps[..], &["Complete=-NotYet 0", "Failed=LinkLost 5"]].concat());
    }

    #[test]
    fn what_was_denied_names_the_first_missing_key_and_how_to_get_it() {
        let mut summary = initial("run-1".parse().unwrap());
        let refusal = |code: &str| Refusal {
            code: code.to_owned(),
            message: "no Grant covers it".to_owned(),
            whose: "centre".to_owned(),
            cure: "faultline grant x".to_owned(),
        };
        summary.refusals = vec![refusal("NoGrant"), refusal("Halted")];
        (summary.phase, summary.outcome) = (RunPhase::Finished, Some(Outcome::Denied));
        (summary.finished_at, summary.reason) = (Some(at(5)), "NoGrant".to_owned());
        let found = told(&summary);
        assert_eq!((found[0].as_str(), found[5].as_str()), ("Accepted=-NoGrant 5", "Failed=NoGrant 5"));
        let accepted = run_status(&record(), &summary).conditions.remove(0);
        let words = "no Grant covers it (to be given by the centre): faultline grant x";
        assert_eq!(accepted.message, words);
    }
}
