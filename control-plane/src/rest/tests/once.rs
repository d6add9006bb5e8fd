//! One effect and one answer for one idempotency key.

use axum::body::Body;
use http::{Method, Request};
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::fixture::{ADMIN, Answer, Lab, experiment, request, send};

fn keyed(path: &str, token: &str, key: &str, body: &Value) -> Request<Body> {
    let mut request = request(Method::POST, path, token, Some(body));
    request.headers_mut().insert("idempotency-key", key.parse().expect("a header"));
    request
}

fn run(name: &str) -> Value {
    json!({ "name": name, "spec": { "experimentRef": { "name": "x" } }, "experiment": experiment("c1") })
}

async fn ask(lab: &Lab, path: &str, key: &str, body: &Value) -> Answer {
    lab.send(keyed(path, ADMIN, key, body)).await
}

#[tokio::test]
async fn the_same_request_again_is_answered_alike_by_every_replica() {
    let lab = Lab::new().await;
    let beside = Lab::beside(&lab).await;
    for (path, body, list) in [
        ("/v1/runs", run("r1"), "/v1/runs"),
        ("/v1/halts", json!({ "scope": { "type": "Fleet" } }), "/v1/halts"),
        ("/v1/clusters", json!({ "name": "c1" }), "/v1/clusters"),
        ("/v1/operators", json!({ "name": "ann", "role": "viewer" }), "/v1/operators?after=admin"),
    ] {
        let first = ask(&lab, path, "k-1", &body).await.ok(201);
        assert!(first.headers.get("idempotency-replayed").is_none(), "{first:?}");
        for replica in [&lab, &beside] {
            let again = ask(replica, path, "\"k-1\"", &body).await.ok(201);
            assert_eq!(again.text, first.text, "{path}");
            assert_eq!(again.headers["idempotency-replayed"], "true", "{path}");
            assert_eq!(again.headers["content-type"], first.headers["content-type"]);
            assert_eq!(lab.get(list).await.json()["items"].as_array().map(Vec::len), Some(1), "{path}");
        }
        // Each path and each caller has its own keys; here the key is free for nobody else's request.
        lab.store
            .txn(crate::store::Txn::new().delete_prefix("once/"))
            .await
            .expect("stored")
            .committed()
            .expect("done");
    }
}

#[tokio::test]
async fn a_key_stands_for_one_request_of_one_caller_for_a_day() {
    let lab = Lab::new().await;
    let body = json!({ "name": "c1" });
    let first = ask(&lab, "/v1/clusters", "k", &body).await.ok(201).json();
    let other = ask(&lab, "/v1/clusters", "k", &json!({ "name": "c2" })).await.problem(422);
    assert_eq!(other.problems[0].path, "header.Idempotency-Key");
    ask(&lab, "/v1/operators", "k", &body).await.problem(422);
    let twin = json!({ "name": "twin", "role": "admin" });
    let twin =
        lab.post("/v1/operators", &twin).await.ok(201).json()["token"].as_str().expect("text").to_owned();
    let theirs = lab.send(keyed("/v1/clusters", &twin, "k", &body)).await.ok(201).json();
    assert_ne!(theirs["token"], first["token"], "another caller's key is another key");
    lab.centre.inner.clock.advance(SignedDuration::from_hours(25));
    let later = ask(&lab, "/v1/clusters", "k", &json!({ "name": "c3" })).await.ok(201).json();
    assert_eq!(later["name"], "c3");
    let stored = lab.store.list("once/", crate::store::PageRequest::first(10)).await.expect("a list");
    assert!(!stored.entries.is_empty());
    for entry in stored.entries {
        assert!(entry.lease.is_some(), "the store forgets it by itself");
        let text = String::from_utf8_lossy(&entry.value).into_owned();
        assert!(!text.contains("flj1.") && !text.contains("flo1."), "no token in the store: {text}");
    }
}

#[tokio::test]
async fn what_was_refused_leaves_the_key_free() {
    let lab = Lab::new().await;
    ask(&lab, "/v1/clusters", "k", &json!({ "name": "../c" })).await.problem(422);
    ask(&lab, "/v1/clusters", "k", &json!({ "name": "c1" })).await.ok(201);
    for key in ["", "a b", "\u{e9}", &"k".repeat(256)] {
        let mut request = request(Method::POST, "/v1/clusters", ADMIN, Some(&json!({ "name": "c9" })));
        let value = http::HeaderValue::from_bytes(key.as_bytes()).expect("a header");
        request.headers_mut().insert("idempotency-key", value);
        lab.send(request).await.problem(422);
    }
    assert_eq!(lab.get("/v1/clusters").await.json()["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn many_at_once_have_one_effect() {
    let lab = Lab::new().await;
    let beside = Lab::beside(&lab).await;
    let body = run("r1");
    let asked = (0..12).map(|n| {
        let replica = if n % 2 == 0 { &lab } else { &beside };
        send(&replica.router, keyed("/v1/runs", ADMIN, "k", &body))
    });
    let answers = futures::future::join_all(asked).await;
    for answer in &answers {
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.json()["record"]["id"], answers[0].json()["record"]["id"]);
    }
    assert_eq!(lab.get("/v1/runs").await.json()["items"].as_array().map(Vec::len), Some(1));
}

/// A replica that died between the effect and its answer: whoever asks again finds what was made.
#[tokio::test]
async fn what_was_begun_by_a_replica_that_died_is_found_again() {
    let lab = Lab::new().await;
    let body = run("r1");
    let first = ask(&lab, "/v1/runs", "k", &body).await.ok(201).json();
    let page = lab.store.list("once/", crate::store::PageRequest::first(1)).await.expect("a list");
    let entry = &page.entries[0];
    let mut record: Value = serde_json::from_slice(&entry.value).expect("JSON");
    record.as_object_mut().expect("a record").remove("answer");
    let txn = crate::store::Txn::new().put(entry.key.as_str(), record.to_string());
    lab.store.txn(txn).await.expect("stored").committed().expect("stored");
    let again = ask(&lab, "/v1/runs", "k", &body).await.ok(201).json();
    assert_eq!(again["record"]["id"], first["record"]["id"]);
    // Without its key the same name is refused.
    lab.post("/v1/runs", &body).await.problem(409);
}

#[tokio::test]
async fn what_lost_its_caller_is_carried_on() {
    let lab = Lab::new().await;
    let gone = lab.router.clone();
    let request = keyed("/v1/clusters", ADMIN, "k", &json!({ "name": "c1" }));
    let mut call = Box::pin(async move { tower::ServiceExt::oneshot(gone, request).await });
    // Begun, and then the caller goes away.
    let begun = async {
        loop {
            let page = lab.store.list("once/", crate::store::PageRequest::first(1)).await.expect("a list");
            if !page.entries.is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = &mut call => {}
        () = begun => {}
    }
    drop(call);
    let answer = ask(&lab, "/v1/clusters", "k", &json!({ "name": "c1" })).await.ok(201);
    assert_eq!(answer.headers["idempotency-replayed"], "true");
    let tokens = lab.store.list("tokens/", crate::store::PageRequest::first(10)).await.expect("a list");
    assert_eq!(tokens.entries.len(), 1, "one token was made");
}
