//! The whole daemon on this machine's kernel: real namespaces, real processes, a real keeper, and a daemon
//! that is killed. It has a main of its own because daemon, keeper and workers are this very executable,
//! started again. Needs root; says so and passes otherwise.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a failed step is a failed test, and what was measured is shown"
)]

use std::ffi::OsString;
use std::process::ExitCode;

#[path = "daemon/child.rs"]
mod child;
#[path = "lab/namespaces.rs"]
mod lab;
#[path = "daemon/scenes.rs"]
mod scenes;

type Test = (&'static str, fn());

const PRIVILEGED: &[Test] = &[
    ("every_kind_is_felt_and_gone_at_its_deadline", scenes::every_kind_is_felt_and_gone_at_its_deadline),
    ("a_drain_reverts_everything", scenes::a_drain_reverts_everything),
    (
        "a_killed_daemon_left_dead_is_clean_at_the_deadline",
        scenes::a_killed_daemon_left_dead_is_clean_at_the_deadline,
    ),
    ("a_daemon_killed_at_any_moment_leaves_nothing", scenes::a_daemon_killed_at_any_moment_leaves_nothing),
    (
        "daemon_and_keeper_killed_the_next_daemon_reverts",
        scenes::daemon_and_keeper_killed_the_next_daemon_reverts,
    ),
    ("a_dead_keeper_is_replaced", scenes::a_dead_keeper_is_replaced),
    (
        "a_keeper_whose_state_was_deleted_reverts_and_leaves",
        scenes::a_keeper_whose_state_was_deleted_reverts_and_leaves,
    ),
    ("workers_end_with_their_daemon", scenes::workers_end_with_their_daemon),
    ("a_stopped_daemon_does_not_hold_a_fault", scenes::a_stopped_daemon_does_not_hold_a_fault),
];

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let code = |ok: bool| if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    match words.first().and_then(|word| word.to_str()) {
        // The words of a worker, not a filter for tests of workers.
        Some("worker") if words.len() >= 4 => {
            return code(node_daemon::work(words.into_iter().skip(1)).is_ok());
        }
        Some("daemon") if words.len() == 3 => {
            let done = child::daemon(words[1].clone().into(), words[2].clone().into());
            return code(done.inspect_err(|error| eprintln!("daemon: {error:#}")).is_ok());
        }
        _ => {}
    }
    let words: Vec<String> = words.into_iter().filter_map(|word| word.into_string().ok()).collect();
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(*filter));
    let mut failed = 0;
    for (name, test) in PRIVILEGED.iter().filter(|(name, _)| chosen(name)) {
        if lab::skipped(name) {
            continue;
        }
        let ok = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        failed += u32::from(!ok);
    }
    code(failed == 0)
}
