//! Several replicas on one store, an outage of the store, and the audit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use control_plane::centre::Expected;
use control_plane::store::memory::MemoryStore;
use control_plane::store::{
    Entry, Error, Health, Lease, LeaseId, Outcome as TxnOutcome, Page, PageRequest, Revision, Store, Txn,
    WatchStream,
};
use futures::StreamExt;
use proto::assignment::{ClusterPhase, Intent, Outcome};
use proto::audit::{AuditLine, Extent, verify};
use proto::halt::HaltScope;
use proto::rest::{AuditRecord, SetHalt};
use proto::status::RunPhase;
use proto::wire::Down;

use super::fixture::{Centre, PATIENCE, admin, eventually};

#[tokio::test]
async fn two_replicas_dispatch_once_whoever_the_agent_asks() {
    let centre = Centre::start(2).await;
    let west = centre.member("west").await;
    let east = centre.member("east").await;
    let (mut west, mut east) = (centre.agent(0, &west).await, centre.agent(1, &east).await);
    centre.experiment("both", &["west", "east"]).await;
    centre.grant_all().await;
    let id = centre.run("r", "both").await.record.id;
    west.planned(1).await;
    east.planned(1).await;
    let (a, _) = west.desired(Intent::Start).await;
    let (b, _) = east.desired(Intent::Start).await;
    assert_eq!((a.generation, b.generation), (2, 2));
    assert_eq!(a.plan_hash, b.plan_hash);
    west.finish(&a, Outcome::Completed).await;
    east.finish(&b, Outcome::Completed).await;
    centre.finished(id.as_str()).await;
    let dispatches = audit(&centre).await.iter().filter(|record| record.action == "run.dispatch").count();
    assert_eq!(dispatches, 1);
    centre.stop().await;
}

async fn audit(centre: &Centre) -> Vec<AuditRecord> {
    let finished = |records: &[AuditRecord]| records.iter().any(|record| record.action == "run.finish");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let records = centre.api().audit_page(&admin(), None, 500).await.unwrap().items;
        if finished(&records) || tokio::time::Instant::now() > deadline {
            return records;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn is_whole(records: &[AuditRecord]) -> bool {
    let lines = records.iter().cloned().map(AuditLine::Record);
    let chains = verify(lines, Extent::Whole, |_| Err("nothing is signed here"));
    chains.len() == 1 && chains[0].flaws.is_empty()
}

#[tokio::test]
async fn the_audit_is_one_chain_and_says_who_did_what() {
    let centre = Centre::start(1).await;
    let mut west = centre.connected("west").await;
    centre.experiment("slow", &["west"]).await;
    centre.grant_all().await;
    let id = centre.run("r", "slow").await.record.id;
    west.planned(1).await;
    let (start, _) = west.desired(Intent::Start).await;
    west.finish(&start, Outcome::Completed).await;
    centre.finished(id.as_str()).await;
    let records = audit(&centre).await;
    assert!(is_whole(&records), "{records:#?}");
    for action in
        ["cluster.invite", "cluster.accept", "experiment.put", "grant.put", "run.create", "run.dispatch"]
    {
        assert!(records.iter().any(|record| record.action == action && record.result == "ok"), "{action}");
    }
    let mut broken = records.clone();
    broken[1].by = "somebody else".to_owned();
    assert!(!is_whole(&broken));
    centre.stop().await;
}

#[tokio::test]
async fn a_watch_shows_the_latest_and_ends_with_the_run() {
    let centre = Centre::start(1).await;
    let mut west = centre.connected("west").await;
    centre.experiment("slow", &["west"]).await;
    centre.grant_all().await;
    let id = centre.run("r", "slow").await.record.id;
    let watch = centre.api().watch_run(&admin(), id.as_str()).unwrap();
    tokio::pin!(watch);
    assert_eq!(watch.next().await.unwrap().summary.phase, RunPhase::Planning);
    west.planned(1).await;
    let (start, _) = west.desired(Intent::Start).await;
    west.phase(&start, ClusterPhase::Running).await;
    west.finish(&start, Outcome::Completed).await;
    let mut last = None;
    while let Some(view) = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap() {
        last = Some(view);
    }
    assert_eq!(last.unwrap().summary.outcome, Some(Outcome::Completed));
    centre.stop().await;
}

/// A store that can be out of reach for calls; its watches stay silent meanwhile.
#[derive(Debug)]
struct Flaky {
    store: MemoryStore,
    down: AtomicBool,
}

impl Flaky {
    fn check(&self) -> Result<(), Error> {
        let down = self.down.load(Ordering::Relaxed);
        let refused = || Error::Unavailable { operation: "test", source: "the store is down".into() };
        if down { Err(refused()) } else { Ok(()) }
    }
}

#[async_trait]
impl Store for Flaky {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.check()?;
        self.store.get(key).await
    }
    async fn list(&self, prefix: &str, page: PageRequest) -> Result<Page, Error> {
        self.check()?;
        self.store.list(prefix, page).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        self.check()?;
        self.store.txn(txn).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        self.check()?;
        self.store.watch(prefix, from).await
    }
    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, Error> {
        self.check()?;
        self.store.lease_grant(ttl).await
    }
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, Error> {
        // The lease itself lives on, as in an outage shorter than its life.
        self.store.lease_keep_alive(id).await
    }
    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.store.lease_revoke(id).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.store.compact(revision).await
    }
    async fn health(&self) -> Result<Health, Error> {
        self.check()?;
        self.store.health().await
    }
}

#[tokio::test]
async fn stop_and_halt_are_taken_while_the_store_is_down() {
    let store = Arc::new(Flaky { store: MemoryStore::new(), down: AtomicBool::new(false) });
    let centre = Centre::on(store.clone(), 1).await;
    let mut west = centre.connected("west").await;
    centre.experiment("slow", &["west"]).await;
    centre.grant_all().await;
    let id = centre.run("r", "slow").await.record.id;
    west.planned(1).await;
    let (start, _) = west.desired(Intent::Start).await;
    west.phase(&start, ClusterPhase::Running).await;
    centre.until(id.as_str(), "running", |view| view.summary.phase == RunPhase::Running).await;

    store.down.store(true, Ordering::Relaxed);
    let api = centre.api();
    let taken = api.stop_run(&admin(), id.as_str()).await.unwrap();
    assert!(!taken.persisted, "what is only in memory is not called stored");
    assert_eq!(taken.replicas.map(|replicas| (replicas.told, replicas.known)), Some((0, 0)));
    let (stop, _) = west.desired(Intent::Stop).await;
    assert_eq!(stop.generation, start.generation + 1);
    let halt = SetHalt { id: Some("h".to_owned()), scope: HaltScope::Fleet, reason: String::new() };
    api.set_halt(&admin(), halt).await.unwrap();
    west.halts(|halts| halts.halts.iter().any(|halt| halt.id.as_str() == "h")).await;
    assert!(centre.store.get("halts/h").await.is_err());
    let grant = serde_json::json!({
        "from": { "operators": ["*"] },
        "to": { "clusters": { "names": ["west"] }, "namespaces": ["*"], "kinds": ["*"], "maxTargets": 1 }
    });
    let refused = api.put_grant(&admin(), "x", grant, &Expected::Anything).await.unwrap_err();
    assert_eq!(refused.code(), proto::problem::ErrorCode::Unavailable);

    store.down.store(false, Ordering::Relaxed);
    let view = centre.until(id.as_str(), "persisted", |view| view.record.stop.is_some()).await;
    assert_eq!(view.record.stop.unwrap().by, "operator:ann");
    // What is persisted is what was sent: the agent need not be told twice anything new.
    let view = centre.until(id.as_str(), "stopping", |view| view.clusters[0].intent == Intent::Stop).await;
    assert_eq!(view.clusters[0].generation, stop.generation);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while centre.store.get("halts/h").await.unwrap().is_none() {
        assert!(tokio::time::Instant::now() < deadline, "the halt was never persisted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    eventually("an acknowledged halt list", || {
        let halts = api.halts(&admin()).unwrap();
        if halts.len() == 1 { Ok(()) } else { Err(halts) }
    })
    .await;
    centre.stop().await;
}

#[tokio::test]
async fn a_new_leader_goes_on_where_the_old_one_was() {
    let store = Arc::new(MemoryStore::new());
    let centre = Centre::on(store.clone(), 1).await;
    let mut west = centre.connected("west").await;
    let id = west.id.clone();
    centre.experiment("slow", &["west"]).await;
    centre.grant_all().await;
    let run = centre.run("r", "slow").await.record.id;
    west.planned(1).await;
    let (start, _) = west.desired(Intent::Start).await;
    west.vanish().await;
    centre.stop().await;
    let centre = Centre::on(store, 1).await;
    let mut hello = super::agent::hello(2);
    hello.held.push(proto::wire::Held {
        run: run.clone(),
        generation: start.generation,
        intent: Intent::Start,
    });
    let mut west = super::agent::Agent::dial(&centre.replicas[0], &id, hello).await;
    west.until("Welcome", |down| matches!(down, Down::Welcome(_))).await;
    west.finish(&start, Outcome::Completed).await;
    let view = centre.finished(run.as_str()).await;
    assert_eq!(view.summary.outcome, Some(Outcome::Completed));
    assert!(
        view.clusters[0].generation <= start.generation + 1,
        "nothing but Forget came after its one Start"
    );
    centre.stop().await;
}
