//! One agent leads: hand-overs with growing epochs, the Service's label, and an apiserver that goes away.

use std::net::IpAddr;
use std::time::Duration;

use cluster_agent::cluster::{Error, Leadership, RecordState, Records, RunRecordHeld, Secrets, secret};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use proto::ids::RunId;
use serde_json::json;

use super::apiserver::{ADVERTISED, Apiserver};
use super::member::{Member, Running, shown};

/// The component label is what the chart's guard goes by.
async fn agent(member: &Member, name: &str) -> Running {
    let labels = json!({ "metadata": { "labels": { "app.kubernetes.io/component": "agent" } } });
    member.pod(&member.own, name, "", labels).await;
    member.run(name)
}

/// Pods that the Service selects.
async fn labelled(member: &Member) -> Vec<String> {
    let selector = ListParams::default().labels("faultline.dev/active=true");
    let pods = member.api::<Pod>(&member.own).list(&selector).await.unwrap();
    pods.iter().map(ResourceExt::name_any).collect()
}

/// Waits until the Service selects exactly these.
async fn selects(member: &Member, wanted: &[&str]) {
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let selected = async {
        while labelled(member).await != wanted {
            tick.tick().await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), selected).await;
    assert!(in_time.is_ok(), "the service selects {wanted:?}");
}

#[tokio::test]
async fn the_lead_is_handed_over_and_epochs_grow() {
    let Some(member) = Member::start().await else {
        return;
    };
    let a = agent(&member, "agent-a").await;
    // 1, but for a first write whose answer came too late: it is taken anew then.
    let first = a.active().await;
    selects(&member, &["agent-a"]).await;
    let leases = member.api::<Lease>(&member.own);
    let held = leases.get("faultline-agent").await.unwrap().spec.unwrap();
    assert_eq!(held.holder_identity.as_deref(), Some("agent-a"));
    assert_eq!(held.lease_transitions.map(i64::from), Some(first.cast_signed() - 1));
    assert_eq!(held.lease_duration_seconds, Some(3));

    // Given back: the next one need not wait for the expiry.
    let b = agent(&member, "agent-b").await;
    let mut standby = b.doors.sight.leadership();
    assert_eq!(*standby.borrow_and_update(), Leadership::Standby);
    a.stop().await;
    let epoch = b.active().await;
    assert!(epoch > first, "{epoch} > {first}");
    selects(&member, &["agent-b"]).await;

    // Dead: its lease expires; and the label of the dead one's pod is taken away.
    let c = agent(&member, "agent-c").await;
    let last = leases.get("faultline-agent").await.unwrap().spec.unwrap().renew_time.unwrap().0;
    drop(b);
    let next = c.active().await;
    assert!(next > epoch, "{next} > {epoch}");
    let taken = leases.get("faultline-agent").await.unwrap().spec.unwrap().acquire_time.unwrap().0;
    let waited = taken.duration_since(last).unsigned_abs();
    assert!(waited >= Duration::from_secs(3), "not before the lease was over: {waited:?}");
    selects(&member, &["agent-c"]).await;

    // The same pod, another process: another epoch, at once.
    drop(c);
    let again = member.run("agent-c");
    let latest = again.active().await;
    assert!(latest > next, "{latest} > {next}");
    // Even a deleted lease takes no epoch back.
    again.stop().await;
    leases.delete("faultline-agent", &DeleteParams::default()).await.unwrap();
    let anew = member.run("agent-b");
    let epoch = anew.active().await;
    assert!(epoch > latest, "{epoch} > {latest}");
    anew.stop().await;
    selects(&member, &[]).await;
}

#[tokio::test]
async fn a_leader_that_was_replaced_stands_by() {
    let Some(member) = Member::start().await else {
        return;
    };
    let a = agent(&member, "agent-a").await;
    let epoch = a.active().await;
    let leases = member.api::<Lease>(&member.own);
    let taken =
        json!({ "spec": { "holderIdentity": "agent-z", "leaseTransitions": 7, "leaseDurationSeconds": 1 } });
    leases.patch("faultline-agent", &PatchParams::default(), &Patch::Merge(&taken)).await.unwrap();
    a.becomes("standing by", |seen| *seen == Leadership::Standby).await;
    // The other one never renews, so it leads again: in a later epoch than either's.
    let later = a.active().await;
    assert!(later > epoch && later > 8, "{later}");

    // A lease deleted under a leader is written again; it leads on in its epoch.
    leases.delete("faultline-agent", &DeleteParams::default()).await.unwrap();
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let back = async {
        while leases.get_opt("faultline-agent").await.unwrap().is_none() {
            tick.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), back).await.unwrap();
    assert_eq!(a.active().await, later);
    a.stop().await;
}

fn record() -> RunRecordHeld {
    let principal = serde_json::to_value(proto::grant::Principal::Operator { name: "ada".into() }).unwrap();
    let desired = json!({ "run": "run-a", "generation": 1, "intent": "Start", "specHash": "h",
        "principal": principal, "origin": {} });
    RunRecordHeld {
        desired: serde_json::from_value(desired).unwrap(),
        state: RecordState::Started,
        started_at: None,
        deadline: None,
        link_loss: None,
        injections: Vec::new(),
        end_reason: String::new(),
        observed: None,
    }
}

#[tokio::test]
async fn without_an_apiserver_a_leader_is_stop_only_and_leads_on_when_it_is_back() {
    let Some(mut server) = Apiserver::start().await else {
        return;
    };
    let member = Member::on(&server).await;
    let a = agent(&member, "agent-a").await;
    let epoch = a.active().await;
    a.doors.records.put(&record()).await.unwrap();

    // Frozen: nothing answers, no connection breaks.
    server.freeze();
    a.becomes("stop-only", |seen| *seen == Leadership::StopOnly { epoch }).await;
    server.thaw();
    assert_eq!(a.active().await, epoch, "nobody else could have led: it is the same lead");

    // Dead: what is asked for is an error, never an absence.
    server.kill_api();
    a.becomes("stop-only", |seen| *seen == Leadership::StopOnly { epoch }).await;
    let run: RunId = "run-a".parse().unwrap();
    for answer in [
        a.kube.list().await.map(drop),
        a.doors.records.put(&record()).await,
        Records::delete(&a.kube, &run).await,
        a.kube.latched().await.map(drop),
        a.kube.get(secret::IDENTITY).await.map(drop),
        Secrets::put(&a.kube, secret::IDENTITY, b"x").await,
    ] {
        assert!(matches!(answer, Err(Error::Unavailable { .. })), "{answer:?}");
    }
    // What was seen stays seen.
    assert!(a.doors.sight.inventory().borrow().is_some());

    server.restart_api().await;
    assert_eq!(a.active().await, epoch);
    assert_eq!(a.kube.list().await.unwrap().len(), 1);
    a.stop().await;
}

#[tokio::test]
async fn an_agent_may_start_before_its_apiserver() {
    let Some(mut server) = Apiserver::start().await else {
        return;
    };
    let member = Member::on(&server).await;
    // As in a cluster that is new: what says where the apiserver is comes after it.
    let slices: Api<EndpointSlice> = Api::namespaced(member.admin.clone(), "default");
    slices.delete("kubernetes", &DeleteParams::default()).await.unwrap();
    server.kill_api();
    let a = member.run("agent-a");
    let early = tokio::time::timeout(
        Duration::from_secs(1),
        a.becomes("anything", |seen| *seen != Leadership::Standby),
    );
    assert!(early.await.is_err() && a.doors.sight.inventory().borrow().is_none());
    server.restart_api().await;
    a.active().await;
    let advertised: IpAddr = ADVERTISED.parse().unwrap();
    let mut inventory = a.doors.sight.inventory();
    shown(&mut inventory, "where it is", |now| now.api_addresses.contains(&advertised)).await;
    a.stop().await;
}
