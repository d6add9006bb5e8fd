//! What the link to the centre means for runs: while it is gone nothing new starts, and a run whose spec says so
//! is reverted after a while. The link between a node and this agent is judged by the daemon, not here.

use proto::experiment::{Limits, LinkLossAction};

use super::state::{RunState, Stage};
use super::{Effect, Now, State};
use crate::cluster::LinkLoss;

/// A session is open, or the second opt-in changed on it: everything is said again, everything asked again.
pub fn up(state: &mut State, accepted: bool, _out: &mut Vec<Effect>) {
    state.link.up = true;
    state.link.accepted = accepted;
    state.link.down_since_ms = None;
    state.halts.said = None;
    forget_questions(state);
    for run in state.runs.values_mut() {
        run.dirty = true;
    }
}

/// The session is gone.
pub fn down(state: &mut State, now: Now) {
    if state.link.up || state.link.down_since_ms.is_none() {
        state.link.down_since_ms = Some(now.boottime_ms);
    }
    state.link.up = false;
    forget_questions(state);
}

/// Answers only count on the connection they were asked on.
fn forget_questions(state: &mut State) {
    for run in state.runs.values_mut() {
        run.asked = false;
        if matches!(run.stage, Stage::AwaitingClock { .. }) {
            run.stage = Stage::AwaitingClock { id: 0 };
        }
    }
}

/// The boottime at which a run must be reverted because the link is gone; `None` while it is up, or never.
pub fn due(state: &State, run: &RunState) -> Option<u64> {
    let since = state.link.down_since_ms?;
    // Nothing is live before its spec is known; a record of an older agent does not have it: the default.
    let loss = run.link_loss.unwrap_or_else(|| LinkLoss::from(&Limits::default()));
    (loss.action == LinkLossAction::Revert && run.is_live() && run.end.is_none())
        .then(|| since.saturating_add(loss.after_ms))
}
