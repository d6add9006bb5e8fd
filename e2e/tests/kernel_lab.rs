//! The node daemon's door to the kernel on a stock Debian kernel, in an emulated
//! machine: the netem backend of network.delay and the unified control groups
//! are used there, not only refused for being absent.
//!
//! Needs `FAULTLINE_LAB=1` and what `kernel::why_not` names; no root.

use std::error::Error;
use std::path::Path;

use e2e::kernel::{self, Outcome, suites};
use e2e::lab::say;

const CONTRACT: &str = "system_contract";
const RULES: &str = "system_nft";

fn why_not() -> Option<String> {
    let wanted = std::env::var_os("FAULTLINE_LAB").is_some_and(|value| value == "1");
    if wanted { kernel::why_not() } else { Some("it needs FAULTLINE_LAB=1".to_owned()) }
}

/// Fails unless the suite ended well, with every test of it run.
fn assert_passed(suite: &Outcome) {
    let all = suite.lines.join("\n");
    assert_eq!(suite.code, 0, "{} failed:\n{all}", suite.name);
    assert!(!all.contains("SKIPPED"), "{} was not run as root:\n{all}", suite.name);
}

/// Fails unless the contract's test `name` was run and passed.
fn assert_ran(suite: &Outcome, name: &str) {
    let end = suite.line(&format!("test {name} ... "));
    assert_eq!(end.map(str::trim_end), Some("ok"), "{name}:\n{}", suite.lines.join("\n"));
}

#[test]
fn the_door_to_the_kernel_holds_on_a_stock_kernel() -> Result<(), Box<dyn Error>> {
    if let Some(why) = why_not() {
        say("kernel_lab", format_args!("SKIPPED: {why}"));
        return Ok(());
    }
    let programs = suites::build(&[CONTRACT, RULES])?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel-lab");
    let outcomes = kernel::run(&programs, &folder)?;
    let [contract, rules] = &outcomes[..] else {
        panic!("two suites were to run, not {outcomes:?}");
    };
    assert_eq!((contract.name.as_str(), rules.name.as_str()), (CONTRACT, RULES));
    assert_passed(contract);
    assert_passed(rules);
    let passed = rules.line("test result: ok. ").unwrap_or_default();
    assert!(!passed.is_empty() && !passed.starts_with("0 "), "{:?}", rules.lines);

    // Where netem is missing its test passes too, by being refused: here it must have delayed packets.
    for name in [
        "the_kernel_keeps_the_contract",
        "netem_delays_or_is_refused_without_a_trace",
        "a_frozen_process_stops_and_goes_on",
        "stress_burns_the_targets_time_and_ends_with_it",
    ] {
        assert_ran(contract, name);
    }
    for capability in ["netem", "prio"] {
        let found = contract.line(&format!("{capability}: "));
        assert!(found.is_some_and(|found| found.starts_with("true ")), "{capability}: {found:?}");
    }
    let measured = contract.line("netem round trip: ");
    let measured =
        measured.ok_or_else(|| format!("netem was not measured:\n{}", contract.lines.join("\n")))?;
    let freezer = contract.line("cgroup-freezer: ").unwrap_or_default();
    assert!(freezer.starts_with("true ") && freezer.contains("v2"), "{freezer}");
    say("kernel_lab", format_args!("netem round trip: {}; freezer: {freezer}", measured.trim_end()));
    Ok(())
}
