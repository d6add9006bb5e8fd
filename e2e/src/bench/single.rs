//! One cluster, everything in one process, a real etcd: from the REST call to
//! the fault's read-back as an operator's watch shows it; beside the time of a
//! bare put in the same etcd until a watch shows it.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use control_plane::store::{Store, WatchItem};
use http::Method;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::centre::{Centre, Etcd, PREFIX};
use super::figures::{Figures, HEAD, ms, ratio};
use super::floor::{FLOOR_BYTES, caught_up, put_to_watch};
use super::member::Member;
use super::report::{Section, load};
use crate::lab::say;

const WARM_UP: usize = 20;
const SAMPLES: usize = 300;
const AIM: f64 = 3.0;

/// What one run took, from the REST call on.
#[derive(Debug, Clone, Copy)]
struct Sample {
    answered: Duration,
    injected: Duration,
    stopped: Duration,
}

/// Measures and writes it up.
pub(super) async fn measure() -> Result<Section> {
    let folder = std::env::temp_dir().join(format!("faultline-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let measured = Box::pin(in_folder(&folder)).await;
    std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    measured
}

async fn in_folder(folder: &std::path::Path) -> Result<Section> {
    let load_before = load();
    let etcd = Etcd::start(folder).await?;
    let centre = Centre::start(folder, &etcd).await?;
    let client = &centre.client;
    let invited = json!({ "name": "c1", "autoAccept": true });
    let invited = client.call(Method::POST, "/v1/clusters", &invited).await?;
    let token = invited["token"].as_str().context("an invitation has a token")?;
    let member = Member::start(folder, token).await?;
    client.until("/v1/clusters/c1", |c| c["status"]["inventory"]["daemons"] == 1).await?;
    let grant = json!({ "spec": {
        "from": { "operators": ["*"] },
        "to": { "clusters": { "names": ["c1"] }, "namespaces": ["shop"], "kinds": ["*"], "maxTargets": 1 },
    }});
    client.call(Method::PUT, "/v1/grants/bench", &grant).await?;
    say("bench", format_args!("one cluster is connected"));

    let floor_store = etcd.store("floor").await?;
    let mut floor_watch = caught_up(&floor_store).await?;
    let (mut floor, mut samples) = (Vec::new(), Vec::new());
    for n in 0..WARM_UP + SAMPLES {
        // In turns, so that both sides see the same machine.
        let bare = put_to_watch(&floor_store, &mut floor_watch, &format!("n/{n}")).await?;
        let sample = one_run(&centre, n).await?;
        if n >= WARM_UP {
            floor.push(bare);
            samples.push(sample);
        }
    }
    say("bench", format_args!("{SAMPLES} runs done"));
    let hops = hops(&centre, &etcd.store(PREFIX).await?).await?;
    member.end().await;
    centre.end().await?;
    section(floor, &samples, &hops, &load_before)
}

fn request(name: &str) -> Value {
    json!({
        "name": name,
        "spec": { "experimentRef": { "name": "bench", "scope": "Central" } },
        "experiment": {
            "clusters": { "names": ["c1"] },
            "targets": [{
                "name": "payments",
                "pods": { "namespaces": ["shop"], "labelSelector": { "matchLabels": { "app": "payments" } } },
                "atMost": { "perCluster": 1 },
            }],
            "faults": [{ "name": "gone", "target": "payments", "for": "5m", "network": { "partition": {} } }],
        },
    })
}

/// One run from the call to Injected, then from its stop to Finished.
async fn one_run(centre: &Centre, n: usize) -> Result<Sample> {
    let client = &centre.client;
    let begun = Instant::now();
    let view = client.call(Method::POST, "/v1/runs", &request(&format!("bench-{n}"))).await?;
    let answered = begun.elapsed();
    let id = view["record"]["id"].as_str().context("a run has an id")?.to_owned();
    let mut views = client.watch(&id).await?;
    views.until(|v| v["clusters"][0]["observed"]["counts"]["injected"] == 1).await?;
    let injected = begun.elapsed();
    let begun = Instant::now();
    client.call(Method::POST, &format!("/v1/runs/{id}/stop"), &Value::Null).await?;
    let ended = views.until(|v| v["summary"]["phase"] == "Finished").await?;
    anyhow::ensure!(ended["summary"]["residue"] == "Clean", "{}", ended["summary"]);
    Ok(Sample { answered, injected, stopped: begun.elapsed() })
}

/// The store's writes on the way of one more run, in order, each with its time.
async fn hops(centre: &Centre, store: &impl Store) -> Result<Vec<(Duration, String)>> {
    // Under no key of its own: the control plane looks only at those it knows.
    let mut watch = caught_up(store).await?;
    let (done, mut is_done) = oneshot::channel::<()>();
    let begun = Instant::now();
    let mut watching = JoinSet::new();
    watching.spawn(async move {
        let mut seen = Vec::new();
        loop {
            tokio::select! {
                item = watch.next() => match item? {
                    WatchItem::Events { events, .. } => {
                        let at = begun.elapsed();
                        seen.extend(events.iter().map(|event| (at, family(event.key()))));
                    }
                    WatchItem::Progress { .. } => {}
                },
                _ = &mut is_done => return Ok::<_, anyhow::Error>(seen),
            }
        }
    });
    let sample = one_run(centre, WARM_UP + SAMPLES).await?;
    drop(done);
    let mut seen = watching.join_next().await.context("somebody watches")???;
    seen.retain(|(at, _)| *at <= sample.injected);
    seen.push((sample.injected, "(Injected in the operator's watch)".to_owned()));
    Ok(seen)
}

/// A key without the ids in it.
fn family(key: &str) -> String {
    let mut parts = key.split('/');
    let first = parts.next().unwrap_or_default();
    match (first, parts.next_back()) {
        ("runs", Some(last @ ("spec" | "summary"))) => format!("runs/*/{last}"),
        (_, Some(_)) => format!("{first}/*"),
        (_, None) => first.to_owned(),
    }
}

fn section(
    floor: Vec<Duration>,
    samples: &[Sample],
    hops: &[(Duration, String)],
    load_before: &str,
) -> Result<Section> {
    let of = |which: fn(&Sample) -> Duration| samples.iter().map(which).collect::<Vec<_>>();
    let figures = |all| Figures::new(all).context("samples");
    let (floor, answered, injected) =
        (figures(floor)?, figures(of(|s| s.answered))?, figures(of(|s| s.injected))?);
    let mut body = format!(
        "`make bench`. The whole control plane with a real etcd (defaults, synced to disk), the whole agent over an\n\
         in-memory cluster, the whole daemon with its journal on disk over an in-memory kernel; REST and link by\n\
         TLS over loopback. One pod, network.partition. The floor is a put of {FLOOR_BYTES} bytes in the same etcd\n\
         until a watch shows it; the two are measured in turns. Load average {load_before} before, {} after.\n\n{HEAD}",
        load()
    );
    body.push_str(&floor.row("floor: bare etcd put to watch"));
    body.push_str(&answered.row("REST call to its answer: the run is on record"));
    body.push_str(&injected.row("REST call to Injected in the operator's watch"));
    body.push_str(&figures(of(|s| s.stopped))?.row("REST stop to Finished and Clean"));
    body.push_str("\n| to the floor | p50 | p99 | aim: p99 within 3 |\n|---|---|---|---|\n");
    for (what, these) in [("the answer", &answered), ("Injected", &injected)] {
        let [half, most] =
            [50, 99].map(|percent| ratio(these.percentile(percent), floor.percentile(percent)));
        let met = if most <= AIM { "met" } else { "not met" };
        // Writing to a String cannot fail.
        let _ = writeln!(body, "| {what} | {half:.1} | {most:.1} | {met} |");
    }
    body.push_str(
        "\nHops of one such run, as etcd's own watch saw the writes:\n\n| ms | write |\n|---|---|\n",
    );
    for (at, key) in hops {
        let _ = writeln!(body, "| {} | {key} |", ms(*at));
    }
    Ok(Section { title: "One cluster, in-memory system", body })
}
