//! What must hold, each seen from outside the target.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node_daemon::keeper::group_name;
use node_daemon::system::cgroup::{self, FreezerState};
use node_daemon::system::clock::boottime_ms;
use node_daemon::system::kernel::KernelSystem;
use node_daemon::system::target::{Roots, identify};
use proto::experiment::LinkLossAction;
use proto::fault::{Direction, PartitionHow};
use proto::injection::{Action, EndReason, Injection, InjectionPhase, InjectionStatus, TargetRef};
use proto::workloads::Workload;

use crate::child::{Daemon, NODE};
use crate::lab::{Ended, Lab, eventually};

const LATENCY: Duration = Duration::from_millis(200);
const FAR: &str = "10.77.0.2";
/// On a busy machine a fault is seen to end this much after its deadline at most.
const LATE_AT_MOST_MS: u64 = 1500;
/// The kernel counts in ticks.
const EARLY_AT_MOST_MS: i64 = 20;
/// In which a fault is made and looked at on a busy machine.
const ROOM_MS: u64 = 4000;

/// Two namespaces, a process in the far one with a cgroup of its own, and a state directory.
struct Scene {
    lab: Lab,
    victim: Ended,
    group: String,
    folder: tempfile::TempDir,
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A keeper that failed a test must not outlive it.
        if let Some(pid) = self.keeper() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.victim.0.kill();
        let _ = self.victim.0.wait();
        // What was killed may take a moment to leave its group.
        let roots = Roots::default();
        for group in [&self.group, &group_name(NODE, &self.state_dir())] {
            for _ in 0..100 {
                if cgroup::disown(&roots, group).is_ok_and(|busy| busy.is_empty()) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn injection(id: &str, action: Action, backend: &str) -> Injection {
    let target = TargetRef {
        namespace: "shop".into(),
        pod: "web".into(),
        uid: Workload::uid("shop", "web"),
        node: "n1".into(),
        ips: vec![],
    };
    Injection {
        id: id.parse().unwrap(),
        run: "r1".parse().unwrap(),
        target,
        container: None,
        action,
        backend: backend.into(),
        link_loss_after_ms: 60_000,
        link_loss: LinkLossAction::RunToDeadline,
        trace: proto::trace::TraceContext::NONE,
    }
}

fn pause(id: &str) -> Injection {
    injection(id, Action::ContainerPause, "freezer")
}

fn stress(id: &str) -> Injection {
    injection(id, Action::CpuStress { workers: 1, load_percent: 60 }, "cgroup-worker")
}

fn partition(id: &str) -> Injection {
    let action =
        Action::NetworkPartition { direction: Direction::Both, peers: vec![], how: PartitionHow::Drop };
    injection(id, action, "nftables")
}

fn delay(id: &str) -> Injection {
    let action = Action::NetworkDelay {
        direction: Direction::Egress,
        peers: vec![],
        latency_ms: LATENCY.as_millis() as u64,
        jitter_ms: 0,
        correlation_percent: 0,
    };
    injection(id, action, "nfqueue")
}

impl Scene {
    fn new() -> Self {
        let (lab, folder) = (Lab::new(), tempfile::tempdir().unwrap());
        let tally = folder.path().join("tally");
        let mut command = lab.in_far("sh -c");
        command
            .arg(format!("while :; do echo x >> {}; sleep 0.02; done", tally.display()))
            .stdout(Stdio::null());
        let victim = Ended(command.spawn().unwrap());
        let pid = victim.0.id() as i32;
        let group = format!("fltest-{pid}");
        let _ = cgroup::own(&Roots::default(), &group, pid);
        let scene = Self { lab, victim, group, folder };
        eventually("the victim works", || scene.tally() > 0);
        let text = format!("workloads:\n  - {{ name: web, namespace: shop, pid: {pid} }}\n");
        std::fs::write(scene.workloads(), text).unwrap();
        scene
    }

    fn workloads(&self) -> PathBuf {
        self.folder.path().join("workloads.yaml")
    }

    fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn daemon(&self) -> Daemon {
        Daemon::start(&self.state_dir(), &self.workloads())
    }

    fn victim(&self) -> i32 {
        self.victim.0.id() as i32
    }

    fn tally(&self) -> u64 {
        std::fs::metadata(self.folder.path().join("tally")).map_or(0, |file| file.len())
    }

    /// Nothing is written for half a second; says nothing of a victim that works, which may have to wait as well.
    fn is_standing_still(&self) -> bool {
        let before = self.tally();
        std::thread::sleep(Duration::from_millis(500));
        self.tally() == before
    }

    fn is_frozen(&self) -> bool {
        let target = identify(&Roots::default(), self.victim()).unwrap();
        cgroup::read_freezer(&target.cgroup).unwrap() == Some(FreezerState::Frozen)
    }

    /// Processor time, in ticks, of each worker of ours in the victim's group.
    fn burners(&self) -> Vec<u64> {
        let target = identify(&Roots::default(), self.victim()).unwrap();
        let procs = target.cgroup.cpu_directories().swap_remove(0).join("cgroup.procs");
        let pids = std::fs::read_to_string(procs).unwrap();
        let ticks = |pid: &str| {
            let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
            read("cmdline")?.contains("\0cpu-stress\0").then_some(())?;
            // Of user and system, the 14th and 15th word; what follows the name begins with the third.
            let stat = read("stat")?;
            let words = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2);
            Some(words.filter_map(|word| word.parse::<u64>().ok()).sum())
        };
        pids.lines().filter_map(ticks).collect()
    }

    fn is_cut(&self) -> bool {
        self.lab.rtt(FAR).is_none()
    }

    fn is_delayed(&self) -> bool {
        self.lab.shortest_rtt(FAR).is_some_and(|rtt| rtt >= LATENCY)
    }

    fn tables(&self) -> Vec<String> {
        KernelSystem::new(Roots::default()).list_tables(&self.lab.far()).unwrap()
    }

    /// It may start only while the fault is made, where the kernel ends that.
    #[track_caller]
    fn living_keeper(&self) -> i32 {
        eventually("a keeper lives while faults are", || self.keeper().is_some());
        self.keeper().expect("it stays while faults are")
    }

    fn keeper(&self) -> Option<i32> {
        let text = std::fs::read_to_string(self.state_dir().join("keeper.json")).ok()?;
        let identity: serde_json::Value = serde_json::from_str(&text).ok()?;
        let pid = identity["process"]["pid"].as_i64()? as i32;
        PathBuf::from(format!("/proc/{pid}")).exists().then_some(pid)
    }

    /// Nothing of ours is on the node, the victim works and traffic flows undelayed.
    #[track_caller]
    fn is_undisturbed(&self) {
        assert_eq!(self.tables(), Vec::<String>::new());
        assert!(!self.is_frozen() && self.burners().is_empty());
        let before = self.tally();
        eventually("the victim works", || self.tally() > before);
        self.lab.undelayed(FAR, LATENCY);
    }

    /// And nothing is in the journal.
    #[track_caller]
    fn is_clean(&self) {
        eventually("no record is left", || {
            let entries = std::fs::read_dir(self.state_dir().join("journal")).unwrap();
            entries.flatten().all(|entry| entry.path().extension().is_none_or(|ending| ending != "json"))
        });
        self.is_undisturbed();
    }

    /// Its work done the keeper leaves, with its cgroup.
    #[track_caller]
    fn keeper_has_left(&self) {
        eventually("the keeper leaves", || self.keeper().is_none());
        self.keepers_groups_are_gone();
    }

    #[track_caller]
    fn keepers_groups_are_gone(&self) {
        eventually("its cgroup is gone", || self.keepers_groups().iter().all(|path| !path.exists()));
    }

    /// Where the keeper of this state directory is, in every hierarchy. Others of this machine are not looked at.
    fn keepers_groups(&self) -> Vec<PathBuf> {
        let name = group_name(NODE, &self.state_dir());
        cgroup::hierarchies(&Roots::default()).unwrap().iter().map(|top| top.join(&name)).collect()
    }
}

fn wall_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// When the daemon says that it ends, which is somewhat early: by the time it took to ask the agent's clock.
#[track_caller]
fn deadline_of(status: &InjectionStatus) -> i64 {
    status.resolves_at_unix_ms.expect("it says until when")
}

#[track_caller]
fn assert_in_time(over_ms: i64, deadline_ms: i64) {
    let after_ms = over_ms - deadline_ms;
    assert!(
        (-EARLY_AT_MOST_MS..=LATE_AT_MOST_MS as i64).contains(&after_ms),
        "{after_ms} ms after its deadline"
    );
}

pub(crate) fn every_kind_is_felt_and_gone_at_its_deadline() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    let cases: [(Injection, &dyn Fn() -> bool); 4] = [
        (partition("r1.partition.0"), &|| scene.is_cut()),
        (pause("r1.pause.0"), &|| scene.is_standing_still()),
        (delay("r1.delay.0"), &|| scene.is_delayed()),
        (stress("r1.stress.0"), &|| {
            eventually("processor time is burnt", || scene.burners().iter().any(|ticks| *ticks >= 20));
            true
        }),
    ];
    for (injection, is_felt) in cases {
        scene.is_undisturbed();
        let started = boottime_ms();
        daemon.inject(&injection, ROOM_MS);
        let deadline = deadline_of(&daemon.sees(&injection, InjectionPhase::Injected));
        let made = boottime_ms() - started;
        assert!(is_felt(), "{} is not felt", injection.id);
        let status = daemon.sees(&injection, InjectionPhase::Reverted);
        assert_eq!(status.reason, Some(EndReason::Deadline));
        let lasted = boottime_ms() - started;
        println!("{}: injected after {made} ms, over after {lasted} ms", injection.id);
        assert!(lasted < ROOM_MS + LATE_AT_MOST_MS);
        assert_in_time(status.reverted_at_unix_ms.unwrap(), deadline);
        scene.is_undisturbed();
    }
    // And by a stop, long before.
    let injection = partition("r1.partition.1");
    daemon.inject(&injection, 60_000);
    daemon.sees(&injection, InjectionPhase::Injected);
    daemon.revert(&injection);
    assert_eq!(daemon.sees(&injection, InjectionPhase::Reverted).reason, Some(EndReason::Stopped));
    scene.is_clean();
    scene.keeper_has_left();
}

pub(crate) fn a_drain_reverts_everything() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    let all = [partition("r1.a.0"), pause("r1.b.0"), delay("r1.c.0")];
    for injection in &all {
        daemon.inject(injection, 60_000);
        daemon.sees(injection, InjectionPhase::Injected);
    }
    assert!(scene.is_frozen() && scene.is_cut());
    let started = boottime_ms();
    assert!(daemon.drain().success());
    println!("drained in {} ms", boottime_ms() - started);
    scene.is_clean();
    scene.keeper_has_left();
}

/// The promise itself: nobody of ours is alive but the kernel's timer and the keeper.
pub(crate) fn a_killed_daemon_left_dead_is_clean_at_the_deadline() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    let all = [partition("r1.a.0"), pause("r1.b.0")];
    let ends = boottime_ms() + 6000;
    let deadlines = all.each_ref().map(|injection| {
        daemon.inject(injection, ends - boottime_ms());
        deadline_of(&daemon.sees(injection, InjectionPhase::Injected))
    });
    daemon.kill();
    assert!(scene.is_frozen() && scene.is_cut(), "a killed daemon undoes nothing");
    eventually("it is thawed", || !scene.is_frozen());
    let thawed = wall_ms();
    scene.lab.flows(FAR);
    let flows = wall_ms();
    println!("flowing {} ms, thawed {} ms after the deadline", flows - deadlines[0], thawed - deadlines[1]);
    assert_in_time(flows, deadlines[0]);
    assert_in_time(thawed, deadlines[1]);
    scene.is_clean();
    scene.keeper_has_left();
    // Back again it starts nothing and knows what happened.
    let mut daemon = scene.daemon();
    for injection in &all {
        let status = daemon.sees(injection, InjectionPhase::Reverted);
        assert_eq!((status.reason, status.message.as_str()), (Some(EndReason::Deadline), "by the keeper"));
        daemon.inject(injection, 60_000);
        daemon.sees(injection, InjectionPhase::Reverted);
    }
    scene.is_clean();
}

/// Before, during and after the apply, and in the middle of the undo, as the moments fall. Each fault ends by its
/// deadline without any daemon; what is left of one that ended in the kernel may wait for the next daemon, where this
/// one was killed before its keeper was there.
pub(crate) fn a_daemon_killed_at_any_moment_leaves_nothing() {
    let scene = Scene::new();
    for round in 0..14u64 {
        let mut daemon = scene.daemon();
        let all = [partition(&format!("r1.a.{round}")), pause(&format!("r1.b.{round}"))];
        // Known to be there: both a first message and a journal.
        let first = partition(&format!("r1.first.{round}"));
        daemon.revert(&first);
        daemon.sees(&first, InjectionPhase::Refused);
        assert_eq!(scene.tables(), Vec::<String>::new(), "round {round}: this daemon has recovered");
        let is_undoing = round >= 9;
        // Where it must have been made first there is room for that.
        let lasts_ms = if is_undoing { ROOM_MS } else { 2000 };
        let deadline = boottime_ms() + lasts_ms;
        for injection in &all {
            daemon.inject(injection, lasts_ms);
        }
        if is_undoing {
            daemon.sees(&all[1], InjectionPhase::Injected);
            for injection in &all {
                daemon.revert(injection);
            }
        }
        std::thread::sleep(Duration::from_millis(round % 9 * 7));
        daemon.kill();
        eventually("it is thawed", || !scene.is_frozen());
        scene.lab.flows(FAR);
        let over = boottime_ms();
        assert!(over <= deadline + LATE_AT_MOST_MS, "round {round}: {} ms late", over - deadline);
    }
    assert!(scene.daemon().drain().success());
    scene.is_clean();
    scene.keeper_has_left();
}

pub(crate) fn daemon_and_keeper_killed_the_next_daemon_reverts() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    let all = [partition("r1.a.0"), pause("r1.b.0")];
    for injection in &all {
        daemon.inject(injection, 60_000);
        daemon.sees(injection, InjectionPhase::Injected);
    }
    let keeper = scene.keeper().expect("a keeper lives while faults are");
    daemon.kill();
    kill(Pid::from_raw(keeper), Signal::SIGKILL).unwrap();
    eventually("the keeper is dead", || scene.keeper().is_none());
    assert!(scene.is_frozen() && scene.is_cut());
    let mut daemon = scene.daemon();
    for injection in &all {
        let status = daemon.sees(injection, InjectionPhase::Reverted);
        assert_eq!(status.reason, Some(EndReason::DaemonRestart));
    }
    scene.is_clean();
}

/// SIGKILL, and nothing of it runs or holds a lock any more; its parent may not have looked yet.
#[track_caller]
fn kill_for_certain(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let stat = format!("/proc/{pid}/stat");
    eventually("it is dead", || std::fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z ")));
}

pub(crate) fn a_dead_keeper_is_replaced() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    let (one, two) = (partition("r1.a.0"), pause("r1.b.0"));
    daemon.inject(&one, 60_000);
    daemon.sees(&one, InjectionPhase::Injected);
    let original = scene.living_keeper();
    kill_for_certain(original);
    // By the next look at what is active, without anything new.
    eventually("a new one is started", || scene.keeper().is_some_and(|pid| pid != original));
    // Perhaps before the daemon, which waits for it to be ready, has seen it.
    let first = scene.keeper().unwrap();
    kill_for_certain(first);
    daemon.inject(&two, 8000);
    daemon.sees(&two, InjectionPhase::Injected);
    let second = scene.keeper().expect("a keeper lives while faults are");
    assert_ne!(first, second);
    daemon.kill();
    eventually("the new one thaws", || !scene.is_frozen());
    // It knows the older record as well, which has time left.
    assert!(scene.is_cut() && scene.keeper() == Some(second));
    assert!(scene.daemon().drain().success());
    scene.is_clean();
    scene.keeper_has_left();
}

/// Nothing of the state is left on disk, and the daemon is dead: what the keeper has read is undone in time, and then
/// it leaves.
pub(crate) fn a_keeper_whose_state_was_deleted_reverts_and_leaves() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    let one = pause("r1.a.0");
    daemon.inject(&one, ROOM_MS);
    let deadline = deadline_of(&daemon.sees(&one, InjectionPhase::Injected));
    let keeper = format!("/proc/{}/cmdline", scene.keeper().expect("a keeper lives while faults are"));
    daemon.kill();
    eventually("the state is deleted", || {
        // The keeper may make a file in it meanwhile.
        let _ = std::fs::remove_dir_all(scene.state_dir());
        !scene.state_dir().exists()
    });
    assert!(scene.is_frozen());
    eventually("it is thawed", || !scene.is_frozen());
    assert_in_time(wall_ms(), deadline);
    eventually("the keeper leaves", || std::fs::read(&keeper).map_or(true, |words| words.is_empty()));
    scene.keepers_groups_are_gone();
    assert!(!scene.state_dir().exists(), "nobody makes it again");
}

/// A daemon that hangs is as good as dead.
pub(crate) fn a_stopped_daemon_does_not_hold_a_fault() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    let one = pause("r1.a.0");
    daemon.inject(&one, ROOM_MS);
    let deadline = deadline_of(&daemon.sees(&one, InjectionPhase::Injected));
    kill(Pid::from_raw(daemon.pid()), Signal::SIGSTOP).unwrap();
    eventually("it is thawed", || !scene.is_frozen());
    let over = wall_ms();
    println!("thawed {} ms after the deadline", over - deadline);
    assert_in_time(over, deadline);
    kill(Pid::from_raw(daemon.pid()), Signal::SIGCONT).unwrap();
    daemon.sees(&one, InjectionPhase::Reverted);
    scene.is_clean();
}

/// What needs a living worker ends with the daemon, before its deadline; the rest is swept up then.
pub(crate) fn workers_end_with_their_daemon() {
    let scene = Scene::new();
    let mut daemon = scene.daemon();
    let all = [delay("r1.a.0"), stress("r1.b.0")];
    let deadlines = all.each_ref().map(|injection| {
        daemon.inject(injection, 6000);
        deadline_of(&daemon.sees(injection, InjectionPhase::Injected))
    });
    assert!(scene.is_delayed());
    // It sweeps up in the end.
    scene.living_keeper();
    daemon.kill();
    scene.lab.undelayed(FAR, LATENCY);
    eventually("the burning is over", || scene.burners().is_empty());
    println!("over {} ms before the deadline", deadlines[0] - wall_ms());
    scene.is_clean();
    scene.keeper_has_left();
    assert!(wall_ms() >= deadlines[1], "the records stay until the deadline");
}
