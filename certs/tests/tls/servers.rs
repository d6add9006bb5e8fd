//! Which servers a client accepts.

use std::sync::Arc;

use certs::client::{self, Expect, Trust};
use certs::server::{self, ClientAuth};
use certs::throwaway::Throwaway;
use certs::{
    ClientConfig, Connector, Credential, Identity, JoinToken, Protocol, ReloadableIdentity, Role,
    ServerConfig,
};

use super::fixture::{DAY, Server, chain, now};

fn client(trust: Trust, expect: Expect) -> Arc<ClientConfig> {
    client::config(&ReloadableIdentity::empty(), trust, expect, Protocol::Grpc).unwrap()
}

fn serving(credential: &Credential) -> Arc<ServerConfig> {
    let identity = ReloadableIdentity::new(credential).unwrap();
    server::config(&identity, ClientAuth::None, Protocol::Grpc).unwrap()
}

#[tokio::test]
async fn a_token_leads_to_its_server() {
    let ca = Throwaway::new(now()).unwrap();
    let server = Server::start(ca.open_server_config().unwrap()).await;
    let made = JoinToken::generate(server.addr.to_string(), "c1", ca.authority.pin(), None).unwrap();
    let token: JoinToken = made.reveal().parse().unwrap();
    server.dial(&client(Trust::Pin(token.pin), Expect::Name)).await.unwrap();
    server.dial(&ca.joining_client_config().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_wrong_pin_is_refused_with_a_hint() {
    let (ca, other) = (Throwaway::new(now()).unwrap(), Throwaway::new(now()).unwrap());
    let server = Server::start(ca.open_server_config().unwrap()).await;
    let error = server.dial(&other.joining_client_config().unwrap()).await.unwrap_err();
    assert!(error.contains("another control plane") && error.contains("inspects TLS"), "{error}");
    assert!(error.contains("Faultline intermediate"), "names the issuer: {error}");
}

#[tokio::test]
async fn a_pinned_root_sent_along_does_not_help_a_chain_that_it_did_not_sign() {
    let (ca, thief) = (Throwaway::new(now()).unwrap(), Throwaway::new(now()).unwrap());
    let mut stolen = thief.authority.issue_server(&["127.0.0.1"], None, now(), DAY).unwrap();
    stolen.chain_pem += ca.authority.bundle_pem();
    let server = Server::start(serving(&stolen)).await;
    let error = server.dial(&ca.joining_client_config().unwrap()).await.unwrap_err();
    assert!(error.contains("UnknownIssuer") || error.contains("BadSignature"), "{error}");
}

#[tokio::test]
async fn a_pin_does_not_excuse_a_wrong_name() {
    let ca = Throwaway::new(now()).unwrap();
    let elsewhere = ca.authority.issue_server(&["elsewhere.test"], None, now(), DAY).unwrap();
    let server = Server::start(serving(&elsewhere)).await;
    let config = ca.joining_client_config().unwrap();
    let error = server.dial(&config).await.unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
    let named = Connector::new(config.clone()).with_server_name("elsewhere.test").unwrap();
    named.connect(&server.uri()).await.unwrap();
    assert!(Connector::new(config).with_server_name("not a name").is_err());
}

#[tokio::test]
async fn a_bundle_refuses_another_root_and_another_name() {
    let (ca, other) = (Throwaway::new(now()).unwrap(), Throwaway::new(now()).unwrap());
    let server = Server::start(ca.open_server_config().unwrap()).await;
    server.dial(&client(Trust::Bundle(ca.bundle.clone()), Expect::Name)).await.unwrap();
    assert!(server.dial(&client(Trust::Bundle(other.bundle.clone()), Expect::Name)).await.is_err());
    let named = Connector::new(client(Trust::Bundle(ca.bundle.clone()), Expect::Name));
    let error = named.with_server_name("elsewhere.test").unwrap().connect(&server.uri()).await.unwrap_err();
    assert!(chain(&error).contains("not valid for name"), "{}", chain(&error));
}

#[tokio::test]
async fn a_server_can_be_known_by_its_identity() {
    let ca = Throwaway::new(now()).unwrap();
    let agent = Role::agent("c1");
    // No name at all: a Service address that is known only after the certificate was made.
    let credential = ca.authority.issue_server(&[], Some(&agent), now(), DAY).unwrap();
    let server = Server::start(serving(&credential)).await;
    let expecting = |cluster| {
        let identity = Identity::new(ca.authority.trust_domain().clone(), Role::agent(cluster)).unwrap();
        client(Trust::Bundle(ca.bundle.clone()), Expect::Identity(identity))
    };
    server.dial(&expecting("c1")).await.unwrap();
    let error = server.dial(&expecting("c2")).await.unwrap_err();
    assert!(error.contains("cluster/c1/agent, expected") && error.contains("cluster/c2/agent"), "{error}");
}

#[tokio::test]
async fn a_client_leaf_cannot_serve() {
    let ca = Throwaway::new(now()).unwrap();
    let role = Role::agent("c1");
    let server = Server::start(serving(&ca.credential(&role).unwrap())).await;
    let identity = Identity::new(ca.authority.trust_domain().clone(), role).unwrap();
    let expecting = client(Trust::Bundle(ca.bundle.clone()), Expect::Identity(identity));
    assert!(server.dial(&expecting).await.is_err());
}
