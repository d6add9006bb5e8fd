//! Workers: what they do to a target, and what is left when they, or their daemon, die.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node_daemon::step::{Effect, Observation, Step, Undone, Window, apply, read_back, undo};
use node_daemon::system::kernel::KernelSystem;
use node_daemon::system::nft::{Hook, Peer, RuleSpec, Side, TableSpec, Verdict};
use node_daemon::system::target::{NetnsRef, Roots};
use node_daemon::system::{System, cgroup};
use node_daemon::worker::spec::{Delay, Work, WorkerSpec};

use crate::kernel::Victim;
use crate::lab::{Ended, Lab, eventually};

const LATENCY: Duration = Duration::from_millis(200);
const FAR: &str = "10.77.0.2";

/// Worker first, then the rule that feeds it: the order of a delay fault.
fn delay_steps(netns: &NetnsRef, id: &str) -> [Step; 2] {
    let delay =
        Delay { latency_us: LATENCY.as_micros() as u64, jitter_us: 0, correlation_percent: 0, seed: 1 };
    delay_steps_of(netns, id, delay)
}

fn delay_steps_of(netns: &NetnsRef, id: &str, delay: Delay) -> [Step; 2] {
    let name = TableSpec::name_for(id);
    let work =
        Work::Nfqueue { netns: netns.clone(), table: name.clone(), queue: 11, delay, max_packets: 1000 };
    let everything = ["0.0.0.0/0", "::/0"].map(|cidr| Peer { cidr: cidr.parse().unwrap(), ports: vec![] });
    let rule = RuleSpec {
        hook: Hook::Postrouting,
        peer: Side::Destination,
        port: Side::Destination,
        peers: everything.into(),
        verdict: Verdict::Queue { number: 11 },
        spare_loopback: true,
    };
    let worker = WorkerSpec { id: id.to_owned(), work };
    let table = TableSpec { name, rules: vec![rule] };
    [Step::Worker { worker }, Step::NftTable { netns: netns.clone(), table }]
}

fn start(system: &KernelSystem, steps: &[Step], left_ms: u64) {
    let now_ms = system.boottime_ms();
    for step in steps {
        apply(system, step, Window { now_ms, deadline_ms: now_ms + left_ms }).unwrap();
    }
}

fn is_delayed(lab: &Lab) -> bool {
    let rtt = lab.shortest_rtt(FAR);
    println!("round trip: {rtt:?}");
    rtt.is_some_and(|rtt| rtt >= LATENCY)
}

fn worker_pid(system: &KernelSystem, id: &str) -> Pid {
    Pid::from_raw(system.read_worker(id).unwrap().unwrap().process.pid)
}

pub(crate) fn a_queue_delays_a_round_trip() {
    let lab = Lab::new();
    let system = KernelSystem::new(Roots::default());
    let steps = delay_steps(&lab.far(), "round-trip");
    lab.undelayed(FAR, LATENCY);
    start(&system, &steps, 60_000);
    let during = lab.shortest_rtt(FAR).unwrap();
    let during6 = lab.shortest_rtt("fd77::2").unwrap();
    println!("round trip: {during:?} (v6 {during6:?})");
    assert!(during >= LATENCY && during6 >= LATENCY);
    for step in &steps {
        let counted = || read_back(&system, step).unwrap() == Observation::Intended(Effect::Seen);
        eventually("the effect is counted", counted);
    }
    for step in steps.iter().rev() {
        assert_eq!(undo(&system, step), Undone::Clean);
    }
    lab.undelayed(FAR, LATENCY);
}

/// What is sent waits in its sender's buffer meanwhile (TCP small queues), which slows a stream down more
/// than its round trip says; what is received does not.
pub(crate) fn a_delayed_stream_arrives_whole() {
    let lab = Lab::new();
    let system = KernelSystem::new(Roots::default());
    let sent: Vec<u8> = (0..4_000_000u32).map(|number| (number / 3) as u8).collect();
    for (netns, hook) in [(lab.far(), Hook::Postrouting), (lab.near(), Hook::Input)] {
        let delay = Delay { latency_us: 5000, jitter_us: 2000, correlation_percent: 25, seed: 9 };
        let mut steps = delay_steps_of(&netns, "stream", delay);
        if let Step::NftTable { table, .. } = &mut steps[1] {
            let peer = if hook == Hook::Input { Side::Source } else { Side::Destination };
            table.rules[0] = RuleSpec { hook, peer, ..table.rules[0].clone() };
        }
        start(&system, &steps, 60_000);
        let started = Instant::now();
        let received = lab.stream(&sent);
        println!("{} bytes in {:?} under a delay of 5 ms at {hook:?}", sent.len(), started.elapsed());
        assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
        for step in steps.iter().rev() {
            assert_eq!(undo(&system, step), Undone::Clean);
        }
    }
}

pub(crate) fn a_worker_ends_with_its_namespace() {
    let system = KernelSystem::new(Roots::default());
    let mut victim = Victim::new(&system);
    let steps = delay_steps(&victim.target.netns, "namespace");
    start(&system, &steps, 60_000);
    assert!(matches!(read_back(&system, &steps[0]).unwrap(), Observation::Intended(_)));
    victim.lose();
    assert_eq!(read_back(&system, &steps[1]).unwrap(), Observation::TargetGone);
    eventually("the worker ends", || read_back(&system, &steps[0]).unwrap() == Observation::Absent);
}

pub(crate) fn a_killed_worker_lets_traffic_flow() {
    let lab = Lab::new();
    let system = KernelSystem::new(Roots::default());
    let steps = delay_steps(&lab.far(), "killed");
    start(&system, &steps, 60_000);
    assert!(is_delayed(&lab));
    kill(worker_pid(&system, "killed"), Signal::SIGKILL).unwrap();
    lab.undelayed(FAR, LATENCY);
    eventually("the death is seen", || read_back(&system, &steps[0]).unwrap() == Observation::Absent);
    for step in steps.iter().rev() {
        assert_eq!(undo(&system, step), Undone::Clean);
    }
}

pub(crate) fn a_worker_ends_at_its_deadline() {
    let lab = Lab::new();
    let system = KernelSystem::new(Roots::default());
    let steps = delay_steps(&lab.far(), "deadline");
    let started = Instant::now();
    start(&system, &steps, 4000);
    assert!(is_delayed(&lab));
    eventually("the worker ends", || read_back(&system, &steps[0]).unwrap() == Observation::Absent);
    assert!(started.elapsed() > Duration::from_millis(3900));
    lab.undelayed(FAR, LATENCY);
    eventually("it took its table away", || read_back(&system, &steps[1]).unwrap() == Observation::Absent);
}

/// A process that starts a delay and then waits to be killed: `daemon <netns path> <cookie>`.
pub(crate) fn daemon() -> ! {
    let words: Vec<String> = std::env::args().collect();
    let netns = NetnsRef { path: words[2].clone().into(), cookie: words[3].parse().unwrap() };
    let system = KernelSystem::new(Roots::default());
    start(&system, &delay_steps(&netns, "orphan"), 60_000);
    println!("started");
    loop {
        std::thread::park();
    }
}

fn start_daemon(lab: &Lab) -> Ended {
    let mut command = Command::new("/proc/self/exe");
    command.arg("daemon").arg(lab.far().path).arg(lab.far().cookie.to_string());
    let mut daemon = Ended(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(daemon.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    daemon
}

pub(crate) fn a_worker_of_a_dead_daemon_undoes_itself() {
    let lab = Lab::new();
    let system = KernelSystem::new(Roots::default());
    let steps = delay_steps(&lab.far(), "orphan");
    let daemon = start_daemon(&lab);
    assert!(is_delayed(&lab));
    drop(daemon);
    for step in &steps {
        eventually("nothing is left", || read_back(&system, step).unwrap() == Observation::Absent);
    }
    lab.undelayed(FAR, LATENCY);
}

pub(crate) fn a_stray_worker_is_found_and_ended() {
    let lab = Lab::new();
    let system = KernelSystem::new(Roots::default());
    let steps = delay_steps(&lab.far(), "orphan");
    let daemon = start_daemon(&lab);
    assert_eq!(read_back(&system, &steps[0]).unwrap(), Observation::Intended(Effect::NotCounted));
    // A worker that does not answer to a request is killed.
    kill(worker_pid(&system, "orphan"), Signal::SIGSTOP).unwrap();
    assert_eq!(undo(&system, &steps[1]), Undone::Clean);
    assert_eq!(undo(&system, &steps[0]), Undone::Clean);
    lab.undelayed(FAR, LATENCY);
    drop(daemon);
}

pub(crate) fn a_worker_that_cannot_says_why() {
    let lab = Lab::new();
    let system = KernelSystem::new(Roots::default());
    let mut netns = lab.far();
    netns.cookie += 1;
    let [step, _] = delay_steps(&netns, "wrong-place");
    let now_ms = system.boottime_ms();
    let error = apply(&system, &step, Window { now_ms, deadline_ms: now_ms + 5000 }).unwrap_err();
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("target gone"), "{why}");
    assert_eq!(read_back(&system, &step).unwrap(), Observation::Absent);
}

pub(crate) fn stress_burns_the_targets_time_and_ends_with_it() {
    let system = KernelSystem::new(Roots::default());
    let mut victim = Victim::new(&system);
    let target = victim.target.clone();
    let usage = || Duration::from_micros(cgroup::cpu_usage_us(&target.cgroup).unwrap().unwrap());
    let work = Work::CpuStress {
        init: target.process.clone(),
        cgroup: target.cgroup.clone(),
        workers: 2,
        load_percent: 60,
        proc_root: "/proc".into(),
    };
    let step = Step::Worker { worker: WorkerSpec { id: "stress".to_owned(), work } };
    let before = usage();
    start(&system, std::slice::from_ref(&step), 60_000);
    eventually("the target's group uses time", || usage() > before + Duration::from_millis(500));
    let counted = || read_back(&system, &step).unwrap() == Observation::Intended(Effect::Seen);
    eventually("the effect is counted", counted);
    // The groups can only be removed once the worker has left them.
    victim.lose();
    eventually("the worker ends", || read_back(&system, &step).unwrap() == Observation::Absent);
    assert_eq!(undo(&system, &step), Undone::Clean);
}
