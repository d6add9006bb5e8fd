//! Tools that apply the same manifests for ever, while status is written: what they see as a difference (nothing),
//! what the agent sees as a change (nothing), and what a restored object is (another one, without a status).

use std::time::Duration;

use cluster_agent::cluster::AuthoredSet;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use proto::wire::{AuthoredKind, AuthoredRef, Mirror};
use serde_json::{Value, json};

use super::member::{Member, shown};

fn manifests(namespace: &str) -> [Value; 2] {
    let object = |kind: &str, spec: Value| {
        json!({ "apiVersion": "faultline.dev/v1alpha1", "kind": kind, "spec": spec,
            "metadata": { "name": "slow", "namespace": namespace, "labels": { "team": "a" } } })
    };
    [
        object(
            "Experiment",
            json!({ "hypothesis": "h", "clusters": { "names": ["c1"] },
                "targets": [{ "name": "t", "pods": { "namespaces": [namespace], "labelSelector": { "matchLabels": { "app": "a" } } },
                    "atMost": { "perCluster": 1 } }],
                "faults": [{ "name": "f", "target": "t", "at": "0s", "for": "5s", "container": { "pause": {} } }] }),
        ),
        object("Run", json!({ "experimentRef": { "name": "slow" }, "notAfter": "2099-01-01T00:00:00Z" })),
    ]
}

fn refs(set: &AuthoredSet, namespace: &str) -> Vec<AuthoredRef> {
    set.keys().filter(|object| object.namespace.as_str() == namespace).cloned().collect()
}

/// What a tool compares: everything but the bookkeeping of the apiserver.
fn compared(object: &DynamicObject) -> Value {
    let mut raw = serde_json::to_value(object).unwrap();
    raw["metadata"]["managedFields"] = Value::Null;
    raw
}

fn status(turn: u64) -> Value {
    json!({ "observedGeneration": 1, "phase": "Running", "runID": format!("r-{turn}"),
        "conditions": [{ "type": "Accepted", "status": "True", "reason": "Recorded", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z" }] })
}

async fn apply(api: &Api<DynamicObject>, manifest: &Value, dry: bool) -> DynamicObject {
    let mut params = PatchParams::apply("gitops").force();
    params.dry_run = dry;
    api.patch("slow", &params, &Patch::Apply(manifest)).await.unwrap()
}

#[tokio::test]
async fn applying_the_same_for_ever_changes_nothing_although_status_is_written() {
    let Some(member) = Member::start().await else {
        return;
    };
    let agent = member.run("agent-0");
    let mut seen = agent.doors.sight.authored();
    let apis = |kind: &str| member.ours(kind, Some(&member.shop));
    let both: Vec<(Api<DynamicObject>, Value)> =
        manifests(&member.shop).into_iter().map(|m| (apis(m["kind"].as_str().unwrap()), m)).collect();
    for (api, manifest) in &both {
        apply(api, manifest, false).await;
    }
    let first = shown(&mut seen, "both objects", |set| refs(set, &member.shop).len() == 2).await;
    let first: Vec<_> = refs(&first, &member.shop).into_iter().map(|object| first[&object].clone()).collect();

    let mut tick = tokio::time::interval(Duration::from_millis(100));
    for turn in 0..30u64 {
        tick.tick().await;
        for authored in &first {
            let mirror =
                Mirror { object: authored.object.clone(), status: status(turn).to_string().into_bytes() };
            agent.doors.acts.write_status(&mirror).await.unwrap();
        }
        for (api, manifest) in &both {
            let live = api.get("slow").await.unwrap();
            // `kubectl diff --server-side`, and `argocd app diff`.
            assert_eq!(compared(&apply(api, manifest, true).await), compared(&live), "a difference");
            if turn % 2 == 0 {
                apply(api, manifest, false).await;
            } else {
                // A client-side apply: the manifest as a patch.
                api.patch("slow", &PatchParams::default(), &Patch::Merge(manifest)).await.unwrap();
            }
            let after = api.get("slow").await.unwrap();
            assert_eq!(
                after.metadata.resource_version, live.metadata.resource_version,
                "nothing was written"
            );
            assert_eq!(after.metadata.generation, Some(1));
            assert_eq!(after.data["status"]["runID"], format!("r-{turn}"), "an apply takes no status away");
        }
        let now = agent.doors.sight.authored().borrow().clone().unwrap();
        for authored in &first {
            assert_eq!(now.get(&authored.object), Some(authored), "nothing new to forward");
        }
    }
    ownership(&both).await;
    agent.stop().await;
}

/// The tool owns spec and labels, the agent owns status, and neither any of the other's.
async fn ownership(both: &[(Api<DynamicObject>, Value)]) {
    for (api, _) in both {
        let fields = api.get("slow").await.unwrap().metadata.managed_fields.unwrap();
        for entry in fields {
            let owned = serde_json::to_value(&entry.fields_v1).unwrap();
            let of_status = entry.subresource.as_deref() == Some("status");
            assert_eq!(owned.get("f:status").is_some(), of_status, "{entry:?}");
            assert!(!of_status || owned.get("f:spec").is_none(), "{entry:?}");
        }
    }
}

#[tokio::test]
async fn a_restored_object_is_another_one_and_says_so() {
    let Some(member) = Member::start().await else {
        return;
    };
    let agent = member.run("agent-0");
    let mut seen = agent.doors.sight.authored();
    let runs = member.ours("Run", Some(&member.shop));
    let [_, manifest] = manifests(&member.shop);
    apply(&runs, &manifest, false).await;
    let set = shown(&mut seen, "the run", |set| refs(set, &member.shop).len() == 1).await;
    let [first] = &refs(&set, &member.shop)[..] else { panic!("one") };
    assert_eq!(first.kind, AuthoredKind::Run);
    let written = Mirror { object: first.clone(), status: status(1).to_string().into_bytes() };
    agent.doors.acts.write_status(&written).await.unwrap();

    // A backup holds everything; a restore gives it back without uid and version. Status is a subresource, so
    // what the backup says of it is not taken.
    let mut backup = runs.get("slow").await.unwrap();
    assert!(backup.data.get("status").is_some());
    runs.delete("slow", &DeleteParams::default()).await.unwrap();
    shown(&mut seen, "no run", |set| refs(set, &member.shop).is_empty()).await;
    (backup.metadata.uid, backup.metadata.resource_version) = (None, None);
    (backup.metadata.managed_fields, backup.metadata.creation_timestamp) = (None, None);
    let restored = runs.create(&PostParams::default(), &backup).await.unwrap();
    assert_eq!(restored.data.get("status"), None);
    let set = shown(&mut seen, "the restored run", |set| refs(set, &member.shop).len() == 1).await;
    let [again] = &refs(&set, &member.shop)[..] else { panic!("one") };
    assert_ne!(again.uid, first.uid, "by which the centre knows that its name ran before");
    // The first one's status is not written onto the second.
    agent.doors.acts.write_status(&written).await.unwrap();
    assert_eq!(runs.get("slow").await.unwrap().data.get("status"), None);
    agent.stop().await;
}
