//! What a source pays, and what of it is written down, on a clock of the test.

use std::net::{IpAddr, Ipv4Addr};

use jiff::SignedDuration;

use super::*;

fn source(n: u32) -> Source {
    Source::from(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)))
}

fn at(ms: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_millis(1_800_000_000_000 + ms)
}

fn taken(turns: &Turns, n: u32, ms: i64) -> usize {
    (0..10_000).take_while(|_| turns.take(source(n), at(ms)) == Turn::Yours).count()
}

/// Asks with garbage: whether it was heard, and how many records that makes.
fn garbage(turns: &Turns, n: u32, ms: i64) -> (bool, usize) {
    match turns.take(source(n), at(ms)) {
        Turn::Yours => {
            let noting = turns.refused(source(n), Standing::Stranger, at(ms));
            (true, usize::from(noting != Noting::Not))
        }
        Turn::Wait { note } => (false, usize::from(note)),
    }
}

#[test]
fn many_clusters_behind_one_address_enrol_and_others_beside_them() {
    let turns = Turns::default();
    assert_eq!(taken(&turns, 1, 0), 100);
    assert_eq!(taken(&turns, 2, 0), 100, "another address is not held up");
    assert_eq!(taken(&turns, 1, 1000), 10);
    assert_eq!((3..9).map(|n| taken(&turns, n, 1000)).sum::<usize>(), 340, "all together have a bound");
}

/// Garbage as fast as it is let in, for a minute, from twenty sources: a new cluster enrols at any time.
#[test]
fn garbage_keeps_nobody_out() {
    let turns = Turns::default();
    let (mut let_in, mut noted) = (0, 0);
    for ms in (0..60_000).step_by(10) {
        for n in 0..20 {
            let (heard, records) = garbage(&turns, n, ms);
            let_in += usize::from(heard);
            noted += records;
        }
        assert_eq!(turns.take(source(1000), at(ms)), Turn::Yours, "{ms}");
        // It is given back, so that the next is as new.
        let mut budgets = turns.budgets.lock().unwrap();
        budgets.each.remove(&source(1000));
        budgets.all.as_mut().unwrap().turns.left += 1.0;
    }
    assert!(let_in <= 20 * (60 + 10), "a source asks in vain once a second: {let_in}");
    assert!(noted <= 50 + 1 + 1, "{noted}");
}

/// However many sources ask in vain once a second, they take no more than their share of what all have.
#[test]
fn who_asks_in_vain_leaves_most_turns_to_the_others() {
    let turns = Turns::default();
    let mut heard = 0;
    for second in 0..600 {
        heard += (0..300).filter(|n| garbage(&turns, *n, second * 1000).0).count();
    }
    // Each is new once; then they share.
    assert!(heard <= 300 + 100 + 600 * 10, "{heard}");
    assert_eq!(taken(&turns, 1000, 600_000), 100);
    // One that is let in is no such source any more.
    turns.granted(source(5), at(600_000));
    assert!(taken(&turns, 5, 600_000) > 20);
}

/// At the pace at which every request is heard.
#[test]
fn an_hour_of_garbage_leaves_few_records() {
    for (sources, seconds, most) in [(1, 3600, 5 + 6 + 1), (60, 3600, 50 + 60 + 1), (1500, 10, 50 + 1)] {
        let (turns, mut noted) = (Turns::default(), 0);
        for second in 0..seconds {
            noted += (0..sources).map(|n| garbage(&turns, n, second * 1000).1).sum::<usize>();
        }
        assert!(noted <= most, "{sources} sources: {noted}");
    }
}

#[test]
fn a_holder_pays_the_plain_price_and_is_noted_beside_any_garbage() {
    let turns = Turns::default();
    for n in 0..100 {
        garbage(&turns, n, 0);
    }
    for _ in 0..50 {
        assert_eq!(turns.take(source(1000), at(0)), Turn::Yours);
        assert_eq!(turns.refused(source(1000), Standing::Holder, at(0)), Noting::Each);
    }
    assert_eq!(taken(&turns, 1000, 0), 50);
    assert_eq!(turns.refused(source(1000), Standing::Holder, at(0)), Noting::Not, "bounded, too");
}

#[test]
fn what_is_remembered_is_bounded() {
    let turns = Turns::default();
    for n in 0..200_000 {
        garbage(&turns, n, i64::from(n));
    }
    let known = turns.budgets.lock().unwrap().each.len();
    assert!(known <= 2 * FORGET_FROM, "{known}");
}

#[test]
fn a_clock_that_goes_back_gives_and_takes_nothing() {
    let turns = Turns::default();
    assert_eq!(taken(&turns, 1, 10_000), 100);
    assert_eq!(taken(&turns, 1, 0), 0);
    assert_eq!(taken(&turns, 1, 1000), 10);
}
