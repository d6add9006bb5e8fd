//! One member cluster in this process: the whole agent over the in-memory twin
//! of a cluster, and the whole daemon, its journal on disk, over the in-memory
//! twin of a kernel.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use async_trait::async_trait;
use cluster_agent::cluster::memory::Memory;
use cluster_agent::cluster::{CeilingSeen, Inventory, Leadership, NodeSeen, PodSeen};
use cluster_agent::nodes::session::NodeConnection;
use node_daemon::driver::{Clock, Doors, Driver};
use node_daemon::engine::{Limits, Node, Now, State, Unfit};
use node_daemon::health::Vitals;
use node_daemon::journal::Journal;
use node_daemon::keeper::Keeper;
use node_daemon::link::{Channels, Outbox, Session};
use node_daemon::recover::recover;
use node_daemon::resolve::{ContainerIdentity, Found, Identity, Resolve};
use node_daemon::system::System;
use node_daemon::system::fake::FakeSystem;
use node_daemon::system::target::Roots;
use proto::ceiling::{CeilingFrom, CeilingSpec};
use proto::cluster::{CapabilityState, NodeCapabilities, capability};
use proto::injection::TargetRef;
use proto::plan::Owner;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const NODE: &str = "n1";
const LINK: usize = 64;
const EVENTS: usize = 1024;
/// The only pod; its uid is the process id that the kernel's twin knows it by.
const POD: i32 = 1000;

/// Agent and daemon, running.
#[derive(Debug)]
pub(super) struct Member(JoinSet<Result<()>>);

impl Member {
    /// Starts both; the agent enrols with `token` by itself.
    pub(super) async fn start(folder: &Path, token: &str) -> Result<Self> {
        let join = folder.join("join.token");
        fs::write(&join, token)?;
        let memory = Memory::new();
        memory.set_inventory(inventory()?);
        memory.set_ceiling(CeilingSeen::Present(Arc::new(CeilingSpec {
            from: vec![CeilingFrom { central: Some(true), ..CeilingFrom::default() }],
            namespaces: vec!["shop".to_owned()],
            kinds: vec!["*".to_owned()],
            ..CeilingSpec::default()
        })));
        memory.set_local_halts(Vec::new());
        memory.set_authored(BTreeMap::new());
        memory.set_leadership(Leadership::Active { epoch: 1 });
        let config =
            cluster_agent::Config { join_token_file: Some(join), ..cluster_agent::Config::default() };
        let (links, nodes) = mpsc::channel(1);
        let mut parts = JoinSet::new();
        parts.spawn(cluster_agent::run_with(memory.doors(), config, Some(nodes), CancellationToken::new()));
        let (up, up_agent) = mpsc::channel(LINK);
        let (down_agent, down) = mpsc::channel(LINK);
        links.send(NodeConnection { node: NODE.to_owned(), up: up_agent, down: down_agent }).await?;
        daemon(folder, Channels { up, down }, &mut parts)?;
        Ok(Self(parts))
    }

    /// Ends both.
    pub(super) async fn end(mut self) {
        self.0.shutdown().await;
    }
}

fn daemon(folder: &Path, channels: Channels, parts: &mut JoinSet<Result<()>>) -> Result<()> {
    let system = Arc::new(FakeSystem::new());
    system.add_target(POD);
    let clock =
        Arc::new(NodeTime { system: Arc::clone(&system), begun: Instant::now(), shown_ms: Mutex::new(0) });
    let (journal, loaded) = Journal::open(&folder.join("node"))?;
    let now = clock.now();
    let recovered = recover(&journal, loaded, &*system, "boot", now.wall_ms);
    let mut capabilities = NodeCapabilities::default();
    for name in [capability::CRI, capability::NFT_SETS, capability::NFQUEUE, capability::KEEPER] {
        let present = CapabilityState { present: true, detail: String::new() };
        capabilities.capabilities.insert(name.to_owned(), present);
    }
    let node = Node {
        name: NODE.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: "boot".to_owned(),
        halt_id: proto::injection::node_halt_id(NODE)?,
        capabilities,
    };
    let doors = Doors {
        resolver: Arc::new(Targets(Arc::clone(&system))),
        system,
        keeper: Arc::new(NoKeeper),
        clock,
        journal: Arc::new(journal),
        roots: Roots::default(),
    };
    let (events_in, events) = mpsc::channel(EVENTS);
    let outbox = Arc::<Outbox>::default();
    let (vitals, _) = watch::channel(Vitals::default());
    let state = State::new(node, Limits::default(), recovered, now);
    let driver = Driver::new(state, doors, Arc::clone(&outbox), events, vitals);
    let session = Session { outbox, events: events_in };
    parts.spawn(async move {
        driver.run(CancellationToken::new(), Duration::from_secs(5)).await;
        anyhow::bail!("the daemon ended")
    });
    parts.spawn(async move {
        let (end, _) = session.run(channels).await;
        anyhow::bail!("the node link ended: {end:?}")
    });
    Ok(())
}

fn inventory() -> Result<Inventory> {
    let owner = Owner {
        kind: "Deployment".to_owned(),
        namespace: "shop".to_owned(),
        name: "payments".to_owned(),
        uid: "d1".to_owned(),
    };
    let pod = PodSeen {
        namespace: "shop".to_owned(),
        name: "payments-0".to_owned(),
        uid: POD.to_string(),
        node: NODE.to_owned(),
        ips: vec!["10.0.0.1".parse()?],
        labels: BTreeMap::from([("app".to_owned(), "payments".to_owned())]),
        owner,
        containers: vec!["app".to_owned()],
        host_network: false,
        running: true,
        terminating: false,
    };
    Ok(Inventory {
        cluster_uid: "bench".to_owned(),
        own_namespace: "faultline-system".to_owned(),
        nodes: BTreeMap::from([(NODE.to_owned(), NodeSeen { ready: true })]),
        pods: BTreeMap::from([(pod.uid.clone(), pod)]),
        ..Inventory::default()
    })
}

/// The twin's time follows the real one.
#[derive(Debug)]
struct NodeTime {
    system: Arc<FakeSystem>,
    begun: Instant,
    shown_ms: Mutex<u64>,
}

impl Clock for NodeTime {
    fn now(&self) -> Now {
        let mut shown = self.shown_ms.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed_ms = self.begun.elapsed().as_millis() as u64;
        self.system.advance(Duration::from_millis(elapsed_ms - *shown));
        *shown = elapsed_ms;
        Now { boottime_ms: self.system.boottime_ms(), wall_ms: jiff::Timestamp::now().as_millisecond() }
    }
}

#[derive(Debug)]
struct Targets(Arc<FakeSystem>);

#[async_trait]
impl Resolve for Targets {
    async fn resolve(&self, target: &TargetRef, _: Option<&str>) -> Result<Found, Unfit> {
        let gone = || Unfit::TargetGone("no such pod".to_owned());
        let target = self.0.identify(target.uid.parse().map_err(|_| gone())?).map_err(|_| gone())?;
        let container =
            ContainerIdentity { id: "c".to_owned(), process: target.process, cgroup: target.cgroup };
        let identity = Identity { sandbox: "s".to_owned(), netns: target.netns, container: Some(container) };
        Ok(Found { identity, devices: vec!["eth0".to_owned()], is_host_network: false })
    }
}

/// Nothing of the twin outlives this process.
#[derive(Debug)]
struct NoKeeper;

impl Keeper for NoKeeper {
    fn ensure(&self) -> Result<(), String> {
        Ok(())
    }
}
