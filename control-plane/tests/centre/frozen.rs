//! A store as a released version left it: this version reads every value of it, writes none of them poorer, and works
//! on. At a release, `FREEZE=1 cargo test -p control-plane --test centre frozen` writes the file of the version if it
//! is not there yet. A file that is there is never written again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use certs::{JoinToken, PrivateKey};
use control_plane::centre::Expected;
use control_plane::driver::rewritten;
use control_plane::enrolment::EnrolRequest;
use control_plane::store::memory::MemoryStore;
use control_plane::store::{PageRequest, Store, Txn};
use jiff::{SignedDuration, Timestamp};
use proto::assignment::{ClusterPhase, Intent, Outcome};
use proto::halt::HaltScope;
use proto::rest::{InviteCluster, SetHalt};
use proto::status::RunPhase;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::agent::{Agent, progress};
use super::fixture::{Centre, admin, eventually, experiment_spec};
use super::lost::lost;

/// What is read in parts and written again; the rest is written once, or byte by byte, or hangs on a lease.
const REWRITTEN: [&str; 10] = [
    "clusters/",
    "experiments/",
    "runs/",
    "desired/",
    "observed/",
    "grants/",
    "halts/",
    "tokens/",
    "certs/",
    "operators/",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/centre/frozen")
}

/// What a version left, and when.
#[derive(Serialize, Deserialize)]
struct Frozen {
    at: Timestamp,
    store: BTreeMap<String, Value>,
}

/// What a store holds that does not hang on a lease, but the audit; JSON as JSON, anything else as text.
async fn dump(store: &dyn Store) -> BTreeMap<String, Value> {
    let page = store.list("", PageRequest::first(10_000)).await.unwrap();
    let kept =
        page.entries.into_iter().filter(|entry| entry.lease.is_none() && !entry.key.starts_with("audit/"));
    let value = |bytes: &[u8]| {
        serde_json::from_slice(bytes).unwrap_or_else(|_| json!(String::from_utf8(bytes.to_vec()).unwrap()))
    };
    kept.map(|entry| (entry.key, value(&entry.value))).collect()
}

/// A store with one of everything: a run that is over, one that runs, members, operators, halts.
async fn filled() -> Frozen {
    let centre = Centre::start(1).await;
    let api = centre.api();
    let labels = [("network".to_owned(), "flat".to_owned())].into();
    let invite = InviteCluster { name: "west".to_owned(), labels, auto_accept: true, ttl: None };
    let token: JoinToken = api.invite_cluster(&admin(), invite).await.unwrap().token.parse().unwrap();
    let request = EnrolRequest {
        token: format!("{}.{}", token.id, token.secret.reveal()),
        csr_pem: PrivateKey::generate().unwrap().csr_pem().unwrap(),
        kube_system_uid: "u-1".to_owned(),
        version: "0.1.0".to_owned(),
        identity_csr_pem: PrivateKey::generate().unwrap().csr_pem().unwrap(),
    };
    let west = centre.replicas[0].enroller.enrol(&request).await.unwrap().cluster;
    let operator = serde_json::from_value(json!({ "name": "bob", "role": "operator" })).unwrap();
    api.create_operator(&admin(), operator, None).await.unwrap();
    centre.grant_all().await;
    centre.experiment("slow", &["west"]).await;
    let mut agent = centre.agent(0, &west).await;
    for name in ["over", "running"] {
        let id = centre.run(name, "slow").await.record.id;
        agent.planned(1).await;
        let (start, _) = agent.desired(Intent::Start).await;
        if name == "over" {
            let mut observed = progress(&start, ClusterPhase::Finished);
            observed.outcome = Some(Outcome::Completed);
            agent.observe(observed).await;
            centre.finished(id.as_str()).await;
            agent = Agent::connect(&centre.replicas[0], &west, 2).await;
        } else {
            agent.phase(&start, ClusterPhase::Running).await;
            centre.until(id.as_str(), "running", |view| view.summary.phase == RunPhase::Running).await;
        }
    }
    for (id, scope) in [
        ("all", HaltScope::Fleet),
        ("one", HaltScope::Cluster { cluster: west.clone() }),
        ("shop", HaltScope::Namespace { cluster: west.clone(), namespace: "shop".to_owned() }),
    ] {
        let halt = SetHalt { id: Some(id.to_owned()), scope, reason: "frozen".to_owned() };
        api.set_halt(&admin(), halt).await.unwrap();
    }
    api.resume_halt(&admin(), "all", &Expected::Anything).await.unwrap();
    agent.vanish().await;
    let frozen = Frozen { at: centre.clock.now(), store: dump(&*centre.store).await };
    centre.stop().await;
    frozen
}

/// As if it had been left just now: what is old is forgotten, and what is late is given up.
fn shifted(value: &mut Value, by: SignedDuration) {
    match value {
        Value::String(text) => {
            if let Ok(at) = text.parse::<Timestamp>() {
                *text = (at + by).to_string();
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| shifted(value, by)),
        Value::Object(object) => object.values_mut().for_each(|value| shifted(value, by)),
        _ => {}
    }
}

#[tokio::test]
async fn a_store_of_a_released_version_is_read_and_worked_on() {
    let own = folder().join(concat!(env!("CARGO_PKG_VERSION"), ".json"));
    if std::env::var_os("FREEZE").is_some() && !own.exists() {
        std::fs::write(&own, serde_json::to_string_pretty(&Box::pin(filled()).await).unwrap() + "\n")
            .unwrap();
    }
    assert!(own.exists(), "this version is frozen");
    for path in std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()) {
        let version = path.file_stem().unwrap().to_string_lossy().into_owned();
        let meaning = format!(
            "a control plane of version {version} may be upgraded to this one: read what it wrote, or give that up, \
             say so in docs/guides/operations.md under Upgrades, and delete {}",
            path.display()
        );
        let Frozen { at, store: mut kept } =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let by = Timestamp::now().duration_since(at);
        for value in kept.values_mut() {
            shifted(value, by);
        }
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        for (key, value) in &kept {
            let bytes = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if REWRITTEN.iter().any(|family| key.starts_with(family)) {
                let now = rewritten(key, bytes.as_bytes());
                let now = now.unwrap_or_else(|| panic!("{key} cannot be read. {meaning}"));
                let now: Value = serde_json::from_slice(&now).unwrap();
                let lost = lost(value, &now);
                assert!(lost.is_empty(), "{key}: {lost:#?}. {meaning}");
            }
            store.txn(Txn::new().put(key, bytes)).await.unwrap().committed().unwrap();
        }
        for family in REWRITTEN {
            assert!(kept.keys().any(|key| key.starts_with(family)), "nothing of {family} in {version}");
        }
        Box::pin(works_on(store)).await;
    }
}

/// What was under way ends, what was over stays so, and something new can be done.
async fn works_on(store: Arc<dyn Store>) {
    let centre = Centre::on(store, 1).await;
    let west = centre.api().cluster(&admin(), "west").unwrap().spec.id;
    let runs = centre.api().runs(&admin(), None, 10).unwrap().items;
    let of = |name: &str| runs.iter().find(|view| view.record.name == name).unwrap().clone();
    assert_eq!(of("over").summary.outcome, Some(Outcome::Completed));
    let running = of("running").record.id;
    let mut agent = Agent::connect(&centre.replicas[0], &west, 9).await;
    // Halted meanwhile: its agent is told so.
    let halts = agent.halts(|halts| halts.halts.len() == 2).await;
    assert!(halts.resumed.iter().any(|id| id.as_str() == "all"), "{halts:?}");
    let (stop, _) = agent.desired(Intent::Stop).await;
    assert_eq!(stop.run, running);
    agent.finish(&stop, Outcome::Halted).await;
    assert_eq!(centre.finished(running.as_str()).await.summary.outcome, Some(Outcome::Halted));
    for id in ["one", "shop"] {
        centre.api().resume_halt(&admin(), id, &Expected::Anything).await.unwrap();
    }
    eventually("no halt is left", || {
        let halts = centre.api().halts(&admin()).unwrap();
        if halts.is_empty() { Ok(()) } else { Err(halts) }
    })
    .await;
    let mut agent = Agent::connect(&centre.replicas[0], &west, 10).await;
    centre
        .api()
        .put_experiment(&admin(), "slow", experiment_spec(&["west"]), &Expected::Anything)
        .await
        .unwrap();
    let id = centre.run("new", "slow").await.record.id;
    agent.planned(1).await;
    let (start, _) = agent.desired(Intent::Start).await;
    agent.finish(&start, Outcome::Completed).await;
    assert_eq!(centre.finished(id.as_str()).await.summary.outcome, Some(Outcome::Completed));
    centre.stop().await;
}
