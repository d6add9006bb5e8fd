//! The doctor, from an operator's and from an agent's place, against real listeners.

use std::collections::BTreeMap;

use certs::throwaway::Throwaway;
use certs::{Acceptor, JoinToken};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::Centre;

/// Checks by id: state, message and cure of the worst.
fn checks(out: &str) -> BTreeMap<String, (String, String, String)> {
    let found: Value = serde_json::from_str(out).expect("JSON");
    let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    let one = |check: &Value| {
        (text(check, "id"), (text(check, "state"), text(check, "message"), text(check, "cure")))
    };
    found.as_array().expect("a list").iter().map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_what_works_and_what_is_missing() {
    let centre = Centre::start().await;
    let (code, out, _) = centre.said(&["doctor", "-o", "json"]).await;
    assert_eq!((code, checks(&out)["context"].0.as_str()), (9, "failed"), "not logged in: {out}");
    centre.login().await;
    centre.ok(&["clusters", "invite", "c2"]).await;
    let (code, out, err) = centre.said(&["doctor", "-o", "json"]).await;
    assert_eq!(code, 0, "{out}{err}");
    let found = checks(&out);
    for id in ["context", "rest.dns", "rest.tcp", "rest.tls", "rest.clock", "role"] {
        assert_eq!(found[id].0, "ok", "{id}: {found:#?}");
    }
    assert_eq!(found["cluster.link"].0, "warning");
    assert!(found["cluster.link"].2.contains("doctor agent"), "{found:#?}");
    let table = centre.ok(&["doctor"]).await;
    assert!(table.contains("WARNING") && table.contains("-> "), "{table}");
    let address = centre.address.clone();
    let folder = centre.stop().await;
    let config = folder.path().join("contexts.json");
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_faultline"))
        .args(["doctor", "-o", "json"])
        .env_clear()
        .env("FAULTLINE_CONFIG", config)
        .output()
        .await
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(9), "{address} is gone");
    let found = checks(&String::from_utf8_lossy(&output.stdout));
    assert_eq!(found["rest.tcp"].0, "failed");
}

/// What a doctor in an agent's place says with this token.
async fn agent(centre: &Centre, token: &str) -> (i32, BTreeMap<String, (String, String, String)>) {
    let file = centre.path("join");
    std::fs::write(&file, token).expect("a file");
    let role = ["--namespace", "faultline", "--pod-name", "p", "--node-service", "agent.faultline.svc"];
    let args = [&["doctor", "agent", "--join-token-file", &file], &role[..], &["-o", "json"]].concat();
    let (code, out, err) = centre.said(&args).await;
    assert!(!out.is_empty(), "{err}");
    (code, checks(&out))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_way_to_the_centre_is_looked_at_without_using_the_token() {
    let centre = Centre::start().await;
    centre.login().await;
    let token = centre.ok(&["clusters", "invite", "c2"]).await;
    for _ in 0..2 {
        let (code, found) = agent(&centre, &token).await;
        assert_eq!(code, 0, "{found:#?}");
        for id in ["config", "token", "enrol.dns", "enrol.tcp", "enrol.tls", "enrol.clock"] {
            assert_eq!(found[id].0, "ok", "{id}: {found:#?}");
        }
        assert_eq!(found["identity"].0, "warning", "there is no apiserver here: {found:#?}");
    }
    let (code, found) = agent(&centre, "flj1.cut-off").await;
    assert_eq!((code, found["config"].0.as_str(), found["token"].0.as_str()), (9, "failed", "failed"));
    centre.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_inspects_tls_is_told_as_such() {
    let centre = Centre::start().await;
    centre.login().await;
    let real: JoinToken = centre.ok(&["clusters", "invite", "c2"]).await.trim().parse().expect("a token");
    // It answers at the centre's address with a certificate of its own CA.
    let inspector = Throwaway::new(jiff::Timestamp::now()).expect("a CA");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let mut boxed = Acceptor::new(listener, inspector.open_server_config().expect("a configuration"));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            drop(boxed.accept().await);
        }
    });
    let inspected = JoinToken::generate(address, real.cluster, real.pin, None).expect("a token");
    let (code, found) = agent(&centre, &inspected.reveal()).await;
    assert_eq!(code, 9);
    let (state, message, cure) = &found["enrol.tls"];
    assert_eq!(state, "failed");
    assert!(message.contains("inspects TLS") && message.contains("Faultline intermediate"), "{message}");
    assert!(cure.contains("exempt this host"), "{cure}");
    assert_eq!(found["enrol.tcp"].0, "ok", "the box does answer");
    // Nobody there at all, and a name that is none.
    for (address, id) in [("127.0.0.1:1", "enrol.tcp"), ("no-such-host.invalid:7445", "enrol.dns")] {
        let token = JoinToken::generate(address, "c-1", real.pin, None).expect("a token");
        let (code, found) = agent(&centre, &token.reveal()).await;
        assert_eq!((code, found[id].0.as_str()), (9, "failed"), "{found:#?}");
        assert!(!found[id].2.is_empty(), "a cure: {found:#?}");
    }
    centre.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_says_what_it_cannot_do() {
    let centre = Centre::start().await;
    let (state, bundle, token) = (centre.path("state"), centre.path("absent.crt"), centre.path("absent"));
    let args = [
        "doctor",
        "node",
        "--agent",
        "127.0.0.1:1",
        "--agent-bundle",
        &bundle,
        "--token-file",
        &token,
        "--node-name",
        "n1",
        "--state-dir",
        &state,
        "--cgroup-root",
        &state,
        "--runtime-socket",
        &state,
        "-o",
        "json",
    ];
    let (code, out, _) = centre.said(&args).await;
    assert_eq!(code, 9);
    let found = checks(&out);
    assert_eq!(found["agent-bundle"].0, "failed");
    assert_eq!(found["service-account-token"].0, "failed");
    for id in ["capability.cri", "capability.cgroup-cpu"] {
        assert_eq!(found[id].0, "warning", "{found:#?}");
        assert!(!found[id].2.is_empty(), "a cure: {found:#?}");
    }
    centre.end().await;
}
