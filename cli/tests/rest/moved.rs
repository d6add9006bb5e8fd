//! The centre moves: its members are told by a signed list, follow it to a restored copy of the store, keep that over
//! a restart, and refuse the old store when it comes back. Real control planes, a real agent, real TLS.

use std::time::Duration;

use cluster_agent::cluster::memory::Memory;
use cluster_agent::cluster::{AuthoredSet, Inventory, Leadership, secret};
use cluster_agent::link::Backoff;
use cluster_agent::link::identity::StoredIdentity;
use control_plane::config::StoreChoice;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Centre, LOOK_EVERY, WITHIN};

const EDGE: [&str; 3] = ["describe", "cluster", "edge"];

/// Where a centre listens: an address of this machine that nobody else uses.
#[derive(Debug, Clone)]
struct Place {
    link: String,
    enrol: String,
}

impl Place {
    fn new(number: u8) -> Self {
        let pid = std::process::id();
        let host = format!("127.{}.{}.{number}", 64 + (pid >> 8) % 128, pid % 256);
        Self { link: format!("{host}:7444"), enrol: format!("{host}:7445") }
    }

    /// A centre here, on the embedded store of this folder. Its own settings do not name the address: that its
    /// certificate is good for it comes from the list.
    async fn centre(&self, folder: TempDir) -> Centre {
        let data_dir = folder.path().join("data");
        let centre = Centre::start_with(folder, StoreChoice::Embedded { data_dir }, |config| {
            config.link_addr = self.link.parse().expect("an address");
            config.enrol_addr = self.enrol.parse().expect("an address");
            config.heartbeat = Duration::from_millis(200);
        });
        let centre = centre.await;
        centre.login().await;
        centre
    }
}

/// A member's agent; the memory is its cluster, so it outlives the process.
struct Agent {
    cluster: Memory,
    shutdown: CancellationToken,
    lives: JoinSet<anyhow::Result<()>>,
}

impl Agent {
    fn start(cluster: Memory, epoch: u64, token: Option<&std::path::Path>) -> Self {
        cluster.set_inventory(Inventory { cluster_uid: "k1".into(), ..Inventory::default() });
        cluster.set_local_halts(vec![]);
        cluster.set_authored(AuthoredSet::new());
        cluster.set_leadership(Leadership::Active { epoch });
        let backoff = Backoff {
            first: Duration::from_millis(50),
            most: Duration::from_millis(200),
            ..Backoff::default()
        };
        let join_token_file = token.map(std::path::Path::to_owned);
        let config = cluster_agent::Config { join_token_file, backoff, ..cluster_agent::Config::default() };
        let shutdown = CancellationToken::new();
        let mut lives = JoinSet::new();
        lives.spawn(cluster_agent::run_with(cluster.doors(), config, None, shutdown.clone()));
        Self { cluster, shutdown, lives }
    }

    /// Ends the process and starts another one, without a token.
    async fn restart(mut self, epoch: u64) -> Self {
        self.shutdown.cancel();
        self.lives.join_next().await.expect("it was started").expect("no panic").expect("a clean end");
        Self::start(self.cluster, epoch, None)
    }

    fn kept(&self) -> StoredIdentity {
        serde_json::from_slice(&self.cluster.snapshot().secrets[secret::IDENTITY]).expect("an identity")
    }

    fn latched(&self) -> String {
        format!("{:?}", self.cluster.snapshot().latched)
    }
}

fn connected(seen: &Value) -> bool {
    seen["state"] == "Connected"
}

/// A command on stores while no control plane uses them.
async fn offline(args: &[&str]) -> Value {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_faultline"));
    let output = command.args(args).env_clear().output().await.expect("the binary starts");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn members_follow_the_centre_to_a_restored_copy_and_refuse_the_old_store() {
    let (here, there) = (Place::new(1), Place::new(2));
    let first = here.centre(TempDir::new().expect("a folder")).await;
    let token = first.ok(&["clusters", "invite", "edge", "--auto-accept"]).await;
    let token_file = first.folder.path().join("join.token");
    std::fs::write(&token_file, token).expect("a file");
    let agent = Agent::start(Memory::new(), 1, Some(&token_file));
    first.until(&EDGE, "edge is connected", connected).await;

    // A dry run tells nobody; then everybody is told, and the session goes on: nobody is there yet.
    let to = ["centre", "move", "--link", &there.link, "--enrol", &there.enrol];
    first.ok(&[&to[..], &["--dry-run"]].concat()).await;
    assert_eq!(first.json(&["centre", "endpoints"]).await["sequence"], 0);
    first.ok(&[&to[..], &["--wait", "1m"]].concat()).await;
    let shown = first.json(&["centre", "endpoints"]).await;
    let sequence = shown["sequence"].as_u64().expect("a number");
    assert!(sequence > 0);
    assert_eq!(
        (&shown["linkEndpoints"], &shown["clusters"][0]["sequence"]),
        (&json!([there.link]), &json!(sequence))
    );
    let kept = agent.kept().centre;
    assert_eq!((kept.sequence, &kept.previous), (sequence, &vec![here.link.clone()]));
    first.until(&EDGE, "edge is still connected", connected).await;
    let table = first.ok(&["centre", "endpoints"]).await;
    assert!(table.contains(&there.link) && table.contains("this"), "{table}");

    // The same store, restored at the other place.
    let old = first.stop().await;
    let new = TempDir::new().expect("a folder");
    let (data, backup) = (path(&old, "data"), path(&old, "backup"));
    offline(&["store", "backup", "--data-dir", &data, "--out", &backup]).await;
    std::fs::create_dir(new.path().join("data")).expect("a folder");
    let restored = ["store", "restore", "--data-dir", &path(&new, "data"), "--from", &backup, "-o", "json"];
    let restored = offline(&restored).await;
    let second = there.centre(new).await;
    let seen = second.until(&EDGE, "edge has come over", connected).await;
    assert_eq!(seen["status"]["endpointsSequence"], sequence);
    second.ok(&["halt", "release", restored["halt"].as_str().expect("an id")]).await;
    let begun = std::time::Instant::now();
    while !agent.kept().centre.previous.is_empty() {
        assert!(begun.elapsed() < WITHIN, "the old address is not forgotten");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let kept = agent.kept().centre;
    assert_eq!(
        (kept.left.len(), kept.store_epoch.as_str()),
        (1, restored["epoch"].as_str().expect("an epoch"))
    );

    // What it knows outlives it, without any token.
    let before = seen["status"]["connectedAt"].clone();
    let agent = agent.restart(2).await;
    second
        .until(&EDGE, "edge is back", |seen| connected(seen) && seen["status"]["connectedAt"] != before)
        .await;
    second.stop().await;

    // The old store comes back where the new one was: nothing that it says is done.
    let stale = there.centre(old).await;
    stale.ok(&["halt", "set", "--fleet", "--id", "from-the-past", "--no-wait"]).await;
    let at = |seen: &Value| seen["status"]["refusedAsOldAt"].clone();
    let refused = stale.until(&EDGE, "edge refuses it", |seen| !at(seen).is_null()).await;
    stale.until(&EDGE, "edge refuses it again", |seen| !at(seen).is_null() && at(seen) != at(&refused)).await;
    assert!(!agent.latched().contains("from-the-past"), "{}", agent.latched());
    let table = stale.ok(&["centre", "endpoints"]).await;
    assert!(table.contains("refuses this control plane"), "{table}");

    // Unless somebody says that this store shall live on.
    let old = stale.stop().await;
    offline(&["store", "mark-restored", "--data-dir", &path(&old, "data"), "-o", "json"]).await;
    let third = there.centre(old).await;
    let taken = |seen: &Value| {
        connected(seen) && at(seen).is_null() && !seen["status"]["halts"]["from-the-past"].is_null()
    };
    third.until(&EDGE, "edge takes it again, and its halts", taken).await;
    assert!(agent.latched().contains("from-the-past"), "{}", agent.latched());
    agent.restart(3).await.shutdown.cancel();
    third.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_addresses_are_all_named_and_nothing_changes() {
    let centre = Centre::start().await;
    centre.login().await;
    let (code, out, err) =
        centre.said(&["centre", "move", "--link", "hub,hub:1,hub:1", "--enrol", "https://hub:2"]).await;
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    for part in ["linkEndpoints[0]", "linkEndpoints[2]", "enrolEndpoints[0]"] {
        assert!(err.contains(part), "{err}");
    }
    assert_eq!(centre.json(&["centre", "endpoints"]).await["sequence"], 0);
    centre.ok(&["centre", "move", "--link", "hub:1", "--enrol", "hub:2"]).await;
    let shown = centre.json(&["centre", "endpoints"]).await;
    assert_eq!((&shown["linkEndpoints"], &shown["enrolEndpoints"]), (&json!(["hub:1"]), &json!(["hub:2"])));
    let (_, out, _) = centre.said(&["audit", "list", "--action", "endpoints.*", "-o", "json"]).await;
    assert!(out.contains("endpoints.put"), "{out}");
    let token = centre.ok(&["clusters", "invite", "edge"]).await;
    assert!(!token.trim().is_empty());
    centre.end().await;
}
