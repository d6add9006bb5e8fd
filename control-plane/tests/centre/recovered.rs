//! Agents that come back by their identity key after their certificate expired: the counter lets one holder in, and
//! unmasks a second.

use std::collections::BTreeMap;
use std::time::Duration;

use certs::recovery::Recovery;
use certs::{Csr, JoinToken, PrivateKey};
use control_plane::centre::Expected;
use control_plane::enrolment::EnrolmentService;
use control_plane::enrolment::{EnrolRequest, Enrolled, NotRecovered, RecoverRequest};
use jiff::SignedDuration;
use proto::api::enrolment as pb;
use proto::api::enrolment::enrolment_server::Enrolment;
use proto::ids::ClusterId;
use proto::rest::{InviteCluster, ReplaceCluster};
use proto::wire::{Down, Up};

use super::fixture::{Centre, admin, eventually};

const UID: &str = "uid-1";

/// Whoever has a copy of an agent's identity.
#[derive(Clone)]
struct Holder {
    cluster: ClusterId,
    identity_pem: String,
    counter: u64,
    trust_domain: &'static str,
    uid: &'static str,
    /// Off the centre's clock.
    skew: SignedDuration,
}

impl Holder {
    fn identity(&self) -> PrivateKey {
        PrivateKey::from_pem(&self.identity_pem).unwrap()
    }

    /// The request for this new key.
    fn request(&self, centre: &Centre, key: &PrivateKey) -> RecoverRequest {
        let at_unix_ms = (centre.clock.now() + self.skew).as_millisecond();
        let csr_pem = key.csr_pem().unwrap();
        let said = Recovery {
            trust_domain: self.trust_domain,
            cluster: self.cluster.as_str(),
            kube_system_uid: self.uid,
            counter: self.counter,
            key_hash: &Csr::from_pem(&csr_pem).unwrap().key_hash(),
            at_unix_ms,
        };
        let signature = said.sign(&self.identity()).unwrap();
        let (cluster, kube_system_uid) = (self.cluster.to_string(), self.uid.to_owned());
        RecoverRequest { cluster, counter: self.counter, csr_pem, at_unix_ms, kube_system_uid, signature }
    }

    /// The next recovery, with a new key.
    async fn recover(&mut self, centre: &Centre) -> Result<Enrolled, NotRecovered> {
        self.counter += 1;
        self.retry(centre, &PrivateKey::generate().unwrap()).await
    }

    /// This recovery once more, with this key.
    async fn retry(&self, centre: &Centre, key: &PrivateKey) -> Result<Enrolled, NotRecovered> {
        ask(centre, self.request(centre, key)).await
    }
}

async fn ask(centre: &Centre, request: RecoverRequest) -> Result<Enrolled, NotRecovered> {
    centre.replicas[0].enroller.recover(&request).await
}

async fn invite(centre: &Centre, name: &str) -> JoinToken {
    let invite =
        InviteCluster { name: name.to_owned(), labels: BTreeMap::new(), auto_accept: true, ttl: None };
    centre.api().invite_cluster(&admin(), invite).await.unwrap().token.parse().unwrap()
}

async fn enrol(centre: &Centre, token: &JoinToken, identity: Option<&PrivateKey>) {
    let request = EnrolRequest {
        token: format!("{}.{}", token.id, token.secret.reveal()),
        csr_pem: PrivateKey::generate().unwrap().csr_pem().unwrap(),
        kube_system_uid: UID.to_owned(),
        version: "0.1.0".to_owned(),
        identity_csr_pem: identity.map(|key| key.csr_pem().unwrap()).unwrap_or_default(),
    };
    centre.replicas[0].enroller.enrol(&request).await.unwrap();
}

fn holder(cluster: &str, identity: &PrivateKey) -> Holder {
    Holder {
        cluster: cluster.parse().unwrap(),
        identity_pem: identity.to_pem(),
        counter: 0,
        trust_domain: "test.local",
        uid: UID,
        skew: SignedDuration::ZERO,
    }
}

/// A member that enrolled just now.
async fn joined(centre: &Centre, name: &str) -> Holder {
    let token = invite(centre, name).await;
    let identity = PrivateKey::generate().unwrap();
    enrol(centre, &token, Some(&identity)).await;
    holder(&token.cluster, &identity)
}

type Says = fn(&NotRecovered) -> bool;

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

async fn audited(centre: &Centre, by: &str, action: &str, result: &str) {
    let look = || async {
        let page = centre.api().audit_page(&admin(), None, 500).await.unwrap();
        let mut found = page.items.iter();
        found.any(|r| r.by == by && r.action == action && r.result.contains(result)).then_some(())
    };
    let deadline = tokio::time::Instant::now() + super::fixture::PATIENCE;
    while look().await.is_none() {
        assert!(tokio::time::Instant::now() < deadline, "no record of {action} by {by}: {result}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_agent_that_was_away_comes_back_and_its_retry_gets_the_same_answer() {
    let centre = Centre::start(1).await;
    let mut west = joined(&centre, "west").await;
    centre.clock.advance(hours(25));
    let key = PrivateKey::generate().unwrap();
    west.counter = 1;
    let back = west.retry(&centre, &key).await.unwrap();
    let lifetime = certs::Lifetime::of_chain_pem(&back.chain_pem).unwrap();
    assert!(lifetime.not_after > centre.clock.now() + hours(23));
    let view = centre.api().cluster(&admin(), "west").unwrap();
    assert_eq!(view.status.certificate_not_after, Some(lifetime.not_after));
    assert_eq!(view.status.clone_suspected_at, None);

    // The answer got lost: the same key asks again, an hour later too; nothing new is made.
    centre.clock.advance(hours(1));
    assert_eq!(west.retry(&centre, &key).await.unwrap(), back);
    assert_eq!(centre.replicas[0].health.recoveries.done.get(), 2);
    audited(&centre, &format!("cluster:{}", west.cluster), "cluster.recover", "ok").await;
    // Away again: the next counter. One that skips some is as good, for a store may have forgotten them.
    centre.clock.advance(hours(25));
    assert_ne!(west.recover(&centre).await.unwrap().chain_pem, back.chain_pem);
    centre.clock.advance(hours(25));
    west.counter = 40;
    west.recover(&centre).await.unwrap();
    // A session that is open sees what a replacement refuses: the new certificates, too.
    centre
        .api()
        .replace_cluster(&admin(), "west", ReplaceCluster::default(), &Expected::Anything)
        .await
        .unwrap();
    centre.clock.advance(hours(25));
    assert!(matches!(west.recover(&centre).await, Err(NotRecovered::Foreign)));
    centre.stop().await;
}

#[tokio::test]
async fn a_second_holder_is_unmasked_and_nobody_recovers_until_an_operator_decided() {
    let centre = Centre::start(1).await;
    let mut west = joined(&centre, "west").await;
    let mut thief = west.clone();
    centre.clock.advance(hours(25));
    let health = &centre.replicas[0].health.recoveries;
    // The thief is first. What it got lasts for a day; the true one comes back in that time.
    thief.recover(&centre).await.unwrap();
    let refused = west.recover(&centre).await.unwrap_err();
    assert!(matches!(refused, NotRecovered::Clone { asked: 1, kept: 1 }), "{refused}");
    assert!(refused.to_string().contains("faultline clusters replace"));
    assert_eq!(health.clones.get(), 1);
    let by = format!("cluster:{}", west.cluster);
    audited(&centre, &by, "cluster.clone-suspected", "replaced").await;
    let view = centre.api().cluster(&admin(), "west").unwrap();
    let suspected = view.status.clone_suspected_at.expect("it is shown");

    // Neither gets in again, whatever its counter.
    centre.clock.advance(hours(25));
    for holder in [&mut west, &mut thief] {
        let refused = holder.recover(&centre).await.unwrap_err();
        assert!(matches!(refused, NotRecovered::Quarantined(at) if at == suspected), "{refused}");
    }
    assert_eq!(health.clones.get(), 1, "told once");

    // The way out: a new identity.
    let again = ReplaceCluster { auto_accept: true, ttl: None };
    let token =
        centre.api().replace_cluster(&admin(), "west", again, &Expected::Anything).await.unwrap().token;
    let identity = PrivateKey::generate().unwrap();
    let token: JoinToken = token.parse().unwrap();
    enrol(&centre, &token, Some(&identity)).await;
    assert_eq!(centre.api().cluster(&admin(), "west").unwrap().status.clone_suspected_at, None);
    centre.clock.advance(hours(25));
    holder(&token.cluster, &identity).recover(&centre).await.unwrap();
    assert!(matches!(thief.recover(&centre).await, Err(NotRecovered::Foreign)));
    centre.stop().await;
}

fn message(request: RecoverRequest) -> tonic::Request<pb::RecoverRequest> {
    tonic::Request::new(pb::RecoverRequest {
        cluster: request.cluster,
        counter: request.counter,
        csr_pem: request.csr_pem,
        at_unix_ms: request.at_unix_ms,
        kube_system_uid: request.kube_system_uid,
        signature: request.signature,
    })
}

#[tokio::test]
async fn a_second_holder_that_breaks_off_is_unmasked_as_well() {
    let centre = Centre::start(1).await;
    let service = EnrolmentService::new(centre.replicas[0].enroller.clone(), Vec::new());
    let mut west = joined(&centre, "west").await;
    let mut thief = west.clone();
    centre.clock.advance(hours(25));
    west.recover(&centre).await.unwrap();
    thief.counter += 1;
    let mut asked = service.recover(message(thief.request(&centre, &PrivateKey::generate().unwrap())));
    assert!(futures::poll!(&mut asked).is_pending());
    drop(asked);
    let clones = &centre.replicas[0].health.recoveries.clones;
    eventually("counted", || if clones.get() == 1 { Ok(()) } else { Err(clones.get()) }).await;
    audited(&centre, &format!("cluster:{}", west.cluster), "cluster.clone-suspected", "replaced").await;
    centre.stop().await;
}

/// A holder that is refused is no stranger: it does not hold up those who share its address.
#[tokio::test]
async fn a_holder_pays_the_plain_price() {
    let centre = Centre::start(1).await;
    let service = EnrolmentService::new(centre.replicas[0].enroller.clone(), Vec::new());
    let west = Holder { counter: 1, ..joined(&centre, "west").await };
    let key = PrivateKey::generate().unwrap();
    for _ in 0..50 {
        let refused = service.recover(message(west.request(&centre, &key))).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains("it can recover at"), "{refused:?}");
    }
    // A stranger at the same address has what is left, and no more.
    let forged = || RecoverRequest { signature: vec![7; 64], ..west.request(&centre, &key) };
    let mut heard = 0;
    while service.recover(message(forged())).await.unwrap_err().code() == tonic::Code::Unauthenticated {
        heard += 1;
        assert!(heard < 60, "a stranger pays more");
    }
    centre.stop().await;
}

#[tokio::test]
async fn of_two_at_the_same_time_one_gets_in() {
    let centre = Centre::start(2).await;
    let mut west = joined(&centre, "west").await;
    centre.clock.advance(hours(25));
    west.counter = 1;
    let keys = [PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap()];
    let requests = keys.each_ref().map(|key| west.request(&centre, key));
    let (a, b) = tokio::join!(
        centre.replicas[0].enroller.recover(&requests[0]),
        centre.replicas[1].enroller.recover(&requests[1]),
    );
    let refused = match (a, b) {
        (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused, NotRecovered::Clone { .. }), "{refused}");
    centre.stop().await;
}

/// Who asks wrongly, and what is said; nothing of it changes anything.
#[tokio::test]
async fn every_other_request_is_refused_and_changes_nothing() {
    let centre = Centre::start(1).await;
    let (west, east, revoked, gone) = (
        joined(&centre, "west").await,
        joined(&centre, "east").await,
        joined(&centre, "revoked").await,
        joined(&centre, "gone").await,
    );
    centre.api().revoke_cluster(&admin(), "revoked").await.unwrap();
    centre.api().remove_cluster(&admin(), "gone", &Expected::Anything).await.unwrap();
    let first = |of: &Holder| Holder { counter: 1, ..of.clone() };
    let key = PrivateKey::generate().unwrap();

    let early = first(&west).retry(&centre, &key).await.unwrap_err();
    assert!(matches!(early, NotRecovered::StillValid(_)), "{early}");
    assert!(early.to_string().contains("its last renewal may have been lost; it can recover at"), "{early}");
    centre.clock.advance(hours(25));
    let before = centre.store.get(&format!("certs/{}", west.cluster)).await.unwrap();

    let minutes = SignedDuration::from_mins;
    let wrong: Vec<(&str, Holder, Says)> = vec![
        ("slow clock", Holder { skew: minutes(-6), ..first(&west) }, |e| {
            matches!(e, NotRecovered::Skewed(_))
        }),
        ("fast clock", Holder { skew: minutes(6), ..first(&west) }, |e| matches!(e, NotRecovered::Skewed(_))),
        ("revoked", first(&revoked), |e| matches!(e, NotRecovered::Revoked)),
        ("removed", first(&gone), |e| matches!(e, NotRecovered::Foreign)),
        ("another cluster's key", Holder { identity_pem: east.identity_pem.clone(), ..first(&west) }, |e| {
            matches!(e, NotRecovered::Foreign)
        }),
        ("another's name", Holder { cluster: east.cluster.clone(), ..first(&west) }, |e| {
            matches!(e, NotRecovered::Foreign)
        }),
        ("another trust domain", Holder { trust_domain: "test.locaL", ..first(&west) }, |e| {
            matches!(e, NotRecovered::Foreign)
        }),
        ("copied into another cluster", Holder { uid: "uid-2", ..first(&west) }, |e| {
            matches!(e, NotRecovered::OtherCluster)
        }),
        ("nobody", Holder { cluster: "c-nobody".parse().unwrap(), ..first(&west) }, |e| {
            matches!(e, NotRecovered::Foreign)
        }),
    ];
    for (who, holder, expected) in wrong {
        let refused = holder.retry(&centre, &key).await.unwrap_err();
        assert!(expected(&refused), "{who}: {refused}");
    }

    let after = centre.store.get(&format!("certs/{}", west.cluster)).await.unwrap();
    assert_eq!(before, after, "nothing of it was kept");
    audited(&centre, "unknown", "cluster.recover", "does not know this identity").await;
    audited(&centre, &format!("cluster:{}", revoked.cluster), "cluster.recover", "revoked").await;
    // A clock that is a little off, and an agent that does not know its uid yet, are let in.
    let near = Holder { skew: minutes(4), uid: "", ..first(&west) };
    near.retry(&centre, &key).await.unwrap();
    centre.stop().await;
}

#[tokio::test]
async fn a_request_that_was_changed_on_its_way_is_refused() {
    let centre = Centre::start(1).await;
    let west = Holder { counter: 1, ..joined(&centre, "west").await };
    let key = PrivateKey::generate().unwrap();
    centre.clock.advance(hours(25));
    let good = west.request(&centre, &key);
    let other = PrivateKey::generate().unwrap().csr_pem().unwrap();
    let garbage = vec![
        ("another key", RecoverRequest { csr_pem: other, ..good.clone() }),
        ("another counter", RecoverRequest { counter: 2, ..good.clone() }),
        ("another time", RecoverRequest { at_unix_ms: good.at_unix_ms + 1, ..good.clone() }),
        ("another uid", RecoverRequest { kube_system_uid: String::new(), ..good.clone() }),
        ("no signature", RecoverRequest { signature: vec![], ..good.clone() }),
        ("a long signature", RecoverRequest { signature: vec![7; 9000], ..good.clone() }),
        ("no CSR", RecoverRequest { csr_pem: "x".to_owned(), ..good.clone() }),
        ("a path", RecoverRequest { cluster: "../ca/1".to_owned(), ..good.clone() }),
        ("no time", RecoverRequest { at_unix_ms: i64::MAX, ..good.clone() }),
    ];
    for (what, request) in garbage {
        let refused = ask(&centre, request).await.unwrap_err();
        let known = matches!(refused, NotRecovered::Foreign | NotRecovered::Csr(_) | NotRecovered::Malformed);
        assert!(known, "{what}: {refused}");
    }
    ask(&centre, good).await.unwrap();
    centre.stop().await;
}

#[tokio::test]
async fn thirty_days_after_the_end_it_is_too_late() {
    let centre = Centre::start(1).await;
    let (mut west, mut east) = (joined(&centre, "west").await, joined(&centre, "east").await);
    centre.clock.advance(hours(24 + 30 * 24 - 1));
    west.recover(&centre).await.unwrap();
    centre.clock.advance(hours(2));
    let refused = east.recover(&centre).await.unwrap_err();
    assert!(matches!(refused, NotRecovered::TooLate(_)), "{refused}");
    assert!(refused.to_string().contains("faultline clusters replace"));
    centre.stop().await;
}

#[tokio::test]
async fn three_times_in_a_day_is_enough() {
    let centre = Centre::with_agent_ttl(Duration::from_hours(1)).await;
    let mut west = joined(&centre, "west").await;
    for _ in 0..3 {
        centre.clock.advance(hours(2));
        west.recover(&centre).await.unwrap();
    }
    centre.clock.advance(hours(2));
    let refused = west.recover(&centre).await.unwrap_err();
    assert!(matches!(refused, NotRecovered::TooOften(3)), "{refused}");
    // The day's first one is a day ago then. The same counter: the refused one was not used.
    centre.clock.advance(hours(17));
    assert!(matches!(
        west.retry(&centre, &PrivateKey::generate().unwrap()).await,
        Err(NotRecovered::TooOften(3))
    ));
    centre.clock.advance(hours(2));
    west.retry(&centre, &PrivateKey::generate().unwrap()).await.unwrap();
    centre.stop().await;
}

#[tokio::test]
async fn an_identity_key_is_registered_once_by_enrolment_or_by_a_renewal() {
    let centre = Centre::start(1).await;
    // Enrolled by a version without identity keys.
    let token = invite(&centre, "west").await;
    enrol(&centre, &token, None).await;
    let (identity, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let (mut west, mut wrong) = (holder(&token.cluster, &identity), holder(&token.cluster, &other));
    centre.clock.advance(hours(25));
    let refused = west.recover(&centre).await.unwrap_err();
    assert!(matches!(refused, NotRecovered::NoKey), "{refused}");
    assert!(refused.to_string().contains("faultline clusters replace"));

    // Its session shows one; a later one, as of an agent that was an older version meanwhile, is not taken.
    let mut agent = centre.agent(0, &west.cluster).await;
    for key in [&identity, &other, &other] {
        let csr_pem = PrivateKey::generate().unwrap().csr_pem().unwrap();
        agent.send(Up::Renew { csr_pem, identity_csr_pem: key.csr_pem().unwrap() }).await;
        agent.until("Renewed", |down| matches!(down, Down::Renewed { .. })).await;
    }
    let by = format!("cluster:{}", west.cluster);
    audited(&centre, &by, "cluster.other-identity", "faultline clusters replace").await;
    // What is no request at all is refused with the renewal.
    let csr_pem = PrivateKey::generate().unwrap().csr_pem().unwrap();
    agent.send(Up::Renew { csr_pem, identity_csr_pem: "x".to_owned() }).await;
    agent.until("Nack", |down| matches!(down, Down::Nack(nack) if nack.code == "Renew")).await;
    centre.clock.advance(hours(25));
    assert!(matches!(wrong.recover(&centre).await, Err(NotRecovered::Foreign)));
    west.recover(&centre).await.unwrap();
    audited(&centre, &by, "cluster.recover", "ok").await;
    let records = centre.api().audit_page(&admin(), None, 500).await.unwrap().items;
    let told = records.iter().filter(|record| record.action == "cluster.other-identity").count();
    assert_eq!(told, 1, "told once, not at each renewal");
    centre.stop().await;
}
