//! Packet rules on the real kernel, their effect seen from another namespace.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a failed step is a failed test, and a skipped one says so"
)]

use std::time::{Duration, Instant};

use node_daemon::system::kernel::KernelSystem;
use node_daemon::system::nft::{Hook, Peer, RuleSpec, Side, TableSpec, Verdict};
use node_daemon::system::target::Roots;
use node_daemon::system::{Error, System};

#[path = "lab/namespaces.rs"]
mod lab;
use lab::{Lab, skipped};

const LONG: Duration = Duration::from_mins(1);

fn peer(cidr: &str, ports: &[u16]) -> Peer {
    Peer { cidr: cidr.parse().unwrap(), ports: ports.to_vec() }
}

fn table(hook: Hook, side: Side, peers: Vec<Peer>, verdict: Verdict) -> TableSpec {
    let rule = RuleSpec { hook, peer: side, port: Side::Destination, peers, verdict, spare_loopback: true };
    TableSpec { name: TableSpec::name_for("0193-test"), rules: vec![rule] }
}

fn kernel() -> KernelSystem {
    KernelSystem::new(Roots::default())
}

#[test]
fn drop_partitions_and_ends_by_itself() {
    if skipped("drop_partitions_and_ends_by_itself") {
        return;
    }
    let lab = Lab::new();
    let system = kernel();
    assert!(lab.rtt("10.77.0.2").is_some() && lab.rtt("fd77::2").is_some());
    let spec = table(
        Hook::Input,
        Side::Source,
        vec![peer("10.0.0.0/8", &[]), peer("fd77::/64", &[])],
        Verdict::Drop,
    );
    let started = Instant::now();
    system.install_table(&lab.far(), &spec, Duration::from_secs(5)).unwrap();
    assert!(lab.rtt("10.77.0.2").is_none());
    let state = system.read_table(&lab.far(), &spec.name).unwrap().unwrap();
    assert_eq!(state.drift(&spec), Vec::<String>::new());
    assert!(state.total().packets >= 1, "{state:?}");
    assert!(state.remaining_ms().is_some_and(|left| left < 5000));
    // The drop ends by its timeout.
    lab.flows("10.77.0.2");
    assert!(lab.rtt("fd77::2").is_some());
    assert!(started.elapsed() > Duration::from_millis(4900));
    let state = system.read_table(&lab.far(), &spec.name).unwrap().unwrap();
    assert_eq!(state.remaining_ms(), None);
    assert!(!state.drift(&spec).is_empty());
    system.remove_table(&lab.far(), &spec.name).unwrap();
    system.remove_table(&lab.far(), &spec.name).unwrap();
    assert_eq!(system.read_table(&lab.far(), &spec.name).unwrap(), None);
}

#[test]
fn a_queue_without_worker_lets_packets_pass() {
    if skipped("a_queue_without_worker_lets_packets_pass") {
        return;
    }
    let lab = Lab::new();
    let system = kernel();
    let spec =
        table(Hook::Output, Side::Destination, vec![peer("0.0.0.0/0", &[])], Verdict::Queue { number: 7 });
    system.install_table(&lab.far(), &spec, LONG).unwrap();
    let shown = lab.in_far("nft list ruleset").output().unwrap();
    println!("{}", String::from_utf8_lossy(&shown.stdout));
    let state = system.read_table(&lab.far(), &spec.name).unwrap().unwrap();
    assert_eq!(state.drift(&spec), Vec::<String>::new());
    assert!(lab.rtt("10.77.0.2").is_some());
    let state = system.read_table(&lab.far(), &spec.name).unwrap().unwrap();
    assert!(state.total().packets >= 1);
}

#[test]
fn reject_answers_at_once() {
    if skipped("reject_answers_at_once") {
        return;
    }
    let lab = Lab::new();
    let system = kernel();
    assert!(lab.connect(5432).is_ok());
    let peers = vec![peer("10.77.0.0/25", &[5432, 5433]), peer("10.77.0.0/16", &[5432])];
    let spec = table(Hook::Input, Side::Source, peers, Verdict::Reject);
    system.install_table(&lab.far(), &spec, LONG).unwrap();
    let refused = lab.connect(5432).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(lab.connect(5434).is_ok(), "another port is not touched");
    let state = system.read_table(&lab.far(), &spec.name).unwrap().unwrap();
    assert_eq!(state.drift(&spec), Vec::<String>::new());
}

#[test]
fn what_somebody_else_changes_is_seen() {
    if skipped("what_somebody_else_changes_is_seen") {
        return;
    }
    let lab = Lab::new();
    let system = kernel();
    let spec = table(Hook::Output, Side::Destination, vec![peer("10.0.0.0/8", &[80])], Verdict::Drop);
    let drift = || system.read_table(&lab.far(), &spec.name).unwrap().unwrap().drift(&spec);
    let name = &spec.name;
    for change in [
        format!("nft add rule inet {name} output drop"),
        format!("nft flush chain inet {name} output"),
        format!("nft flush set inet {name} r0v4p"),
        format!("nft add chain inet {name} other"),
        format!("nft add set inet {name} other {{ type ipv4_addr; }}"),
    ] {
        system.install_table(&lab.far(), &spec, LONG).unwrap();
        assert_eq!(drift(), Vec::<String>::new());
        assert!(lab.in_far(&change).status().unwrap().success(), "{change}");
        assert!(!drift().is_empty(), "{change}");
    }
    assert!(lab.in_far(&format!("nft delete table inet {name}")).status().unwrap().success());
    assert_eq!(system.read_table(&lab.far(), name).unwrap(), None);
}

#[test]
fn thousands_of_blocks_fit_into_one_table() {
    if skipped("thousands_of_blocks_fit_into_one_table") {
        return;
    }
    let lab = Lab::new();
    let system = kernel();
    let blocks = (0..2000u32).map(|number| peer(&format!("10.{}.{}.0/25", number / 250, number % 250), &[]));
    let blocks6 = (0..2000u32).map(|number| peer(&format!("fd77:{number:x}::/32"), &[]));
    let spec = table(Hook::Input, Side::Source, blocks.chain(blocks6).collect(), Verdict::Drop);
    let started = Instant::now();
    system.install_table(&lab.far(), &spec, LONG).unwrap();
    let state = system.read_table(&lab.far(), &spec.name).unwrap().unwrap();
    println!("installed and read back in {:?}", started.elapsed());
    assert_eq!(state.drift(&spec), Vec::<String>::new());
    assert!(lab.rtt("10.77.0.2").is_some(), "not among them");
    system.remove_table(&lab.far(), &spec.name).unwrap();
}

#[test]
fn another_cookie_is_refused() {
    if skipped("another_cookie_is_refused") {
        return;
    }
    let lab = Lab::new();
    let mut netns = lab.far();
    netns.cookie += 1;
    let spec = table(Hook::Input, Side::Source, vec![peer("0.0.0.0/0", &[])], Verdict::Drop);
    let refused = kernel().install_table(&netns, &spec, LONG);
    assert!(matches!(refused, Err(Error::TargetGone { .. })), "{refused:?}");
    assert_eq!(kernel().list_tables(&lab.far()).unwrap(), Vec::<String>::new());
}
