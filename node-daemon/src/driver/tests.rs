//! The whole daemon but the kernel: driver, journal on disk, session, over the in-memory node and with
//! time that passes only when nothing else can happen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, Weak};

use jiff::Timestamp;
use proto::cluster::NodeCapabilities;
use proto::experiment::LinkLossAction;
use proto::fault::{Direction, PartitionHow};
use proto::ids::InjectionId;
use proto::injection::{Action, EndReason, Injection, InjectionPhase, InjectionStatus, TargetRef};
use proto::wire::{Inject, NodeDown, NodeUp};

use super::*;
use crate::engine::{Limits, Node, Unfit};
use crate::link::{Channels, Session};
use crate::recover::recover;
use crate::resolve::{ContainerIdentity, Found, Identity};
use crate::system::fake::FakeSystem;
use crate::system::nft::TableSpec;

mod drain;

const WALL_MS: i64 = 1_700_000_000_000;
const BOOT: &str = "boot-1";

/// The in-memory node's time follows tokio's.
#[derive(Debug)]
struct TestClock {
    system: Arc<FakeSystem>,
    origin: Instant,
    shown_ms: Mutex<u64>,
}

impl Clock for TestClock {
    fn now(&self) -> Now {
        let mut shown = self.shown_ms.lock().unwrap();
        let elapsed = self.origin.elapsed().as_millis() as u64;
        self.system.advance(Duration::from_millis(elapsed - *shown));
        *shown = elapsed;
        Now { boottime_ms: self.system.boottime_ms(), wall_ms: WALL_MS + elapsed as i64 }
    }
}

#[derive(Debug)]
struct TestResolver {
    system: Arc<FakeSystem>,
    /// Lookups of a sandbox alone.
    of_sandboxes: AtomicUsize,
}

#[async_trait::async_trait]
impl Resolve for TestResolver {
    async fn resolve(&self, target: &TargetRef, _: Option<&str>) -> Result<Found, Unfit> {
        let gone = || Unfit::TargetGone("no such pod".into());
        let target = self.system.identify(target.uid.parse().map_err(|_| gone())?).map_err(|_| gone())?;
        let container = ContainerIdentity { id: "c".into(), process: target.process, cgroup: target.cgroup };
        let identity = Identity { sandbox: "s".into(), netns: target.netns, container: Some(container) };
        Ok(Found { identity, devices: vec!["eth0".into()], is_host_network: false })
    }

    async fn resolve_sandbox(&self, target: &TargetRef) -> Result<Found, Unfit> {
        self.of_sandboxes.fetch_add(1, Ordering::Relaxed);
        let mut found = self.resolve(target, None).await?;
        found.identity.container = None;
        Ok(found)
    }
}

#[derive(Debug, Default)]
struct TestKeeper {
    is_dead: AtomicBool,
    /// Is there only once something was made on this node.
    follows: Mutex<Option<Arc<FakeSystem>>>,
    /// Does not come to an answer; cleared by a call that has waited for too long.
    hangs: AtomicBool,
}

impl Keeper for TestKeeper {
    fn ensure(&self) -> Result<(), String> {
        let follows = self.follows.lock().unwrap().clone();
        let given_up = std::time::Instant::now() + Duration::from_secs(30);
        while self.hangs.load(Ordering::Relaxed) {
            if std::time::Instant::now() > given_up {
                self.hangs.store(false, Ordering::Relaxed);
            }
            std::thread::yield_now();
        }
        while follows.as_ref().is_some_and(|system| system.things() == 0) {
            if std::time::Instant::now() > given_up {
                return Err("nothing was made before the keeper was there".into());
            }
            std::thread::yield_now();
        }
        if self.is_dead.load(Ordering::Relaxed) { Err("no keeper today".into()) } else { Ok(()) }
    }
}

/// A daemon and its agent.
struct Rig {
    system: Arc<FakeSystem>,
    keeper: Arc<TestKeeper>,
    resolver: Arc<TestResolver>,
    journal: Weak<Journal>,
    driving: JoinSet<bool>,
    shutdown: CancellationToken,
    at_once: CancellationToken,
    session: Session,
    sessions: JoinSet<()>,
    agent: Agent,
}

struct Agent {
    epoch: u64,
    down: mpsc::Sender<NodeDown>,
    up: mpsc::Receiver<NodeUp>,
    clock: Arc<TestClock>,
    told: BTreeMap<InjectionId, Vec<InjectionStatus>>,
    hello: Option<proto::wire::NodeHello>,
    is_draining: bool,
}

impl Rig {
    async fn start(folder: &Path, system: &Arc<FakeSystem>) -> Self {
        Self::waiting(folder, system, Duration::ZERO).await
    }

    async fn waiting(folder: &Path, system: &Arc<FakeSystem>, drain_wait: Duration) -> Self {
        let (journal, loaded) = Journal::open(folder).unwrap();
        let clock =
            Arc::new(TestClock { system: system.clone(), origin: Instant::now(), shown_ms: Mutex::new(0) });
        let now = clock.now();
        let recovered = recover(&journal, loaded, &**system, BOOT, now.wall_ms);
        let node = Node {
            name: "n1".into(),
            version: "0".into(),
            boot_id: BOOT.into(),
            halt_id: "node-n1".parse().unwrap(),
            capabilities: NodeCapabilities::default(),
        };
        let keeper = Arc::<TestKeeper>::default();
        let resolver = Arc::new(TestResolver { system: system.clone(), of_sandboxes: AtomicUsize::new(0) });
        let journal = Arc::new(journal);
        let doors = Doors {
            system: system.clone(),
            resolver: resolver.clone(),
            keeper: keeper.clone(),
            clock: clock.clone(),
            journal: Arc::clone(&journal),
            roots: Roots::default(),
        };
        let journal = Arc::downgrade(&journal);
        let (events_in, events) = mpsc::channel(64);
        let outbox = Arc::<Outbox>::default();
        let (vitals, _) = watch::channel(Vitals::default());
        let state = State::new(node, Limits::default(), recovered, now);
        let at_once = CancellationToken::new();
        let driver = Driver::new(state, doors, outbox.clone(), events, vitals);
        let driver = driver.waiting(drain_wait, at_once.clone());
        let (shutdown, mut driving) = (CancellationToken::new(), JoinSet::new());
        driving.spawn(driver.run(shutdown.clone(), Duration::from_secs(25)));
        let session = Session { outbox, events: events_in };
        let mut sessions = JoinSet::new();
        let agent = Agent::connect(&session, &mut sessions, clock).await;
        Self {
            system: system.clone(),
            keeper,
            resolver,
            journal,
            driving,
            shutdown,
            at_once,
            session,
            sessions,
            agent,
        }
    }

    async fn reconnect(&mut self) {
        // A closed channel ends the session that is open, if one is.
        (self.agent.down, _) = mpsc::channel(1);
        while self.sessions.join_next().await.is_some() {}
        self.agent = Agent::connect(&self.session, &mut self.sessions, self.agent.clock.clone()).await;
    }

    /// Nothing is asked of it any more, as after SIGKILL.
    async fn kill(mut self) {
        self.driving.abort_all();
        while self.driving.join_next().await.is_some() {}
        // What runs on a blocking thread goes on, and holds the journal's lock to its end.
        let given_up = std::time::Instant::now() + Duration::from_secs(30);
        while self.journal.strong_count() > 0 {
            assert!(std::time::Instant::now() < given_up, "the journal is still held");
            tokio::task::yield_now().await;
        }
    }
}

impl Agent {
    async fn connect(session: &Session, sessions: &mut JoinSet<()>, clock: Arc<TestClock>) -> Self {
        let ((up_in, up), (down, down_out)) = (mpsc::channel(8), mpsc::channel(8));
        let session = session.clone();
        sessions.spawn(async move {
            session.run(Channels { up: up_in, down: down_out }).await;
        });
        let mut agent =
            Self { epoch: 1, down, up, clock, told: BTreeMap::new(), hello: None, is_draining: false };
        while agent.hello.is_none() {
            agent.listen().await;
        }
        agent.send(NodeDown::Welcome { agent_epoch: 1, heartbeat_interval_ms: 1000 }).await;
        agent
    }

    async fn send(&self, down: NodeDown) {
        self.down.send(down).await.unwrap();
    }

    /// Takes one message, answering as an agent does.
    async fn listen(&mut self) {
        let up = tokio::time::timeout(Duration::from_mins(5), self.up.recv()).await;
        match up.expect("the daemon is silent").expect("the session is over") {
            NodeUp::Hello(hello) => self.hello = Some(*hello),
            NodeUp::State(status) => self.told.entry(status.id.clone()).or_default().push(*status),
            NodeUp::ClockProbe { id } => {
                let at = Timestamp::from_millisecond(self.clock.now().wall_ms).unwrap();
                self.send(NodeDown::ClockReply { id, at }).await;
            }
            NodeUp::Heartbeat { seq } => self.send(NodeDown::Heartbeat { seq }).await,
            NodeUp::HaltState(_) => {}
            NodeUp::Draining => self.is_draining = true,
        }
    }

    async fn inject(&self, injection: &Injection, lasts_ms: u64) {
        let now_ms = self.clock.now().wall_ms;
        let at = |ms: i64| Timestamp::from_millisecond(now_ms + ms).unwrap();
        let inject = Inject {
            injection: injection.clone(),
            agent_epoch: self.epoch,
            remaining_ms: lasts_ms,
            deadline: at(lasts_ms as i64),
            start_before: at(10_000),
        };
        self.send(NodeDown::Inject(Box::new(inject))).await;
    }

    /// Waits until that is said of it.
    async fn sees(&mut self, injection: &Injection, phase: InjectionPhase) -> InjectionStatus {
        loop {
            let said = self.told.get(&injection.id).and_then(|all| all.last());
            match said {
                Some(status) if status.phase == phase => return status.clone(),
                Some(status) if status.phase.is_terminal() => panic!("wanted {phase:?}, is {status:?}"),
                _ => self.listen().await,
            }
        }
    }
}

fn injection(id: &str, pid: i32, action: Action) -> Injection {
    let backend = proto::catalogue::entry(action.kind()).unwrap().backends[0].name.to_owned();
    let target = TargetRef {
        namespace: "shop".into(),
        pod: "p".into(),
        uid: pid.to_string(),
        node: "n1".into(),
        ips: vec![],
    };
    Injection {
        id: id.parse().unwrap(),
        run: "r1".parse().unwrap(),
        target,
        container: None,
        action,
        backend,
        link_loss_after_ms: 20_000,
        link_loss: LinkLossAction::Revert,
        trace: proto::trace::TraceContext::NONE,
    }
}

fn pause(id: &str, pid: i32) -> Injection {
    injection(id, pid, Action::ContainerPause)
}

fn partition(id: &str, pid: i32) -> Injection {
    injection(
        id,
        pid,
        Action::NetworkPartition { direction: Direction::Both, peers: vec![], how: PartitionHow::Drop },
    )
}

/// Every kind with every backend.
fn every_kind(pid: i32) -> Vec<Injection> {
    let delay = |id: &str, direction, backend: &str| {
        let action = Action::NetworkDelay {
            direction,
            peers: vec![],
            latency_ms: 200,
            jitter_ms: 20,
            correlation_percent: 25,
        };
        Injection { backend: backend.into(), ..injection(id, pid, action) }
    };
    vec![
        pause("r1.pause.0", pid),
        injection("r1.stress.0", pid, Action::CpuStress { workers: 2, load_percent: 50 }),
        partition("r1.partition.0", pid),
        delay("r1.netem.0", Direction::Egress, "netem"),
        delay("r1.both.0", Direction::Both, "netem"),
        delay("r1.queue.0", Direction::Both, "nfqueue"),
    ]
}

#[tokio::test(start_paused = true)]
async fn every_kind_is_made_and_gone_at_its_deadline() {
    for one in every_kind(7) {
        let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
        system.add_target(7);
        let mut rig = Rig::start(folder.path(), &system).await;
        let started = Instant::now();
        rig.agent.inject(&one, 30_000).await;
        let status = rig.agent.sees(&one, InjectionPhase::Injected).await;
        assert!(system.things() > 0 && status.injected_at_unix_ms.is_some());
        assert!(folder.path().join(format!("journal/{}.json", one.id)).exists());
        let status = rig.agent.sees(&one, InjectionPhase::Reverted).await;
        assert_eq!(status.reason, Some(EndReason::Deadline), "{}", one.id);
        let lasted = started.elapsed().as_millis();
        assert!((30_000..31_500).contains(&lasted), "{} lasted {lasted} ms", one.id);
        assert_eq!(system.things(), 0, "{}", one.id);
        rig.shutdown.cancel();
        assert!(rig.driving.join_next().await.unwrap().unwrap(), "drained clean");
        let (_, loaded) = Journal::open(folder.path()).unwrap();
        assert!(loaded.records.is_empty() && loaded.ended.len() == 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_reverts_and_the_id_never_starts_again_also_after_a_restart() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    system.add_target(7);
    let one = partition("r1.a.0", 7);
    let mut rig = Rig::start(folder.path(), &system).await;
    rig.agent.inject(&one, 30_000).await;
    rig.agent.sees(&one, InjectionPhase::Injected).await;
    rig.agent.send(NodeDown::Revert { injection: one.id.clone(), reason: "Stopped".into() }).await;
    let status = rig.agent.sees(&one, InjectionPhase::Reverted).await;
    assert_eq!(status.reason, Some(EndReason::Stopped));
    rig.shutdown.cancel();
    assert!(rig.driving.join_next().await.unwrap().unwrap());
    drop(rig);

    let mut rig = Rig::start(folder.path(), &system).await;
    rig.agent.inject(&one, 30_000).await;
    let status = rig.agent.sees(&one, InjectionPhase::Reverted).await;
    assert_eq!(status.reason, Some(EndReason::Stopped), "the old end is told, nothing is made");
    assert_eq!(system.things(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_former_leader_is_refused_also_by_a_daemon_that_was_killed() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    system.add_target(7);
    let (one, two) = (partition("r1.a.0", 7), partition("r2.a.0", 7));
    let mut rig = Rig::start(folder.path(), &system).await;
    rig.agent.epoch = 2;
    rig.agent.inject(&one, 30_000).await;
    rig.agent.sees(&one, InjectionPhase::Injected).await;
    rig.kill().await;

    let mut rig = Rig::start(folder.path(), &system).await;
    assert_eq!(rig.agent.hello.as_ref().map(|hello| hello.highest_epoch), Some(2));
    rig.agent.inject(&two, 30_000).await;
    let said = rig.agent.sees(&two, InjectionPhase::Refused).await;
    assert!(said.message.contains("agent epoch 1 is over"), "{}", said.message);
    assert_eq!(system.things(), 0);
    rig.agent.epoch = 2;
    rig.agent.inject(&two, 30_000).await;
    while rig.agent.told[&two.id].last().is_none_or(|said| said.phase != InjectionPhase::Injected) {
        rig.agent.listen().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_daemon_comes_back_and_reverts_what_it_finds() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    system.add_target(7);
    let all = [partition("r1.a.0", 7), pause("r1.a.1", 7)];
    let mut rig = Rig::start(folder.path(), &system).await;
    for one in &all {
        rig.agent.inject(one, 30_000).await;
        rig.agent.sees(one, InjectionPhase::Injected).await;
    }
    rig.kill().await;
    assert_eq!(system.things(), 2, "a killed daemon undoes nothing");
    let rig = Rig::start(folder.path(), &system).await;
    assert_eq!(system.things(), 0);
    let held = rig.agent.hello.unwrap().held;
    let ends: BTreeSet<_> = held.iter().map(|one| (one.phase, format!("{:?}", one.reason))).collect();
    assert_eq!(ends, [(InjectionPhase::Reverted, "Some(DaemonRestart)".to_owned())].into());
    assert_eq!(held.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_drain_reverts_everything() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    let all: Vec<_> = (0..40)
        .map(|n| if n % 2 == 0 { pause(&format!("r1.a.{n}"), n) } else { partition(&format!("r1.a.{n}"), n) })
        .collect();
    let mut rig = Rig::start(folder.path(), &system).await;
    for (pid, one) in (0..).zip(&all) {
        system.add_target(pid);
        rig.agent.inject(one, 30_000).await;
    }
    for one in &all {
        rig.agent.sees(one, InjectionPhase::Injected).await;
    }
    assert_eq!(system.things(), 40);
    rig.shutdown.cancel();
    for one in &all {
        let status = rig.agent.sees(one, InjectionPhase::Reverted).await;
        assert_eq!(status.reason, Some(EndReason::DaemonDrain));
    }
    assert!(rig.driving.join_next().await.unwrap().unwrap());
    assert_eq!(system.things(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_link_reverts_by_itself() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    system.add_target(7);
    let one = partition("r1.a.0", 7);
    let mut rig = Rig::start(folder.path(), &system).await;
    rig.agent.inject(&one, 200_000).await;
    rig.agent.sees(&one, InjectionPhase::Injected).await;
    // The agent falls silent without closing anything: three heartbeats later the session is lost.
    let lost = Instant::now();
    rig.sessions.join_next().await.unwrap().unwrap();
    assert!((3000..5100).contains(&lost.elapsed().as_millis()), "{:?}", lost.elapsed());
    assert_eq!(system.things(), 1);
    tokio::time::sleep(Duration::from_secs(19)).await;
    assert_eq!(system.things(), 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    rig.reconnect().await;
    assert_eq!(system.things(), 0);
    let held = rig.agent.hello.unwrap().held;
    assert_eq!(held[0].reason, Some(EndReason::LinkLost));
}

#[tokio::test(start_paused = true)]
async fn the_halt_file_reverts_and_refuses_without_any_agent() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    system.add_target(7);
    let one = partition("r1.a.0", 7);
    let mut rig = Rig::start(folder.path(), &system).await;
    rig.agent.inject(&one, 60_000).await;
    rig.agent.sees(&one, InjectionPhase::Injected).await;
    std::fs::write(folder.path().join("halt"), "by hand").unwrap();
    let status = rig.agent.sees(&one, InjectionPhase::Reverted).await;
    assert_eq!(status.reason, Some(EndReason::Halted));
    rig.kill().await;
    // It holds from the first moment of a new daemon.
    let mut rig = Rig::start(folder.path(), &system).await;
    let two = partition("r1.a.1", 7);
    rig.agent.inject(&two, 60_000).await;
    assert_eq!(rig.agent.sees(&two, InjectionPhase::Refused).await.reason, Some(EndReason::Halted));
}

#[tokio::test(start_paused = true)]
async fn without_a_keeper_only_what_the_kernel_ends_is_made() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    system.add_target(7);
    let mut rig = Rig::start(folder.path(), &system).await;
    rig.keeper.is_dead.store(true, Ordering::Relaxed);
    let (one, two) = (pause("r1.a.0", 7), partition("r1.a.1", 7));
    rig.agent.inject(&one, 30_000).await;
    let status = rig.agent.sees(&one, InjectionPhase::Failed).await;
    assert!(status.message.contains("no keeper today"), "{}", status.message);
    rig.agent.inject(&two, 30_000).await;
    rig.agent.sees(&two, InjectionPhase::Injected).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_ends_does_not_wait_for_the_keeper() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    system.add_target(7);
    let mut rig = Rig::start(folder.path(), &system).await;
    *rig.keeper.follows.lock().unwrap() = Some(system.clone());
    let begun = std::time::Instant::now();
    let one = partition("r1.a.0", 7);
    rig.agent.inject(&one, 30_000).await;
    rig.agent.sees(&one, InjectionPhase::Injected).await;
    assert!(begun.elapsed() < Duration::from_secs(30), "the keeper came first");
}

#[tokio::test(start_paused = true)]
async fn a_keeper_that_hangs_holds_up_no_stop_of_what_the_kernel_ends() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    system.add_target(7);
    let mut rig = Rig::start(folder.path(), &system).await;
    rig.keeper.hangs.store(true, Ordering::Relaxed);
    let one = partition("r1.a.0", 7);
    rig.agent.inject(&one, 30_000).await;
    rig.agent.sees(&one, InjectionPhase::Injected).await;
    rig.agent.send(NodeDown::Revert { injection: one.id.clone(), reason: "Stopped".into() }).await;
    assert_eq!(rig.agent.sees(&one, InjectionPhase::Reverted).await.reason, Some(EndReason::Stopped));
    assert_eq!(system.things(), 0);
    assert!(rig.keeper.hangs.swap(false, Ordering::Relaxed), "the keeper was waited for");
}

/// A lookup of containers costs a runtime call for each.
#[tokio::test(start_paused = true)]
async fn only_faults_of_a_container_ask_for_containers() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    for pid in [7, 8] {
        system.add_target(pid);
    }
    let mut rig = Rig::start(folder.path(), &system).await;
    for (one, sandboxes) in [(pause("r1.a.0", 7), 0), (partition("r1.a.1", 8), 1)] {
        rig.agent.inject(&one, 30_000).await;
        rig.agent.sees(&one, InjectionPhase::Injected).await;
        assert_eq!(rig.resolver.of_sandboxes.load(Ordering::Relaxed), sandboxes, "{}", one.id);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_half_way_leaves_nothing() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    system.add_target(7);
    let mut rig = Rig::start(folder.path(), &system).await;
    system.fail_next("no space for a table");
    let one = partition("r1.a.0", 7);
    rig.agent.inject(&one, 30_000).await;
    let status = rig.agent.sees(&one, InjectionPhase::Failed).await;
    assert!(status.message.contains("no space for a table"), "{}", status.message);
    assert_eq!(rig.system.things(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_someone_else_removes_is_not_called_injected_any_more() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    let target = system.add_target(7);
    let one = partition("r1.a.0", 7);
    let mut rig = Rig::start(folder.path(), &system).await;
    rig.agent.inject(&one, 60_000).await;
    rig.agent.sees(&one, InjectionPhase::Injected).await;
    let (_, loaded) = (0, std::fs::read_to_string(folder.path().join("journal/r1.a.0.json")).unwrap());
    let name = TableSpec::name_for(&format!("{:016x}", table_number(&one.id)));
    assert!(loaded.contains(&name));
    system.count_packets(&target.netns, &name, 3);
    while rig.agent.told[&one.id].last().unwrap().effect != Some(proto::injection::Effect::Seen) {
        rig.agent.listen().await;
    }
    system.lose_table(&target.netns, &name);
    let status = rig.agent.sees(&one, InjectionPhase::Reverted).await;
    assert_eq!(status.reason, Some(EndReason::Error));
    assert!(status.message.contains("packet table"), "{}", status.message);

    let two = pause("r1.a.1", 7);
    rig.agent.inject(&two, 60_000).await;
    rig.agent.sees(&two, InjectionPhase::Injected).await;
    system.lose_target(7);
    let status = rig.agent.sees(&two, InjectionPhase::TargetGone).await;
    assert_eq!(status.reason, Some(EndReason::TargetGone));
    let three = pause("r1.a.2", 7);
    rig.agent.inject(&three, 60_000).await;
    rig.agent.sees(&three, InjectionPhase::TargetGone).await;
}

fn table_number(id: &InjectionId) -> u64 {
    use sha2::{Digest, Sha256};
    Sha256::digest(id.as_str().as_bytes())
        .iter()
        .take(8)
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[tokio::test(start_paused = true)]
async fn a_keeper_lost_on_the_way_is_said() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    system.add_target(7);
    let mut rig = Rig::start(folder.path(), &system).await;
    let one = pause("r1.a.0", 7);
    rig.agent.inject(&one, 60_000).await;
    rig.agent.sees(&one, InjectionPhase::Injected).await;
    rig.keeper.is_dead.store(true, Ordering::Relaxed);
    let status = rig.agent.sees(&one, InjectionPhase::Unknown).await;
    assert!(status.message.contains("no keeper today") && status.resolves_at_unix_ms.is_some());
    rig.agent.sees(&one, InjectionPhase::Reverted).await;
    assert_eq!(system.things(), 0);
}
