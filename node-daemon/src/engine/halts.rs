//! Halts: those the agent latched here (durable, lifted only by id) and the halt file of this node
//! (lifted by removing it). While one covers an injection it cannot start and does not stay.

use jiff::Timestamp;
use proto::halt::{Halt, HaltScope};
use proto::ids::HaltId;
use proto::injection::{EndReason, Injection};
use proto::wire::{NodeHaltState, NodeUp};

use super::{Effect, Held, Now, State};

/// The longest reason kept of a halt file, in characters.
const REASON_CHARS_MAX: usize = 200;

impl State {
    /// Adds every halt that is new; removes only what was resumed by id.
    pub(super) fn latch(
        &mut self,
        halts: Vec<Halt>,
        resumed: &[HaltId],
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let before = self.meta.halts.clone();
        for halt in halts {
            self.meta.halts.retain(|old| old.id != halt.id);
            self.meta.halts.push(halt);
        }
        self.meta.halts.retain(|halt| !resumed.contains(&halt.id));
        self.meta.halts.sort_by(|a, b| a.id.cmp(&b.id));
        if self.meta.halts != before {
            self.write_meta(effects);
            self.halts_revision = self.meta_revision;
        }
        self.enforce_halts(now, effects);
    }

    /// The node's own halt. The node knows no cluster, so it writes the widest scope; the agent narrows
    /// it to its cluster before telling anyone.
    pub(super) fn halt_file(&mut self, content: Option<String>, now: Now, effects: &mut Vec<Effect>) {
        self.local_halt = content.map(|content| Halt {
            id: self.node.halt_id.clone(),
            scope: HaltScope::Fleet,
            reason: content.trim().chars().take(REASON_CHARS_MAX).collect(),
            by: format!("node:{}", self.node.name),
            at: Timestamp::from_millisecond(now.wall_ms).unwrap_or_default(),
            origin: None,
        });
        self.enforce_halts(now, effects);
    }

    fn enforce_halts(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let covered: Vec<_> = self
            .held
            .values()
            .filter_map(|held| Some((held.id(), self.halt_over(&held.injection)?.clone())))
            .collect();
        for (id, halt) in covered {
            self.begin_end(&id, EndReason::Halted, &format!("halt {halt}"), now, effects);
        }
    }

    /// The first halt that covers an injection.
    pub(super) fn halt_over(&self, injection: &Injection) -> Option<&HaltId> {
        self.meta
            .halts
            .iter()
            .chain(&self.local_halt)
            .find(|halt| covers(halt, injection))
            .map(|halt| &halt.id)
    }

    /// Tells the agent when something changed. A halt counts as latched once it is on disk, as clean
    /// once nothing it covers can be active.
    pub(super) fn tell_halts(&mut self, effects: &mut Vec<Effect>) {
        if !self.connected || self.meta_written < self.halts_revision {
            return;
        }
        let is_clean = |halt: &&Halt| !self.held.values().any(|held| is_active_under(held, halt));
        let all = || self.meta.halts.iter().chain(&self.local_halt);
        let state = NodeHaltState {
            latched: self.halt_ids().cloned().collect(),
            clean: all().filter(is_clean).map(|halt| halt.id.clone()).collect(),
            local: self.local_halt.iter().cloned().collect(),
        };
        if self.halts_told.as_ref() != Some(&state) {
            effects.push(Effect::Send(NodeUp::HaltState(state.clone())));
            self.halts_told = Some(state);
        }
    }
}

fn is_active_under(held: &Held, halt: &Halt) -> bool {
    held.status.phase.may_be_active() && covers(halt, &held.injection)
}

/// The agent sends a node only what applies to its cluster, so only the namespace is left to compare.
fn covers(halt: &Halt, injection: &Injection) -> bool {
    match &halt.scope {
        HaltScope::Namespace { namespace, .. } => *namespace == injection.target.namespace,
        HaltScope::Fleet | HaltScope::Clusters { .. } | HaltScope::Cluster { .. } => true,
    }
}
