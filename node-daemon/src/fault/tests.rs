//! Each kind's parameters become the steps they mean.

use std::collections::BTreeMap;

use proto::experiment::LinkLossAction;
use proto::fault::PartitionHow;
use proto::injection::TargetRef;

use super::*;
use crate::resolve::Identity;
use crate::system::target::{CgroupRef, NetnsRef, ProcessRef};

fn found() -> Found {
    let cgroup = CgroupRef { directories: BTreeMap::from([("freezer".into(), "/f/1".into())]) };
    let process = ProcessRef { pid: 7, start_ticks: 5 };
    let netns = NetnsRef { path: "/proc/7/ns/net".into(), cookie: 9 };
    let container = Some(ContainerIdentity { id: "c1".into(), process, cgroup });
    let identity = Identity { sandbox: "s1".into(), netns, container };
    Found { identity, devices: vec!["eth0".into()], is_host_network: false }
}

fn injection(action: Action, backend: &str) -> Injection {
    Injection {
        id: "r1.a.0".parse().unwrap(),
        run: "r1".parse().unwrap(),
        target: TargetRef {
            namespace: "a".into(),
            pod: "p".into(),
            uid: "u".into(),
            node: "n".into(),
            ips: vec![],
        },
        container: Some("app".into()),
        action,
        backend: backend.into(),
        link_loss_after_ms: 1000,
        link_loss: LinkLossAction::Revert,
        trace: proto::trace::TraceContext::NONE,
    }
}

fn planned(action: Action, backend: &str) -> Vec<Step> {
    plan(&injection(action, backend), found(), &Roots::default()).unwrap().steps
}

fn refused(action: Action, backend: &str, found: Found) -> String {
    match plan(&injection(action, backend), found, &Roots::default()) {
        Err(Unfit::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn delay(direction: Direction) -> Action {
    Action::NetworkDelay { direction, peers: vec![], latency_ms: 200, jitter_ms: 20, correlation_percent: 25 }
}

fn kinds(steps: &[Step]) -> Vec<&'static str> {
    let kind = |step: &Step| match step {
        Step::NftTable { .. } => "table",
        Step::NetemTree { .. } => "netem",
        Step::FreezeCgroup { .. } => "freeze",
        Step::Worker { .. } => "worker",
    };
    steps.iter().map(kind).collect()
}

fn table(steps: &[Step]) -> &TableSpec {
    let table = steps.iter().find_map(|step| match step {
        Step::NftTable { table, .. } => Some(table),
        _ => None,
    });
    table.unwrap()
}

#[test]
fn a_partition_is_one_table_seen_from_the_target() {
    let peers = vec![PeerMatch {
        nets: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        ports: vec![5432],
    }];
    let action = Action::NetworkPartition { direction: Direction::Both, peers, how: PartitionHow::Reject };
    let steps = planned(action, "nftables");
    assert_eq!(kinds(&steps), ["table"]);
    let rules = &table(&steps).rules;
    let sides: Vec<_> = rules.iter().map(|rule| (rule.hook, rule.peer, rule.port)).collect();
    assert_eq!(
        sides,
        [(Hook::Output, Side::Destination, Side::Destination), (Hook::Input, Side::Source, Side::Source)]
    );
    for rule in rules {
        assert_eq!((rule.verdict, rule.peers.len(), rule.spare_loopback), (Verdict::Reject, 2, true));
        assert!(rule.peers.iter().all(|peer| peer.ports == [5432]));
    }
    let everyone =
        Action::NetworkPartition { direction: Direction::Ingress, peers: vec![], how: PartitionHow::Drop };
    let steps = planned(everyone, "nftables");
    let cidrs: Vec<String> = table(&steps).rules[0].peers.iter().map(|peer| peer.cidr.to_string()).collect();
    assert_eq!(cidrs, ["0.0.0.0/0", "::/0"]);
}

#[test]
fn a_delay_leads_packets_away_last_and_back_first() {
    assert_eq!(kinds(&planned(delay(Direction::Egress), "netem")), ["netem", "table"]);
    assert_eq!(kinds(&planned(delay(Direction::Ingress), "netem")), ["worker", "table"]);
    assert_eq!(kinds(&planned(delay(Direction::Both), "netem")), ["netem", "worker", "table"]);
    let steps = planned(delay(Direction::Both), "nfqueue");
    assert_eq!(kinds(&steps), ["worker", "table"]);
    let numbers: Vec<_> = table(&steps).rules.iter().map(|rule| rule.verdict).collect();
    assert_eq!(numbers[0], numbers[1], "one worker serves both directions");
    assert!(matches!(numbers[0], Verdict::Queue { number } if number >= 0xf000));
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let host = Found { is_host_network: true, ..found() };
    assert!(refused(delay(Direction::Egress), "netem", host.clone()).contains("whole node"));
    assert_eq!(
        kinds(&plan(&injection(Action::ContainerPause, "freezer"), host, &Roots::default()).unwrap().steps),
        ["freeze"]
    );
    let mut bare = found();
    bare.identity.container = None;
    assert_eq!(refused(Action::ContainerPause, "freezer", bare), "no running container app");
    assert!(refused(Action::ContainerPause, "magic", found()).contains("magic"));
    let lonely = Found { devices: vec![], ..found() };
    assert!(refused(delay(Direction::Egress), "netem", lonely).contains("no network device"));
}

#[test]
fn every_backend_has_a_revert_class_and_an_unknown_one_the_strictest() {
    assert_eq!(revert_class(&injection(delay(Direction::Egress), "nfqueue")), RevertClass::KernelTimed);
    assert_eq!(revert_class(&injection(Action::ContainerPause, "freezer")), RevertClass::Keeper);
    assert_eq!(revert_class(&injection(delay(Direction::Egress), "other")), RevertClass::Keeper);
}

#[test]
fn names_stay_apart_for_ids_that_differ_in_one_letter() {
    let long = "a".repeat(150);
    let ids = ["0", "1", "2"].map(|end| format!("{long}.{end}").parse::<InjectionId>().unwrap());
    let names: std::collections::BTreeSet<_> = ids.iter().map(table_name).collect();
    assert_eq!(names.len(), 3);
    assert!(names.iter().all(|name| name.len() <= 31));
}
