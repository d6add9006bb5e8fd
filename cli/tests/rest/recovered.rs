//! An agent whose certificate expired, over real TLS: the doctor says that it can recover, it does so by itself, and
//! a copy of its identity is unmasked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use cluster_agent::cluster::host::HostConfig;
use cluster_agent::link::Backoff;
use cluster_agent::nodes::session::NodeConnection;
use control_plane::config::StoreChoice;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Centre, WITHIN};

/// Long enough to enrol, link and renew on a busy machine.
const TTL: Duration = Duration::from_secs(10);

/// An agent of a machine, with its state in `folder`; killed when dropped.
struct Agent {
    tasks: JoinSet<anyhow::Result<()>>,
    _nodes: mpsc::Sender<NodeConnection>,
}

impl Agent {
    fn start(folder: &Path, join_token_file: Option<PathBuf>) -> Self {
        let host = HostConfig {
            state_dir: folder.join("agent"),
            workloads: folder.join("workloads.yaml"),
            ceiling: folder.join("ceiling.yaml"),
            authored_dir: folder.join("authored"),
            node_name: "n1".to_owned(),
            denied: Vec::new(),
        };
        let backoff = Backoff { first: Duration::from_millis(20), ..Backoff::default() };
        let config = cluster_agent::Config { join_token_file, backoff, ..cluster_agent::Config::default() };
        let (nodes, links) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(cluster_agent::host::run(host, config, links, CancellationToken::new()));
        Self { tasks, _nodes: nodes }
    }

    async fn crash(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Without what an agent that just died is still writing: such a file has a dot before its name, and soon another name.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("it is there").map(|entry| entry.expect("an entry")) {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).expect("copied");
        }
    }
}

const CLUSTER: [&str; 3] = ["get", "cluster", "c2"];

async fn connected(centre: &Centre) -> Value {
    centre.until(&CLUSTER, "connected", |view| view["state"] == "Connected").await
}

async fn audited(centre: &Centre, action: &str, result: &str) {
    let args = ["audit", "list", "--action", action];
    centre
        .until(&args, action, |records| {
            let records = records.as_array().or_else(|| records["items"].as_array());
            records.is_some_and(|records| {
                records.iter().any(|r| r["result"].as_str().is_some_and(|text| text.contains(result)))
            })
        })
        .await;
}

/// Checks of the doctor in the agent's place: state and message by id.
async fn doctor(centre: &Centre, folder: &Path) -> BTreeMap<String, (String, String)> {
    let folder = folder.display().to_string();
    let (_, out, err) = centre.said(&["doctor", "host", "--state-dir", &folder, "-o", "json"]).await;
    let found: Value = serde_json::from_str(&out).with_context(|| format!("{out}{err}")).expect("JSON");
    let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    let one = |check: &Value| (text(check, "id"), (text(check, "state"), text(check, "message")));
    found.as_array().expect("a list").iter().map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_agent_comes_back_by_itself_and_a_copy_of_its_identity_is_unmasked() {
    let folder = TempDir::new().expect("a folder");
    let centre = Centre::start_with(folder, StoreChoice::Memory, |config| config.agent_ttl = TTL).await;
    centre.login().await;
    let token = PathBuf::from(centre.path("join"));
    let invited = centre.ok(&["clusters", "invite", "c2", "--auto-accept"]).await;
    std::fs::write(&token, invited).expect("a file");
    let (machine, elsewhere) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let agent = Agent::start(machine.path(), Some(token.clone()));
    connected(&centre).await;
    std::fs::remove_file(&token).expect("it was used");
    agent.crash().await;

    // Away until its certificate has expired. Somebody takes a copy of everything that it keeps.
    copy(machine.path(), elsewhere.path());
    let deadline = tokio::time::Instant::now() + WITHIN;
    let found = loop {
        let found = doctor(&centre, machine.path()).await;
        if found["certificate"].1.contains("expired") {
            break found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{found:#?}");
    };
    assert_eq!(found["certificate"].0, "warning", "{found:#?}");
    assert!(found["certificate"].1.contains("recovers by its identity key"), "{found:#?}");
    assert_eq!(found["recover.tls"].0, "ok", "{found:#?}");
    centre.until(&CLUSTER, "gone", |view| view["state"] == "Unknown").await;

    // It comes back without a token, and stays, over renewals of its new certificate.
    let agent = Agent::start(machine.path(), None);
    let back = connected(&centre).await;
    audited(&centre, "cluster.recover", "ok").await;
    let ends = |view: &Value| view["status"]["certificateNotAfter"].as_str().map(str::to_owned);
    let before = centre
        .until(&CLUSTER, "renewed", |view| {
            assert!(view["status"]["cloneSuspectedAt"].is_null(), "{view:#}");
            let is_new = view["status"]["connectedAt"] != back["status"]["connectedAt"];
            view["state"] == "Connected" && ends(view) > ends(&back) && is_new
        })
        .await;

    // The copy wants to do the same.
    let copied = Agent::start(elsewhere.path(), None);
    let unmasked =
        centre.until(&CLUSTER, "unmasked", |view| view["status"]["cloneSuspectedAt"].is_string()).await;
    // Whoever is connected stays so: which of the two is the thief is for an operator to say. Looked at once: an agent
    // that a busy machine keeps from renewing in time cannot come back any more. A renewal begins a new session.
    let session = |view: &Value| {
        let status = &view["status"];
        (status["connectedAt"].clone(), status["disconnectedAt"].clone())
    };
    assert!(
        ends(&unmasked) > ends(&before) || session(&unmasked) == session(&before),
        "{before:#}\n{unmasked:#}"
    );
    audited(&centre, "cluster.clone-suspected", "replaced").await;
    audited(&centre, "cluster.recover", "faultline clusters replace").await;
    let described = centre.ok(&["describe", "cluster", "c2"]).await;
    assert!(described.contains("held by a second one since"), "{described}");
    let (_, out, _) = centre.said(&["doctor", "-o", "json"]).await;
    assert!(out.contains("cluster.identity") && out.contains("faultline clusters replace c2"), "{out}");
    copied.crash().await;
    agent.crash().await;
    centre.end().await;
}
