//! etcd dead or silent: what one replica takes reaches the agents of all, and the store afterwards.

use http::{Method, StatusCode};
use proto::assignment::Intent;
use proto::wire::Down;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::agent::hello;
use super::fixture::{BOUND, Cell};
use super::link::{Link, Member};

/// A run that runs on `west`, linked to the first replica, and `east`, linked to the second.
struct Scene {
    cell: Cell,
    run: String,
    west: Link,
    east: Link,
    members: [Member; 2],
    /// How often the stop and the halt were asked for.
    asked: [usize; 2],
}

impl Scene {
    async fn running() -> Option<Self> {
        let cell = Cell::start().await?;
        let members = [cell.member("west").await, cell.member("east").await];
        let mut west = cell.link(0, "west", &members[0]).await;
        let mut east = cell.link(1, "east", &members[1]).await;
        let run = cell.run(&["west", "east"]).await;
        tokio::join!(west.start(), east.start());
        for at in [0, 1] {
            let path = format!("/v1/runs/{run}");
            cell.until(at, &path, "running", |view| view["summary"]["phase"] == "Running").await;
        }
        Some(Self { cell, run, west, east, members, asked: [0; 2] })
    }

    /// Stops the run at one replica and halts at the other; both reach both agents in time.
    async fn stopped_and_halted(&mut self, stop_at: usize, halt_at: usize) {
        let begun = Instant::now();
        let path = format!("/v1/runs/{}/stop", self.run);
        self.asked[0] = self.taken(stop_at, &path, &json!({})).await;
        self.west.desired(Intent::Stop).await;
        self.east.desired(Intent::Stop).await;
        assert!(begun.elapsed() < BOUND, "stopped after {:?}", begun.elapsed());
        let begun = Instant::now();
        let halt = json!({ "id": "h", "scope": { "type": "Fleet" }, "reason": "outage" });
        self.asked[1] = self.taken(halt_at, "/v1/halts", &halt).await;
        for link in [&mut self.west, &mut self.east] {
            link.halts("the halt", |halts| halts.halts.iter().any(|halt| halt.id.as_str() == "h")).await;
        }
        assert!(begun.elapsed() < BOUND, "halted after {:?}", begun.elapsed());
    }

    /// Asks until the answer is that the other replica has it: it does not wait for a slow one for ever. How often
    /// it was asked.
    async fn taken(&self, at: usize, path: &str, body: &Value) -> usize {
        let mut asked = 0;
        super::fixture::eventually("the other replica is told", async || {
            asked += 1;
            let (status, answer) = self.cell.call(at, Method::POST, path, body).await;
            assert_eq!(status, StatusCode::ACCEPTED, "{answer:#}");
            // In force, and not in the store: the answer says just that.
            assert_eq!(answer["persisted"], false, "{answer:#}");
            assert_eq!(answer["replicas"]["known"], 1, "{answer:#}");
            if answer["replicas"]["told"] == 1 { Ok(()) } else { Err(format!("{answer:#}")) }
        })
        .await;
        asked
    }

    /// The store is back: it has everything once, it is audited, and the halt can be lifted.
    async fn persisted(&mut self) {
        let path = format!("/v1/runs/{}", self.run);
        for at in [0, 1] {
            let view =
                self.cell.until(at, &path, "the stop in the store", |view| !view["record"]["stop"].is_null());
            assert_eq!(view.await["record"]["stop"]["by"], "operator:admin");
        }
        let store = self.cell.store().await;
        let kept =
            control_plane::store::Store::list(&store, "halts/", control_plane::store::PageRequest::first(9));
        let kept: Vec<String> = kept.await.unwrap().entries.into_iter().map(|entry| entry.key).collect();
        self.cell.until(0, "/v1/halts", "the halt", |page| page["items"][0]["halt"]["id"] == "h").await;
        assert!(kept.len() <= 1, "{kept:?}");
        for (action, subject, asked) in
            [("run.stop", self.run.as_str(), self.asked[0]), ("halt.set", "h", self.asked[1])]
        {
            let look = async || {
                let records = self.cell.audited(0, action).await?;
                let ours: Vec<_> = records
                    .iter()
                    .filter(|record| record["subject"] == subject && record["by"] == "operator:admin")
                    .collect();
                if ours.len() < asked { Err(format!("{records:?}")) } else { Ok(ours.len()) }
            };
            let noted = super::fixture::eventually(action, look).await;
            assert_eq!(noted, asked, "{action} is audited once each time");
        }
        let (status, body) = self.cell.call(1, Method::DELETE, "/v1/halts/h", &Value::Null).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
        for link in [&mut self.west, &mut self.east] {
            link.halts("lifted", |halts| {
                halts.halts.is_empty() && halts.resumed.iter().any(|id| id.as_str() == "h")
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_and_halt_reach_the_agents_of_every_replica_while_etcd_is_dead() {
    let Some(mut scene) = Scene::running().await else {
        return;
    };
    scene.cell.etcd.kill();
    scene.stopped_and_halted(1, 0).await;
    scene.cell.etcd.restart().await;
    scene.persisted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_and_halt_reach_the_agents_of_every_replica_while_etcd_is_silent() {
    let Some(mut scene) = Scene::running().await else {
        return;
    };
    scene.cell.etcd.freeze();
    scene.stopped_and_halted(0, 1).await;
    scene.cell.etcd.thaw();
    scene.persisted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_halt_outlives_who_took_it_and_restarts_of_everything() {
    let Some(mut scene) = Scene::running().await else {
        return;
    };
    scene.cell.etcd.kill();
    scene.stopped_and_halted(0, 0).await;
    // Who was asked is gone for ever; the other writes it down.
    scene.cell.replicas.remove(0).kill().await;
    scene.cell.etcd.restart().await;
    let path = format!("/v1/runs/{}", scene.run);
    scene.cell.until(0, &path, "the stop in the store", |view| !view["record"]["stop"].is_null()).await;
    let audited = super::fixture::eventually("audited", async || {
        let stop = scene.cell.audited(0, "run.stop.relayed").await?;
        let halt = scene.cell.audited(0, "halt.set.relayed").await?;
        if stop.is_empty() || halt.is_empty() { Err(format!("{stop:?} {halt:?}")) } else { Ok((stop, halt)) }
    });
    let (stop, halt) = audited.await;
    assert_eq!((stop.len(), halt.len()), (1, 1), "{stop:?} {halt:?}");
    assert_eq!(halt[0]["by"], "operator:admin");
    let Scene { mut cell, members, run, .. } = scene;
    for replica in cell.replicas.drain(..) {
        replica.kill().await;
    }
    cell.etcd.kill();
    cell.etcd.restart().await;
    cell.add_replica().await;
    cell.until(0, "/v1/halts", "the halt", |page| page["items"][0]["halt"]["id"] == "h").await;
    // An agent that was away and knows nothing latches before anything else, and starts nothing.
    let mut west = members[0].link(&cell.replicas[0].link, hello(2)).await;
    let first = west.next("the first word").await;
    let Down::Halts(halts) = &first else { panic!("{first:?}") };
    assert_eq!(halts.halts.len(), 1, "{halts:?}");
    assert_eq!(halts.halts[0].id.as_str(), "h");
    let next = west.until("the stop", |down| matches!(down, Down::Desired { .. })).await;
    let Down::Desired { desired, .. } = next else { panic!("{next:?}") };
    assert_eq!((desired.run.as_str(), desired.intent), (run.as_str(), Intent::Stop));
}
