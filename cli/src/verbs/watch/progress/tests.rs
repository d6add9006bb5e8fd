//! What a person sees while a run goes on, and at its end.

use serde_json::{Value, json};

use super::*;
use crate::verbs::describe::run_text;

const RUN: &str = "0199ffff-0000-7000-8000-000000000001";

fn at(second: &str) -> String {
    format!("2026-11-23T10:00:{second}Z")
}

fn unix_ms(second: &str) -> i64 {
    at(second).parse::<Timestamp>().expect("an instant").as_millisecond()
}

fn injection(cluster: &str, number: u32, phase: &str) -> Value {
    json!({
        "id": format!("{RUN}.{cluster}.late.{number}"), "run": RUN, "phase": phase, "backend": "nfqueue",
        "injectedAtUnixMs": unix_ms("02.100"),
    })
}

fn view(phase: &str, clusters: &Value) -> RunView {
    let view = json!({
        "record": {
            "id": RUN, "namespace": "central", "name": "slow-1", "uid": RUN,
            "principal": { "type": "operator", "name": "ann" }, "origin": {},
            "spec": { "experimentRef": { "name": "slow" } }, "specHash": "ab", "planOnly": false,
            "createdAt": at("00"),
        },
        "summary": { "id": RUN, "phase": phase, "verdict": "NotMeasured", "residue": "Clean", "clusters": {} },
        "clusters": clusters,
    });
    serde_json::from_value(view).expect("a view")
}

fn cluster(name: &str, observed: Option<Value>) -> Value {
    let mut cluster = json!({
        "cluster": format!("c-{name}"), "name": name, "intent": "Start", "generation": 2, "connected": true,
    });
    if let Some(mut observed) = observed {
        let known = json!({ "run": RUN, "generation": 2, "verdict": "NotMeasured", "residue": "Clean" });
        for (key, value) in known.as_object().expect("an object") {
            observed.as_object_mut().expect("an object").entry(key).or_insert(value.clone());
        }
        cluster["observed"] = observed;
    }
    cluster
}

fn targets() -> Value {
    let target = |pod: &str| json!({ "namespace": "shop", "pod": pod, "uid": "u", "node": "n1" });
    json!({ format!("{RUN}.c-west.late.0"): target("payments-a"), format!("{RUN}.c-west.late.1"): target("payments-b") })
}

fn sample(second: &str, good: bool) -> Value {
    json!({ "at": at(second), "event": "ProbeSample", "subject": "checkout", "latencyMs": 12, "good": good, "detail": "200" })
}

fn running() -> RunView {
    let observed = json!({
        "phase": "Running",
        "counts": { "total": 2, "injected": 1, "active": 1 },
        "injections": [injection("c-west", 0, "Injected"), injection("c-west", 1, "Accepted")],
        "targets": targets(),
        "timeline": [
            { "at": at("01"), "event": "Stage", "subject": "Baseline" },
            sample("01.500", true),
            sample("02.000", true),
            { "at": at("02.100"), "event": "Injected", "subject": format!("{RUN}.c-west.late.0") },
        ],
    });
    view("Running", &json!([cluster("west", Some(observed)), cluster("east", None)]))
}

fn finished() -> RunView {
    let mut reverted = injection("c-west", 0, "Reverted");
    reverted["revertedAtUnixMs"] = json!(unix_ms("09.250"));
    reverted["reason"] = json!("Stopped");
    reverted["effect"] = json!("Seen");
    let mut gone = injection("c-west", 1, "TargetGone");
    gone["message"] = json!("the pod is gone");
    let observed = json!({
        "phase": "Finished", "outcome": "Aborted", "reason": "SteadyStateBroken", "verdict": "Broken",
        "message": "probe checkout was bad 3 times",
        "counts": { "total": 2, "injected": 2, "reverted": 2 },
        "injections": [gone, reverted],
        "targets": targets(),
        "probes": [{ "name": "checkout", "breached": true, "stages": {
            "Before": { "good": 3, "bad": 0, "medianMs": 12, "maxMs": 15 },
            "During": { "good": 1, "bad": 3, "medianMs": 950, "maxMs": 1200 } } }],
        "timeline": [
            sample("02.000", true),
            sample("05.000", false),
            sample("06.000", false),
            { "at": at("07"), "event": "Breach", "subject": "checkout", "detail": "1200 ms, wanted 1s" },
            sample("08.000", true),
            sample("09.000", true),
            { "at": at("09"), "event": "Stop", "subject": "SteadyStateBroken", "detail": "by the guard" },
        ],
    });
    let mut east = cluster("east", None);
    east["connected"] = json!(false);
    let mut view = view("Finished", &json!([cluster("west", Some(observed)), east]));
    let summary = json!({
        "id": RUN, "phase": "Finished", "outcome": "Aborted", "reason": "SteadyStateBroken", "verdict": "Broken",
        "residue": "Clean", "clusters": {},
        "refusals": [{ "code": "ClusterUnavailable", "message": "east is not connected", "whose": "cluster owner",
            "cure": "start its agent" }],
    });
    view.summary = serde_json::from_value(summary).expect("a summary");
    view
}

#[test]
fn a_run_is_told_as_it_goes_each_thing_once() {
    let mut progress = Progress::default();
    let views = [view("Planning", &json!([])), running(), running(), finished()];
    let lines: Vec<String> = views.iter().flat_map(|view| progress.news(view)).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn who_comes_late_is_told_where_everything_stands() {
    insta::assert_snapshot!(Progress::default().news(&finished()).join("\n"));
}

#[test]
fn a_run_in_full() {
    insta::assert_snapshot!(run_text(&finished()));
}

#[test]
fn only_ids_of_injections_are_shortened() {
    assert_eq!(short(&format!("{RUN}.c-west.late.0")), "late.0");
    for whole in ["checkout", "a.b.c", "Baseline"] {
        assert_eq!(short(whole), whole);
    }
}
