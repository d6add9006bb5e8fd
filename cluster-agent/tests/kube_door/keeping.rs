//! What must survive a restart, beside the contract: several processes, and objects that people have touched.

use cluster_agent::cluster::{Error, RecordState, Records, RunRecordHeld, Secrets, secret};
use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::member::Member;

fn record(id: &str, generation: u64, state: RecordState) -> RunRecordHeld {
    let desired = json!({ "run": id, "generation": generation, "intent": "Start", "specHash": "h",
        "principal": principal(), "origin": {} });
    RunRecordHeld {
        desired: serde_json::from_value(desired).unwrap(),
        state,
        started_at: Some("2026-01-01T00:00:00.123Z".parse().unwrap()),
        deadline: Some("2026-01-01T00:05:00Z".parse().unwrap()),
        link_loss: None,
        injections: Vec::new(),
        end_reason: String::new(),
        observed: None,
    }
}

fn principal() -> Value {
    serde_json::to_value(proto::grant::Principal::Operator { name: "ada".into() }).unwrap()
}

#[tokio::test]
async fn another_process_finds_everything_and_writes_over_it() {
    let Some(member) = Member::start().await else {
        return;
    };
    let first = member.door("agent-0").doors();
    first.records.put(&record("run-b", 3, RecordState::Finished)).await.unwrap();
    first.secrets.put(secret::NODE_CA, b"ca").await.unwrap();
    for bundle in ["one", "two"] {
        first.secrets.publish_node_bundle(bundle).await.unwrap();
    }
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
    let Some(member) = Member::start().await else {
        return;
    };
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
    let Some(member) = Member::start().await else {
        return;
    };
    let door = member.door("agent-0");
    let records: Vec<_> =
        (0..205).map(|n| record(&format!("run-{n:03}"), 1, RecordState::Finished)).collect();
    let puts = records.iter().map(|record| Records::put(&door, record));
    // Not all at once: each is bounded in time, also on a busy machine.
    stream::iter(puts).buffer_unordered(8).try_collect::<()>().await.unwrap();
    assert_eq!(member.door("agent-1").list().await, Ok(records));
}

#[tokio::test]
async fn names_of_our_own_records_are_no_runs() {
    let Some(member) = Member::start().await else {
        return;
    };
    let door = member.door("agent-0");
    for name in ["latched-halts", "agent-epoch"] {
        assert!(matches!(
            Records::put(&door, &record(name, 1, RecordState::Started)).await,
            Err(Error::Refused { .. })
        ));
    }
}

#[tokio::test]
async fn an_agent_does_not_undo_what_its_successor_wrote() {
    let Some(member) = Member::start().await else {
        return;
    };
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
