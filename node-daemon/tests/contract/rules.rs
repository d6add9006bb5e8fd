//! What every implementation of the door promises, said through steps, as the driver uses it.

use node_daemon::step::{Effect, Observation, Step, Undone, Window, apply, read_back, undo};
use node_daemon::system::fake::FakeSystem;
use node_daemon::system::nft::{Hook, Peer, RuleSpec, Side, TableSpec, Verdict};
use node_daemon::system::target::{CgroupRef, NetnsRef, Target};
use node_daemon::system::{Error, System};
use node_daemon::worker::spec::{Delay, Work, WorkerSpec};
use std::path::PathBuf;
use std::time::Duration;

/// A place to try the contract.
pub(crate) trait Ground {
    fn system(&self) -> &dyn System;
    /// A new process with a namespace and cgroups of its own.
    fn new_target(&self) -> Target;
    /// Ends that process and everything that was its own.
    fn lose(&self, target: &Target);
    /// Returns when at least that much time has passed for the system.
    fn pass(&self, time: Duration);
}

struct FakeGround(FakeSystem);

impl Ground for FakeGround {
    fn system(&self) -> &dyn System {
        &self.0
    }

    fn new_target(&self) -> Target {
        self.0.add_target(self.0.boottime_ms() as i32)
    }

    fn lose(&self, target: &Target) {
        self.0.lose_target(target.process.pid);
    }

    fn pass(&self, time: Duration) {
        self.0.advance(time);
    }
}

pub(crate) fn on_the_fake() {
    check(&FakeGround(FakeSystem::new()));
}

/// The whole suite.
pub(crate) fn check(ground: &dyn Ground) {
    let target = ground.new_target();
    for step in steps(&target) {
        comes_and_goes(ground.system(), &step);
        refuses_a_past_deadline(ground.system(), &step);
    }
    ends_by_itself(ground, &target.netns);
    knows_another_namespace(ground.system(), &target.netns);
    ground.lose(&target);
    for step in steps(&target) {
        a_lost_target_is_clean(ground.system(), &step);
    }
}

fn steps(target: &Target) -> Vec<Step> {
    let netns = target.netns.clone();
    let table = table();
    let delay = Delay { latency_us: 1000, jitter_us: 0, correlation_percent: 0, seed: 1 };
    let work =
        Work::Nfqueue { netns: netns.clone(), table: table.name.clone(), queue: 3, delay, max_packets: 100 };
    vec![
        Step::NftTable { netns, table },
        Step::FreezeCgroup { init: target.process.clone(), cgroup: target.cgroup.clone() },
        Step::Worker { worker: WorkerSpec { id: format!("contract-{}", target.process.pid), work } },
    ]
}

fn table() -> TableSpec {
    let peers = ["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"]
        .map(|cidr| Peer { cidr: cidr.parse().unwrap(), ports: vec![] });
    let rule = RuleSpec {
        hook: Hook::Output,
        peer: Side::Destination,
        port: Side::Destination,
        peers: peers.into(),
        verdict: Verdict::Drop,
        spare_loopback: true,
    };
    TableSpec { name: TableSpec::name_for("contract"), rules: vec![rule] }
}

fn window(system: &dyn System, left_ms: u64) -> Window {
    let now_ms = system.boottime_ms();
    Window { now_ms, deadline_ms: now_ms + left_ms }
}

fn comes_and_goes(system: &dyn System, step: &Step) {
    assert_eq!(undo(system, step), Undone::Clean, "undo before apply: {step:?}");
    for _ in 0..2 {
        apply(system, step, window(system, 60_000)).unwrap();
        let seen = read_back(system, step).unwrap();
        assert!(matches!(seen, Observation::Intended(effect) if effect != Effect::Seen), "{seen:?}");
    }
    for _ in 0..2 {
        assert_eq!(undo(system, step), Undone::Clean);
        assert_eq!(read_back(system, step).unwrap(), Observation::Absent);
    }
    let text = serde_json::to_string(step).unwrap();
    assert_eq!(serde_json::from_str::<Step>(&text).unwrap(), *step, "{text}");
}

fn refuses_a_past_deadline(system: &dyn System, step: &Step) {
    assert!(matches!(apply(system, step, window(system, 0)), Err(Error::Invalid { .. })));
    assert_eq!(read_back(system, step).unwrap(), Observation::Absent);
}

fn ends_by_itself(ground: &dyn Ground, netns: &NetnsRef) {
    let step = Step::NftTable { netns: netns.clone(), table: table() };
    apply(ground.system(), &step, window(ground.system(), 300)).unwrap();
    ground.pass(Duration::from_millis(400));
    let seen = read_back(ground.system(), &step).unwrap();
    assert!(matches!(seen, Observation::Drifted(_)), "{seen:?}");
    assert_eq!(undo(ground.system(), &step), Undone::Clean);
}

fn knows_another_namespace(system: &dyn System, netns: &NetnsRef) {
    let other = NetnsRef { cookie: netns.cookie + 1, ..netns.clone() };
    let step = Step::NftTable { netns: other, table: table() };
    assert!(matches!(apply(system, &step, window(system, 1000)), Err(Error::TargetGone { .. })));
    assert_eq!(read_back(system, &step).unwrap(), Observation::TargetGone);
    assert_eq!(undo(system, &step), Undone::Clean);
}

fn a_lost_target_is_clean(system: &dyn System, step: &Step) {
    assert_eq!(undo(system, step), Undone::Clean);
    // A worker is a process of its own and is not lost with its target.
    if !matches!(step, Step::Worker { .. }) {
        assert!(matches!(apply(system, step, window(system, 1000)), Err(Error::TargetGone { .. })));
        assert_eq!(read_back(system, step).unwrap(), Observation::TargetGone);
    }
}

/// A group that does not exist.
pub(crate) fn nowhere() -> CgroupRef {
    let path = PathBuf::from("/sys/fs/cgroup/freezer/fltest-nowhere");
    CgroupRef { directories: [("freezer".to_owned(), path)].into() }
}
