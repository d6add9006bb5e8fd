//! An etcd that comes back as it was before a stop and a halt: the agents know better, and give back
//! what they hold.

use std::path::Path;

use http::Method;
use proto::assignment::Intent;
use proto::halt::{Halt, HaltScope};
use proto::wire::{Down, Held};
use serde_json::json;

use super::agent::hello;
use super::fixture::Cell;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_older_etcd_un_stops_nothing() {
    let Some(mut cell) = Cell::start().await else {
        return;
    };
    let member = cell.member("west").await;
    let mut west = cell.link(0, "west", &member).await;
    let run = cell.run(&["west"]).await;
    let start = west.start().await;
    let path = format!("/v1/runs/{run}");
    cell.until(1, &path, "running", |view| view["summary"]["phase"] == "Running").await;
    // The copy knows of a run that runs, and of nothing else.
    let old = tempfile::tempdir().unwrap();
    cell.etcd.kill();
    cell.store_up(false).await;
    copy(&cell.etcd.data(), old.path());
    cell.etcd.restart().await;
    cell.store_up(true).await;
    let (status, body) = cell.call(0, Method::POST, &format!("{path}/stop"), &json!({})).await;
    assert!(status.is_success(), "{body}");
    let stop = west.desired(Intent::Stop).await;
    assert!(stop.generation > start.generation);
    let halt = json!({ "id": "h", "scope": { "type": "Fleet" } });
    let (status, body) = cell.call(1, Method::POST, "/v1/halts", &halt).await;
    assert!(status.is_success(), "{body}");
    let halts = west.halts("the halt", |halts| !halts.halts.is_empty()).await;
    drop(west);
    for replica in cell.replicas.drain(..) {
        replica.kill().await;
    }
    cell.etcd.kill();
    cell.etcd.wipe();
    copy(old.path(), &cell.etcd.data());
    cell.etcd.restart().await;
    cell.add_replica().await;
    let view = cell.until(0, &path, "the old world", |view| !view["clusters"][0].is_null()).await;
    assert_eq!(view["clusters"][0]["intent"], "Start", "{view:#}");
    assert!(view["record"]["stop"].is_null(), "{view:#}");

    let mut greeting = hello(2);
    greeting.halts.clone_from(&halts.halts);
    greeting.held.push(Held { run: stop.run.clone(), generation: stop.generation, intent: Intent::Stop });
    let mut west = member.link(&cell.replicas[0].link, greeting).await;
    // It is told to stop again, and never to start.
    let told = west
        .until("the stop", |down| {
            assert!(
                !matches!(down, Down::Desired { desired, .. } if desired.intent == Intent::Start),
                "{down:?}"
            );
            matches!(down, Down::Desired { desired, .. } if desired.intent == Intent::Stop)
        })
        .await;
    let Down::Desired { desired, .. } = told else { panic!("{told:?}") };
    assert!(desired.generation >= stop.generation, "{desired:?}");
    cell.until(0, &path, "stopped in the store", |view| view["clusters"][0]["intent"] == "Stop").await;
    // The fleet's halt came back from one cluster: for that one.
    let page = cell.until(0, "/v1/halts", "the halt", |page| !page["items"][0].is_null()).await;
    let adopted: Halt = serde_json::from_value(page["items"][0]["halt"].clone()).unwrap();
    assert_eq!(adopted.id.as_str(), "h");
    assert!(matches!(adopted.scope, HaltScope::Cluster { .. }), "{adopted:?}");
    for action in ["run.stop.adopt", "halt.adopt"] {
        super::fixture::eventually(action, async || {
            let records = cell.audited(0, action).await?;
            if records.len() == 1 { Ok(()) } else { Err(format!("{records:?}")) }
        })
        .await;
    }
}
