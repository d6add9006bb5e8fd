//! What must survive a restart: one contract for the twin and the real thing, and what only the real one can get
//! wrong.

use cluster_agent::cluster::memory::Memory;
use cluster_agent::cluster::{Doors, Error, LatchedHalts, RecordState, Records, RunRecordHeld, Secrets, secret};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, Patch, PatchParams};
use proto::halt::{Halt, HaltScope};
use proto::ids::RunId;
use serde_json::{Value, json};

use super::member::Member;

fn run(id: &str) -> RunId {
    id.parse().unwrap()
}

fn record(id: &str, generation: u64, state: RecordState) -> RunRecordHeld {
    let desired = json!({ "run": id, "generation": generation, "intent": "Start", "specHash": "h",
        "principal": principal(), "origin": {} });
    RunRecordHeld {
        desired: serde_json::from_value(desired).unwrap(),
        state,
        started_at: Some("2026-01-01T00:00:00.123Z".parse().unwrap()),
        deadline: Some("2026-01-01T00:05:00Z".parse().unwrap()),
        injections: Vec::new(),
        end_reason: String::new(),
        observed: None,
    }
}

fn principal() -> Value {
    serde_json::to_value(proto::grant::Principal::Operator { name: "ada".into() }).unwrap()
}

fn halts(reason: &str) -> LatchedHalts {
    let halt = Halt {
        id: "h1".parse().unwrap(),
        scope: HaltScope::Fleet,
        reason: reason.to_owned(),
        by: "ada".to_owned(),
        at: "2026-01-01T00:00:00Z".parse().unwrap(),
        origin: None,
    };
    LatchedHalts { halts: vec![halt], resumed: vec!["h0".parse().unwrap()] }
}

/// What every door keeps, and how.
async fn contract(doors: &Doors) {
    let Doors { records, secrets, .. } = doors;
    assert_eq!(records.list().await, Ok(Vec::new()));
    assert_eq!(records.latched().await, Ok(LatchedHalts::default()));
    let (b, a) = (record("run-b", 1, RecordState::Started), record("run-a", 2, RecordState::Started));
    records.put(&b).await.unwrap();
    records.put(&a).await.unwrap();
    records.put_latched(&halts("fire")).await.unwrap();
    assert_eq!(records.list().await, Ok(vec![a.clone(), b]), "in the order of the ids, and no latch among them");
    let b = record("run-b", 3, RecordState::Finished);
    records.put(&b).await.unwrap();
    records.put(&b).await.unwrap();
    assert_eq!(records.list().await, Ok(vec![a, b.clone()]));
    records.delete(&run("run-a")).await.unwrap();
    records.delete(&run("run-a")).await.unwrap();
    records.delete(&run("never-was")).await.unwrap();
    assert_eq!(records.list().await, Ok(vec![b]));
    assert_eq!(records.latched().await, Ok(halts("fire")));
    records.put_latched(&LatchedHalts::default()).await.unwrap();
    assert_eq!(records.latched().await, Ok(LatchedHalts::default()));

    assert_eq!(secrets.get(secret::IDENTITY).await, Ok(None));
    secrets.put(secret::IDENTITY, b"{\"v\":1}").await.unwrap();
    secrets.put(secret::IDENTITY, b"{\"v\":2}").await.unwrap();
    secrets.put(secret::NODE_CA, b"ca").await.unwrap();
    assert_eq!(secrets.get(secret::IDENTITY).await, Ok(Some(b"{\"v\":2}".to_vec())));
    assert_eq!(secrets.get(secret::NODE_CA).await, Ok(Some(b"ca".to_vec())));
    secrets.publish_node_bundle("one").await.unwrap();
    secrets.publish_node_bundle("two").await.unwrap();
}

#[tokio::test]
async fn the_twin_keeps_the_contract() {
    contract(&Memory::new().doors()).await;
}

#[tokio::test]
async fn kubernetes_keeps_the_contract_and_another_process_finds_everything() {
    let Some(member) = Member::start().await else { return };
    contract(&member.door("agent-0").doors()).await;

    let bundle = member.api::<ConfigMap>(&member.own).get("faultline-node-bundle").await.unwrap();
    assert_eq!(bundle.data.unwrap()["ca.crt"], "two");
    let object = member.ours("FaultRecord", Some(&member.own)).get("run-b").await.unwrap();
    assert_eq!(object.data["spec"]["state"], "Finished");
    assert_eq!(object.metadata.labels.unwrap()["app.kubernetes.io/managed-by"], "faultline");

    let next = member.door("agent-1").doors();
    assert_eq!(next.records.list().await, Ok(vec![record("run-b", 3, RecordState::Finished)]));
    assert_eq!(next.secrets.get(secret::NODE_CA).await, Ok(Some(b"ca".to_vec())));
    next.records.put(&record("run-b", 4, RecordState::Finished)).await.unwrap();
    // It knows nothing of what the other has written meanwhile, and still replaces it.
    let third = member.door("agent-2").doors();
    third.records.put(&record("run-b", 5, RecordState::Finished)).await.unwrap();
    next.records.put(&record("run-b", 6, RecordState::Finished)).await.unwrap();
    assert_eq!(next.records.list().await.unwrap()[0].desired.generation, 6);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_keeps_its_run_from_starting() {
    let Some(member) = Member::start().await else { return };
    let records = member.door("agent-0").doors().records;
    records.put(&record("run-a", 1, RecordState::Started)).await.unwrap();
    records.put(&record("run-b", 1, RecordState::Started)).await.unwrap();
    let torn = json!({ "spec": { "document": "{\"desired\":" } });
    let objects = member.ours("FaultRecord", Some(&member.own));
    objects.patch("run-a", &PatchParams::default(), &Patch::Merge(&torn)).await.unwrap();
    assert_eq!(records.list().await.unwrap().len(), 1, "the other is still there");
    for door in [records, member.door("agent-1").doors().records] {
        let put = door.put(&record("run-a", 1, RecordState::Started)).await;
        assert!(put.as_ref().is_err_and(|error| !error.retryable()), "{put:?}");
    }
    objects.delete("run-a", &DeleteParams::default()).await.unwrap();
    member.door("agent-2").doors().records.put(&record("run-a", 1, RecordState::Started)).await.unwrap();
}

#[tokio::test]
async fn records_are_listed_over_many_pages() {
    let Some(member) = Member::start().await else { return };
    let door = member.door("agent-0");
    let records: Vec<_> = (0..205).map(|n| record(&format!("run-{n:03}"), 1, RecordState::Finished)).collect();
    let puts = records.iter().map(|record| Records::put(&door, record));
    futures::future::try_join_all(puts).await.unwrap();
    assert_eq!(member.door("agent-1").list().await, Ok(records));
}

#[tokio::test]
async fn names_of_our_own_records_are_no_runs() {
    let Some(member) = Member::start().await else { return };
    let door = member.door("agent-0");
    for name in ["latched-halts", "agent-epoch"] {
        assert!(matches!(Records::put(&door, &record(name, 1, RecordState::Started)).await, Err(Error::Refused { .. })));
    }
}

#[tokio::test]
async fn an_agent_does_not_undo_what_its_successor_wrote() {
    let Some(member) = Member::start().await else { return };
    let (old, new) = (member.door("agent-0"), member.door("agent-1"));
    Secrets::put(&old, secret::IDENTITY, b"old").await.unwrap();
    // A label alone is nobody's word.
    let secrets = member.api::<Secret>(&member.own);
    let label = json!({ "metadata": { "labels": { "backup": "yes" } } });
    secrets.patch("faultline-agent-identity", &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    Secrets::put(&old, secret::IDENTITY, b"old too").await.unwrap();

    assert_eq!(new.get(secret::IDENTITY).await, Ok(Some(b"old too".to_vec())));
    Secrets::put(&new, secret::IDENTITY, b"new").await.unwrap();
    let late = Secrets::put(&old, secret::IDENTITY, b"late").await;
    assert!(matches!(late, Err(Error::Refused { .. })), "{late:?}");
    assert_eq!(new.get(secret::IDENTITY).await, Ok(Some(b"new".to_vec())));
    // It has to look first.
    old.get(secret::IDENTITY).await.unwrap();
    Secrets::put(&old, secret::IDENTITY, b"newer").await.unwrap();
    // Deleted by hand: made again.
    secrets.delete("faultline-agent-identity", &DeleteParams::default()).await.unwrap();
    Secrets::put(&old, secret::IDENTITY, b"again").await.unwrap();
    assert_eq!(new.get(secret::IDENTITY).await, Ok(Some(b"again".to_vec())));
}
