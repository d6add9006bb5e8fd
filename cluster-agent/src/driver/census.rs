//! The gauges of the agent, counted anew after each event: nothing keeps these numbers, so nothing keeps them wrong.

use proto::assignment::Residue;
use proto::injection::InjectionPhase;

use crate::engine::nodes::holds_any;
use crate::engine::state::Tracked;
use crate::engine::{Now, State};
use crate::health::Metrics;

/// Counts what the engine knows; `ports` are the daemons with a session.
pub(super) fn take(state: &State, metrics: &Metrics, ports: usize, now: Now) {
    metrics.link_up.set(i64::from(state.link.up));
    metrics.accepts_starts.set(i64::from(state.accepts_starts));
    metrics.nodes.set(number(ports));
    metrics.runs.set(number(state.runs.len()));
    metrics.halts.set(number(state.all_halts().len()));
    metrics.active_runs.set(number(state.runs.values().filter(|run| holds_any(run, now)).count()));
    for kind in proto::catalogue::ENTRIES.iter().map(|entry| entry.kind) {
        let of_kind = |tracked: &&Tracked| {
            tracked.status.phase == InjectionPhase::Injected
                && tracked.injection.as_ref().is_some_and(|made| made.action.kind() == kind)
        };
        let injections = state.runs.values().flat_map(|run| &run.injections);
        metrics.active.get_or_create(&[("kind", kind)]).set(number(injections.filter(of_kind).count()));
    }
    for (word, residue) in [("Unknown", Residue::Unknown), ("Dirty", Residue::Dirty)] {
        let left = state.runs.values().filter(|run| run.observed.residue == residue).count();
        metrics.residue.get_or_create(&[("state", word)]).set(number(left));
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
