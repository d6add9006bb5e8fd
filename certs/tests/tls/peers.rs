//! Whom a server lets in.

use std::sync::Arc;
use std::time::Duration;

use certs::client::{self, Expect, Trust};
use certs::throwaway::Throwaway;
use certs::{
    Authority, ClientConfig, Credential, Identity, Peer, Protocol, ReloadableIdentity, Revocations, Role,
    TrustDomain,
};
use jiff::SignedDuration;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};

use super::fixture::{DAY, Server, now};

/// A client of `ca`'s servers that shows `credential`.
fn showing(ca: &Throwaway, credential: &Credential) -> Arc<ClientConfig> {
    let identity = ReloadableIdentity::new(credential).unwrap();
    client::config(&identity, Trust::Bundle(ca.bundle.clone()), Expect::Name, Protocol::Grpc).unwrap()
}

fn without_certificate(ca: &Throwaway) -> Arc<ClientConfig> {
    let trust = Trust::Bundle(ca.bundle.clone());
    client::config(&ReloadableIdentity::empty(), trust, Expect::Name, Protocol::Grpc).unwrap()
}

#[tokio::test]
async fn an_agent_is_let_in_and_known() {
    let ca = Throwaway::new(now()).unwrap();
    let mut server = Server::start(ca.server_config().unwrap()).await;
    let credential = ca.credential(&Role::agent("c1")).unwrap();
    let info = server.meet(&showing(&ca, &credential)).await;
    let expected: Identity = "spiffe://throwaway.test/cluster/c1/agent".parse().unwrap();
    assert_eq!(info.peer, Some(expected));
    assert_eq!(info.serial, Some(Peer::from_chain_pem(&credential.chain_pem).unwrap().serial));
    assert!(info.remote_addr.ip().is_loopback());
}

#[tokio::test]
async fn no_certificate_is_refused_where_one_is_required() {
    let ca = Throwaway::new(now()).unwrap();
    let server = Server::start(ca.server_config().unwrap()).await;
    let error = server.dial(&without_certificate(&ca)).await.unwrap_err();
    assert!(error.contains("CertificateRequired"), "{error}");
}

#[tokio::test]
async fn no_certificate_is_fine_where_it_is_optional_but_a_bad_one_is_not() {
    let ca = Throwaway::new(now()).unwrap();
    let mut server = Server::start(ca.open_server_config().unwrap()).await;
    let info = server.meet(&without_certificate(&ca)).await;
    assert_eq!((info.peer, info.serial), (None, None));
    let known = server.meet(&ca.client_config(&Role::agent("c1")).unwrap()).await;
    assert!(known.peer.is_some());
    let stranger = Throwaway::new(now()).unwrap().credential(&Role::agent("c1")).unwrap();
    assert!(server.dial(&showing(&ca, &stranger)).await.is_err());
}

#[tokio::test]
async fn another_ca_is_refused_even_with_the_same_names() {
    let (ca, other) = (Throwaway::new(now()).unwrap(), Throwaway::new(now()).unwrap());
    let server = Server::start(ca.server_config().unwrap()).await;
    let stranger = other.credential(&Role::agent("c1")).unwrap();
    let error = server.dial(&showing(&ca, &stranger)).await.unwrap_err();
    assert!(error.contains("UnknownCA") || error.contains("DecryptError"), "{error}");
}

#[tokio::test]
async fn another_trust_domain_of_a_trusted_ca_is_refused() {
    let ca = Throwaway::new(now()).unwrap();
    let server = Server::start(ca.server_config().unwrap()).await;
    // The same root and intermediate, issuing for another domain.
    let mut pem = ca.authority.to_pem();
    pem.trust_domain = TrustDomain::new("elsewhere.test").unwrap();
    let elsewhere = Authority::from_pem(&pem).unwrap();
    let stranger = elsewhere.issue_client(&Role::agent("c1"), now(), DAY).unwrap();
    let error = server.dial(&showing(&ca, &stranger)).await.unwrap_err();
    assert!(error.contains("CertificateUnknown"), "{error}");
}

/// A client certificate of `ca` with the URI names `uris`, whatever they say.
fn with_uris(ca: &Throwaway, uris: &[&str]) -> Credential {
    let intermediate = ca.authority.to_pem().intermediate;
    let issuer_key = KeyPair::from_pem(&intermediate.key_pem).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&intermediate.chain_pem, issuer_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = params.signed_by(&key, &issuer).unwrap();
    Credential { chain_pem: leaf.pem() + &intermediate.chain_pem, key_pem: key.serialize_pem() }
}

#[tokio::test]
async fn a_certificate_without_one_good_identity_is_refused() {
    let ca = Throwaway::new(now()).unwrap();
    let server = Server::start(ca.server_config().unwrap()).await;
    let agent = "spiffe://throwaway.test/cluster/c1/agent";
    server.dial(&showing(&ca, &with_uris(&ca, &[agent]))).await.unwrap();
    for uris in
        [vec![], vec![agent, "spiffe://throwaway.test/operator/ann"], vec!["spiffe://throwaway.test/x"]]
    {
        let error = server.dial(&showing(&ca, &with_uris(&ca, &uris))).await.unwrap_err();
        assert!(error.contains("CertificateUnknown"), "{uris:?}: {error}");
    }
    // A server's certificate is not for dialling.
    let serving = ca.authority.issue_server(&["localhost"], None, now(), DAY).unwrap();
    assert!(server.dial(&showing(&ca, &serving)).await.is_err());
}

#[tokio::test]
async fn a_certificate_of_another_time_is_refused() {
    let ca = Throwaway::new(now()).unwrap();
    let server = Server::start(ca.server_config().unwrap()).await;
    // Backdated by five minutes, so the later one begins in five minutes.
    for (from, what) in [(-120, "expired"), (600, "not valid yet")] {
        let from = now() + SignedDuration::from_secs(from);
        let leaf = ca.authority.issue_client(&Role::agent("c1"), from, Duration::from_mins(1)).unwrap();
        let error = server.dial(&showing(&ca, &leaf)).await.unwrap_err();
        assert!(error.contains("CertificateExpired"), "{what}: {error}");
    }
}

#[tokio::test]
async fn a_revocation_shows_at_the_next_handshake() {
    let ca = Throwaway::new(now()).unwrap();
    let server = Server::start(ca.server_config().unwrap()).await;
    let credential = ca.credential(&Role::agent("c1")).unwrap();
    let client = showing(&ca, &credential);
    let sibling = ca.client_config(&Role::agent("c1")).unwrap();
    let node = ca.client_config(&Role::node("c1", "n1")).unwrap();
    let other = ca.client_config(&Role::agent("c2")).unwrap();
    server.dial(&client).await.unwrap();

    let serial = Peer::from_chain_pem(&credential.chain_pem).unwrap().serial;
    ca.revocations.replace(Revocations { serials: [serial].into(), ..Revocations::default() });
    let error = server.dial(&client).await.unwrap_err();
    assert!(error.contains("CertificateRevoked"), "{error}");
    server.dial(&sibling).await.unwrap();

    ca.revocations.replace(Revocations { clusters: ["c1".to_owned()].into(), ..Revocations::default() });
    for client in [&client, &sibling, &node] {
        assert!(server.dial(client).await.is_err());
    }
    server.dial(&other).await.unwrap();

    ca.revocations.replace(Revocations::default());
    server.dial(&client).await.unwrap();
}

#[tokio::test]
async fn a_resumed_session_does_not_slip_past_a_revocation() {
    let ca = Throwaway::new(now()).unwrap();
    for server in [ca.server_config().unwrap(), ca.open_server_config().unwrap()] {
        let server = Server::start(server).await;
        // A client that would resume if it could, unlike ours.
        let mut eager = (*ca.client_config(&Role::agent("c1")).unwrap()).clone();
        eager.resumption = rustls::client::Resumption::in_memory_sessions(8);
        let eager = Arc::new(eager);
        server.dial(&eager).await.unwrap();
        server.dial(&eager).await.unwrap();
        ca.revocations.replace(Revocations { clusters: ["c1".to_owned()].into(), ..Revocations::default() });
        let error = server.dial(&eager).await.unwrap_err();
        assert!(error.contains("CertificateRevoked"), "{error}");
        ca.revocations.replace(Revocations::default());
    }
}

#[tokio::test]
async fn a_revoked_intermediate_takes_its_leaves_along() {
    let ca = Throwaway::new(now()).unwrap();
    let server = Server::start(ca.server_config().unwrap()).await;
    let intermediate = ca.authority.to_pem().intermediate.chain_pem;
    let serial = certs::peer::serial_of_pem(&intermediate).unwrap();
    let client = ca.client_config(&Role::agent("c1")).unwrap();
    server.dial(&client).await.unwrap();
    ca.revocations.replace(Revocations { serials: [serial].into(), ..Revocations::default() });
    assert!(server.dial(&client).await.is_err());
}
