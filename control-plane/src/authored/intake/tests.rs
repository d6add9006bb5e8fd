//! What reaches a replica that has not read back what it wrote a moment ago: nothing is in its memory here.

use proto::wire::{Authored, AuthoredKind, AuthoredRef};
use serde_json::json;

use super::*;
use crate::driver::tests::auditor;
use crate::engine::object::Versioned;
use crate::store::memory::MemoryStore;

fn intake() -> Intake {
    let (store, clock): (Arc<dyn Store>, _) = (Arc::new(MemoryStore::new()), Clock::new());
    let cluster: ClusterId = "c-1".parse().unwrap();
    let spec = ClusterSpec {
        id: cluster.clone(),
        name: "west".to_owned(),
        labels: std::collections::BTreeMap::new(),
        accepted: true,
        revoked: false,
        created_at: clock.now(),
    };
    let cache = Arc::new(Cache::default());
    let member = Some(Versioned { value: spec, revision: 1 });
    cache.write(|state| state.clusters.entry(cluster.clone()).or_default().spec = member);
    let audit = auditor(&store, &clock);
    Intake { store, cache, clock, audit, quota: Quota::default(), cluster }
}

fn authored(kind: AuthoredKind, uid: &str, generation: i64, body: &str) -> Authored {
    let (namespace, name) = ("shop".parse().unwrap(), "x".parse().unwrap());
    let object = AuthoredRef { kind, namespace, name, uid: uid.to_owned() };
    let (author, trace) = (String::new(), proto::trace::TraceContext::NONE);
    Authored { object, generation, author, body: body.as_bytes().to_vec(), trace }
}

#[tokio::test]
async fn a_run_deleted_while_it_is_recorded_is_stopped() {
    let intake = intake();
    let body = json!({ "experimentRef": { "name": "x" } }).to_string();
    let answer = intake.take(&authored(AuthoredKind::Run, "u-1", 1, &body)).await.unwrap();
    let Answer::Run(id) = answer else { panic!("{answer:?}") };
    assert!(intake.cache.read(|state| state.runs.is_empty()));
    let path = codec::path(&ObjectKey::Run(id)).unwrap();
    let stop = async || {
        let entry = intake.store.get(&path).await.unwrap().unwrap();
        serde_json::from_slice::<RunRecord>(&entry.value).unwrap().stop
    };
    intake.take(&authored(AuthoredKind::Run, "u-2", 1, "")).await.unwrap();
    assert_eq!(stop().await, None, "another object of that name");
    intake.take(&authored(AuthoredKind::Run, "u-1", 1, "")).await.unwrap();
    assert_eq!(stop().await.map(|stop| stop.reason), Some(StopReason::Deleted));
}

fn experiment() -> String {
    json!({
        "clusters": { "names": ["west"] },
        "targets": [{ "name": "web", "pods": { "namespaces": ["shop"], "labelSelector": { "matchLabels": { "a": "b" } } },
            "atMost": { "perCluster": 1 } }],
        "faults": [{ "name": "late", "target": "web", "at": "0s", "for": "10s",
            "network": { "delay": { "latency": "200ms" } } }],
        "limits": { "clusterDeadline": "1m", "runDeadline": "10m", "startWithin": "1m" }
    })
    .to_string()
}

#[tokio::test]
async fn a_cluster_stores_its_share_of_experiments_and_may_go_on_to_edit_them() {
    let intake = Intake { quota: Quota { experiments: 2, ..Quota::default() }, ..intake() };
    let named = |name: &str, generation| {
        let mut put = authored(AuthoredKind::Experiment, name, generation, &experiment());
        put.object.name = name.parse().unwrap();
        put
    };
    // What a replica has read back: two of this cluster, and those of another, which do not count.
    let know = async |origin: &str, put: &Authored| {
        intake.take(put).await.unwrap();
        let own = intake.key(&put.object);
        let entry =
            intake.store.get(&codec::path(&ObjectKey::Experiment(own.clone())).unwrap()).await.unwrap();
        let entry = entry.expect("stored");
        let value: StoredExperiment = serde_json::from_slice(&entry.value).unwrap();
        let stored = Versioned { value, revision: entry.mod_revision };
        intake.cache.write(|state| state.experiments.insert((origin.to_owned(), own.1, own.2), stored));
    };
    for name in ["far-1", "far-2", "far-3"] {
        know("c-2", &named(name, 1)).await;
    }
    for name in ["one", "two"] {
        know("c-1", &named(name, 1)).await;
    }
    let third = named("three", 1);
    let answer = intake.take(&third).await.unwrap();
    assert!(format!("{answer:?}").contains("QuotaExceeded"), "{answer:?}");
    let path = codec::path(&ObjectKey::Experiment(intake.key(&third.object))).unwrap();
    assert!(intake.store.get(&path).await.unwrap().is_none());
    let answer = intake.take(&named("two", 2)).await.unwrap();
    assert!(!format!("{answer:?}").contains("QuotaExceeded"), "{answer:?}");
}

#[tokio::test]
async fn only_the_experiment_that_is_meant_leaves() {
    let intake = intake();
    let of = |uid: &str, generation, body: &str| authored(AuthoredKind::Experiment, uid, generation, body);
    let spec = experiment();
    let key = (intake.cluster.to_string(), "shop".to_owned(), "x".to_owned());
    let path = codec::path(&ObjectKey::Experiment(key.clone())).unwrap();
    let stored = async || intake.store.get(&path).await.unwrap().map(|entry| entry.mod_revision);
    let put = of("e-1", 3, &spec);
    intake.take(&put).await.unwrap();
    let revision = stored().await.expect("stored");
    // Its predecessor is gone, and an edit before this one was refused.
    intake.take(&of("e-0", 9, "")).await.unwrap();
    intake.take(&of("e-1", 2, "{")).await.unwrap();
    assert_eq!(stored().await, Some(revision));
    intake.take(&of("e-1", 4, "{")).await.unwrap();
    assert_eq!(stored().await, None);
    intake.take(&put).await.unwrap();
    intake.take(&of("e-1", 3, "")).await.unwrap();
    assert_eq!(stored().await, None);

    // A list that names another of that name; known here as it was before.
    intake.take(&put).await.unwrap();
    let entry = intake.store.get(&path).await.unwrap().unwrap();
    let know = |revision| {
        let value: StoredExperiment = serde_json::from_slice(&entry.value).unwrap();
        intake.cache.write(|state| state.experiments.insert(key.clone(), Versioned { value, revision }));
    };
    know(entry.mod_revision - 1);
    let named = [of("e-2", 1, "").object];
    assert!(intake.reconcile(&named).await.is_err(), "it changed meanwhile: to be tried again");
    know(entry.mod_revision);
    intake.reconcile(std::slice::from_ref(&put.object)).await.unwrap();
    assert_eq!(stored().await, Some(entry.mod_revision));
    intake.reconcile(&named).await.unwrap();
    assert_eq!(stored().await, None);
}
