//! Steps on the in-memory node: what the contract suite does not say.

use std::time::Duration;

use super::*;
use crate::system::fake::FakeSystem;
use crate::system::nft::{Hook, Peer, RuleSpec, Side, Verdict};

fn table_step(system: &FakeSystem) -> Step {
    let peers = vec![Peer { cidr: "10.0.0.0/8".parse().unwrap(), ports: vec![] }];
    let rule = RuleSpec {
        hook: Hook::Output,
        peer: Side::Destination,
        port: Side::Destination,
        peers,
        verdict: Verdict::Drop,
        spare_loopback: true,
    };
    let table = TableSpec { name: TableSpec::name_for("a1"), rules: vec![rule] };
    Step::NftTable { netns: system.add_target(7).netns, table }
}

fn minute(system: &FakeSystem) -> Window {
    let now_ms = system.boottime_ms();
    Window { now_ms, deadline_ms: now_ms + 60_000 }
}

#[test]
fn an_undo_that_fails_names_what_is_left_and_the_command() {
    let system = FakeSystem::new();
    let step = table_step(&system);
    apply(&system, &step, minute(&system)).unwrap();
    system.fail_next("no memory");
    let Undone::Residue { what, command } = undo(&system, &step) else { panic!("not undone") };
    assert_eq!(what, "nft table fl_a1 in /proc/7/ns/net: change the fake node: no memory");
    assert_eq!(command, "nsenter --net=/proc/7/ns/net nft delete table inet fl_a1");
    assert_eq!(undo(&system, &step), Undone::Clean);
}

#[test]
fn traffic_and_drift_are_seen() {
    let system = FakeSystem::new();
    let step = table_step(&system);
    let Step::NftTable { netns, table } = &step else { panic!("a table step") };
    apply(&system, &step, minute(&system)).unwrap();
    assert_eq!(read_back(&system, &step).unwrap(), Observation::Intended(Effect::NoTraffic));
    system.count_packets(netns, &table.name, 3);
    assert_eq!(read_back(&system, &step).unwrap(), Observation::Intended(Effect::Seen));
    system.advance(Duration::from_mins(1));
    let seen = read_back(&system, &step).unwrap();
    assert_eq!(
        seen,
        Observation::Drifted(vec!["set r0v4: 1 elements missing or ended, 0 unknown".to_owned()])
    );
    system.lose_table(netns, &table.name);
    assert_eq!(read_back(&system, &step).unwrap(), Observation::Absent);
}

#[test]
fn netem_is_read_back_too() {
    let system = FakeSystem::new();
    let netem = NetemSpec {
        device: "eth0".to_owned(),
        latency_us: 1000,
        jitter_us: 0,
        correlation_percent: 0,
        limit_packets: 10,
    };
    let step = Step::NetemTree { netns: system.add_target(7).netns, netem: netem.clone() };
    assert_eq!(read_back(&system, &step).unwrap(), Observation::Absent);
    apply(&system, &step, minute(&system)).unwrap();
    assert!(matches!(read_back(&system, &step).unwrap(), Observation::Intended(_)));
    let Step::NetemTree { netns, .. } = &step else { panic!("a netem step") };
    system.install_netem(netns, &NetemSpec { latency_us: 5, ..netem }).unwrap();
    assert!(matches!(read_back(&system, &step).unwrap(), Observation::Drifted(_)));
    assert_eq!(undo(&system, &step), Undone::Clean);
    assert_eq!(system.things(), 0);
}

#[test]
fn the_journal_form_is_stable() {
    let step = Step::FreezeCgroup {
        init: ProcessRef { pid: 5, start_ticks: 9 },
        cgroup: CgroupRef { directories: [("freezer".to_owned(), "/f/x".into())].into() },
    };
    let text = r#"{"step":"freezeCgroup","init":{"pid":5,"startTicks":9},"cgroup":{"directories":{"freezer":"/f/x"}}}"#;
    assert_eq!(serde_json::to_string(&step).unwrap(), text);
}
