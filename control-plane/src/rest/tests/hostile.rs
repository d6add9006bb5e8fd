//! Every route with what nobody should send: bodies of the wrong size, kind, type and encoding, durations and
//! selections that make no sense, tokens of others. Each is a problem, and nothing is stored.

use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};

use super::fixture::{ADMIN, Answer, Lab, experiment, grant};
use crate::rest::openapi;
use crate::store::PageRequest;

/// One documented operation.
struct Operation {
    method: Method,
    path: String,
    /// The fields of its body, where it takes one.
    fields: Option<Vec<String>>,
}

fn operations() -> Vec<Operation> {
    let description = serde_json::to_value(openapi()).expect("JSON");
    let mut found = Vec::new();
    for (path, item) in description["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let schema = operation.pointer("/requestBody/content/application~1json/schema/$ref");
            let fields = schema.and_then(Value::as_str).map(|reference| {
                let schema = description.pointer(reference.trim_start_matches('#')).expect("a schema");
                schema["properties"].as_object().expect("properties").keys().cloned().collect()
            });
            let method = method.to_uppercase().parse().expect("a method");
            found.push(Operation { method, path: path.replace(['{', '}'], ""), fields });
        }
    }
    found
}

async fn send(lab: &Lab, operation: &Operation, kind: &str, body: Vec<u8>) -> Answer {
    let request = Request::builder()
        .method(operation.method.clone())
        .uri(&operation.path)
        .header("authorization", format!("Bearer {ADMIN}"))
        .header("content-length", body.len());
    let request = if kind.is_empty() { request } else { request.header("content-type", kind) };
    lab.send(request.body(Body::from(body)).expect("a request")).await
}

const JSON: &str = "application/json";

/// Everything that is kept, but for what the centre itself writes all the time.
async fn stored(lab: &Lab) -> Vec<String> {
    let page = lab.store.list("", PageRequest::first(1000)).await.expect("a list");
    let own = |key: &String| {
        !["audit", "replicas", "leader", "revision", "format"].iter().any(|own| key.starts_with(own))
    };
    page.entries.into_iter().map(|entry| entry.key).filter(own).collect()
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_on_every_route() {
    let lab = Lab::new().await;
    let before = stored(&lab).await;
    let large = vec![b' '; 1024 * 1024];
    for operation in operations() {
        let answer = send(&lab, &operation, JSON, large.clone()).await;
        assert_eq!(answer.status.as_u16(), 413, "{} {}: {answer:?}", operation.method, operation.path);
        answer.problem(413);
    }
    assert_eq!(stored(&lab).await, before);
}

#[tokio::test]
async fn what_is_no_document_is_refused_on_every_route_that_takes_one() {
    let lab = Lab::new().await;
    let before = stored(&lab).await;
    let mut seen = 0;
    for operation in operations().into_iter().filter(|operation| operation.fields.is_some()) {
        for (kind, body, status) in [
            (JSON, &b"{\"\xff\xfe\": 1}"[..], 422),
            (JSON, b"\xff\xfe{\0}\0", 422),
            (JSON, b"", 422),
            (JSON, b"{", 422),
            (JSON, b"{} {}", 422),
            (JSON, b"null", 422),
            (JSON, b"[]", 422),
            (JSON, b"\"x\"", 422),
            (JSON, b"1e999", 422),
            (JSON, b"{\"\\u0000\": {}}", 422),
            ("", b"{}", 415),
            ("text/plain", b"{}", 415),
            ("application/x-www-form-urlencoded", b"a=b", 415),
            ("\u{ff}", b"{}", 415),
        ] {
            let answer = send(&lab, &operation, kind, body.to_vec()).await;
            let shown = String::from_utf8_lossy(body);
            assert_eq!(answer.status.as_u16(), status, "{} {kind} {shown:?}: {answer:?}", operation.path);
            answer.problem(status);
        }
        seen += 1;
    }
    assert!(seen >= 8, "{seen}");
    assert_eq!(stored(&lab).await, before);
}

#[tokio::test]
async fn every_field_of_every_document_is_read_strictly() {
    let lab = Lab::new().await;
    let before = stored(&lab).await;
    for operation in operations() {
        let Some(fields) = &operation.fields else { continue };
        let ask = async |body: Value| send(&lab, &operation, JSON, body.to_string().into_bytes()).await;
        let unknown = ask(json!({ "notAField": 1 })).await.problem(422);
        assert!(unknown.problems.iter().any(|problem| problem.path == "notAField"), "{unknown:?}");
        for field in fields {
            // Any JSON at first, and read as an Experiment once the rest is right: below.
            if field == "experiment" {
                continue;
            }
            // No field of ours is a list of lists, or holds such a thing under a name.
            for wrong in [json!([[1]]), json!({ "zz": [[1]] }), json!({ "": { "": null } })] {
                let body = json!({ field: wrong });
                let told = ask(body.clone()).await.problem(422);
                let named = told.problems.iter().any(|problem| problem.path.starts_with(field.as_str()));
                assert!(named, "{} {body}: {told:?}", operation.path);
            }
        }
    }
    for wrong in [json!([[1]]), json!({ "zz": 1 }), json!("x"), json!(0)] {
        let run = json!({ "name": "r1", "spec": { "experimentRef": { "name": "x" } }, "experiment": wrong });
        lab.post("/v1/runs", &run).await.problem(422);
    }
    assert_eq!(stored(&lab).await, before);
}

/// What is no duration, and what is too long for any of ours.
const NO_DURATION: [&str; 12] = [
    "",
    " ",
    "1",
    "-1s",
    "s",
    "1 s",
    "1.5h",
    "1e9s",
    "NaN",
    "99999999999999999999h",
    "18446744073709551615ms",
    "\u{663}s",
];

fn set(document: &Value, pointer: &str, value: &str) -> Value {
    let mut document = document.clone();
    *document.pointer_mut(pointer).expect(pointer) = json!(value);
    document
}

#[tokio::test]
async fn durations_that_make_no_sense_are_named() {
    let lab = Lab::new().await;
    lab.mute_member("c1").await;
    lab.post("/v1/operators", &json!({ "name": "ann", "role": "viewer" })).await.ok(201);
    lab.put_json("/v1/experiments/x", &json!({ "spec": experiment("c1") })).await.ok(200);
    let before = stored(&lab).await;
    let mut spec = experiment("c1");
    spec["steadyState"] = json!([{ "name": "up", "http": { "url": "http://x.shop/" },
        "expect": { "within": "1s" }, "every": "1s", "breachAfter": 3, "when": ["During"], "from": "TargetClusters" }]);
    spec["faults"][0]["network"]["delay"]["jitter"] = json!("1ms");
    let stored_spec = json!({ "spec": spec });
    let run = json!({ "name": "r1", "spec": { "experimentRef": { "name": "x" }, "ttlAfterFinished": "1h" } });
    let post = |path: &str, body: Value, at: &[&str], zero: bool| {
        (Method::POST, path.to_owned(), body, at.iter().map(|at| (*at).to_owned()).collect::<Vec<_>>(), zero)
    };
    let of_spec = |at: &[&str], zero: bool| {
        let at = at.iter().map(|at| format!("/spec{at}")).collect();
        (Method::PUT, "/v1/experiments/y".to_owned(), stored_spec.clone(), at, zero)
    };
    for (method, path, body, fields, zero_is_fine) in [
        post("/v1/clusters", json!({ "name": "c9", "ttl": "" }), &["/ttl"], false),
        post("/v1/clusters/c1/replace", json!({ "ttl": "" }), &["/ttl"], false),
        post("/v1/operators", json!({ "name": "bot", "role": "viewer", "ttl": "" }), &["/ttl"], false),
        post("/v1/operators/ann/rotate", json!({ "ttl": "" }), &["/ttl"], false),
        post("/v1/runs", run, &["/spec/ttlAfterFinished"], true),
        of_spec(
            &[
                "/faults/0/for",
                "/limits/clusterDeadline",
                "/limits/runDeadline",
                "/limits/startWithin",
                "/limits/onLinkLoss/after",
                "/steadyState/0/every",
                "/steadyState/0/expect/within",
            ],
            false,
        ),
        of_spec(&["/faults/0/at", "/faults/0/network/delay/latency", "/faults/0/network/delay/jitter"], true),
    ] {
        for field in fields {
            let last = field.rsplit('/').next().unwrap_or_default();
            let zero = ["0s", "0ms", "0h0m0s"].into_iter().filter(|_| !zero_is_fine);
            for wrong in NO_DURATION.into_iter().chain(zero) {
                let body = set(&body, &field, wrong);
                let told = lab.call(method.clone(), &path, ADMIN, Some(&body)).await;
                assert_eq!(told.status.as_u16(), 422, "{path} {field} {wrong:?}: {told:?}");
                let told = told.problem(422);
                let named = told.problems.iter().any(|problem| problem.path.ends_with(last));
                assert!(named, "{path} {field} {wrong:?}: {told:?}");
            }
        }
    }
    assert_eq!(stored(&lab).await, before);
}

#[tokio::test]
async fn selections_that_select_nothing_or_everything_by_omission_are_refused() {
    let lab = Lab::new().await;
    let before = stored(&lab).await;
    let changed = |pointer: &str, value: Value| {
        let mut spec = experiment("c1");
        *spec.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        spec
    };
    let empty = |pointer: &str, value: Value| json!({ "spec": changed(pointer, value) });
    let mut allowed = changed("/targets/0/pods/labelSelector", json!({}));
    allowed["targets"][0]["allowEmpty"] = json!(true);
    let granted = |pointer: &str, value: Value| {
        let mut spec = grant("c1");
        *spec.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        json!({ "spec": spec })
    };
    let halt = |scope: Value| json!({ "scope": scope });
    for (method, path, body) in [
        (Method::PUT, "/v1/experiments/y", empty("/targets/0/pods/labelSelector", json!({}))),
        (Method::PUT, "/v1/experiments/y", empty("/targets/0/pods/labelSelector/matchLabels", json!({}))),
        (Method::PUT, "/v1/experiments/y", empty("/targets/0/pods/namespaces", json!([]))),
        (Method::PUT, "/v1/experiments/y", empty("/targets/0/pods", json!({}))),
        (Method::PUT, "/v1/experiments/y", empty("/targets", json!([]))),
        (Method::PUT, "/v1/experiments/y", empty("/faults", json!([]))),
        (Method::PUT, "/v1/experiments/y", empty("/clusters", json!({}))),
        (Method::PUT, "/v1/experiments/y", empty("/clusters/names", json!([]))),
        (Method::PUT, "/v1/experiments/y", empty("/clusters", json!({ "labelSelector": {} }))),
        // It allows that nothing is there, not that everything is meant.
        (Method::PUT, "/v1/experiments/y", json!({ "spec": allowed })),
        (Method::PUT, "/v1/grants/g1", granted("/from/operators", json!([]))),
        (Method::PUT, "/v1/grants/g1", granted("/to/namespaces", json!([]))),
        (Method::PUT, "/v1/grants/g1", granted("/to/kinds", json!([]))),
        (Method::PUT, "/v1/grants/g1", granted("/to/clusters", json!({}))),
        (Method::PUT, "/v1/grants/g1", granted("/to/maxTargets", json!(0))),
        (Method::POST, "/v1/halts", halt(json!({ "type": "Clusters", "selector": {} }))),
        (Method::POST, "/v1/halts", halt(json!({ "type": "Clusters", "selector": { "names": [] } }))),
    ] {
        let answer = lab.call(method, path, ADMIN, Some(&body)).await;
        assert_eq!(answer.status.as_u16(), 422, "{path} {body}: {answer:?}");
        answer.problem(422);
    }
    assert_eq!(stored(&lab).await, before);
    // A target that may turn out to be empty is asked for by name.
    let mut may_be_empty = experiment("c1");
    may_be_empty["targets"][0]["allowEmpty"] = json!(true);
    lab.put_json("/v1/experiments/y", &json!({ "spec": may_be_empty })).await.ok(200);
}

#[tokio::test]
async fn a_token_of_another_control_plane_opens_nothing() {
    let (lab, other) = (Lab::new().await, Lab::new().await);
    let made = other.post("/v1/operators", &json!({ "name": "ann", "role": "admin" })).await.ok(201).json();
    let foreign = made["token"].as_str().expect("a token");
    other.call(Method::GET, "/v1/whoami", foreign, None).await.ok(200);
    for operation in operations().into_iter().filter(|operation| operation.path != "/openapi.json") {
        for token in [foreign.to_owned(), foreign.to_uppercase(), format!("{ADMIN}x"), "x".repeat(5000)] {
            let answer = lab.call(operation.method.clone(), &operation.path, &token, None).await;
            answer.problem(401);
        }
    }
}
