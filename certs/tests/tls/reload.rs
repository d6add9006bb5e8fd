//! Changes while serving: the next handshake sees them, and nothing is rebuilt.

use certs::client::{self, Expect, Trust};
use certs::throwaway::Throwaway;
use certs::{Connector, Identity, Protocol, ReloadableIdentity, Role, TrustBundle};
use tokio::io::AsyncReadExt;

use super::fixture::{DAY, Server, now};

#[tokio::test]
async fn a_new_server_certificate_is_used_by_the_next_handshake() {
    let ca = Throwaway::new(now()).unwrap();
    let server = Server::start(ca.open_server_config().unwrap()).await;
    let expecting = |replica| {
        let identity =
            Identity::new(ca.authority.trust_domain().clone(), Role::control_plane(replica)).unwrap();
        let (none, trust) = (ReloadableIdentity::empty(), Trust::Bundle(ca.bundle.clone()));
        client::config(&none, trust, Expect::Identity(identity), Protocol::Grpc).unwrap()
    };
    let (old, new) = (expecting("throwaway"), expecting("next"));
    server.dial(&old).await.unwrap();
    assert!(server.dial(&new).await.is_err());
    let mut open = Connector::new(old.clone()).connect(&server.uri()).await.unwrap();

    let next = ca.authority.issue_server(&["127.0.0.1"], Some(&Role::control_plane("next")), now(), DAY);
    ca.server.replace(&next.unwrap()).unwrap();
    server.dial(&new).await.unwrap();
    assert!(server.dial(&old).await.is_err());
    let mut byte = [0];
    open.read_exact(&mut byte).await.unwrap();
    assert_eq!(&byte, b"!", "a connection made before goes on");
}

#[tokio::test]
async fn a_new_client_certificate_is_used_by_the_next_handshake() {
    let ca = Throwaway::new(now()).unwrap();
    let mut server = Server::start(ca.open_server_config().unwrap()).await;
    let ours = ReloadableIdentity::empty();
    let trust = Trust::Bundle(ca.bundle.clone());
    let config = client::config(&ours, trust, Expect::Name, Protocol::Grpc).unwrap();
    assert_eq!(server.meet(&config).await.peer, None);
    for cluster in ["c1", "c2"] {
        ours.replace(&ca.credential(&Role::agent(cluster)).unwrap()).unwrap();
        assert_eq!(server.meet(&config).await.peer.unwrap().cluster(), Some(cluster));
    }
}

#[tokio::test]
async fn a_bad_replacement_leaves_the_old_certificate() {
    let ca = Throwaway::new(now()).unwrap();
    let server = Server::start(ca.open_server_config().unwrap()).await;
    let mut mixed = ca.credential(&Role::agent("c1")).unwrap();
    mixed.key_pem = ca.credential(&Role::agent("c1")).unwrap().key_pem;
    assert!(ca.server.replace(&mixed).is_err());
    mixed.key_pem.clear();
    assert!(ca.server.replace(&mixed).is_err());
    server.dial(&ca.joining_client_config().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_new_bundle_is_used_by_the_next_handshake_of_both_sides() {
    let (old, new) = (Throwaway::new(now()).unwrap(), Throwaway::new(now()).unwrap());
    let server = Server::start(old.server_config().unwrap()).await;
    let ours = ReloadableIdentity::new(&new.credential(&Role::agent("c1")).unwrap()).unwrap();
    let trust = Trust::Bundle(old.bundle.clone());
    let config = client::config(&ours, trust, Expect::Name, Protocol::Grpc).unwrap();
    assert!(server.dial(&config).await.is_err(), "the server does not know the new root");

    // A roll-over: trust both, change the certificates, drop the old root.
    let both = format!("{}{}", old.authority.bundle_pem(), new.authority.bundle_pem());
    old.bundle.replace(TrustBundle::from_pem(&both).unwrap());
    server.dial(&config).await.unwrap();
    let names = certs::throwaway::SERVER_NAMES;
    old.server.replace(&new.authority.issue_server(names, None, now(), DAY).unwrap()).unwrap();
    server.dial(&config).await.unwrap();
    old.bundle.replace(TrustBundle::from_pem(new.authority.bundle_pem()).unwrap());
    server.dial(&config).await.unwrap();
    assert!(server.dial(&old.client_config(&Role::agent("c1")).unwrap()).await.is_err());
}
