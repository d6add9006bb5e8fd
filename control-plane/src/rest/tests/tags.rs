//! Entity tags: every answer to a GET has one that changes with what it shows, and changes are made only over what was
//! seen; stops and halts are made in any case.

use http::header::{CONTENT_LENGTH, ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderName, Method, StatusCode};
use proto::cluster::ClusterStatus;
use proto::halt::HaltLevel;
use proto::ids::ClusterId;
use serde_json::{Value, json};

use super::fixture::{ADMIN, Answer, Lab, eventually, experiment, grant, request};
use crate::driver::codec;
use crate::engine::object::Object;
use crate::rest::openapi;
use crate::store::{Outcome, Txn};

/// GETs whose answer has no tag, and why.
const UNTAGGED: [(&str, &str); 1] =
    [("/v1/runs/{run}/watch", "a stream: each event has an id, for Last-Event-ID")];

/// A centre with one of everything.
async fn furnished() -> (Lab, ClusterId) {
    let lab = Lab::new().await;
    let cluster = lab.mute_member("c1").await;
    // Nobody is there: its run is denied at once, and moves no more.
    lab.post("/v1/clusters", &json!({ "name": "c2" })).await.ok(201);
    lab.put_json("/v1/experiments/x", &json!({ "spec": experiment("c2") })).await.ok(200);
    lab.put_json("/v1/grants/g1", &json!({ "spec": grant("c1") })).await.ok(200);
    lab.post("/v1/halts", &json!({ "id": "h1", "scope": { "type": "Fleet" } })).await.ok(201);
    let run = json!({ "name": "r1", "spec": { "experimentRef": { "name": "x" } } });
    lab.post("/v1/runs", &run).await.ok(201);
    settled(&lab).await;
    (lab, cluster)
}

/// Until the run was denied, and nothing changes by itself any more.
async fn settled(lab: &Lab) {
    eventually(async || {
        (lab.get("/v1/runs/r1").await.json()["summary"]["phase"] == "Finished").then_some(())
    })
    .await;
}

fn real(template: &str) -> String {
    let name = match template.split('/').nth(2).unwrap_or_default() {
        "experiments" => "x",
        "grants" => "g1",
        "runs" => "r1",
        "clusters" => "c1",
        "halts" => "h1",
        _ => "admin",
    };
    ["{name}", "{run}", "{cluster}", "{id}"]
        .iter()
        .fold(template.to_owned(), |path, part| path.replace(part, name))
}

async fn asked(
    lab: &Lab,
    method: Method,
    path: &str,
    header: (HeaderName, &str),
    body: Option<&Value>,
) -> Answer {
    let mut request = request(method, path, ADMIN, body);
    request.headers_mut().insert(header.0, header.1.parse().expect("a header"));
    lab.send(request).await
}

async fn tag(lab: &Lab, path: &str) -> String {
    let answer = lab.get(path).await.ok(200);
    answer.headers[ETAG].to_str().expect("text").to_owned()
}

async fn put(lab: &Lab, object: &Object) {
    let path = codec::path(&object.key()).expect("a key");
    let txn = Txn::new().put(&path, codec::encode(object).expect("a value"));
    let revision = lab.store.txn(txn).await.and_then(Outcome::committed).expect("stored");
    lab.centre.inner.cache.seen(revision, &[path]).await;
}

#[tokio::test]
async fn every_answer_to_a_get_is_tagged_alike_by_every_replica() {
    let (lab, _) = furnished().await;
    let beside = Lab::beside(&lab).await;
    let description = serde_json::to_value(openapi()).expect("JSON");
    let mut tagged = 0;
    for (template, item) in description["paths"].as_object().expect("paths") {
        let Some(get) = item.get("get") else { continue };
        let says = get["responses"].get("304").is_some();
        assert_eq!(says, !UNTAGGED.iter().any(|(path, _)| path == template), "{template}");
        if !says {
            continue;
        }
        let path = real(template);
        let answer = lab.get(&path).await;
        // Nobody said where the centre is.
        if template == "/v1/endpoints" && answer.status == StatusCode::NOT_FOUND {
            assert!(!answer.headers.contains_key(ETAG), "{path}");
            continue;
        }
        let tag = answer.ok(200).headers[ETAG].to_str().expect("text").to_owned();
        tagged += 1;
        assert!(
            tag.len() == 66 && tag.starts_with('"') && tag.ends_with('"'),
            "{path}: strong, a hash: {tag}"
        );
        // The audit is written behind the answers: it is not the same at every instant.
        if template.starts_with("/v1/audit") {
            continue;
        }
        let whole = lab.call(Method::HEAD, &path, ADMIN, None).await.ok(200);
        assert_eq!(
            (&whole.headers[ETAG], whole.text.as_str()),
            (&tag.parse().expect("a header"), ""),
            "HEAD {path}"
        );
        assert_ne!(whole.headers[CONTENT_LENGTH], "0", "HEAD {path}: of the whole");
        for (known, status) in
            [(tag.as_str(), 304), (&format!("\"a\", W/{tag}"), 304), ("*", 304), ("\"a\"", 200), ("a", 200)]
        {
            let again = asked(&lab, Method::GET, &path, (IF_NONE_MATCH, known), None).await.ok(status);
            assert_eq!(again.headers[ETAG], tag, "{path} {known}");
            assert_eq!(again.text.is_empty(), status == 304, "{path} {known}");
        }
        let theirs = asked(&beside, Method::GET, &path, (IF_NONE_MATCH, &tag), None).await;
        assert_eq!(theirs.status, StatusCode::NOT_MODIFIED, "{path}: another replica says the same");
    }
    assert!(tagged >= 15, "{tagged}");
    let refused = lab.get("/v1/runs/none").await;
    assert!(!refused.headers.contains_key(ETAG), "{refused:?}");
}

#[tokio::test]
async fn a_tag_changes_with_everything_that_is_shown() {
    let (lab, cluster) = furnished().await;
    // Another owner is another state, though the spec is the same.
    for (path, spec) in [("/v1/experiments/x", experiment("c2")), ("/v1/grants/g1", grant("c1"))] {
        let before = tag(&lab, path).await;
        let owned = lab.put_json(path, &json!({ "spec": spec, "owner": "ann" })).await.ok(200);
        assert_ne!(owned.headers[ETAG], before, "{path}");
        assert_eq!(owned.headers[ETAG], tag(&lab, path).await, "{path}: of a PUT as of a GET");
        let stale = asked(&lab, Method::DELETE, path, (IF_MATCH, &before), None).await;
        stale.problem(412);
    }
    // What is observed.
    let paths = ["/v1/clusters/c1", "/v1/halts/h1"];
    let before = [tag(&lab, paths[0]).await, tag(&lab, paths[1]).await];
    let mut status = ClusterStatus::default();
    status.halts.insert("h1".to_owned(), HaltLevel::Latched);
    put(&lab, &Object::ClusterStatus(cluster.clone(), Box::new(status.clone()))).await;
    let between = [tag(&lab, paths[0]).await, tag(&lab, paths[1]).await];
    status.inventory.pods = 3;
    put(&lab, &Object::ClusterStatus(cluster, Box::new(status))).await;
    let after = [tag(&lab, paths[0]).await, tag(&lab, paths[1]).await];
    assert!(before[0] != between[0] && between[0] != after[0], "{before:?} {between:?} {after:?}");
    assert!(before[1] != between[1] && between[1] == after[1], "a halt shows its acknowledgements only");
}

/// A run that waits for the plan of a member that says nothing.
async fn planning() -> Lab {
    let lab = Lab::new().await;
    lab.mute_member("c1").await;
    lab.put_json("/v1/grants/g1", &json!({ "spec": grant("c1") })).await.ok(200);
    let run =
        json!({ "name": "r1", "spec": { "experimentRef": { "name": "x" } }, "experiment": experiment("c1") });
    lab.post("/v1/runs", &run).await.ok(201);
    eventually(async || {
        (lab.get("/v1/runs/r1").await.json()["clusters"][0]["intent"] == "Plan").then_some(())
    })
    .await;
    lab
}

#[tokio::test]
async fn a_run_that_moves_on_has_another_tag() {
    let lab = planning().await;
    let before = tag(&lab, "/v1/runs/r1").await;
    // A stop is taken whatever the caller had seen: by its route, and as what DELETE means for a live run.
    asked(&lab, Method::POST, "/v1/runs/r1/stop", (IF_MATCH, "\"old\""), Some(&json!({}))).await.ok(200);
    assert_ne!(tag(&lab, "/v1/runs/r1").await, before);
}

#[tokio::test]
async fn changes_are_made_only_over_what_was_seen() {
    let (lab, _) = furnished().await;
    let none = json!({});
    // In this order: each line leaves the next something to do.
    for (method, path, of, body, done) in [
        (Method::POST, "/v1/clusters/c1/accept", "/v1/clusters/c1", Some(&none), 200),
        (Method::POST, "/v1/clusters/c1/replace", "/v1/clusters/c1", Some(&none), 201),
        (Method::DELETE, "/v1/clusters/c1", "/v1/clusters/c1", None, 204),
        (Method::DELETE, "/v1/runs/r1", "/v1/runs/r1", None, 204),
        (Method::DELETE, "/v1/halts/h1", "/v1/halts/h1", None, 204),
    ] {
        let seen = tag(&lab, of).await;
        for stale in ["\"old\"", &format!("W/{seen}"), "old"] {
            asked(&lab, method.clone(), path, (IF_MATCH, stale), body).await.problem(412);
        }
        assert_eq!(tag(&lab, of).await, seen, "{method} {path}: nothing was done");
        let both = format!("\"old\", {seen}");
        asked(&lab, method.clone(), path, (IF_MATCH, &both), body).await.ok(done);
    }
}

/// A stop is easier than a start: what the caller had seen does not matter.
#[tokio::test]
async fn stops_depend_on_no_tag() {
    let (lab, _) = furnished().await;
    let stale = (IF_MATCH, "\"old\"");
    let halt = json!({ "id": "h2", "scope": { "type": "Fleet" } });
    asked(&lab, Method::POST, "/v1/halts", stale.clone(), Some(&halt)).await.ok(201);
    asked(&lab, Method::POST, "/v1/clusters/c1/revoke", stale.clone(), Some(&json!({}))).await.ok(200);
    lab.delete("/v1/halts/h1").await.ok(204);
    lab.delete("/v1/halts/h2").await.ok(204);
    let lab = planning().await;
    let deleted = asked(&lab, Method::DELETE, "/v1/runs/r1", stale, None).await;
    assert!(matches!(deleted.status.as_u16(), 202 | 204), "{deleted:?}");
    let stopped = lab.get("/v1/runs/r1").await.ok(200).json();
    assert_eq!(stopped["record"]["stop"]["reason"], "Deleted", "{stopped}");
}
