//! What is refused, that it is refused as a problem, and that it leaves nothing behind.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::middleware::map_response;
use http::{Method, Request, StatusCode};
use proto::problem::ErrorCode;
use serde_json::{Value, json};
use tower_http::timeout::TimeoutLayer;

use super::fixture::{ADMIN, Lab, experiment, request, send};
use crate::rest::openapi;
use crate::rest::problem::normalise;

/// Every documented operation with names filled in.
fn operations() -> Vec<(Method, String)> {
    let description = serde_json::to_value(openapi()).expect("JSON");
    let paths = description["paths"].as_object().expect("paths").clone();
    let of_path = |(path, item): (String, Value)| {
        let path =
            path.replace("{name}", "x").replace("{run}", "x").replace("{cluster}", "x").replace("{id}", "x");
        let methods: Vec<String> = item.as_object().expect("operations").keys().cloned().collect();
        methods
            .into_iter()
            .map(move |method| (method.to_uppercase().parse().expect("a method"), path.clone()))
    };
    paths.into_iter().flat_map(of_path).collect()
}

fn raw(method: Method, path: &str, kind: &str, body: impl Into<Body>) -> Request<Body> {
    let request =
        Request::builder().method(method).uri(path).header("authorization", format!("Bearer {ADMIN}"));
    let request = if kind.is_empty() { request } else { request.header("content-type", kind) };
    request.body(body.into()).expect("a request")
}

#[tokio::test]
async fn nothing_but_the_description_is_open() {
    let lab = Lab::new().await;
    let mut seen = 0;
    for (method, path) in operations() {
        let answer = lab.call(method.clone(), &path, "", None).await;
        if path == "/openapi.json" {
            answer.ok(200);
            continue;
        }
        let details = answer.problem(401);
        assert_eq!(details.code, ErrorCode::Unauthenticated, "{method} {path}");
        assert!(answer.headers.contains_key("www-authenticate"), "{method} {path}");
        lab.call(method, &path, "wrong-token-of-the-tests", None).await.problem(401);
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
    for header in ["", "Bearer", "Bearer ", "Basic YTpi", ADMIN] {
        let mut request = request(Method::GET, "/v1/whoami", "", None);
        request.headers_mut().insert("authorization", header.parse().expect("a header"));
        lab.send(request).await.problem(401);
    }
}

#[tokio::test]
async fn ten_mistakes_are_ten_problems_and_nothing_is_stored() {
    let lab = Lab::new().await;
    let mut spec = experiment("c1");
    spec["hypothesys"] = json!("x");
    spec["settable"] = json!(["faults[nobody].network.delay.latency"]);
    spec["targets"][0]["pick"] = json!({ "percent": 50, "one": true });
    spec["targets"][0]["atMost"] = json!({ "perCluster": "five" });
    spec["targets"][0]["pods"]["labelSelector"] = json!({});
    spec["faults"][0]["target"] = json!("paiments");
    spec["faults"][0]["for"] = json!("10m");
    spec["faults"][0]["network"]["delay"]["latancy"] = json!("1s");
    spec["faults"][0]["network"]["delay"]["peers"] = json!([{ "cidr": "10.0.0.0/80" }]);
    spec["limits"]["startWithin"] = json!("soon");
    let before = lab.store.health().await.expect("a store").revision;
    let details = lab.put_json("/v1/experiments/wrong", &json!({ "spec": spec })).await.problem(422);
    let paths: Vec<&str> = details.problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths.len(), 10, "{details:#?}");
    for path in ["spec.hypothesys", "spec.faults[0].network.delay.latancy", "spec.limits.startWithin"] {
        assert!(paths.contains(&path), "{path}: {details:#?}");
    }
    let run = json!({ "name": "r1", "spec": { "experimentRef": { "name": "x" } }, "experiment": spec });
    assert_eq!(lab.post("/v1/runs", &run).await.problem(422).problems.len(), 10);
    lab.get("/v1/experiments/wrong").await.problem(404);
    assert_eq!(lab.get("/v1/runs").await.json()["items"], json!([]));
    for prefix in ["experiments/", "runs/", "specs/", "tombstones/"] {
        let page = lab.store.list(prefix, crate::store::PageRequest::first(1)).await.expect("a list");
        assert!(page.entries.is_empty(), "{prefix} since {before}: {page:?}");
    }
}

#[tokio::test]
async fn bodies_that_are_none_are_named_for_what_they_are() {
    let lab = Lab::new().await;
    let path = "/v1/experiments/x";
    let json_type = "application/json";
    let large = format!("{{\"spec\": {{\"hypothesis\": \"{}\"}}}}", "x".repeat(1024 * 1024));
    let deep = format!("{{\"spec\": {}1{}}}", "[".repeat(20_000), "]".repeat(20_000));
    let long = format!("{{\"spec\": {{\"hypothesis\": \"{}\"}}}}", "x".repeat(20 * 1024));
    for (kind, body, status) in [
        (json_type, large.clone().into_bytes(), 413),
        (json_type, long.into_bytes(), 422),
        (json_type, deep.into_bytes(), 422),
        (json_type, b"{\"spec\": \"\xff\xfe\"}".to_vec(), 422),
        (json_type, b"{\"spec\": ".to_vec(), 422),
        (json_type, Vec::new(), 422),
        (json_type, b"null".to_vec(), 422),
        (json_type, b"[]".to_vec(), 422),
        (json_type, b"{\"spec\": []}".to_vec(), 422),
        (json_type, b"{\"specs\": {}}".to_vec(), 422),
        ("text/yaml", b"spec: {}".to_vec(), 415),
        ("", b"{}".to_vec(), 415),
    ] {
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        let answer = lab.send(raw(Method::PUT, path, kind, body)).await;
        assert_eq!(answer.status.as_u16(), status, "{kind} {shown}: {answer:?}");
        answer.problem(status);
    }
    // Without a length, the body is cut off while it is read.
    let chunks = futures::stream::iter((0..64).map(|_| Ok::<_, std::io::Error>(vec![b' '; 16 * 1024])));
    lab.send(raw(Method::PUT, path, json_type, Body::from_stream(chunks))).await.problem(413);
    let details = lab.send(raw(Method::PUT, path, json_type, "{\"specs\": {}, \"x\": 1}")).await.problem(422);
    assert_eq!(details.problems.len(), 3, "{details:?}");
    assert!(details.problems[0].message.contains("did you mean spec?"), "{details:?}");
    lab.get(path).await.problem(404);
}

#[tokio::test]
async fn every_document_is_read_strictly() {
    let lab = Lab::new().await;
    for (path, body, expected) in [
        (
            "/v1/runs",
            json!({ "nam": "x", "planOnly": "yes", "spec": {} }),
            vec!["nam", "planOnly", "name", "spec.experimentRef"],
        ),
        ("/v1/halts", json!({ "scope": { "type": "Cluster" }, "why": "" }), vec!["why", "scope.cluster"]),
        ("/v1/clusters", json!({ "name": "c1", "ttl": 30, "label": {} }), vec!["label", "ttl"]),
        ("/v1/clusters", json!({ "name": "../c1" }), vec!["name"]),
        ("/v1/clusters", json!({ "name": "c1", "ttl": "900h" }), vec!["ttl"]),
    ] {
        let details = lab.post(path, &body).await.problem(422);
        let mut found: Vec<&str> = details.problems.iter().map(|problem| problem.path.as_str()).collect();
        let mut expected = expected;
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{path} {body}: {details:?}");
    }
    assert_eq!(lab.get("/v1/clusters").await.json()["items"], json!([]));
}

#[tokio::test]
async fn junk_in_paths_and_queries_finds_nothing() {
    let lab = Lab::new().await;
    let huge = "a".repeat(5000);
    for name in [
        "..",
        "%2e%2e",
        "a%2Fb",
        "..%2F..%2Foperators",
        "%00",
        "%ff",
        "%0a",
        "a%20b",
        "%F0%9F%92%A5",
        huge.as_str(),
    ] {
        for thing in ["experiments", "grants", "runs", "halts", "clusters"] {
            for method in [Method::GET, Method::DELETE] {
                let answer = lab.call(method.clone(), &format!("/v1/{thing}/{name}"), ADMIN, None).await;
                let status = answer.status.as_u16();
                let fine = matches!(status, 404 | 422) || (thing == "halts" && status == 405);
                assert!(fine, "{method} {thing}/{name}: {answer:?}");
                answer.problem(status);
                assert!(answer.text.len() < 2048, "{method} {thing}/{name}: not echoed");
            }
        }
        let answer =
            lab.put_json(&format!("/v1/experiments/{name}"), &json!({ "spec": experiment("c1") })).await;
        assert!(matches!(answer.status.as_u16(), 404 | 422), "PUT {name}: {answer:?}");
        lab.get(&format!("/v1/runs/{name}/watch")).await.problem(404);
    }
    for query in ["limit=x", "limit=-1", "limt=1", &format!("after={huge}"), "after=a&after=b"] {
        lab.get(&format!("/v1/grants?{query}")).await.problem(422);
    }
    lab.get("/v1/audit?after=operators%2F").await.problem(422);
    lab.get("/v1/grants?limit=0").await.ok(200);
    assert_eq!(lab.get("/v1/experiments").await.json()["items"], json!([]));
}

#[tokio::test]
async fn taking_too_long_is_a_problem_too() {
    let never = axum::routing::get(std::future::pending::<()>);
    let timeout = TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, Duration::from_millis(20));
    let router = Router::new().route("/slow", never).layer(timeout).layer(map_response(normalise));
    let answer = send(&router, request(Method::GET, "/slow", "", None)).await;
    assert_eq!(answer.problem(503).code, ErrorCode::Unavailable);
    assert_eq!(answer.headers["retry-after"], "1");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems_too() {
    let lab = Lab::new().await;
    for path in ["/", "/v1", "/v1/", "/v1/nothing", "/v1/runs/x/y/z", "/metrics", "//v1/runs"] {
        lab.get(path).await.problem(404);
    }
    let answer = lab.call(Method::PATCH, "/v1/runs", ADMIN, None).await;
    answer.problem(405);
    assert_eq!(answer.headers["allow"], "GET,HEAD,POST");
    for path in ["/v1/runs/none/stop", "/v1/clusters/none/accept", "/v1/clusters/none/revoke"] {
        lab.post(path, &json!({})).await.problem(404);
    }
}
