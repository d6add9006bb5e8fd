//! What is said of a fault that was made, and how it comes to its end.

use super::*;

#[test]
fn a_status_says_what_was_seen() {
    let (mut bench, one) = (Bench::new(), partition("r1.a.0", 7, &[]));
    bench.active(&one, at(0));
    assert_eq!(bench.last(&one.id).effect, Some(proto::injection::Effect::NoTraffic));
    let look = |look| Event::Looked { id: one.id.clone(), look };
    bench.step(look(Look::Intended(step::Effect::Seen)), at(3000));
    assert_eq!(bench.last(&one.id).effect, Some(proto::injection::Effect::Seen));
    bench.step(look(Look::Drifted(vec!["set r0v4 is missing".into()])), at(6000));
    let last = bench.last(&one.id);
    assert_eq!(last.phase, InjectionPhase::Unknown);
    assert!(last.resolves_at_unix_ms.is_some() && last.message.contains("r0v4"));
    bench.step(look(Look::Intended(step::Effect::Seen)), at(9000));
    assert_eq!(bench.phase(&one.id), InjectionPhase::Injected);
    bench.step(look(Look::Absent("the packet table".into())), at(12_000));
    assert_ne!(bench.phase(&one.id), InjectionPhase::Injected, "nothing is there");
    bench.step(Event::Undone { id: one.id.clone(), result: Ok(()) }, at(12_001));
    let last = bench.last(&one.id);
    assert_eq!((last.phase, last.reason), (InjectionPhase::Reverted, Some(EndReason::Error)));
    assert!(last.message.contains("packet table"));

    let two = pause("r1.a.1", 7);
    bench.active(&two, at(13_000 - 13_000));
    bench.step(Event::Looked { id: two.id.clone(), look: Look::TargetGone }, at(100));
    bench.step(Event::Undone { id: two.id.clone(), result: Ok(()) }, at(101));
    assert_eq!(bench.phase(&two.id), InjectionPhase::TargetGone);
}

#[test]
fn residue_is_listed_and_tried_again_until_it_reads_back_clean() {
    let (mut bench, one) = (Bench::new(), pause("r1.a.0", 7));
    bench.active(&one, at(0));
    bench.down(NodeDown::Revert { injection: one.id.clone(), reason: "Stopped".into() }, at(1));
    let remains = Remains { what: "frozen cgroup".into(), command: "echo THAWED".into() };
    bench.step(Event::Undone { id: one.id.clone(), result: Err(remains.clone()) }, at(2));
    let last = bench.last(&one.id);
    assert_eq!(last.phase, InjectionPhase::Residue);
    assert!(last.message.contains("echo THAWED"), "{}", last.message);
    assert!(bench.state.is_drained());
    let undo = |effects: Vec<Effect>| effects.iter().any(|effect| matches!(effect, Effect::Undo(_)));
    assert!(!undo(bench.step(Event::Tick, at(30_001))));
    assert!(undo(bench.step(Event::Tick, at(30_002))));
    bench.step(Event::Undone { id: one.id.clone(), result: Err(remains) }, at(30_003));
    assert!(undo(bench.step(Event::Tick, at(60_003))));
    bench.step(Event::Undone { id: one.id.clone(), result: Ok(()) }, at(60_004));
    assert_eq!(bench.phase(&one.id), InjectionPhase::Reverted);
}

#[test]
fn a_journal_that_cannot_be_written_makes_nothing() {
    let (mut bench, one) = (Bench::new(), pause("r1.a.0", 7));
    let asked = bench.inject(&one, at(0));
    bench.clock(&asked, timestamp(0), at(0));
    bench.step(Event::Resolved { id: one.id.clone(), result: Ok(plan(&one)) }, at(0));
    bench.step(Event::Recorded { id: one.id.clone(), result: Err("disk full".into()) }, at(0));
    let last = bench.last(&one.id);
    assert_eq!(last.phase, InjectionPhase::Failed);
    assert!(last.message.contains("disk full"));
    assert!(!bench.log.iter().any(|effect| matches!(effect, Effect::Apply { .. })));
}

#[test]
fn while_draining_what_is_held_goes_on_and_the_agent_is_told_once() {
    let (mut bench, one) = (Bench::new(), pause("r1.a.0", 7));
    bench.active(&one, at(0));
    let draining = |effects: &[Effect]| {
        effects.iter().filter(|effect| matches!(effect, Effect::Send(NodeUp::Draining))).count()
    };
    assert_eq!(draining(&bench.step(Event::TakeNoMore, at(1))), 1);
    assert!(!bench.undo_wanted(&one.id) && !bench.state.is_drained());
    assert_eq!(draining(&bench.step(Event::Drain, at(2))), 0);
    assert!(bench.undo_wanted(&one.id));
    assert_eq!(draining(&bench.step(Event::Connected, at(3))), 1);
}

/// Whatever it waited for comes too late.
#[test]
fn while_draining_what_was_taken_and_not_made_is_refused() {
    let mut bench = Bench::new();
    let [clock, resolving, journalling] = [7, 8, 9].map(|pid| pause(&format!("r1.a.{pid}"), pid));
    let asked = bench.inject(&clock, at(0));
    for one in [&resolving, &journalling] {
        let asked = bench.inject(one, at(0));
        bench.clock(&asked, timestamp(0), at(0));
    }
    bench.step(Event::Resolved { id: journalling.id.clone(), result: Ok(plan(&journalling)) }, at(0));
    bench.step(Event::TakeNoMore, at(1));
    assert!(!bench.state.is_drained(), "the journal is awaited");
    bench.clock(&asked, timestamp(0), at(2));
    bench.step(Event::Resolved { id: resolving.id.clone(), result: Ok(plan(&resolving)) }, at(2));
    bench.step(Event::Recorded { id: journalling.id.clone(), result: Ok(()) }, at(2));
    for one in [&clock, &resolving, &journalling] {
        let last = bench.last(&one.id);
        assert_eq!((last.phase, last.reason), (InjectionPhase::Refused, Some(EndReason::DaemonDrain)));
        assert!(last.message.starts_with("Draining: "), "{}", last.message);
    }
    assert!(!bench.log.iter().any(|effect| matches!(effect, Effect::Apply { .. })));
    assert_eq!(bench.state.held(), 0);
}

#[test]
fn a_drain_reverts_everything_and_takes_nothing_new() {
    let (mut bench, one, two) = (Bench::new(), pause("r1.a.0", 7), pause("r1.a.1", 8));
    bench.active(&one, at(0));
    bench.make(&two, at(0));
    bench.step(Event::Drain, at(1));
    assert!(bench.undo_wanted(&one.id) && !bench.state.is_drained());
    bench.step(Event::Applied { id: two.id.clone(), result: Ok(step::Effect::NotCounted) }, at(2));
    assert!(bench.undo_wanted(&two.id));
    for id in [&one.id, &two.id] {
        bench.step(Event::Undone { id: id.clone(), result: Ok(()) }, at(3));
        assert_eq!(bench.last(id).reason, Some(EndReason::DaemonDrain));
    }
    assert!(bench.state.is_drained());
    let three = pause("r1.a.2", 7);
    bench.inject(&three, at(4));
    assert_eq!(bench.phase(&three.id), InjectionPhase::Refused);
}
