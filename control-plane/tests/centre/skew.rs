//! Replicas of two versions on one store. The newer one writes fields that the code under test, which is the older one
//! then, does not know; and the store's format is not raised before the older one is gone.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use control_plane::centre::{Error as CentreError, Expected};
use control_plane::driver::clock::Clock;
use control_plane::format::{FORMAT, TooNew};
use control_plane::replica::{Replica, ReplicaConfig};
use control_plane::restored::mark;
use control_plane::store::memory::MemoryStore;
use control_plane::store::{
    Entry, Error, Health, Lease, LeaseId, Op, Outcome as TxnOutcome, Page, PageRequest, Revision, Store, Txn,
    WatchStream,
};
use proto::assignment::{Intent, Outcome};
use proto::halt::HaltScope;
use proto::rest::RunView;
use proto::status::RunPhase;
use proto::wire::{Hello, PROTOCOL};
use serde_json::{Value, json};

use super::agent::{Agent, hello};
use super::fixture::{Centre, PATIENCE, admin, eventually, experiment_spec};

/// Whose values a version may have more to say in. Not what is hashed, signed or hangs on a lease.
const OPEN: [&str; 9] = [
    "clusters/",
    "experiments/",
    "runs/",
    "desired/",
    "observed/",
    "grants/",
    "halts/",
    "tokens/",
    "tombstones/",
];
/// Objects below the top that have fields of ours, not of people.
const WITHIN: [&str; 8] =
    ["/origin", "/principal", "/clusters", "/counts", "/from", "/to", "/inventory", "/envelope"];
const NEW: &str = "fromTheFuture";

/// The store as one replica has it, which keeps the keys that were put through it; a newer one's puts say more.
#[derive(Debug)]
struct Through {
    store: Arc<dyn Store>,
    newer: bool,
    put: Mutex<BTreeSet<String>>,
}

impl Through {
    fn new(store: &Arc<dyn Store>, newer: bool) -> Arc<Self> {
        Arc::new(Self { store: store.clone(), newer, put: Mutex::default() })
    }

    fn put(&self) -> BTreeSet<String> {
        self.put.lock().unwrap().clone()
    }
}

/// What a newer version writes for the same thing.
fn say_more(value: &mut Value) {
    for at in WITHIN {
        if let Some(Value::Object(within)) = value.pointer_mut(at) {
            within.insert(NEW.to_owned(), json!(true));
        }
    }
    if let Some(Value::Array(samples)) = value.pointer_mut("/samples") {
        for sample in samples {
            sample[NEW] = json!(true);
        }
    }
    value[NEW] = json!({ "at": ["every", { "level": 1 }] });
}

#[async_trait]
impl Store for Through {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.store.get(key).await
    }
    async fn list(&self, prefix: &str, page: PageRequest) -> Result<Page, Error> {
        self.store.list(prefix, page).await
    }
    async fn txn(&self, mut txn: Txn) -> Result<TxnOutcome, Error> {
        let mut put = Vec::new();
        for op in &mut txn.ops {
            let Op::Put(key, value, None) = op else { continue };
            if !OPEN.iter().any(|prefix| key.starts_with(prefix)) {
                continue;
            }
            if self.newer {
                let mut more: Value = serde_json::from_slice(value).unwrap();
                say_more(&mut more);
                *value = more.to_string().into();
            }
            put.push(key.clone());
        }
        let outcome = self.store.txn(txn).await?;
        if !outcome.is_conflict() {
            self.put.lock().unwrap().extend(put);
        }
        Ok(outcome)
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        self.store.watch(prefix, from).await
    }
    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, Error> {
        self.store.lease_grant(ttl).await
    }
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, Error> {
        self.store.lease_keep_alive(id).await
    }
    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.store.lease_revoke(id).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.store.compact(revision).await
    }
    async fn health(&self) -> Result<Health, Error> {
        self.store.health().await
    }
}

async fn value(store: &dyn Store, key: &str) -> Option<Value> {
    let entry = store.get(key).await.unwrap()?;
    Some(serde_json::from_slice(&entry.value).unwrap())
}

/// An agent of the version before, and one of the version after, of the leader or not.
fn other_versions(epoch: u64) -> [Hello; 2] {
    let of = |protocol_min, protocol_max, version: &str| Hello {
        protocol_min,
        protocol_max,
        version: version.to_owned(),
        ..hello(epoch)
    };
    [of(PROTOCOL - 1, PROTOCOL, "0.0.9"), of(PROTOCOL, PROTOCOL + 1, "0.2.0")]
}

/// West is connected to the newer replica and east to the older one; invited by the newer, accepted by the older.
async fn members(centre: &Centre, of_newer: usize, of_older: usize) -> Vec<Agent> {
    let (by_newer, by_older) = (&centre.replicas[of_newer].centre, &centre.replicas[of_older].centre);
    let mut agents = Vec::new();
    for ((name, at), hello) in [("west", of_newer), ("east", of_older)].into_iter().zip(other_versions(1)) {
        let labels = [("network".to_owned(), "flat".to_owned())].into();
        let invite =
            proto::rest::InviteCluster { name: name.to_owned(), labels, auto_accept: false, ttl: None };
        let id = by_newer.invite_cluster(&admin(), invite).await.unwrap().cluster;
        eventually("both know the member", || {
            by_older.cluster(&admin(), name).map(drop).map_err(|e| e.to_string())
        })
        .await;
        by_older.accept_cluster(&admin(), name, &Expected::Anything).await.unwrap();
        eventually("both know that it is accepted", || {
            let view = centre.replicas[at].centre.cluster(&admin(), name).unwrap();
            if view.spec.accepted { Ok(()) } else { Err(view) }
        })
        .await;
        let mut agent = Agent::dial(&centre.replicas[at], &id, hello).await;
        agent.until("Welcome", |down| matches!(down, proto::wire::Down::Welcome(_))).await;
        agents.push(agent);
    }
    agents
}

async fn nothing_is_lost(store: &dyn Store, said: &BTreeSet<String>, written: &BTreeSet<String>) {
    for key in said {
        if let Some(value) = value(store, key).await {
            assert!(value[NEW].is_object(), "{key} lost what the newer version wrote: {value:#}");
        }
    }
    // And that is not because the older one wrote nothing.
    let both: Vec<&String> = said.intersection(written).collect();
    for family in ["clusters/", "experiments/", "grants/"] {
        assert!(both.iter().any(|key| key.starts_with(family)), "{family}: {both:#?}");
    }
    let grant = value(store, "grants/all").await.unwrap();
    assert_eq!((&grant["to"]["maxTargets"], &grant["to"][NEW]), (&json!(20), &json!(true)), "{grant:#}");
}

/// A run over two clusters, whose agents are on either replica; everything is asked of both replicas in turn.
async fn a_run_goes_through(newer_leads: bool) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let (newer, older) = (Through::new(&store, true), Through::new(&store, false));
    let (first, second) = if newer_leads { (&newer, &older) } else { (&older, &newer) };
    let mut centre = Centre::on(first.clone(), 1).await;
    let other = centre.replica_on(second.clone(), "r1").await;
    centre.replicas.push(other);
    let (of_newer, of_older) = if newer_leads { (0, 1) } else { (1, 0) };
    let (by_newer, by_older) = (&centre.replicas[of_newer].centre, &centre.replicas[of_older].centre);

    let mut agents = members(&centre, of_newer, of_older).await;
    let mut spec = experiment_spec(&["west", "east"]);
    for api in [by_newer, by_older] {
        api.put_experiment(&admin(), "both", spec.clone(), &Expected::Anything).await.unwrap();
        spec["hypothesis"] = json!("It still answers.");
    }
    let everywhere =
        json!({ "labelSelector": { "matchExpressions": [{ "key": "network", "operator": "Exists" }] } });
    for (api, most) in [(by_newer, 10), (by_older, 20)] {
        let to = json!({ "clusters": everywhere, "namespaces": ["*"], "kinds": ["*"], "maxTargets": most });
        let grant = json!({ "from": { "operators": ["*"] }, "to": to });
        api.put_grant(&admin(), "all", grant, &Expected::Anything).await.unwrap();
    }
    let create = super::fixture::create("r", "both", false);
    eventually("the newer knows what the older stored", || {
        let read = by_newer.grant(&admin(), "all").map(|view| view.spec.to.max_targets);
        if read.as_ref().is_ok_and(|most| *most == 20) { Ok(()) } else { Err(format!("{read:?}")) }
    })
    .await;
    let id = by_newer.create_run(&admin(), create, None).await.unwrap().record.id;
    for agent in &mut agents {
        agent.planned(1).await;
    }
    for agent in &mut agents {
        let (start, _) = agent.desired(Intent::Start).await;
        agent.finish(&start, Outcome::Completed).await;
    }
    let view = centre.finished(id.as_str()).await;
    assert_eq!(view.summary.outcome, Some(Outcome::Completed), "{view:?}");

    nothing_is_lost(&*store, &newer.put(), &older.put()).await;
    if !newer_leads {
        // The record was written by the newer one, and every decision by the older one.
        let key = format!("runs/{id}/summary");
        let summary = value(&*store, &key).await.unwrap();
        assert!(older.put().contains(&key) && summary[NEW].is_object(), "{summary:#}");
        assert_eq!(summary["clusters"][NEW], json!(true), "{summary:#}");
    }
    drop(agents);
    centre.stop().await;
}

#[tokio::test]
async fn a_run_goes_through_a_mixed_fleet_led_by_the_older_and_nothing_is_lost() {
    Box::pin(a_run_goes_through(false)).await;
}

#[tokio::test]
async fn a_run_goes_through_a_mixed_fleet_led_by_the_newer_and_nothing_is_lost() {
    Box::pin(a_run_goes_through(true)).await;
}

/// A run that ends without a start, however often its agent plans it.
async fn never_started(centre: &Centre, agent: &mut Agent, name: &str) -> RunView {
    let id = centre.run(name, "slow").await.record.id;
    let plans = async {
        loop {
            agent.planned(1).await;
        }
    };
    tokio::select! {
        view = centre.finished(id.as_str()) => view,
        () = plans => unreachable!(),
    }
}

#[tokio::test]
async fn a_value_that_cannot_be_read_harms_no_other_and_a_halt_still_stops() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let centre = Centre::on(store.clone(), 1).await;
    let west = centre.connected("west").await;
    centre.experiment("slow", &["west"]).await;
    centre.grant_all().await;
    let at = centre.clock.now().to_string();
    let of_west = format!("desired/{}/r-9", west.id);
    for (key, value) in [
        ("grants/all", json!({ "from": 7 })),
        ("experiments/central/central/broken", json!("x")),
        ("runs/r-9/summary", json!({ "id": "r-9", "phase": "Levitating" })),
        ("runs/r-9/spec", json!({ "id": "r-9", "what": "ever" })),
        ("desired/c-9/r-9", json!({ "run": "r-9", "intent": "Pause" })),
        (&of_west, json!({ "run": "r-9", "intent": "Pause" })),
        ("observed/c-9/r-9", json!({ "run": "r-9", "phase": "Levitating" })),
        ("clusters/c-9/spec", json!({ "id": "c-9", "accepted": "perhaps" })),
        (
            "halts/region-eu",
            json!({ "id": "region-eu", "scope": { "type": "Region", "region": "eu" }, "by": "x", "at": at }),
        ),
        ("halts-revision", json!({})),
    ] {
        store.txn(Txn::new().put(key, value.to_string())).await.unwrap().committed().unwrap();
    }
    // A new session lists what the agent is to do: what cannot be read is not waited for.
    let id = west.id.clone();
    west.vanish().await;
    let mut west = Agent::connect(&centre.replicas[0], &id, 2).await;
    // The agent is told, as of a halt of the fleet.
    let halts = west.halts(|halts| !halts.halts.is_empty()).await;
    assert_eq!((halts.halts[0].id.as_str(), &halts.halts[0].scope), ("region-eu", &HaltScope::Fleet));
    let ended = never_started(&centre, &mut west, "slow-1").await;
    assert_eq!(ended.summary.dispatched_at, None, "{ended:?}");
    // It is lifted by its id as any other. A grant that cannot be read grants nothing; put again it does.
    centre.api().resume_halt(&admin(), "region-eu", &Expected::Anything).await.unwrap();
    let ended = never_started(&centre, &mut west, "slow-2").await;
    assert_eq!((ended.summary.outcome, ended.summary.dispatched_at), (Some(Outcome::Denied), None));
    assert!(ended.summary.refusals.iter().any(|refusal| refusal.code == "NoGrant"), "{ended:?}");
    centre.grant_all().await;
    let run = centre.run("slow-3", "slow").await.record.id;
    west.planned(1).await;
    let (start, _) = west.desired(Intent::Start).await;
    assert_eq!(start.run, run);
    west.finish(&start, Outcome::Completed).await;
    assert_eq!(centre.finished(run.as_str()).await.summary.phase, RunPhase::Finished);
    centre.stop().await;
}

#[tokio::test]
async fn the_format_is_raised_when_the_last_older_replica_is_gone() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let lease = store.lease_grant(Duration::from_mins(10)).await.unwrap();
    // From before formats were announced.
    let old = Txn::new().put_leased("replicas/old", r#"{"peerAddress":"old:7444"}"#, lease.id);
    store.txn(old).await.unwrap().committed().unwrap();
    let centre = Centre::on(store.clone(), 2).await;
    // Longer than the leader takes to look.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(store.get("format").await.unwrap(), None);
    let before = store.health().await.unwrap().revision;
    store.lease_revoke(lease.id).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let format = loop {
        if let Some(format) = store.get("format").await.unwrap() {
            break format;
        }
        assert!(tokio::time::Instant::now() < deadline, "the format is raised");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(format.create_revision > before);
    assert_eq!(value(&*store, "format").await, Some(json!(FORMAT)));
    centre.stop().await;
}

#[tokio::test]
async fn a_store_of_a_newer_format_is_refused_at_the_start_and_later() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let mut centre = Centre::on(store.clone(), 1).await;
    let stored = FORMAT + 1;
    store.txn(Txn::new().put("format", stored.to_string())).await.unwrap().committed().unwrap();
    let ended = tokio::time::timeout(PATIENCE, centre.tasks.join_next()).await.unwrap().unwrap().unwrap();
    let said = ended.unwrap_err().to_string();
    assert!(said.contains(&format!("written in format {stored}, this version")), "{said}");

    for (value, stored) in [(stored.to_string(), stored), ("\"two\"".to_owned(), u32::MAX)] {
        store.txn(Txn::new().put("format", value)).await.unwrap().committed().unwrap();
        let config = ReplicaConfig::new("late", "127.0.0.1:7445");
        let started = Replica::new(store.clone(), centre.signer.clone(), Clock::new(), config).await;
        match started {
            Err(CentreError::Format(refused)) => assert_eq!(refused, TooNew { stored }),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.get("replicas/late").await.unwrap(), None, "nothing was written");
    let marked = mark(&*store, &Clock::new()).await;
    assert!(matches!(marked, Err(CentreError::Format(_))), "{marked:?}");
    centre.shutdown.cancel();
}
