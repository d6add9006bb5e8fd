//! A member that was built anew: the old one is out at once, the new one comes in under the same id, and what the
//! old one was to do is not done by the new one.

use std::collections::BTreeMap;

use certs::{JoinToken, PrivateKey};
use control_plane::centre::Expected;
use control_plane::driver::codec;
use control_plane::engine::object::{Object, ObjectKey};
use control_plane::enrolment::{EnrolRequest, Enrolled, Refused};
use control_plane::store::Txn;
use proto::assignment::{ClusterPhase, Desired, Intent, StopReason};
use proto::cluster::ClusterState;
use proto::problem::ErrorCode;
use proto::rest::{InviteCluster, ReplaceCluster};
use proto::wire::{Down, Up};

use super::agent::{Agent, hello};
use super::fixture::{Centre, admin, eventually};

async fn enrol(centre: &Centre, token: &JoinToken, csr_pem: &str, uid: &str) -> Result<Enrolled, Refused> {
    let request = EnrolRequest {
        token: format!("{}.{}", token.id, token.secret.reveal()),
        csr_pem: csr_pem.to_owned(),
        kube_system_uid: uid.to_owned(),
        version: "0.1.0".to_owned(),
        identity_csr_pem: String::new(),
    };
    centre.replicas[0].enroller.enrol(&request).await
}

fn csr() -> String {
    PrivateKey::generate().unwrap().csr_pem().unwrap()
}

fn serials(centre: &Centre) -> Vec<String> {
    centre.replicas[0].revocations.load().serials.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn the_old_one_is_out_and_the_new_one_in_under_the_same_id() {
    let centre = Centre::start(1).await;
    let labels = BTreeMap::from([("network".to_owned(), "flat".to_owned())]);
    let invite = InviteCluster { name: "west".to_owned(), labels, auto_accept: true, ttl: None };
    let first: JoinToken =
        centre.api().invite_cluster(&admin(), invite).await.unwrap().token.parse().unwrap();
    let old = enrol(&centre, &first, &csr(), "uid-1").await.unwrap();
    let mut agent = centre.agent(0, &old.cluster).await;
    // It renews once: both certificates are still valid.
    agent.send(Up::Renew { csr_pem: csr(), identity_csr_pem: String::new() }).await;
    let renewed = agent.until("Renewed", |down| matches!(down, Down::Renewed { .. })).await;
    let Down::Renewed { chain_pem, .. } = renewed else { unreachable!() };
    let serial_of = |pem: &str| certs::peer::serial_of_pem(pem).unwrap().to_string();
    let mut held = vec![serial_of(&old.chain_pem), serial_of(&chain_pem)];
    held.sort();
    assert!(serials(&centre).is_empty());

    let again = ReplaceCluster { auto_accept: true, ttl: None };
    let invitation =
        centre.api().replace_cluster(&admin(), "west", again, &Expected::Anything).await.unwrap();
    assert_eq!(invitation.cluster, old.cluster, "the same id");
    agent.until("GoAway", |down| matches!(down, Down::GoAway { .. })).await;
    eventually("both certificates are refused", || {
        let mut denied = serials(&centre);
        denied.sort();
        if denied == held { Ok(()) } else { Err(denied) }
    })
    .await;
    let view = centre.api().cluster(&admin(), "west").unwrap();
    assert!(!view.spec.accepted && view.spec.labels["network"] == "flat");
    assert_eq!(view.status.kube_system_uid, "", "another cluster may take its place");

    // The old token is burnt, its own retry too; the new one is for another kube-system.
    assert!(matches!(enrol(&centre, &first, &csr(), "uid-1").await, Err(Refused::Foreign)));
    let second: JoinToken = invitation.token.parse().unwrap();
    let new = enrol(&centre, &second, &csr(), "uid-2").await.unwrap();
    assert_eq!(new.cluster, old.cluster);
    assert!(!held.contains(&serial_of(&new.chain_pem)));
    let view = centre.api().cluster(&admin(), "west").unwrap();
    assert!(view.spec.accepted && view.status.kube_system_uid == "uid-2");
    assert!(view.status.certificate_not_after.is_some());
    centre.agent(0, &new.cluster).await;
    eventually("connected", || {
        let state = centre.api().cluster(&admin(), "west").unwrap().state;
        if state == ClusterState::Connected { Ok(()) } else { Err(state) }
    })
    .await;
    centre.stop().await;
}

#[tokio::test]
async fn what_the_old_one_was_to_do_is_stopped_not_started_by_the_new_one() {
    let centre = Centre::start(1).await;
    let mut old = centre.connected("west").await;
    centre.experiment("slow", &["west"]).await;
    centre.grant_all().await;
    let id = centre.run("slow-1", "slow").await.record.id;
    old.planned(1).await;
    let (start, _) = old.desired(Intent::Start).await;
    old.phase(&start, ClusterPhase::Running).await;
    centre.until(id.as_str(), "heard", |view| view.clusters.iter().any(|c| c.observed.is_some())).await;

    let west = old.id.clone();
    // Another one of which this replica has not heard all yet.
    let unheard = Desired { run: "unheard".parse().unwrap(), ..start.clone() };
    let path = codec::path(&ObjectKey::Desired(west.clone(), unheard.run.clone())).unwrap();
    let value = codec::encode(&Object::Desired(west.clone(), Box::new(unheard))).unwrap();
    centre.store.txn(Txn::new().put(&path, value)).await.unwrap().committed().unwrap();
    centre
        .api()
        .replace_cluster(&admin(), "west", ReplaceCluster::default(), &Expected::Anything)
        .await
        .unwrap();
    let unheard = centre.store.get(&path).await.unwrap().unwrap();
    let unheard: Desired = serde_json::from_slice(&unheard.value).unwrap();
    assert_eq!(unheard.intent, Intent::Stop);
    let view = centre.api().run(&admin(), id.as_str()).unwrap();
    assert_eq!(view.clusters[0].intent, Intent::Stop, "before anybody has the token");
    assert_eq!(view.clusters[0].observed.as_ref().unwrap().phase, ClusterPhase::Running, "as last heard");
    // It is accepted anew, and its agent counts its epochs from the start.
    centre.api().accept_cluster(&admin(), "west", &Expected::Anything).await.unwrap();
    let mut new = Agent::dial(&centre.replicas[0], &west, hello(1)).await;
    let (stop, _) = new.desired(Intent::Stop).await;
    assert_eq!(stop.stop_reason, Some(StopReason::RunAborted));
    assert!(stop.generation > start.generation);
    centre.stop().await;
}

#[tokio::test]
async fn a_renewal_after_the_replacement_gets_nothing() {
    let centre = Centre::start(1).await;
    let invite =
        InviteCluster { name: "west".to_owned(), labels: BTreeMap::new(), auto_accept: true, ttl: None };
    let token: JoinToken =
        centre.api().invite_cluster(&admin(), invite).await.unwrap().token.parse().unwrap();
    let old = enrol(&centre, &token, &csr(), "u").await.unwrap();
    centre
        .api()
        .replace_cluster(&admin(), "west", ReplaceCluster::default(), &Expected::Anything)
        .await
        .unwrap();
    // Accepted again before the new one has enrolled; a session of the old one that is open for one more moment.
    centre.api().accept_cluster(&admin(), "west", &Expected::Anything).await.unwrap();
    let mut agent = Agent::connect(&centre.replicas[0], &old.cluster, 1).await;
    agent.send(Up::Renew { csr_pem: csr(), identity_csr_pem: String::new() }).await;
    agent.until("Nack", |down| matches!(down, Down::Nack(nack) if nack.code == "Renew")).await;
    assert!(centre.keys("certs/").await.is_empty());
    centre.stop().await;
}

#[tokio::test]
async fn only_a_known_member_that_is_not_revoked_is_replaced() {
    let centre = Centre::start(1).await;
    let replace = |name: &'static str, ttl: Option<&str>| {
        let request = ReplaceCluster { auto_accept: false, ttl: ttl.map(str::to_owned) };
        let api = centre.api().clone();
        async move { api.replace_cluster(&admin(), name, request, &Expected::Anything).await.unwrap_err().code() }
    };
    assert_eq!(replace("nobody", None).await, ErrorCode::NotFound);
    centre.member("west").await;
    assert_eq!(replace("west", Some("25h")).await, ErrorCode::Invalid);
    centre.api().revoke_cluster(&admin(), "west").await.unwrap();
    assert_eq!(replace("west", None).await, ErrorCode::Conflict);
    centre.stop().await;
}
