//! The port of enrolment is open to everybody: who asks in vain, however often and whether or not it waits for the
//! answer, keeps no new cluster out and does not fill the audit.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::Poll;
use std::time::Duration;

use certs::{ConnInfo, JoinToken, PrivateKey};
use control_plane::enrolment::EnrolmentService;
use jiff::SignedDuration;
use proto::api::enrolment as pb;
use proto::api::enrolment::enrolment_server::Enrolment;
use proto::rest::{AuditRecord, InviteCluster};
use tonic::{Code, Request};

use super::fixture::{Centre, admin, eventually};

/// A request as the port hands it on, from 127.0.0.`host`.
fn from<T>(host: u8, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let remote_addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), 9);
    request.extensions_mut().insert(ConnInfo { remote_addr, peer: None, serial: None });
    request
}

fn asked(token: &str) -> pb::EnrolRequest {
    let csr_pem = PrivateKey::generate().unwrap().csr_pem().unwrap();
    pb::EnrolRequest { token: token.to_owned(), csr_pem, ..pb::EnrolRequest::default() }
}

async fn invited(centre: &Centre) -> JoinToken {
    let invite = InviteCluster {
        name: "west".to_owned(),
        labels: std::collections::BTreeMap::default(),
        auto_accept: false,
        ttl: Some("3h".to_owned()),
    };
    centre.api().invite_cluster(&admin(), invite).await.unwrap().token.parse().unwrap()
}

fn shown(token: &JoinToken) -> String {
    format!("{}.{}", token.id, token.secret.reveal())
}

async fn audit(centre: &Centre, by: &str) -> Vec<AuditRecord> {
    let records = centre.api().audit_page(&admin(), None, 500).await.unwrap().items;
    records.into_iter().filter(|record| record.by.starts_with(by)).collect()
}

/// How many records there are, once that of this enrolment, which went well, is there.
async fn records(centre: &Centre, last: &str) -> usize {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while audit(centre, last).await.is_empty() {
        assert!(tokio::time::Instant::now() < deadline, "no record by {last}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    centre.api().audit_page(&admin(), None, 500).await.unwrap().items.len()
}

#[tokio::test]
async fn garbage_from_one_address_keeps_no_new_cluster_out() {
    let centre = Centre::start(1).await;
    let service = EnrolmentService::new(centre.replicas[0].enroller.clone(), Vec::new());
    let token = invited(&centre).await;
    // As fast as it can, by both doors.
    let (mut heard, mut held_up) = (0, 0);
    let garbage = asked("no-token");
    for _ in 0..1000 {
        let enrolled = service.enrol(from(2, garbage.clone())).await.unwrap_err();
        let recovered = service.recover(from(2, pb::RecoverRequest::default())).await.unwrap_err();
        for refused in [enrolled, recovered] {
            match refused.code() {
                Code::ResourceExhausted => held_up += 1,
                Code::InvalidArgument => heard += 1,
                code => panic!("{code:?}: {refused:?}"),
            }
        }
    }
    // The clock of the centre runs on meanwhile: one more each second.
    assert!((10..200).contains(&heard) && held_up > 1000, "{heard} heard, {held_up} held up");
    service.enrol(from(1, asked(&shown(&token)))).await.expect("another address is not held up");
    // A record for the first ones that were heard, one for all others.
    eventually("noted", || {
        let refused = centre.replicas[0].health.enrolments_refused.get();
        if usize::try_from(refused).unwrap() >= held_up { Ok(()) } else { Err(refused) }
    })
    .await;
    let records = records(&centre, &format!("token:{}", token.id)).await;
    assert!(records < 12, "{records} records for {heard} that were heard");
    let told = audit(&centre, "source:").await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].by, "source:127.0.0.2");
    centre.stop().await;
}

/// At a pace at which nearly all of it is heard.
#[tokio::test]
async fn an_hour_of_garbage_leaves_few_records() {
    for (sources, most) in [(1, 20), (60, 120)] {
        let centre = Centre::start(1).await;
        let service = EnrolmentService::new(centre.replicas[0].enroller.clone(), Vec::new());
        let token = invited(&centre).await;
        let garbage = asked("no-token");
        let mut heard = 0;
        for _ in 0..3600 {
            for host in 0..sources {
                let refused = service.enrol(from(100 + host, garbage.clone())).await.unwrap_err();
                heard += usize::from(refused.code() == Code::InvalidArgument);
            }
            centre.clock.advance(SignedDuration::from_secs(1));
        }
        assert!(heard > 3000, "{heard}");
        let counted = centre.replicas[0].health.enrolments_refused.get();
        assert_eq!(counted, 3600 * u64::from(sources), "what is not noted is counted");
        service.enrol(from(1, asked(&shown(&token)))).await.expect("a new cluster is let in");
        let records = records(&centre, &format!("token:{}", token.id)).await;
        assert!(records < most, "{records} records of {sources} sources");
        assert!(!audit(&centre, "source:").await.is_empty(), "that some are missing is noted");
        centre.stop().await;
    }
}

#[tokio::test]
async fn who_breaks_off_pays_as_well() {
    let centre = Centre::start(1).await;
    let service = EnrolmentService::new(centre.replicas[0].enroller.clone(), Vec::new());
    let refused = &centre.replicas[0].health.recoveries.refused;
    let mut heard = 0;
    let held_up = loop {
        let mut asked = service.recover(from(2, pb::RecoverRequest::default()));
        match futures::poll!(&mut asked) {
            Poll::Pending => heard += 1,
            Poll::Ready(answer) => break answer.unwrap_err(),
        }
        drop(asked);
        eventually("carried on without its caller", || {
            if refused.get() == heard { Ok(()) } else { Err(refused.get()) }
        })
        .await;
    };
    assert_eq!(held_up.code(), Code::ResourceExhausted);
    // A hundred turns are ten in vain; the clock of the centre runs on meanwhile.
    assert!((10..60).contains(&heard), "{heard}");
    tokio::time::timeout(Duration::from_secs(30), service.drained()).await.expect("nothing is left at work");
    centre.stop().await;
}
