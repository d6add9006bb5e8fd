//! A second opinion: OpenSSL, where it is installed, accepts our chains and refuses what it should.

use std::fs;
use std::process::Stdio;

use certs::throwaway::Throwaway;
use certs::{Credential, Role};
use tokio::process::Command;

use super::fixture::{DAY, PATIENCE, Server, now};

async fn openssl(arguments: &[&str]) -> Option<(bool, String)> {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, command.output()).await.unwrap() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: openssl is not installed");
            None
        }
        Err(error) => panic!("run openssl: {error}"),
    }
}

/// Whether OpenSSL's client verifies the server by chain and address and reads its answer; `None` without OpenSSL.
pub(crate) async fn s_client(server: &Server, ca: &Throwaway, more: &[&str]) -> Option<bool> {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root.pem");
    fs::write(&root, ca.authority.bundle_pem()).unwrap();
    let address = server.addr.to_string();
    let mut arguments = vec!["s_client", "-connect", &address, "-CAfile", root.to_str().unwrap()];
    arguments.extend(["-verify_return_error", "-verify_ip", "127.0.0.1", "-ign_eof", "-quiet"]);
    arguments.extend(more);
    let (success, text) = openssl(&arguments).await?;
    Some(success && text.contains('!'))
}

#[tokio::test]
async fn openssl_verifies_our_chains() {
    let ca = Throwaway::new(now()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let root = file("root.pem", ca.authority.bundle_pem());
    let other = file("other.pem", Throwaway::new(now()).unwrap().authority.bundle_pem());
    let check = async |root: &str, purpose: &str, credential: &Credential| {
        let chain = file("chain.pem", &credential.chain_pem);
        let arguments =
            ["verify", "-x509_strict", "-CAfile", root, "-untrusted", &chain, "-purpose", purpose, &chain];
        openssl(&arguments).await
    };
    let agent = ca.credential(&Role::agent("c1")).unwrap();
    let server = ca.authority.issue_server(&["localhost"], None, now(), DAY).unwrap();
    let Some((accepted, text)) = check(&root, "sslclient", &agent).await else {
        return;
    };
    assert!(accepted, "{text}");
    let (accepted, text) = check(&root, "sslserver", &server).await.unwrap();
    assert!(accepted, "{text}");
    assert!(!check(&other, "sslclient", &agent).await.unwrap().0);
    assert!(!check(&root, "sslserver", &agent).await.unwrap().0);
    assert!(!check(&root, "sslclient", &server).await.unwrap().0);
}

#[tokio::test]
async fn openssl_talks_to_our_server() {
    let ca = Throwaway::new(now()).unwrap();
    let server = Server::start(ca.server_config().unwrap()).await;
    let agent = ca.credential(&Role::agent("c1")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    fs::write(&chain, &agent.chain_pem).unwrap();
    fs::write(&key, &agent.key_pem).unwrap();
    let (chain, key) = (chain.to_str().unwrap(), key.to_str().unwrap());
    let shown = ["-cert", chain, "-cert_chain", chain, "-key", key];
    let Some(accepted) = s_client(&server, &ca, &shown).await else {
        return;
    };
    assert!(accepted, "with the agent's certificate");
    assert_eq!(s_client(&server, &ca, &[]).await, Some(false), "without one");
    let other = Throwaway::new(now()).unwrap();
    assert_eq!(s_client(&server, &other, &shown).await, Some(false), "with another root");
}

#[tokio::test]
async fn links_speak_tls_1_3_only_and_people_may_speak_1_2() {
    use certs::Protocol;
    use certs::server::{ClientAuth, config};
    let ca = Throwaway::new(now()).unwrap();
    for (protocol, expected) in [(Protocol::Grpc, false), (Protocol::Http, true)] {
        let server = Server::start(config(&ca.server, ClientAuth::None, protocol).unwrap()).await;
        let Some(accepted) = s_client(&server, &ca, &["-tls1_2"]).await else {
            return;
        };
        assert_eq!(accepted, expected, "{protocol:?} with TLS 1.2");
        assert_eq!(s_client(&server, &ca, &["-tls1_3"]).await, Some(true), "{protocol:?} with TLS 1.3");
    }
}
