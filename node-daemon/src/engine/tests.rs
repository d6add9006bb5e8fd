//! The engine's tables: one rule a test, and in `histories` its invariants.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proto::experiment::LinkLossAction;
use proto::fault::{Direction, PartitionHow};
use proto::halt::{Halt, HaltScope};
use proto::injection::{Action, TargetRef};

use super::*;
use crate::recover::Recovered;
use crate::resolve::{ContainerIdentity, Identity};
use crate::step::{self, Step};
use crate::system::target::{CgroupRef, NetnsRef, ProcessRef};

mod endings;
mod histories;

const START: Now = Now { boottime_ms: 1_000_000, wall_ms: 1_700_000_000_000 };

fn at(ms: u64) -> Now {
    Now { boottime_ms: START.boottime_ms + ms, wall_ms: START.wall_ms + ms as i64 }
}

fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(START.wall_ms + ms).unwrap()
}

fn injection(id: &str, pid: i32, action: Action) -> Injection {
    let backend = proto::catalogue::entry(action.kind()).unwrap().backends[0].name.to_owned();
    Injection {
        id: id.parse().unwrap(),
        run: "r1".parse().unwrap(),
        target: TargetRef {
            namespace: "shop".into(),
            pod: format!("p{pid}"),
            uid: format!("u{pid}"),
            node: "n1".into(),
            ips: vec![],
        },
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

fn partition(id: &str, pid: i32, peers: &[&str]) -> Injection {
    let of = |net: &&str| proto::injection::PeerMatch { nets: vec![net.parse().unwrap()], ports: vec![] };
    let peers = peers.iter().map(of).collect();
    injection(
        id,
        pid,
        Action::NetworkPartition { direction: Direction::Both, peers, how: PartitionHow::Drop },
    )
}

/// 60 s left, 10 s to start, by an agent whose clock is this node's.
fn inject(injection: Injection) -> Inject {
    let (deadline, start_before) = (timestamp(60_000), timestamp(10_000));
    Inject { injection, agent_epoch: 3, remaining_ms: 60_000, deadline, start_before }
}

fn plan(injection: &Injection) -> Plan {
    let pid: i32 = injection.target.uid[1..].parse().unwrap();
    let process = ProcessRef { pid, start_ticks: 5 };
    let cgroup = CgroupRef { directories: BTreeMap::from([("freezer".into(), format!("/f/{pid}").into())]) };
    let netns = NetnsRef { path: format!("/proc/{pid}/ns/net").into(), cookie: pid as u64 };
    let container = ContainerIdentity { id: format!("c{pid}"), process, cgroup };
    let found = crate::resolve::Found {
        identity: Identity { sandbox: format!("s{pid}"), netns, container: Some(container) },
        devices: vec!["eth0".into()],
        is_host_network: false,
    };
    crate::fault::plan(injection, found, &crate::system::target::Roots::default()).unwrap()
}

/// A state and everything it wanted done.
struct Bench {
    state: State,
    log: Vec<Effect>,
}

impl Bench {
    fn new() -> Self {
        let meta = Some(Meta { highest_epoch: 2, halts: vec![] });
        Self::from(Recovered { meta, ..Recovered::default() })
    }

    fn from(recovered: Recovered) -> Self {
        let node = Node {
            name: "n1".into(),
            version: "0".into(),
            boot_id: "b1".into(),
            halt_id: "node-n1".parse().unwrap(),
            capabilities: NodeCapabilities::default(),
        };
        let mut bench = Self { state: State::new(node, Limits::default(), recovered, START), log: vec![] };
        bench.step(Event::Connected, START);
        bench.down(NodeDown::Welcome { agent_epoch: 2, heartbeat_interval_ms: 1000 }, START);
        bench
    }

    fn step(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let effects = step(&mut self.state, event, now);
        self.log.extend(effects.clone());
        effects
    }

    fn down(&mut self, down: NodeDown, now: Now) -> Vec<Effect> {
        self.step(Event::Down(down), now)
    }

    fn inject(&mut self, injection: &Injection, now: Now) -> Vec<Effect> {
        self.down(NodeDown::Inject(Box::new(inject(injection.clone()))), now)
    }

    fn clock(&mut self, effects: &[Effect], agent: Timestamp, now: Now) -> Vec<Effect> {
        let probe = effects.iter().find_map(|effect| match effect {
            Effect::Send(NodeUp::ClockProbe { id }) => Some(*id),
            _ => None,
        });
        self.down(NodeDown::ClockReply { id: probe.expect("no clock was asked for"), at: agent }, now)
    }

    /// All the way to Applying.
    fn make(&mut self, injection: &Injection, now: Now) -> Vec<Effect> {
        let asked = self.inject(injection, now);
        let agent = Timestamp::from_millisecond(now.wall_ms).unwrap();
        let resolve = self.clock(&asked, agent, now);
        assert!(matches!(resolve[..], [Effect::Resolve(_)]), "{resolve:?}");
        let id = injection.id.clone();
        let wrote = self.step(Event::Resolved { id: id.clone(), result: Ok(plan(injection)) }, now);
        if !wrote.iter().any(|effect| matches!(effect, Effect::WriteRecord(_))) {
            return wrote;
        }
        assert!(
            !wrote.iter().any(|effect| matches!(effect, Effect::Apply { .. })),
            "applied before the journal"
        );
        self.step(Event::Recorded { id, result: Ok(()) }, now)
    }

    /// All the way to Injected.
    fn active(&mut self, injection: &Injection, now: Now) {
        let apply = self.make(injection, now);
        assert!(matches!(apply[..], [Effect::Apply { .. }]), "{apply:?}");
        self.step(Event::Applied { id: injection.id.clone(), result: Ok(step::Effect::NoTraffic) }, now);
        assert_eq!(self.phase(&injection.id), InjectionPhase::Injected);
    }

    fn last(&self, id: &InjectionId) -> InjectionStatus {
        let told = self.log.iter().rev().find_map(|effect| match effect {
            Effect::Send(NodeUp::State(status)) if status.id == *id => Some((**status).clone()),
            _ => None,
        });
        told.expect("nothing was said of it")
    }

    fn phase(&self, id: &InjectionId) -> InjectionPhase {
        self.last(id).phase
    }

    fn undo_wanted(&self, id: &InjectionId) -> bool {
        self.log.iter().any(|effect| matches!(effect, Effect::Undo(record) if record.injection.id == *id))
    }
}

fn halt(id: &str, scope: HaltScope) -> Halt {
    Halt {
        id: id.parse().unwrap(),
        scope,
        reason: String::new(),
        by: "test".into(),
        at: timestamp(0),
        origin: None,
    }
}

#[test]
fn a_fault_is_journalled_made_read_back_and_taken_away_at_its_deadline() {
    let (mut bench, one) = (Bench::new(), pause("r1.a.0", 7));
    bench.active(&one, at(0));
    assert_eq!(bench.last(&one.id).resolves_at_unix_ms, Some(at(60_000).wall_ms));
    assert!(bench.state.next_wake_ms().unwrap() <= at(60_000).boottime_ms);
    bench.step(Event::Tick, at(59_999));
    assert!(!bench.undo_wanted(&one.id));
    bench.step(Event::Tick, at(60_000));
    assert!(bench.undo_wanted(&one.id));
    assert_eq!(bench.phase(&one.id), InjectionPhase::Reverting);
    bench.step(Event::Undone { id: one.id.clone(), result: Ok(()) }, at(60_005));
    let last = bench.last(&one.id);
    assert_eq!((last.phase, last.reason), (InjectionPhase::Reverted, Some(EndReason::Deadline)));
    assert_eq!(last.reverted_at_unix_ms, Some(at(60_005).wall_ms));
    assert_eq!(bench.state.held(), 0);
}

#[test]
fn the_deadline_is_the_earlier_of_remaining_time_and_the_agents_clock() {
    // The agent's clock is an hour ahead: only differences count. The message lay around for 5 s.
    let (mut bench, one) = (Bench::new(), pause("r1.a.0", 7));
    let agent = |ms: i64| timestamp(3_600_000 + ms);
    let mut message = inject(one.clone());
    (message.deadline, message.start_before) = (agent(60_000), agent(20_000));
    let asked = bench.down(NodeDown::Inject(Box::new(message)), at(5000));
    // The way there and back took 40 ms: the agent may be that much further.
    bench.clock(&asked, agent(5000), at(5040));
    bench.step(Event::Resolved { id: one.id.clone(), result: Ok(plan(&one)) }, at(5040));
    let record = bench.log.iter().find_map(|effect| match effect {
        Effect::WriteRecord(record) => Some(record.clone()),
        _ => None,
    });
    assert_eq!(record.unwrap().deadline.boottime_ms, at(5040 + 60_000 - 5040).boottime_ms);
}

#[test]
fn a_wall_clock_that_jumps_ahead_shortens_and_one_that_jumps_back_changes_nothing() {
    let (mut bench, one, two) = (Bench::new(), pause("r1.a.0", 7), pause("r1.a.1", 8));
    bench.active(&one, at(0));
    bench.step(Event::Tick, Now { wall_ms: at(60_000).wall_ms, ..at(1000) });
    assert!(bench.undo_wanted(&one.id));
    bench.active(&two, at(1000));
    bench.step(Event::Tick, Now { wall_ms: 0, ..at(61_000) });
    assert!(bench.undo_wanted(&two.id));
}

#[test]
fn late_never_starts() {
    // By the agent's clock, with the way there and back counted against it.
    let (mut bench, one) = (Bench::new(), pause("r1.a.0", 7));
    let asked = bench.inject(&one, at(9000));
    bench.clock(&asked, timestamp(9990), at(9011));
    assert_eq!(bench.phase(&one.id), InjectionPhase::Missed);
    // While the target was looked up or the disk was slow.
    let two = pause("r1.a.1", 7);
    let asked = bench.inject(&two, at(0));
    bench.clock(&asked, timestamp(0), at(0));
    bench.step(Event::Resolved { id: two.id.clone(), result: Ok(plan(&two)) }, at(0));
    bench.step(Event::Recorded { id: two.id.clone(), result: Ok(()) }, at(10_001));
    assert_eq!(bench.phase(&two.id), InjectionPhase::Missed);
    // No time at all.
    let three = pause("r1.a.2", 7);
    bench.inject(&three, at(0));
    bench.step(Event::Tick, at(10_000));
    assert_eq!(bench.phase(&three.id), InjectionPhase::Missed);
    // The link broke before it came; the reply of an earlier session does not count.
    let four = pause("r1.a.3", 7);
    let asked = bench.inject(&four, at(0));
    bench.step(Event::Disconnected, at(1));
    bench.step(Event::Connected, at(2));
    bench.clock(&asked, timestamp(0), at(3));
    assert_eq!(bench.phase(&four.id), InjectionPhase::Missed);
    assert!(!bench.log.iter().any(|effect| matches!(effect, Effect::Apply { .. })));
}

#[test]
fn a_stopped_id_never_starts_also_when_the_stop_came_first() {
    let (mut bench, one) = (Bench::new(), pause("r1.a.0", 7));
    let revert = NodeDown::Revert { injection: one.id.clone(), reason: "Stopped".into() };
    let effects = bench.down(revert.clone(), at(0));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::WriteEnded(_))));
    assert_eq!(bench.phase(&one.id), InjectionPhase::Refused);
    bench.inject(&one, at(1));
    assert_eq!(bench.state.held(), 0);

    let two = pause("r1.a.1", 7);
    bench.make(&two, at(0));
    bench.down(NodeDown::Revert { injection: two.id.clone(), reason: "Stopped".into() }, at(1));
    bench.step(Event::Applied { id: two.id.clone(), result: Ok(step::Effect::NotCounted) }, at(2));
    assert!(bench.undo_wanted(&two.id), "what was under way is undone");
    assert_ne!(bench.phase(&two.id), InjectionPhase::Injected);
    bench.step(Event::Undone { id: two.id.clone(), result: Ok(()) }, at(3));
    assert_eq!(bench.last(&two.id).reason, Some(EndReason::Stopped));
    bench.inject(&two, at(4));
    assert_eq!(bench.state.held(), 0);
}

#[test]
fn a_lower_epoch_is_refused_and_burns_no_id() {
    let (mut bench, one) = (Bench::new(), pause("r1.a.0", 7));
    let old = Inject { agent_epoch: 1, ..inject(one.clone()) };
    bench.down(NodeDown::Inject(Box::new(old)), at(0));
    assert_eq!(bench.phase(&one.id), InjectionPhase::Refused);
    let effects = bench.inject(&one, at(0));
    let wrote = effects
        .iter()
        .any(|effect| matches!(effect, Effect::WriteMeta { meta, .. } if meta.highest_epoch == 3));
    assert!(wrote, "a higher epoch is written down");
    assert_eq!(bench.state.held(), 1);
}

/// A leader that was paused and wakes up: its starts are refused, whatever was restarted meanwhile, but a stop is a
/// stop, whoever asks.
#[test]
fn a_former_leader_may_stop_and_nothing_else() {
    let (mut bench, one) = (Bench::new(), pause("r1.a.0", 7));
    // The next leader only said hello; that alone outranks the former.
    let effects = bench.down(NodeDown::Welcome { agent_epoch: 3, heartbeat_interval_ms: 1000 }, at(0));
    assert!(effects.iter().any(|e| matches!(e, Effect::WriteMeta { meta, .. } if meta.highest_epoch == 3)));
    bench.active(&one, at(0));

    let former = |injection: &Injection| Inject { agent_epoch: 2, ..inject(injection.clone()) };
    bench.step(Event::Disconnected, at(1));
    bench.step(Event::Connected, at(2));
    let effects = bench.down(NodeDown::Welcome { agent_epoch: 2, heartbeat_interval_ms: 1000 }, at(2));
    assert!(!effects.iter().any(|e| matches!(e, Effect::WriteMeta { .. })), "a lower one changes nothing");
    let two = pause("r1.b.0", 8);
    bench.down(NodeDown::Inject(Box::new(former(&two))), at(3));
    let said = bench.last(&two.id);
    assert_eq!(said.phase, InjectionPhase::Refused);
    assert!(said.message.contains("the latest is 3"), "{}", said.message);
    bench.down(NodeDown::Revert { injection: one.id.clone(), reason: "Stopped".into() }, at(4));
    assert!(bench.undo_wanted(&one.id));
    bench.down(NodeDown::Halts { halts: vec![halt("h1", HaltScope::Fleet)], resumed: vec![] }, at(5));
    bench.inject(&two, at(6));
    assert_eq!(bench.last(&two.id).reason, Some(EndReason::Halted), "a halt of the former leader holds");
}

/// The epoch is on disk no later than the first fault of its agent: what is written is written in this order.
#[test]
fn an_epoch_is_written_before_anything_of_it() {
    let (mut bench, one) = (Bench::new(), pause("r1.a.0", 7));
    bench.active(&one, at(0));
    let place = |wanted: &dyn Fn(&Effect) -> bool| bench.log.iter().position(wanted).expect("written");
    let epoch = place(&|e| matches!(e, Effect::WriteMeta { meta, .. } if meta.highest_epoch == 3));
    assert!(epoch < place(&|e| matches!(e, Effect::WriteRecord(_))));
}

#[test]
fn the_daemons_own_limits_hold_whoever_asks() {
    type Change = fn(&mut Inject);
    let cases: [(&str, Change); 6] = [
        ("max-deadline", |inject| inject.remaining_ms = 3_600_001),
        ("protected", |inject| {
            inject.injection.target.namespace = "kube-system".into();
        }),
        ("protected", |inject| {
            inject.injection.target.namespace = "faultline-system".into();
        }),
        ("this is n1", |inject| inject.injection.target.node = "n2".into()),
        ("a peer without ranges", |inject| {
            let peers = vec![proto::injection::PeerMatch { nets: vec![], ports: vec![] }];
            let (direction, how) = (Direction::Both, PartitionHow::Drop);
            inject.injection.action = Action::NetworkPartition { direction, peers, how };
        }),
        ("workers", |inject| inject.injection.action = Action::CpuStress { workers: 65, load_percent: 1 }),
    ];
    for (why, change) in cases {
        let (mut bench, one) = (Bench::new(), pause("r1.a.0", 7));
        let mut asked = inject(one.clone());
        change(&mut asked);
        bench.down(NodeDown::Inject(Box::new(asked)), at(0));
        let last = bench.last(&one.id);
        assert_eq!(last.phase, InjectionPhase::Refused, "{why}");
        assert!(last.message.contains(why), "{why}: {}", last.message);
        assert_eq!(bench.state.held(), 0);
    }
    let mut bench = Bench::from(Recovered::default());
    let one = pause("r1.a.0", 7);
    bench.inject(&one, at(0));
    assert!(bench.last(&one.id).message.contains("meta.json"), "damaged state: nothing starts");
}

#[test]
fn what_cannot_stand_together_is_refused() {
    let stress = |id: &str, pid| injection(id, pid, Action::CpuStress { workers: 1, load_percent: 50 });
    let cases = [
        (pause("r1.a.0", 7), pause("r1.b.0", 7), true),
        (pause("r1.a.0", 7), stress("r1.b.0", 7), true),
        (stress("r1.a.0", 7), pause("r1.b.0", 7), true),
        (stress("r1.a.0", 7), stress("r1.b.0", 7), false),
        (pause("r1.a.0", 7), pause("r1.b.0", 8), false),
        (pause("r1.a.0", 7), partition("r1.b.0", 7, &[]), false),
        (partition("r1.a.0", 7, &[]), partition("r1.b.0", 7, &["10.0.0.1/32"]), true),
        (partition("r1.a.0", 7, &["10.0.0.0/8"]), partition("r1.b.0", 7, &["10.1.0.0/16"]), true),
        (partition("r1.a.0", 7, &["10.0.0.0/16"]), partition("r1.b.0", 7, &["10.1.0.0/16"]), false),
        (partition("r1.a.0", 7, &[]), partition("r1.b.0", 8, &[]), false),
    ];
    for (first, second, conflicts) in cases {
        let mut bench = Bench::new();
        bench.active(&first, at(0));
        let made = bench.make(&second, at(1));
        let refused = bench.phase(&second.id) == InjectionPhase::Refused;
        assert_eq!(refused, conflicts, "{:?} beside {:?}", second.action, first.action);
        assert_eq!(made.iter().any(|effect| matches!(effect, Effect::Apply { .. })), !conflicts);
        assert_eq!(bench.phase(&first.id), InjectionPhase::Injected);
    }
}

#[test]
fn a_halt_is_latched_durable_and_lifted_by_its_id_only() {
    let (mut bench, one) = (Bench::new(), pause("r1.a.0", 7));
    bench.active(&one, at(0));
    let latch = |halts, resumed| NodeDown::Halts { halts, resumed };
    let effects = bench.down(latch(vec![halt("h1", HaltScope::Fleet)], vec![]), at(1));
    assert!(bench.undo_wanted(&one.id));
    let revision = effects.iter().find_map(|effect| match effect {
        Effect::WriteMeta { revision, .. } => Some(*revision),
        _ => None,
    });
    let told = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Send(NodeUp::HaltState(state)) => Some((state.latched.len(), state.clean.len())),
            _ => None,
        })
    };
    assert_eq!(told(&effects), None, "not latched before it is on disk");
    let effects = bench.step(Event::MetaWritten { revision: revision.unwrap() }, at(2));
    assert_eq!(told(&effects), Some((1, 0)));
    let effects = bench.step(Event::Undone { id: one.id.clone(), result: Ok(()) }, at(3));
    assert_eq!(told(&effects), Some((1, 1)));
    assert_eq!(bench.last(&one.id).reason, Some(EndReason::Halted));

    // Its absence is never a resume.
    bench.down(latch(vec![], vec![]), at(4));
    let two = pause("r1.a.1", 7);
    bench.inject(&two, at(5));
    assert_eq!(bench.last(&two.id).reason, Some(EndReason::Halted));
    bench.down(latch(vec![], vec!["h1".parse().unwrap()]), at(6));
    bench.active(&pause("r1.a.2", 7), at(7));
}

#[test]
fn a_halt_of_a_namespace_leaves_others_alone() {
    let (mut bench, one) = (Bench::new(), pause("r1.a.0", 7));
    let scope = |namespace: &str| HaltScope::Namespace {
        cluster: "c1".parse().unwrap(),
        namespace: namespace.into(),
    };
    bench.down(NodeDown::Halts { halts: vec![halt("h1", scope("other"))], resumed: vec![] }, at(0));
    bench.active(&one, at(1));
    bench.down(NodeDown::Halts { halts: vec![halt("h2", scope("shop"))], resumed: vec![] }, at(2));
    assert!(bench.undo_wanted(&one.id));
}

#[test]
fn the_halt_file_halts_and_its_removal_lifts() {
    let (mut bench, one) = (Bench::new(), pause("r1.a.0", 7));
    bench.active(&one, at(0));
    bench.step(Event::HaltFile(Some("maintenance\n".into())), at(1));
    assert!(bench.undo_wanted(&one.id));
    let told = bench.log.iter().rev().find_map(|effect| match effect {
        Effect::Send(NodeUp::HaltState(state)) => state.local.first().cloned(),
        _ => None,
    });
    assert_eq!(
        told.map(|halt| (halt.id.to_string(), halt.reason)),
        Some(("node-n1".into(), "maintenance".into()))
    );
    let two = pause("r1.a.1", 8);
    bench.inject(&two, at(2));
    assert_eq!(bench.phase(&two.id), InjectionPhase::Refused);
    bench.step(Event::HaltFile(None), at(3));
    bench.active(&pause("r1.a.2", 8), at(4));
}

#[test]
fn a_lost_link_reverts_or_lets_run_as_asked() {
    let (mut bench, one) = (Bench::new(), pause("r1.a.0", 7));
    let two = Injection { link_loss: LinkLossAction::RunToDeadline, ..pause("r1.a.1", 8) };
    bench.active(&one, at(0));
    bench.active(&two, at(0));
    bench.step(Event::Disconnected, at(1000));
    // A session that is opened but not welcomed is no link.
    bench.step(Event::Connected, at(2000));
    bench.step(Event::Tick, at(20_999));
    assert!(!bench.undo_wanted(&one.id));
    bench.step(Event::Tick, at(21_000));
    assert!(bench.undo_wanted(&one.id) && !bench.undo_wanted(&two.id));
    bench.step(Event::Undone { id: one.id.clone(), result: Ok(()) }, at(21_001));
    assert_eq!(bench.last(&one.id).reason, Some(EndReason::LinkLost));
    bench.step(Event::Tick, at(60_000));
    assert!(bench.undo_wanted(&two.id));
}

#[test]
fn hello_tells_everything_held_and_lately_ended() {
    let (mut bench, one, two) = (Bench::new(), pause("r1.a.0", 7), pause("r1.a.1", 8));
    bench.active(&one, at(0));
    bench.down(NodeDown::Revert { injection: two.id.clone(), reason: "Stopped".into() }, at(0));
    let effects = bench.step(Event::Connected, at(1));
    let Some(Effect::Send(NodeUp::Hello(hello))) = effects.first() else { panic!("{effects:?}") };
    let held: Vec<_> = hello.held.iter().map(|status| (status.id.clone(), status.phase)).collect();
    assert_eq!(held, [(one.id, InjectionPhase::Injected), (two.id, InjectionPhase::Refused)]);
    assert!(hello.highest_epoch == 3 && hello.boot_id == "b1");
}

#[test]
fn an_ended_id_is_forgotten_after_a_week_and_not_before() {
    let (mut bench, one) = (Bench::new(), pause("r1.a.0", 7));
    bench.down(NodeDown::Revert { injection: one.id.clone(), reason: "Stopped".into() }, at(0));
    let week = crate::journal::REMEMBER_MS;
    assert!(bench.step(Event::Tick, at(week)).is_empty());
    assert_eq!(bench.step(Event::Tick, at(week + 1)), [Effect::Forget(one.id)]);
}

#[test]
fn steps_of_every_kind_come_from_the_plan_alone() {
    let one = partition("r1.a.0", 7, &["10.0.0.0/8"]);
    let steps = plan(&one).steps;
    assert!(matches!(&steps[..], [Step::NftTable { table, .. }] if table.rules.len() == 2));
}
