//! Join tokens: one cluster, one use, one centre, some minutes. What is not exactly that gets nothing, and says why.

use certs::{JoinToken, PrivateKey};
use control_plane::enrolment::{EnrolRequest, Enrolled, Refused};
use jiff::SignedDuration;
use proptest::prelude::*;
use proto::rest::InviteCluster;

use super::fixture::{Centre, admin};

async fn invite(centre: &Centre, name: &str) -> JoinToken {
    let invite = InviteCluster {
        name: name.to_owned(),
        labels: std::collections::BTreeMap::default(),
        auto_accept: false,
        ttl: Some("30m".to_owned()),
    };
    centre.api().invite_cluster(&admin(), invite).await.unwrap().token.parse().unwrap()
}

fn shown(token: &JoinToken) -> String {
    format!("{}.{}", token.id, token.secret.reveal())
}

async fn enrol(centre: &Centre, token: &str, csr_pem: &str, uid: &str) -> Result<Enrolled, Refused> {
    let request = EnrolRequest {
        token: token.to_owned(),
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

#[tokio::test]
async fn a_token_is_good_for_one_key_of_one_cluster_of_one_centre() {
    let (centre, other) = (Centre::start(1).await, Centre::start(1).await);
    let token = invite(&centre, "west").await;
    let key = csr();

    // Another centre knows nothing of it, nor does this one of a guess.
    let answer = enrol(&other, &shown(&token), &key, "u").await;
    assert!(matches!(answer, Err(Refused::Foreign)), "{answer:?}");
    let elsewhere = invite(&other, "west").await;
    let mixed = format!("{}.{}", token.id, elsewhere.secret.reveal());
    for text in [shown(&elsewhere), mixed] {
        let answer = enrol(&centre, &text, &key, "u").await;
        assert!(matches!(answer, Err(Refused::Foreign)), "{answer:?}");
    }
    assert!(centre.keys("certs/").await.is_empty(), "nobody got a certificate");

    let enrolled = enrol(&centre, &shown(&token), &key, "u").await.unwrap();
    assert_eq!(enrolled.cluster.as_str(), token.cluster);
    // A retry of the same key is told the same, also after the token's end; another key is not.
    centre.clock.advance(SignedDuration::from_hours(1));
    assert_eq!(enrol(&centre, &shown(&token), &key, "u").await.unwrap(), enrolled);
    let answer = enrol(&centre, &shown(&token), &csr(), "u").await;
    assert!(matches!(answer, Err(Refused::Used)), "{answer:?}");
    centre.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_token_ends_with_its_time_and_with_its_cluster() {
    let centre = Centre::start(1).await;
    let (late, revoked) = (invite(&centre, "late").await, invite(&centre, "revoked").await);
    centre.api().revoke_cluster(&admin(), "revoked").await.unwrap();
    let answer = enrol(&centre, &shown(&revoked), &csr(), "u").await;
    assert!(matches!(answer, Err(Refused::Gone | Refused::Foreign)), "{answer:?}");
    centre.clock.advance(SignedDuration::from_mins(31));
    let answer = enrol(&centre, &shown(&late), &csr(), "u").await;
    assert!(matches!(answer, Err(Refused::Expired(_))), "{answer:?}");
    assert!(centre.keys("certs/").await.is_empty(), "nobody got a certificate");
    centre.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_no_request_is_refused_and_changes_nothing(
        token in prop_oneof!["\\PC{0,80}", "[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,60}"],
        csr in prop_oneof![
            "\\PC{0,200}",
            "-----BEGIN CERTIFICATE REQUEST-----\n[A-Za-z0-9+/=\n]{0,300}\n-----END CERTIFICATE REQUEST-----\n",
        ],
        uid in "\\PC{0,80}",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let centre = Centre::start(1).await;
            let real = invite(&centre, "west").await;
            for token in [token.as_str(), &shown(&real)] {
                assert!(enrol(&centre, token, &csr, &uid).await.is_err());
            }
            assert!(centre.keys("certs/").await.is_empty());
            assert!(enrol(&centre, &shown(&real), &self::csr(), "u").await.is_ok(), "the token is still good");
            centre.stop().await;
        });
    }
}
