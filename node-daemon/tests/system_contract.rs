//! The contract of the door, run on the in-memory twin and on this machine's kernel, and what only the
//! kernel can show: workers, their death, cgroups. It has a main of its own because workers are this very
//! executable, started again.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a failed step is a failed test, and what was measured is shown"
)]

use std::ffi::OsString;
use std::process::ExitCode;

#[path = "contract/kernel.rs"]
mod kernel;
#[path = "lab/namespaces.rs"]
mod lab;
#[path = "contract/rules.rs"]
mod rules;
#[path = "contract/workers.rs"]
mod workers;

type Test = (&'static str, fn());

const ANYWHERE: &[Test] = &[("the_fake_keeps_the_contract", rules::on_the_fake)];
const PRIVILEGED: &[Test] = &[
    ("the_kernel_keeps_the_contract", kernel::keeps_the_contract),
    ("netem_delays_or_is_refused_without_a_trace", kernel::netem_delays_or_is_refused_without_a_trace),
    ("a_frozen_process_stops_and_goes_on", kernel::a_frozen_process_stops_and_goes_on),
    ("an_own_group_is_outside_of_every_other", kernel::an_own_group_is_outside_of_every_other),
    (
        "probes_leave_nothing_behind_and_each_other_alone",
        kernel::probes_leave_nothing_behind_and_each_other_alone,
    ),
    ("a_queue_delays_a_round_trip", workers::a_queue_delays_a_round_trip),
    ("a_delayed_stream_arrives_whole", workers::a_delayed_stream_arrives_whole),
    ("a_worker_ends_with_its_namespace", workers::a_worker_ends_with_its_namespace),
    ("a_killed_worker_lets_traffic_flow", workers::a_killed_worker_lets_traffic_flow),
    ("a_worker_ends_at_its_deadline", workers::a_worker_ends_at_its_deadline),
    ("a_worker_of_a_dead_daemon_undoes_itself", workers::a_worker_of_a_dead_daemon_undoes_itself),
    ("a_stray_worker_is_found_and_ended", workers::a_stray_worker_is_found_and_ended),
    ("a_worker_that_cannot_says_why", workers::a_worker_that_cannot_says_why),
    (
        "stress_burns_the_targets_time_and_ends_with_it",
        workers::stress_burns_the_targets_time_and_ends_with_it,
    ),
];

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    match words.first().and_then(|word| word.to_str()) {
        // The words of a worker, not a filter for tests of workers.
        Some("worker") if words.len() == 4 => {
            let done = node_daemon::worker::main(words.into_iter().skip(1));
            return if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Some("daemon") => workers::daemon(),
        _ => {}
    }
    let filters: Vec<String> = words.into_iter().filter_map(|word| word.into_string().ok()).collect();
    let filters: Vec<&String> = filters.iter().filter(|word| !word.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(*filter));
    let mut failed = 0;
    for (name, test) in ANYWHERE.iter().chain(PRIVILEGED).filter(|(name, _)| chosen(name)) {
        if PRIVILEGED.iter().any(|(other, _)| other == name) && lab::skipped(name) {
            continue;
        }
        let ok = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        failed += u32::from(!ok);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
