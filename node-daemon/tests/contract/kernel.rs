//! The contract on this machine's kernel, and its cgroups.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use node_daemon::step::{Effect, Observation, Step, Undone, Window, apply, read_back, undo};
use node_daemon::system::kernel::KernelSystem;
use node_daemon::system::nft::{Hook, Peer, RuleSpec, Side, TableSpec, Verdict};
use node_daemon::system::target::{Roots, Target};
use node_daemon::system::tc::NetemSpec;
use node_daemon::system::{Error, System, cgroup, netns, probe};

use crate::lab::{Ended, Lab, eventually};
use crate::rules::{self, Ground};

/// A process in a network namespace and cgroups of its own; it echoes what it is sent.
pub(crate) struct Victim {
    pub(crate) target: Target,
    group: String,
    process: Option<Ended>,
    input: ChildStdin,
    output: ChildStdout,
}

impl Victim {
    pub(crate) fn new(system: &dyn System) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let pid = child.id() as i32;
        let group = format!("fltest-{pid}");
        cgroup::own(&Roots::default(), &group, pid).unwrap();
        let process = Some(Ended(child));
        let mut victim = Self { target: system.identify(pid).unwrap(), group, process, input, output };
        // Its answer means that it has left our namespace.
        assert!(victim.answers(Duration::from_secs(5)));
        victim.target = system.identify(pid).unwrap();
        victim
    }

    /// Sends a byte and says whether one came back in that time.
    pub(crate) fn answers(&mut self, within: Duration) -> bool {
        self.input.write_all(b"x").unwrap();
        self.echoed(within)
    }

    fn echoed(&mut self, within: Duration) -> bool {
        let mut fds = [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::try_from(within).unwrap()).unwrap() > 0;
        ready && self.output.read(&mut [0; 1]).unwrap() == 1
    }

    /// Ends the process and removes its groups.
    pub(crate) fn lose(&mut self) {
        self.process = None;
        let gone = || cgroup::disown(&Roots::default(), &self.group).unwrap().is_empty();
        eventually("the groups of an ended process are empty", gone);
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = cgroup::thaw(&self.target.cgroup);
        self.process = None;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(5)
            && !cgroup::disown(&Roots::default(), &self.group).is_ok_and(|busy| busy.is_empty())
        {
            std::thread::yield_now();
        }
    }
}

struct KernelGround {
    system: KernelSystem,
    victims: std::sync::Mutex<Vec<Victim>>,
}

impl Ground for KernelGround {
    fn system(&self) -> &dyn System {
        &self.system
    }

    fn new_target(&self) -> Target {
        let victim = Victim::new(&self.system);
        let target = victim.target.clone();
        self.victims.lock().unwrap().push(victim);
        target
    }

    fn lose(&self, target: &Target) {
        let mut victims = self.victims.lock().unwrap();
        victims.iter_mut().filter(|victim| victim.target == *target).for_each(Victim::lose);
        victims.retain(|victim| victim.target != *target);
    }

    fn pass(&self, time: Duration) {
        let until_ms = self.system.boottime_ms() + time.as_millis() as u64;
        eventually("time passes", || self.system.boottime_ms() >= until_ms);
    }
}

pub(crate) fn keeps_the_contract() {
    let system = KernelSystem::new(Roots::default());
    rules::check(&KernelGround { system, victims: std::sync::Mutex::default() });
}

/// Netem that only packets of a timed set get to, as a delay fault orders it.
pub(crate) fn netem_delays_or_is_refused_without_a_trace() {
    let lab = Lab::new();
    let system = KernelSystem::new(Roots::default());
    let netem = NetemSpec {
        device: "eth0".to_owned(),
        latency_us: 200_000,
        jitter_us: 10_000,
        correlation_percent: 25,
        limit_packets: 1000,
    };
    let tree = Step::NetemTree { netns: lab.far(), netem: netem.clone() };
    let now_ms = system.boottime_ms();
    let window = Window { now_ms, deadline_ms: now_ms + 6000 };
    let applied = apply(&system, &tree, window);
    let known = probe::run(&Roots::default(), None);
    if known.has(probe::NETEM) && known.has(probe::PRIO) {
        applied.unwrap();
        netem_works(&lab, &system, &tree, window);
    } else {
        assert!(matches!(applied, Err(Error::Missing { .. })), "{applied:?}");
    }
    assert_eq!(undo(&system, &tree), Undone::Clean);
    assert_eq!(read_back(&system, &tree).unwrap(), Observation::Absent);

    // A root qdisc that somebody set up is neither replaced nor deleted.
    assert!(lab.in_far("tc qdisc add dev eth0 root handle 1: htb").status().unwrap().success());
    assert!(matches!(system.install_netem(&lab.far(), &netem), Err(Error::Foreign { .. })));
    system.remove_netem(&lab.far(), "eth0").unwrap();
    let shown = lab.in_far("tc qdisc show dev eth0").output().unwrap();
    assert!(String::from_utf8_lossy(&shown.stdout).contains("htb 1: root"));
}

fn netem_works(lab: &Lab, system: &KernelSystem, tree: &Step, window: Window) {
    assert_eq!(read_back(system, tree).unwrap(), Observation::Intended(Effect::NoTraffic));
    let (far, latency) = ("10.77.0.2", Duration::from_millis(190));
    lab.undelayed(far, latency);
    let peers = vec![Peer { cidr: "10.0.0.0/8".parse().unwrap(), ports: vec![] }];
    let rule = RuleSpec {
        hook: Hook::Postrouting,
        peer: Side::Destination,
        port: Side::Destination,
        peers,
        verdict: Verdict::Priority { class: NetemSpec::class() },
        spare_loopback: true,
    };
    let table = TableSpec { name: TableSpec::name_for("netem"), rules: vec![rule] };
    let classify = Step::NftTable { netns: lab.far(), table };
    apply(system, &classify, window).unwrap();
    assert_eq!(read_back(system, &classify).unwrap(), Observation::Intended(Effect::NoTraffic));
    let during = lab.shortest_rtt(far).unwrap();
    println!("netem round trip: {during:?}");
    assert!(during >= latency);
    lab.undelayed("fd77::2", latency);
    assert_eq!(read_back(system, tree).unwrap(), Observation::Intended(Effect::Seen));
    // The set ends and with it the delay.
    lab.undelayed(far, latency);
    assert!(system.boottime_ms() + 50 >= window.deadline_ms, "not before its time");
    assert_eq!(undo(system, &classify), Undone::Clean);
}

pub(crate) fn a_frozen_process_stops_and_goes_on() {
    let system = KernelSystem::new(Roots::default());
    let mut victim = Victim::new(&system);
    let target = victim.target.clone();
    system.freeze(&target.process, &target.cgroup).unwrap();
    assert!(!victim.answers(Duration::from_millis(300)));
    system.thaw(&target.cgroup).unwrap();
    assert!(victim.echoed(Duration::from_secs(5)), "what was sent meanwhile is answered");

    let mut other = target.process.clone();
    other.start_ticks += 1;
    assert!(matches!(system.freeze(&other, &target.cgroup), Err(Error::TargetGone { .. })));
    assert!(matches!(system.freeze(&target.process, &rules::nowhere()), Err(Error::TargetGone { .. })));
    system.thaw(&rules::nowhere()).unwrap();
    assert!(victim.answers(Duration::from_secs(5)));
}

pub(crate) fn an_own_group_is_outside_of_every_other() {
    let roots = Roots::default();
    let name = format!("fltest-keeper-{}", std::process::id());
    let process = Ended(Command::new("sleep").arg("300").spawn().unwrap());
    let pid = process.0.id() as i32;
    cgroup::own(&roots, &name, pid).unwrap();
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(text.lines().all(|line| line.ends_with(&format!(":/{name}"))), "{text}");
    let tops = cgroup::hierarchies(&roots).unwrap().len();
    assert_eq!(text.lines().count(), tops);
    assert_eq!(cgroup::disown(&roots, &name).unwrap().len(), tops, "not removed while it is in use");
    drop(process);
    eventually("an empty group is removed", || cgroup::disown(&roots, &name).unwrap().is_empty());
    assert!(cgroup::hierarchies(&roots).unwrap().iter().all(|top| !top.join(&name).exists()));
}

/// Two daemons may be in one process.
pub(crate) fn probes_leave_nothing_behind_and_each_other_alone() {
    let run = || probe::run(&Roots::default(), None);
    let found = run();
    std::thread::scope(|scope| {
        let probes: Vec<_> = (0..8).map(|_| scope.spawn(run)).collect();
        for beside in probes {
            assert_eq!(beside.join().unwrap(), found);
        }
    });
    for capability in &found.capabilities {
        println!("{}: {} ({})", capability.name, capability.present, capability.detail);
    }
    assert!(
        found.has(probe::NFT)
            && found.has(probe::QUEUE)
            && found.has(probe::FREEZER)
            && found.has(probe::KEEPER)
    );
    assert!(!found.kernel_release.is_empty() && found.boot_id.len() == 36);
    let here = std::path::Path::new("/proc/self/ns/net");
    let own =
        node_daemon::system::target::NetnsRef { path: here.into(), cookie: netns::cookie(here).unwrap() };
    let system = KernelSystem::new(Roots::default());
    assert_eq!(system.list_tables(&own).unwrap(), Vec::<String>::new());
    for top in cgroup::hierarchies(&Roots::default()).unwrap() {
        let own = format!("faultline.probe.{}.", std::process::id());
        let names = std::fs::read_dir(top).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with(&own)).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
