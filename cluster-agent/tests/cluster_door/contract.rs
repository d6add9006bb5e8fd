//! The promises, as functions over any door.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use cluster_agent::cluster::{
    Doors, Error, LatchedHalts, LinkLoss, LocalHalt, PodDeletion, RecordState, RecordedInjection,
    RunRecordHeld,
};
use proto::assignment::{Desired, Intent, Origin};
use proto::experiment::LinkLossAction;
use proto::grant::Principal;
use proto::halt::{Halt, HaltLevel, HaltScope};
use proto::injection::TargetRef;
use proto::wire::{AuthoredKind, AuthoredRef, Mirror};
use tokio::time::timeout;

/// Longer than any door takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A door together with what people do to its cluster.
#[async_trait]
pub(crate) trait Stage: Send + Sync + Sized {
    fn doors(&self) -> Doors;
    /// The agent restarts on the same cluster.
    async fn reopen(self) -> Self;
    async fn halt(&self, name: &str, namespace: Option<&str>);
    async fn lift(&self, name: &str);
    /// Creates a Run `name` in `shop` that refers to the Experiment `e`.
    async fn author(&self, name: &str);
    async fn unauthor(&self, name: &str);
    /// The status last written on that Run, as JSON.
    async fn status(&self, name: &str) -> Option<serde_json::Value>;
}

pub(crate) async fn all<S: Stage, F: AsyncFn() -> S>(fresh: F) {
    records_survive_a_restart(fresh().await).await;
    latched_halts_survive_a_restart(fresh().await).await;
    secrets_survive_a_restart(fresh().await).await;
    halts_come_and_go(fresh().await).await;
    authored_objects_come_go_and_bear_a_status(fresh().await).await;
    acts_on_what_is_gone_are_fine(fresh().await).await;
    the_epoch_never_goes_back(fresh().await).await;
}

pub(crate) fn record(run: &str, generation: u64) -> RunRecordHeld {
    let target = TargetRef {
        namespace: "shop".into(),
        pod: "p".into(),
        uid: "u".into(),
        node: "n1".into(),
        ips: vec!["10.0.0.1".parse().unwrap()],
    };
    RunRecordHeld {
        desired: Desired {
            run: run.parse().unwrap(),
            generation,
            intent: Intent::Start,
            spec_hash: "00".into(),
            principal: Principal::Operator { name: "ann".into() },
            origin: Origin { cluster: None, labels: BTreeMap::new(), namespace: None },
            plan_hash: None,
            plan_expires: None,
            envelope: None,
            peers: BTreeMap::new(),
            start_before: None,
            run_deadline: None,
            stop_reason: None,
            trace: proto::trace::TraceContext::NONE,
        },
        state: RecordState::Started,
        started_at: None,
        deadline: Some("2026-11-23T00:00:00Z".parse().unwrap()),
        link_loss: Some(LinkLoss { after_ms: 7_000, action: LinkLossAction::RunToDeadline }),
        injections: vec![RecordedInjection {
            id: format!("{run}.late.0").parse().unwrap(),
            fault: "late".into(),
            target,
            by_agent: false,
            at_ms: 5_000,
            for_ms: 30_000,
        }],
        end_reason: String::new(),
        observed: None,
    }
}

async fn records_survive_a_restart<S: Stage>(stage: S) {
    let doors = stage.doors();
    assert_eq!(doors.records.list().await.unwrap(), vec![]);
    for (run, generation) in [("r2", 1), ("r1", 1), ("r2", 2), ("r3", 1)] {
        doors.records.put(&record(run, generation)).await.unwrap();
    }
    doors.records.delete(&"r3".parse().unwrap()).await.unwrap();
    doors.records.delete(&"r3".parse().unwrap()).await.unwrap();
    drop(doors);
    let stage = stage.reopen().await;
    let kept = stage.doors().records.list().await.unwrap();
    assert_eq!(kept, vec![record("r1", 1), record("r2", 2)], "the latest of each, in order");
}

async fn latched_halts_survive_a_restart<S: Stage>(stage: S) {
    assert_eq!(stage.doors().records.latched().await.unwrap(), LatchedHalts::default());
    let halts = LatchedHalts {
        halts: vec![Halt {
            id: "h1".parse().unwrap(),
            scope: HaltScope::Fleet,
            reason: "why".into(),
            by: "ann".into(),
            at: "2026-11-23T00:00:00Z".parse().unwrap(),
            origin: None,
        }],
        resumed: vec!["h0".parse().unwrap()],
    };
    stage.doors().records.put_latched(&halts).await.unwrap();
    let stage = stage.reopen().await;
    assert_eq!(stage.doors().records.latched().await.unwrap(), halts);
    assert_eq!(stage.doors().records.list().await.unwrap(), vec![], "halts are no records of runs");
}

async fn secrets_survive_a_restart<S: Stage>(stage: S) {
    let name = cluster_agent::cluster::secret::IDENTITY;
    assert_eq!(stage.doors().secrets.get(name).await.unwrap(), None);
    for value in ["{}", r#"{"key":"x"}"#] {
        stage.doors().secrets.put(name, value.as_bytes()).await.unwrap();
    }
    stage.doors().secrets.publish_node_bundle("PEM").await.unwrap();
    let stage = stage.reopen().await;
    let kept = stage.doors().secrets.get(name).await.unwrap();
    assert_eq!(kept.as_deref(), Some(br#"{"key":"x"}"#.as_slice()));
}

async fn shown<S: Stage>(stage: &S, until: impl Fn(&[LocalHalt]) -> bool) -> Vec<LocalHalt> {
    let mut halts = stage.doors().sight.local_halts();
    let found = halts.wait_for(|h| h.as_ref().is_some_and(|h| until(h)));
    let found = timeout(PATIENCE, found).await.expect("it is shown").unwrap();
    found.as_ref().map(|h| h.to_vec()).unwrap()
}

async fn halts_come_and_go<S: Stage>(stage: S) {
    shown(&stage, <[LocalHalt]>::is_empty).await;
    stage.halt("stop-all", None).await;
    stage.halt("stop-shop", Some("shop")).await;
    let halts = shown(&stage, |h| h.len() == 2).await;
    let scopes: BTreeMap<_, _> = halts.iter().map(|h| (h.name.as_str(), h.namespace.as_deref())).collect();
    assert_eq!(scopes, BTreeMap::from([("stop-all", None), ("stop-shop", Some("shop"))]));
    stage.doors().acts.set_halt_status("stop-all", HaltLevel::Clean).await.unwrap();
    stage.lift("stop-all").await;
    shown(&stage, |h| h.len() == 1 && h[0].name == "stop-shop").await;
    stage.doors().acts.set_halt_status("stop-all", HaltLevel::Clean).await.unwrap();
}

async fn found<S: Stage>(stage: &S, until: impl Fn(&[AuthoredRef]) -> bool) -> Vec<AuthoredRef> {
    let mut authored = stage.doors().sight.authored();
    let keys = |set: &cluster_agent::cluster::AuthoredSet| set.keys().cloned().collect::<Vec<_>>();
    let seen = authored.wait_for(|set| set.as_ref().is_some_and(|set| until(&keys(set))));
    let seen = timeout(PATIENCE, seen).await.expect("it is shown").unwrap();
    seen.as_ref().map(|set| keys(set)).unwrap()
}

async fn authored_objects_come_go_and_bear_a_status<S: Stage>(stage: S) {
    found(&stage, <[AuthoredRef]>::is_empty).await;
    stage.author("r1").await;
    let objects = found(&stage, |o| o.len() == 1).await;
    let object = objects[0].clone();
    assert_eq!(
        (object.kind, object.namespace.as_str(), object.name.as_str()),
        (AuthoredKind::Run, "shop", "r1")
    );
    assert!(!object.uid.is_empty());
    let body = {
        let set = stage.doors().sight.authored().borrow().clone().unwrap();
        serde_json::from_slice::<serde_json::Value>(&set[&object].body).unwrap()
    };
    assert_eq!(body["experimentRef"]["name"], "e", "the spec, verbatim");
    let status = serde_json::json!({ "phase": "Running", "runID": "x" });
    let mirror = Mirror { object: object.clone(), status: serde_json::to_vec(&status).unwrap() };
    stage.doors().acts.write_status(&mirror).await.unwrap();
    stage.doors().acts.write_status(&mirror).await.unwrap();
    assert_eq!(stage.status("r1").await.map(|s| s["phase"].clone()), Some("Running".into()));
    assert_eq!(found(&stage, |_| true).await, vec![object.clone()], "a status is no other object");
    stage.unauthor("r1").await;
    found(&stage, <[AuthoredRef]>::is_empty).await;
    stage.doors().acts.write_status(&mirror).await.unwrap();
}

async fn acts_on_what_is_gone_are_fine<S: Stage>(stage: S) {
    let target = record("r1", 1).injections[0].target.clone();
    let deletion = stage.doors().acts.delete_pod(&target, None).await;
    assert!(matches!(deletion, Ok(PodDeletion::Gone)), "{deletion:?}");
    stage.doors().acts.set_halt_status("absent", HaltLevel::Latched).await.unwrap();
    if let Some(auth) = stage.doors().node_auth {
        assert!(matches!(auth.node_of("junk").await, Err(Error::Refused { .. })));
    }
}

async fn the_epoch_never_goes_back<S: Stage>(stage: S) {
    let epoch = |stage: &S| stage.doors().sight.leadership().borrow().epoch();
    let first = epoch(&stage);
    let stage = stage.reopen().await;
    assert!(epoch(&stage) > first, "{first:?}");
}
