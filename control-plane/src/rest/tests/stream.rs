//! A run as it changes, as server-sent events.

use axum::body::Body;
use axum::response::Response;
use http::Method;
use http_body_util::BodyExt;
use proto::rest::RunView;
use proto::status::RunPhase;
use serde_json::json;
use tower::ServiceExt;

use super::fixture::{ADMIN, Lab, SOON, eventually, experiment, grant, request};

/// The views of a stream, comments left out.
struct Views {
    body: Body,
    buffer: String,
    /// The id of the last event.
    last: String,
}

impl Views {
    async fn of(lab: &Lab, run: &str) -> Self {
        Self::after(lab, run, "").await.expect("a stream")
    }

    /// Of a reader who had that event; `None` where there is nothing more to be told.
    async fn after(lab: &Lab, run: &str, last: &str) -> Option<Self> {
        let mut request = request(Method::GET, &format!("/v1/runs/{run}/watch"), ADMIN, None);
        if !last.is_empty() {
            request.headers_mut().insert("last-event-id", last.parse().expect("a header"));
        }
        let response: Response = lab.router.clone().oneshot(request).await.expect("infallible");
        if response.status() == 204 {
            return None;
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Some(Self { body: response.into_body(), buffer: String::new(), last: last.to_owned() })
    }

    async fn next(&mut self) -> Option<RunView> {
        loop {
            if let Some(end) = self.buffer.find("\n\n") {
                let event: String = self.buffer.drain(..end + 2).collect();
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                if let Some(data) = field("data: ") {
                    self.last = field("id: ").expect("each event has an id").to_owned();
                    return Some(serde_json::from_str(data).expect("a view"));
                }
                continue;
            }
            let frame = tokio::time::timeout(SOON, self.body.frame()).await.expect("an event in time")?;
            let bytes = frame.expect("no error").into_data().expect("data");
            self.buffer.push_str(std::str::from_utf8(&bytes).expect("text"));
        }
    }
}

async fn waiting_run(lab: &Lab) -> String {
    lab.mute_member("c1").await;
    lab.put_json("/v1/grants/g1", &json!({ "spec": grant("c1") })).await.ok(200);
    let run =
        json!({ "name": "r1", "spec": { "experimentRef": { "name": "x" } }, "experiment": experiment("c1") });
    let made = lab.post("/v1/runs", &run).await.ok(201).json();
    made["record"]["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn the_first_view_comes_at_once_and_each_change_after_it_until_the_end() {
    let lab = Lab::new().await;
    let id = waiting_run(&lab).await;
    let mut views = Views::of(&lab, "r1").await;
    let first = views.next().await.expect("the first view");
    assert_eq!(first.record.id.as_str(), id);
    assert_eq!(first.summary.phase, RunPhase::Planning);
    assert!(first.record.stop.is_none());

    lab.post(&format!("/v1/runs/{id}/stop"), &json!({})).await.ok(200);
    let mut last = first;
    while let Some(view) = views.next().await {
        assert_ne!(view, last, "only changes are told");
        last = view;
    }
    assert!(last.record.stop.is_some(), "{last:?}");
    assert_eq!(last.summary.phase, RunPhase::Finished);
}

#[tokio::test]
async fn a_drain_ends_the_streams() {
    let lab = Lab::new().await;
    let id = waiting_run(&lab).await;
    let mut views = Views::of(&lab, &id).await;
    views.next().await.expect("the first view");
    lab.closing.cancel();
    while views.next().await.is_some() {}
}

#[tokio::test]
async fn who_comes_back_to_any_replica_is_told_only_what_is_new() {
    let lab = Lab::new().await;
    let beside = Lab::beside(&lab).await;
    let id = waiting_run(&lab).await;
    let mut views = Views::of(&lab, &id).await;
    let known = views.next().await.expect("the first view");
    let last = views.last.clone();
    drop(views);
    // The other replica hears of the run in its own time, bit by bit.
    let path = format!("/v1/runs/{id}");
    let known_by = async |lab: &Lab| lab.get(&path).await.text;
    eventually(async || (known_by(&beside).await == known_by(&lab).await).then_some(())).await;
    let mut again = Views::after(&beside, &id, &last).await.expect("a stream");
    lab.post(&format!("/v1/runs/{id}/stop"), &json!({})).await.ok(200);
    let mut view = again.next().await.expect("a view");
    assert_ne!(view, known, "what was known is not sent again");
    while let Some(next) = again.next().await {
        view = next;
    }
    assert_eq!(view.summary.phase, RunPhase::Finished);
    // 204, do not ask again: what the one told last, the other has not more of, once both are as far.
    eventually(async || {
        let mut views = Views::of(&beside, &id).await;
        while views.next().await.is_some() {}
        Views::after(&lab, &id, &views.last).await.is_none().then_some(())
    })
    .await;
    assert!(Views::after(&lab, &id, &last).await.is_some());
}

#[tokio::test]
async fn one_operator_has_a_bounded_number_of_streams() {
    let lab = Lab::new().await;
    let id = waiting_run(&lab).await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(Views::of(&lab, &id).await);
    }
    let path = format!("/v1/runs/{id}/watch");
    lab.get(&path).await.problem(503);
    open.pop();
    let mut views = Views::of(&lab, &id).await;
    views.next().await.expect("a place that was given back is free");
}
