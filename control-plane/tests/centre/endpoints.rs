//! Telling agents where the centre is, on every replica, and hearing from them that this one is too old.

use std::cell::Cell;

use certs::signing::Signed;
use certs::{Csr, PrivateKey, Role as PeerRole, TrustBundle};
use control_plane::centre::{Caller, Error, Expected, Role};
use control_plane::enrolment::EnrolmentService;
use control_plane::link::End;
use proto::api::enrolment::EnrolRequest;
use proto::api::enrolment::enrolment_server::Enrolment;
use proto::cluster::{ClusterState, InventorySummary};
use proto::endpoints::{PutEndpoints, SignedEndpoints};
use proto::ids::ClusterId;
use proto::rest::InviteCluster;
use proto::wire::{Down, Hello, Nack, Up};

use super::agent::{Agent, hello};
use super::fixture::{Centre, admin, eventually};

fn put(link: &[&str], enrol: &[&str]) -> PutEndpoints {
    let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    PutEndpoints { link_endpoints: owned(link), enrol_endpoints: owned(enrol) }
}

fn keeps(sequence: u64) -> Hello {
    Hello { endpoints_sequence: Some(sequence), ..hello(1) }
}

async fn dial(centre: &Centre, replica: usize, id: &ClusterId, hello: Hello) -> Agent {
    eventually("the replica knows the member", || {
        centre.replicas[replica].centre.cluster(&admin(), id.as_str()).map(drop).map_err(|e| e.to_string())
    })
    .await;
    let mut agent = Agent::dial(&centre.replicas[replica], id, hello).await;
    agent.until("Welcome", |down| matches!(down, Down::Welcome(_))).await;
    agent
}

async fn told(agent: &mut Agent) -> SignedEndpoints {
    match agent.until("Endpoints", |down| matches!(down, Down::Endpoints(_))).await {
        Down::Endpoints(signed) => *signed,
        _ => unreachable!(),
    }
}

async fn kept(centre: &Centre, name: &str, sequence: Option<u64>) {
    eventually("what the agent keeps is shown", || {
        let seen = centre.api().cluster(&admin(), name).unwrap().status.endpoints_sequence;
        if seen == sequence { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test]
async fn agents_of_every_replica_are_told_and_what_they_keep_is_shown() {
    let centre = Centre::start(2).await;
    let (west, east, north) =
        (centre.member("west").await, centre.member("east").await, centre.member("north").await);
    let mut west = dial(&centre, 0, &west, keeps(0)).await;
    let mut east = dial(&centre, 1, &east, keeps(0)).await;
    // One of before there were lists: it is left alone, and shown as not known.
    let mut north = dial(&centre, 0, &north, hello(1)).await;
    let wanted = put(&["hub-2:7444", "hub:7444"], &["hub-2:7445"]);
    let view = centre.api().put_endpoints(&admin(), wanted.clone(), &Expected::Anything).await.unwrap();
    let bundle = TrustBundle::from_pem(centre.signer.bundle_pem()).unwrap();
    for agent in [&mut west, &mut east] {
        let signed = told(agent).await;
        let list = &signed.list;
        assert_eq!((list.sequence, list.trust_domain.as_str()), (view.sequence, "test.local"));
        assert_eq!(
            (&list.link_endpoints, &list.enrol_endpoints),
            (&wanted.link_endpoints, &wanted.enrol_endpoints)
        );
        let signature = Signed { chain_pem: signed.chain_pem.clone(), signature: signed.signature.clone() };
        let peer = signature.verify(&bundle, &list.statement(), list.at).unwrap();
        assert!(matches!(peer.identity.role(), PeerRole::Endpoints { .. }), "{}", peer.identity);
        agent.send(Up::EndpointsKept { sequence: list.sequence }).await;
    }
    kept(&centre, "west", Some(view.sequence)).await;
    kept(&centre, "east", Some(view.sequence)).await;
    kept(&centre, "north", None).await;
    let spared = Cell::new(true);
    centre
        .api()
        .put_endpoints(&admin(), put(&["hub-3:7444"], &["hub-3:7445"]), &Expected::Anything)
        .await
        .unwrap();
    let last = told(&mut west).await;
    assert!(last.list.sequence > view.sequence);
    centre.experiment("slow", &["north"]).await;
    centre.grant_all().await;
    centre.run("slow-1", "slow").await;
    let seen = |down: &Down| {
        spared.set(spared.get() && !matches!(down, Down::Endpoints(_)));
        matches!(down, Down::Desired { .. })
    };
    north.until("Desired", seen).await;
    assert!(spared.get(), "an agent that knows no lists is not bothered");

    // Who comes back with it is not told again, who comes with an older one is.
    let id = west.id.clone();
    west.vanish().await;
    let mut back = Agent::dial(&centre.replicas[1], &id, keeps(last.list.sequence)).await;
    let again = Cell::new(false);
    back.until("the end of the greeting", |down| {
        again.set(again.get() || matches!(down, Down::Endpoints(_)));
        matches!(down, Down::DesiredList(_))
    })
    .await;
    assert!(!again.get());
    kept(&centre, "west", Some(last.list.sequence)).await;
    back.vanish().await;
    let mut back = Agent::dial(&centre.replicas[1], &id, keeps(view.sequence)).await;
    assert_eq!(told(&mut back).await, last);
    centre.stop().await;
}

#[tokio::test]
async fn only_an_admin_says_where_the_centre_is_and_only_what_can_be_dialled() {
    let centre = Centre::start(1).await;
    let api = centre.api();
    let none = api.endpoints(&admin()).unwrap();
    assert_eq!((none.sequence, none.enrol_endpoints.as_slice()), (0, &["127.0.0.1:7445".to_owned()][..]));
    for role in [Role::Viewer, Role::Author, Role::Operator, Role::Approver] {
        let caller = Caller { name: "bob".to_owned(), role };
        let refused = api.put_endpoints(&caller, put(&["a:1"], &["b:1"]), &Expected::Anything).await;
        assert!(matches!(refused, Err(Error::Forbidden { .. })), "{role:?}");
        api.endpoints(&caller).unwrap();
    }
    let refused = api.put_endpoints(&admin(), put(&["a", "b:1", "b:1"], &[]), &Expected::Anything).await;
    let Err(Error::Invalid(problems)) = refused else { panic!("{refused:?}") };
    let paths: Vec<&str> = problems.0.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["linkEndpoints[0]", "linkEndpoints[2]", "enrolEndpoints"]);
    assert_eq!(api.endpoints(&admin()).unwrap(), none, "nothing was changed");

    let before = u64::try_from(centre.clock.now().as_second()).unwrap();
    let first = api.put_endpoints(&admin(), put(&["a:1"], &["b:1"]), &Expected::Exists).await.unwrap();
    assert!(first.sequence >= before, "also a store that was restored numbers on from the time");
    assert_eq!(first.by, "operator:ann");
    let same = api.put_endpoints(&admin(), put(&["a:1"], &["b:1"]), &Expected::Anything).await.unwrap();
    assert_eq!(same, first, "signed once");
    let stale = Expected::OneOf(vec!["no-such-tag".to_owned()]);
    let refused = api.put_endpoints(&admin(), put(&["c:1"], &["b:1"]), &stale).await;
    assert!(matches!(refused, Err(Error::Precondition)), "{refused:?}");
    let next = api.put_endpoints(&admin(), put(&["c:1"], &["b:1"]), &Expected::Anything).await.unwrap();
    assert!(next.sequence > first.sequence);
    centre.stop().await;
}

#[tokio::test]
async fn who_joins_is_sent_to_the_list() {
    let centre = Centre::start(1).await;
    let wanted = put(&["hub-2:7444", "hub:7444"], &["hub-2:7445", "hub:7445"]);
    centre.api().put_endpoints(&admin(), wanted.clone(), &Expected::Anything).await.unwrap();
    let invite: InviteCluster = serde_json::from_str(r#"{"name":"west"}"#).unwrap();
    let invitation = centre.api().invite_cluster(&admin(), invite).await.unwrap();
    let token: certs::JoinToken = invitation.token.parse().unwrap();
    assert_eq!(token.addr, "hub-2:7445");
    let service =
        EnrolmentService::new(centre.replicas[0].enroller.clone(), vec!["started-with:7444".to_owned()]);
    let csr_pem = PrivateKey::generate().unwrap().csr_pem().unwrap();
    assert!(Csr::from_pem(&csr_pem).is_ok());
    let request = EnrolRequest {
        token: format!("{}.{}", token.id, token.secret.reveal()),
        csr_pem,
        kube_system_uid: "u".to_owned(),
        version: "0.1.0".to_owned(),
        ..EnrolRequest::default()
    };
    let reply = service.enrol(tonic::Request::new(request)).await.unwrap().into_inner();
    assert_eq!(reply.link_endpoints, wanted.link_endpoints);
    // A member that nobody accepted yet must find the centre as well.
    let mut agent = dial(&centre, 0, &invitation.cluster, keeps(0)).await;
    let signed = told(&mut agent).await;
    agent.send(Up::EndpointsKept { sequence: signed.list.sequence }).await;
    kept(&centre, "west", Some(signed.list.sequence)).await;
    // Numbers that are not of the list in force cost no write. The inventory is stored after them.
    agent.send(Up::EndpointsKept { sequence: signed.list.sequence + 7 }).await;
    let inventory = InventorySummary { pods: 9, ..InventorySummary::default() };
    agent.send(Up::Inventory(Box::new(inventory))).await;
    eventually("the inventory is stored", || {
        let view = centre.api().cluster(&admin(), "west").unwrap();
        if view.status.inventory.pods == 9 { Ok(()) } else { Err(view) }
    })
    .await;
    kept(&centre, "west", Some(signed.list.sequence)).await;
    centre.stop().await;
}

#[tokio::test]
async fn a_centre_that_is_refused_as_too_old_counts_and_shows_it() {
    let centre = Centre::start(1).await;
    for (name, accepted) in [("west", true), ("east", false)] {
        let id = if accepted {
            centre.member(name).await
        } else {
            let invite = serde_json::from_value(serde_json::json!({ "name": name })).unwrap();
            centre.api().invite_cluster(&admin(), invite).await.unwrap().cluster
        };
        let before = centre.replicas[0].health.refused_as_old.get();
        let mut agent = dial(&centre, 0, &id, keeps(0)).await;
        // Once for each session, and nothing that is said after it.
        for _ in 0..3 {
            let (run, code) = (String::new(), "OldStore".to_owned());
            agent.send(Up::Nack(Nack { run, generation: 0, code, detail: "an older copy".to_owned() })).await;
        }
        agent.send(Up::Inventory(Box::default())).await;
        let away = agent.until("GoAway", |down| matches!(down, Down::GoAway { .. })).await;
        assert!(matches!(&away, Down::GoAway { reason, .. } if reason == "OldStore"), "{away:?}");
        assert_eq!(agent.end().await, End::Sent("OldStore"));
        assert_eq!(centre.replicas[0].health.refused_as_old.get(), before + 1);
        eventually("the member's view says so", || {
            let view = centre.api().cluster(&admin(), name).unwrap();
            let shown = view.status.refused_as_old_at.is_some() && view.state != ClusterState::Connected;
            if shown { Ok(()) } else { Err(view) }
        })
        .await;
        // Marked as restored, the agent takes it again.
        let mut back = dial(&centre, 0, &id, keeps(0)).await;
        back.send(Up::Inventory(Box::default())).await;
        eventually("it is over", || {
            let view = centre.api().cluster(&admin(), name).unwrap();
            if view.status.refused_as_old_at.is_none() { Ok(()) } else { Err(view) }
        })
        .await;
        back.recv().await;
    }
    let mut written = String::new();
    prometheus_client::encoding::text::encode(&mut written, &centre.replicas[0].health.registry).unwrap();
    assert!(written.contains("faultline_refused_as_old_total 2"), "{written}");
    centre.stop().await;
}
