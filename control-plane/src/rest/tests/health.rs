//! The page of probes and of Prometheus.

use std::collections::BTreeMap;

use axum::body::Body;
use http::header::ACCEPT;
use http::{Method, Request};
use serde_json::json;

use super::fixture::{Answer, Lab, eventually, experiment, send};

async fn page(lab: &Lab, path: &str) -> Answer {
    let request =
        Request::builder().method(Method::GET).uri(path).header(ACCEPT, "application/openmetrics-text");
    let request = request.body(Body::empty()).expect("a request");
    send(&lab.health, request).await
}

/// One metric as the text has it.
#[derive(Debug, Default)]
struct Metric {
    help: String,
    kind: String,
    labels: Vec<String>,
    samples: Vec<(String, f64)>,
}

/// Reads the text format, and fails on anything that it does not know.
fn parse(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    let body = text.strip_suffix("# EOF\n").expect("an end mark");
    for line in body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("name and help");
            assert!(
                metrics
                    .insert(name.to_owned(), Metric { help: help.to_owned(), ..Metric::default() })
                    .is_none(),
                "{name} twice"
            );
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("name and type");
            metrics.get_mut(name).expect("help first").kind = kind.to_owned();
        } else if let Some(unit) = line.strip_prefix("# UNIT ") {
            let (name, unit) = unit.split_once(' ').expect("name and unit");
            assert!(name.ends_with(unit), "{line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').expect("sample and value");
            let value: f64 = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            let (name, labels) =
                sample.split_once('{').map_or((sample, ""), |(n, l)| (n, l.trim_end_matches('}')));
            let (_, metric) =
                metrics.iter_mut().rev().find(|(known, _)| name.starts_with(known.as_str())).expect(line);
            let keys =
                labels.split("\",").filter_map(|pair| pair.split_once('=')).map(|(key, _)| key.to_owned());
            metric.labels = keys.filter(|key| key != "le").collect();
            metric.samples.push((sample.to_owned(), value));
        }
    }
    metrics
}

#[tokio::test]
async fn ready_only_after_the_store_was_read() {
    let mut lab = Lab::cold().await;
    page(&lab, "/livez").await.ok(200);
    let not_yet = page(&lab, "/readyz").await.ok(503);
    assert!(not_yet.text.contains("store"), "{not_yet:?}");
    lab.start().await;
    page(&lab, "/readyz").await.ok(200);
    lab.centre.health().set_draining();
    assert!(page(&lab, "/readyz").await.ok(503).text.contains("draining"));
    page(&lab, "/livez").await.ok(200);
}

#[tokio::test]
async fn the_metrics_say_what_is_there() {
    let lab = Lab::new().await;
    lab.mute_member("c1").await;
    lab.post("/v1/clusters", &json!({ "name": "c2" })).await.ok(201);
    lab.post("/v1/halts", &json!({ "scope": { "type": "Fleet" } })).await.ok(201);
    let run = json!({ "name": "r1", "spec": { "experimentRef": { "name": "x" } }, "experiment": experiment("nowhere") });
    lab.post("/v1/runs", &run).await.ok(201);
    let id = lab.get("/v1/runs/r1").await.ok(200).json()["record"]["id"].as_str().expect("an id").to_owned();
    for junk in ["a", "b", "c"] {
        lab.get(&format!("/v1/runs/{junk}")).await.ok(404);
        lab.get(&format!("/{junk}")).await.ok(404);
    }
    // The run is decided on, and counted, behind the answers.
    let ended = "faultline_runs_finished_total{outcome=\"Denied\"} 1";
    let text = eventually(async || {
        let text = page(&lab, "/metrics").await.ok(200).text;
        let shown = text.contains("faultline_runs{phase=\"Finished\"} 1");
        (shown && text.contains(ended)).then_some(text)
    })
    .await;
    let metrics = parse(&text);
    let value = |name: &str, sample: &str| {
        let found = metrics[name].samples.iter().find(|(known, _)| known == sample);
        found.unwrap_or_else(|| panic!("{sample}: {:?}", metrics[name])).1
    };
    for (name, sample, expected) in [
        ("faultline_clusters", "faultline_clusters", 2.0),
        ("faultline_clusters_connected", "faultline_clusters_connected", 1.0),
        ("faultline_halts", "faultline_halts", 1.0),
        ("faultline_store_up", "faultline_store_up", 1.0),
        ("faultline_leading", "faultline_leading", 1.0),
        ("faultline_runs", "faultline_runs{phase=\"Finished\"}", 1.0),
        ("faultline_runs", "faultline_runs{phase=\"Running\"}", 0.0),
        ("faultline_runs_by_outcome", "faultline_runs_by_outcome{outcome=\"Denied\"}", 1.0),
    ] {
        assert!((value(name, sample) - expected).abs() < 0.5, "{sample}: {:?}", metrics[name]);
    }
    let requests = &metrics["faultline_rest_requests"].samples;
    let of_route = |route: &str, code: &str| {
        let fits = |(sample, _): &&(String, f64)| {
            sample.contains(&format!("route=\"{route}\"")) && sample.contains(code)
        };
        requests.iter().filter(fits).map(|(_, count)| count).sum::<f64>()
    };
    assert!((of_route("/v1/runs/{run}", "code=\"404\"") - 3.0).abs() < 0.5, "{requests:?}");
    assert!((of_route("unmatched", "code=\"404\"") - 3.0).abs() < 0.5, "{requests:?}");
    assert!(requests.iter().all(|(sample, _)| !sample.contains(&id)), "no path in a label: {requests:?}");
}

#[tokio::test]
async fn every_metric_has_a_name_of_ours_and_says_what_it_is() {
    let lab = Lab::new().await;
    for (name, metric) in &parse(&page(&lab, "/metrics").await.ok(200).text) {
        assert!(name.starts_with("faultline_") && !metric.help.is_empty(), "{name}: {metric:?}");
    }
}

#[tokio::test]
async fn who_does_not_ask_for_openmetrics_gets_the_older_text() {
    let lab = Lab::new().await;
    let request = Request::builder().uri("/metrics").body(Body::empty()).expect("a request");
    let text = send(&lab.health, request).await.ok(200).text;
    assert!(text.contains("# TYPE faultline_decisions_total counter\n") && !text.contains("# EOF"), "{text}");
}
