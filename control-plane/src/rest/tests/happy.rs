//! Every route, as it is meant to be used.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::fixture::{ADMIN, Lab, eventually, experiment, grant, request};

fn names(page: &Value) -> Vec<&str> {
    page["items"].as_array().expect("items").iter().filter_map(|item| item["name"].as_str()).collect()
}

#[tokio::test]
async fn the_caller_is_told_who_they_are() {
    let lab = Lab::new().await;
    assert_eq!(lab.get("/v1/whoami").await.ok(200).json(), json!({ "name": "admin", "role": "admin" }));
    let viewer = lab.token("viewer").await;
    let who = lab.call(Method::GET, "/v1/whoami", &viewer, None).await.ok(200);
    assert_eq!(who.json()["role"], "viewer");
    assert_eq!(who.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn experiments_are_stored_listed_and_deleted() {
    let lab = Lab::new().await;
    for name in ["slow", "slow-b", "fast"] {
        let stored = lab
            .put_json(&format!("/v1/experiments/{name}"), &json!({ "spec": experiment("c1") }))
            .await
            .ok(200);
        assert_eq!(stored.json()["spec"], experiment("c1"), "stored as written");
    }
    let first = lab.get("/v1/experiments?limit=2").await.ok(200).json();
    let next = first["next"].as_str().expect("a second page");
    let second = lab.get(&format!("/v1/experiments?limit=2&after={next}")).await.ok(200).json();
    assert_eq!([names(&first), names(&second)].concat(), ["fast", "slow", "slow-b"]);
    assert!(second.get("next").is_none());

    lab.delete("/v1/experiments/slow").await.ok(204);
    lab.get("/v1/experiments/slow").await.problem(404);
    lab.delete("/v1/experiments/slow").await.problem(404);
}

#[tokio::test]
async fn a_tag_guards_against_lost_updates() {
    let lab = Lab::new().await;
    let changed = {
        let mut spec = experiment("c1");
        spec["hypothesis"] = json!("It holds.");
        spec
    };
    let mut grant_b = grant("c1");
    grant_b["to"]["maxTargets"] = json!(3);
    for (path, a, b) in
        [("/v1/experiments/slow", experiment("c1"), changed), ("/v1/grants/g1", grant("c1"), grant_b)]
    {
        let conditional = async |method: Method, tag: &str, spec: Option<&Value>| {
            let body = spec.map(|spec| json!({ "spec": spec }));
            let mut request = request(method, path, ADMIN, body.as_ref());
            request.headers_mut().insert("if-match", tag.parse().expect("a header"));
            lab.send(request).await
        };
        conditional(Method::PUT, "*", Some(&a)).await.problem(412);
        let first = lab.put_json(path, &json!({ "spec": a })).await.ok(200).headers["etag"].clone();
        let first = first.to_str().expect("text").to_owned();
        let read = lab.get(path).await.ok(200);
        assert_eq!(read.headers["etag"], first, "{path}");

        let second = conditional(Method::PUT, &first, Some(&b)).await.ok(200).headers["etag"].clone();
        assert_ne!(second, first, "{path}");
        conditional(Method::PUT, &first, Some(&a)).await.problem(412);
        conditional(Method::DELETE, &first, None).await.problem(412);
        let create_only = async |spec: &Value| {
            let mut request = request(Method::PUT, path, ADMIN, Some(&json!({ "spec": spec })));
            request.headers_mut().insert("if-none-match", "*".parse().expect("a header"));
            lab.send(request).await
        };
        create_only(&a).await.problem(412);
        let both = format!("{first}, {}", second.to_str().expect("text"));
        conditional(Method::PUT, &both, Some(&b)).await.ok(200);

        let mut cached = request(Method::GET, path, ADMIN, None);
        cached.headers_mut().insert("if-none-match", second.clone());
        assert_eq!(lab.send(cached).await.status, StatusCode::NOT_MODIFIED, "{path}");
        conditional(Method::DELETE, second.to_str().expect("text"), None).await.ok(204);
        create_only(&a).await.ok(200);
    }
}

/// Whoever compares with the same tag at the same time: one is first, the rest are told.
#[tokio::test]
async fn of_many_who_change_the_same_thing_one_does() {
    let lab = Lab::new().await;
    for path in ["/v1/experiments/slow", "/v1/grants/g1"] {
        let spec = |n: u64| {
            let mut spec = if path.contains("grants") { grant("c1") } else { experiment("c1") };
            if path.contains("grants") {
                spec["to"]["maxTargets"] = json!(n + 1);
            } else {
                spec["hypothesis"] = json!(n.to_string());
            }
            json!({ "spec": spec })
        };
        let tag = lab.put_json(path, &spec(0)).await.ok(200).headers["etag"].clone();
        let change = async |n: u64, method: Method| {
            let body = (method == Method::PUT).then(|| spec(n));
            let mut request = request(method, path, ADMIN, body.as_ref());
            request.headers_mut().insert("if-match", tag.clone());
            lab.send(request).await.status.as_u16()
        };
        let puts = (1..8).map(|n| change(n, Method::PUT));
        let (puts, deletes) = futures::future::join(
            futures::future::join_all(puts),
            futures::future::join_all((0..3).map(|n| change(n, Method::DELETE))),
        )
        .await;
        let all = [puts, deletes].concat();
        assert_eq!(all.iter().filter(|status| matches!(status, 200 | 204)).count(), 1, "{path}: {all:?}");
        assert!(all.iter().all(|status| matches!(status, 200 | 204 | 412)), "{path}: {all:?}");
    }
}

#[tokio::test]
async fn grants_are_stored_listed_and_deleted() {
    let lab = Lab::new().await;
    let stored = lab.put_json("/v1/grants/g1", &json!({ "spec": grant("c1") })).await.ok(200).json();
    assert_eq!(stored["spec"], grant("c1"));
    assert_eq!(names(&lab.get("/v1/grants").await.ok(200).json()), ["g1"]);
    assert_eq!(lab.get("/v1/grants/g1").await.ok(200).json(), stored);
    lab.delete("/v1/grants/g1").await.ok(204);
    lab.get("/v1/grants/g1").await.problem(404);
}

#[tokio::test]
async fn members_are_invited_accepted_revoked_and_removed() {
    let lab = Lab::new().await;
    let body = json!({ "name": "c1", "labels": { "env": "test" }, "ttl": "10m" });
    let invitation = lab.post("/v1/clusters", &body).await.ok(201).json();
    assert!(invitation["token"].as_str().is_some_and(|token| token.starts_with("flj1.")), "{invitation}");
    let page = lab.get("/v1/clusters").await.ok(200).json();
    assert_eq!(page["items"][0]["state"], "Pending");
    let id = invitation["cluster"].as_str().expect("an id");

    let accepted = lab.post(&format!("/v1/clusters/{id}/accept"), &json!({})).await.ok(200).json();
    assert_eq!(
        (&accepted["state"], &accepted["spec"]["labels"]["env"]),
        (&json!("Accepted"), &json!("test"))
    );
    let by_name = lab.get("/v1/clusters/c1").await.ok(200).json();
    assert_eq!(by_name, lab.get(&format!("/v1/clusters/{id}")).await.ok(200).json());
    let revoked = lab.post("/v1/clusters/c1/revoke", &json!({})).await.ok(200).json();
    assert_eq!(revoked["state"], "Revoked");
    lab.delete("/v1/clusters/c1").await.ok(204);
    lab.get("/v1/clusters/c1").await.problem(404);
}

#[tokio::test]
async fn a_run_is_made_read_by_id_and_name_stopped_and_its_name_stays_used() {
    let lab = Lab::new().await;
    lab.mute_member("c1").await;
    lab.put_json("/v1/grants/g1", &json!({ "spec": grant("c1") })).await.ok(200);
    lab.put_json("/v1/experiments/slow", &json!({ "spec": experiment("c1") })).await.ok(200);
    let body = json!({ "name": "slow-1", "spec": { "experimentRef": { "name": "slow" } } });
    let made = lab.post("/v1/runs", &body).await.ok(201).json();
    let id = made["record"]["id"].as_str().expect("an id");
    assert_eq!(made["record"]["principal"]["name"], "admin");

    assert_eq!(lab.get(&format!("/v1/runs/{id}")).await.ok(200).json()["record"]["name"], "slow-1");
    assert_eq!(lab.get("/v1/runs/slow-1").await.ok(200).json()["record"]["id"], id);
    let page = lab.get("/v1/runs?limit=1").await.ok(200).json();
    assert_eq!(page["items"][0]["summary"]["id"], id);

    let stopped = lab.post(&format!("/v1/runs/{id}/stop"), &json!({})).await.ok(200).json();
    assert_eq!(stopped["record"]["id"], id);
    let again = lab.post("/v1/runs", &body).await.problem(409);
    assert!(again.detail.contains("slow-1"), "{again:?}");
    lab.delete("/v1/runs/slow-1").await.ok(204);
}

#[tokio::test]
async fn halts_are_set_shown_and_lifted_by_id() {
    let lab = Lab::new().await;
    let id = lab.mute_member("c1").await;
    let body = json!({ "id": "h1", "scope": { "type": "Cluster", "cluster": "c1" }, "reason": "test" });
    let set = lab.post("/v1/halts", &body).await.ok(201).json();
    assert_eq!(set["halt"]["scope"]["cluster"], id.as_str());
    assert_eq!(set["clusters"], json!({ "c1": "Pending" }));
    let page = lab.get("/v1/halts").await.ok(200).json();
    assert_eq!(page["items"][0]["halt"]["id"], "h1");
    lab.delete("/v1/halts/h1").await.ok(204);
    lab.post("/v1/halts", &body).await.problem(409);
}

#[tokio::test]
async fn the_catalogue_and_the_audit_are_read_in_pages() {
    let lab = Lab::new().await;
    let faults = lab.get("/v1/faults").await.ok(200).json();
    assert_eq!(faults["items"].as_array().map(Vec::len), Some(proto::catalogue::ENTRIES.len()));
    for name in ["g1", "g2", "g3"] {
        lab.put_json(&format!("/v1/grants/{name}"), &json!({ "spec": grant("c1") })).await.ok(200);
    }
    // The audit is written behind the answers.
    let subjects = eventually(async || {
        let (mut subjects, mut path) = (Vec::new(), "/v1/audit?limit=1".to_owned());
        loop {
            let page = lab.get(&path).await.ok(200).json();
            subjects
                .extend(page["items"].as_array().expect("items").iter().map(|item| item["subject"].clone()));
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/v1/audit?limit=1&after={next}");
        }
        (subjects.len() >= 3).then_some(subjects)
    })
    .await;
    assert_eq!(subjects, ["g1", "g2", "g3"]);
}
