//! What an agent writes on objects that people made: status, on that very object only; and what the apiserver
//! itself refuses people.

use cluster_agent::cluster::kube::Kube;
use cluster_agent::cluster::{Acts, Error};
use kube::ResourceExt;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use proto::status::ClusterCounts;
use proto::wire::{AuthoredKind, AuthoredRef, Mirror};
use serde_json::{Value, json};

use super::member::Member;

fn mirror(object: &DynamicObject, status: &Value) -> Mirror {
    let object = AuthoredRef {
        kind: AuthoredKind::Run,
        namespace: object.namespace().unwrap().parse().unwrap(),
        name: object.name_any().parse().unwrap(),
        uid: object.metadata.uid.clone().unwrap(),
    };
    Mirror { object, status: status.to_string().into_bytes() }
}

fn run_spec() -> Value {
    json!({ "experimentRef": { "name": "slow" } })
}

#[tokio::test]
async fn a_status_is_mirrored_to_its_object_and_to_no_other() {
    let Some(member) = Member::start().await else {
        return;
    };
    let door: Kube = member.door("agent-0");
    let runs = member.ours("Run", Some(&member.shop));
    let made = member.write("Run", Some(&member.shop), "r1", &run_spec()).await;

    let first = json!({ "observedGeneration": 1, "phase": "Running", "residue": "Unknown",
        "residueResolvesAt": "2026-01-01T00:00:00Z", "clusters": ClusterCounts { total: 2, running: 2, ..ClusterCounts::default() },
        "conditions": [{ "type": "Accepted", "status": "True", "reason": "Ok", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z" }] });
    door.write_status(&mirror(&made, &first)).await.unwrap();
    let written = runs.get("r1").await.unwrap();
    assert_eq!(written.data["status"], first);
    assert_eq!(written.data["spec"], run_spec(), "the spec is never touched");

    // Equal: not even the version changes.
    door.write_status(&mirror(&made, &first)).await.unwrap();
    assert_eq!(runs.get("r1").await.unwrap().metadata.resource_version, written.metadata.resource_version);

    // What is no longer said is gone.
    let last = json!({ "observedGeneration": 1, "phase": "Finished", "outcome": "Completed", "residue": "Clean",
        "clusters": ClusterCounts { total: 2, completed: 2, ..ClusterCounts::default() } });
    door.write_status(&mirror(&made, &last)).await.unwrap();
    assert_eq!(runs.get("r1").await.unwrap().data["status"], last);

    // The same name, another object: the status of its predecessor is not its own.
    runs.delete("r1", &DeleteParams::default()).await.unwrap();
    door.write_status(&mirror(&made, &last)).await.unwrap();
    let other = member.write("Run", Some(&member.shop), "r1", &run_spec()).await;
    door.write_status(&mirror(&made, &last)).await.unwrap();
    let untouched = runs.get("r1").await.unwrap();
    assert_eq!(untouched.data.get("status"), None);
    assert_eq!(untouched.metadata.resource_version, other.metadata.resource_version);
}

#[tokio::test]
async fn a_status_is_whole_whatever_others_wrote_since_the_last_one() {
    let Some(member) = Member::start().await else {
        return;
    };
    let door: Kube = member.door("agent-0");
    let runs = member.ours("Run", Some(&member.shop));
    let made = member.write("Run", Some(&member.shop), "r1", &run_spec()).await;
    let phase = |phase: &str| json!({ "observedGeneration": 1, "phase": phase });
    door.write_status(&mirror(&made, &phase("Planning"))).await.unwrap();
    // Onto the version that the last write made: nothing is read before it.
    door.write_status(&mirror(&made, &phase("Dispatching"))).await.unwrap();
    assert_eq!(runs.get("r1").await.unwrap().data["status"], phase("Dispatching"));
    // Onto one that is older than what stands there by now.
    let other = member.door("agent-1");
    other.write_status(&mirror(&made, &json!({ "phase": "Reverting", "outcome": "Aborted" }))).await.unwrap();
    let labels = json!({ "metadata": { "labels": { "team": "a" } } });
    runs.patch("r1", &PatchParams::default(), &Patch::Merge(&labels)).await.unwrap();
    door.write_status(&mirror(&made, &phase("Running"))).await.unwrap();
    let now = runs.get("r1").await.unwrap();
    assert_eq!(now.data["status"], phase("Running"));
    assert_eq!(now.metadata.labels.unwrap()["team"], "a");
}

#[tokio::test]
async fn a_status_that_is_none_is_refused_for_good() {
    let Some(member) = Member::start().await else {
        return;
    };
    let door = member.door("agent-0");
    let made = member.write("Run", Some(&member.shop), "r1", &run_spec()).await;
    for junk in [json!("x"), json!({ "clusters": "many" })] {
        let refused = door.write_status(&mirror(&made, &junk)).await;
        assert!(matches!(refused, Err(Error::Refused { .. })), "{junk}: {refused:?}");
    }
}

#[tokio::test]
async fn a_run_is_immutable_and_its_status_is_not() {
    let Some(member) = Member::start().await else {
        return;
    };
    let runs = member.ours("Run", Some(&member.shop));
    member.write("Run", Some(&member.shop), "r1", &run_spec()).await;
    for spec in [
        json!({ "experimentRef": { "name": "other" } }),
        json!({ "notAfter": "2026-01-01T00:00:00Z" }),
        json!({ "unknown": { "to": "the schema" } }),
    ] {
        let patch = json!({ "spec": spec });
        let refused = runs.patch("r1", &PatchParams::default(), &Patch::Merge(&patch)).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("a Run is immutable"), "{patch}: {refused}");
    }
    let labels = json!({ "metadata": { "labels": { "team": "a" } } });
    runs.patch("r1", &PatchParams::default(), &Patch::Merge(&labels)).await.unwrap();
}

#[tokio::test]
async fn the_agent_cannot_write_what_is_the_owners() {
    let Some(member) = Member::start().await else {
        return;
    };
    let ceilings: kube::Api<proto::ceiling::Ceiling> = kube::Api::all(member.agent.clone());
    let ceiling = proto::ceiling::Ceiling::new("default", proto::ceiling::CeilingSpec::default());
    let refused = ceilings.create(&PostParams::default(), &ceiling).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 403));
}
