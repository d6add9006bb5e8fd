//! From a fault that is being made to its end: read-backs, deadlines, lost links, the undo, what an undo
//! left. Every way out of here goes through an undo that read back clean, or stays listed.

use std::sync::Arc;

use proto::experiment::LinkLossAction;
use proto::ids::InjectionId;
use proto::injection::{EndReason, InjectionPhase};

use super::admit::CLOCK_WITHIN_MS;
use super::{Effect, Failure, Held, Look, Now, Progress, Remains, State};
use crate::journal::{REMEMBER_MS, Record, Stage};
use crate::step;

/// Looks this close to the deadline say nothing: the kernel is ending the fault by itself.
const LOOK_MARGIN_MS: u64 = 1000;

impl State {
    pub(super) fn applied(
        &mut self,
        id: &InjectionId,
        result: Result<step::Effect, Failure>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let applying = |held: &&mut Held| held.progress == Progress::Applying;
        let Some(held) = self.held.get_mut(id).filter(applying) else {
            return;
        };
        let (phase, reason, why) = match result {
            Ok(effect) => {
                held.status.effect = effect_word(effect);
                held.status.injected_at_unix_ms = Some(now.wall_ms);
                return self.activated(id, now, effects);
            }
            Err(Failure::Late) => (InjectionPhase::Missed, None, "its time to start was over".to_owned()),
            Err(Failure::TargetGone(why)) => (InjectionPhase::TargetGone, Some(EndReason::TargetGone), why),
            Err(Failure::Error(why)) => (InjectionPhase::Failed, Some(EndReason::Error), why),
            Err(Failure::Residue(remains)) => {
                let why = "it could not be made and what was made could not be removed".to_owned();
                held.end.get_or_insert((EndReason::Error, why));
                return self.left(id, &remains, now, effects);
            }
        };
        self.finish(id, phase, reason, why, now, effects);
    }

    fn activated(&mut self, id: &InjectionId, now: Now, effects: &mut Vec<Effect>) {
        let Some(held) = self.held.get_mut(id) else { return };
        if held.end.is_some() || held.deadline.has_passed(now.boottime_ms, now.wall_ms) {
            let (reason, why) = held.end.take().unwrap_or((EndReason::Deadline, String::new()));
            held.progress = Progress::Active { look_at_ms: u64::MAX, looking: false };
            return self.begin_end(id, reason, &why, now, effects);
        }
        held.status.phase = InjectionPhase::Injected;
        held.progress =
            Progress::Active { look_at_ms: now.boottime_ms + self.limits.look_every_ms, looking: false };
        effects.push(Effect::tell(&held.status));
        let injected_at = held.status.injected_at_unix_ms;
        held.rewrite(effects, |record| {
            record.stage = Stage::Injected;
            record.injected_at_unix_ms = injected_at;
        });
    }

    pub(super) fn looked(&mut self, id: &InjectionId, look: Look, now: Now, effects: &mut Vec<Effect>) {
        let look_every_ms = self.limits.look_every_ms;
        let Some(held) = self.held.get_mut(id) else { return };
        let Progress::Active { look_at_ms, looking } = &mut held.progress else {
            return;
        };
        *look_at_ms = now.boottime_ms + look_every_ms;
        *looking = false;
        if now.boottime_ms + LOOK_MARGIN_MS >= held.deadline.boottime_ms {
            return;
        }
        let before = held.status.clone();
        match look {
            Look::Intended(effect) => {
                held.status.phase = InjectionPhase::Injected;
                held.status.message = String::new();
                held.status.effect = effect_word(effect).or(held.status.effect);
            }
            Look::Drifted(what) => {
                held.status.phase = InjectionPhase::Unknown;
                held.status.message = format!("changed by someone else: {}", what.join("; "));
            }
            Look::Failed(why) => {
                held.status.phase = InjectionPhase::Unknown;
                held.status.message = format!("it could not be read back: {why}");
            }
            Look::Absent(what) => {
                let why = format!("{what} is gone: someone else removed it");
                return self.begin_end(id, EndReason::Error, &why, now, effects);
            }
            Look::TargetGone => return self.begin_end(id, EndReason::TargetGone, "", now, effects),
        }
        if held.status != before {
            effects.push(Effect::tell(&held.status));
        }
    }

    /// Ends an injection wherever it is on its way. The first reason stays.
    pub(super) fn begin_end(
        &mut self,
        id: &InjectionId,
        reason: EndReason,
        why: &str,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(held) = self.held.get_mut(id) else { return };
        match held.progress {
            Progress::Clock { .. } | Progress::Resolving => {
                let missed = reason == EndReason::Deadline;
                let phase = if missed { InjectionPhase::Missed } else { InjectionPhase::Refused };
                self.finish(id, phase, Some(reason), why.to_owned(), now, effects);
            }
            // What is under way is awaited, so that nothing is made behind the undo's back.
            Progress::Journalling | Progress::Applying => {
                held.end.get_or_insert_with(|| (reason, why.to_owned()));
            }
            Progress::Active { .. } => {
                held.end.get_or_insert_with(|| (reason, why.to_owned()));
                held.status.phase = InjectionPhase::Reverting;
                held.status.reason = Some(reason);
                why.clone_into(&mut held.status.message);
                held.progress = Progress::Undoing;
                effects.push(Effect::tell(&held.status));
                effects.extend(held.record.clone().map(Effect::Undo));
            }
            Progress::Undoing | Progress::Residue { .. } => {}
        }
    }

    pub(super) fn undone(
        &mut self,
        id: &InjectionId,
        result: Result<(), Remains>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let undoing = |held: &&Held| held.progress == Progress::Undoing;
        let Some(held) = self.held.get(id).filter(undoing) else {
            return;
        };
        if let Err(remains) = result {
            return self.left(id, &remains, now, effects);
        }
        let (reason, why) = held.end.clone().unwrap_or((EndReason::Error, String::new()));
        let made = held.status.injected_at_unix_ms.is_some();
        let phase = match reason {
            EndReason::TargetGone => InjectionPhase::TargetGone,
            EndReason::Error if !made => InjectionPhase::Failed,
            _ => InjectionPhase::Reverted,
        };
        self.finish(id, phase, Some(reason), why, now, effects);
    }

    /// Something is left: listed, and tried again until it reads back clean.
    fn left(&mut self, id: &InjectionId, remains: &Remains, now: Now, effects: &mut Vec<Effect>) {
        let retry_at_ms = now.boottime_ms + self.limits.residue_retry_ms;
        let Some(held) = self.held.get_mut(id) else { return };
        let before = held.status.clone();
        held.progress = Progress::Residue { retry_at_ms };
        held.status.phase = InjectionPhase::Residue;
        held.status.reason = held.end.as_ref().map(|(reason, _)| *reason);
        held.status.message = remains.to_string();
        held.status.resolves_at_unix_ms = None;
        if held.status != before {
            effects.push(Effect::tell(&held.status));
            held.rewrite(effects, |record| record.stage = Stage::Residue);
        }
    }

    /// The end: nothing of it is on the node. Only what never came to the journal, or was read back
    /// clean, comes here.
    pub(super) fn finish(
        &mut self,
        id: &InjectionId,
        phase: InjectionPhase,
        reason: Option<EndReason>,
        why: String,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(held) = self.held.remove(id) else { return };
        let mut status = held.status;
        status.phase = phase;
        status.reason = reason;
        status.message = why;
        status.resolves_at_unix_ms = None;
        status.reverted_at_unix_ms = status.injected_at_unix_ms.map(|_| now.wall_ms);
        self.remember(status, now, effects);
    }

    /// Everything that is due by now.
    pub(super) fn timers(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let ids: Vec<InjectionId> = self.held.keys().cloned().collect();
        for id in ids {
            self.timer(&id, now, effects);
        }
        let remember = REMEMBER_MS as i64;
        let old = |at: i64| now.wall_ms.saturating_sub(at) > remember;
        let forgotten = self.ended.extract_if(.., |_, ended| {
            ended.as_ref().is_some_and(|ended| old(ended.at_unix_ms) && !ended.status.phase.may_be_active())
        });
        effects.extend(forgotten.map(|(id, _)| Effect::Forget(id)));
    }

    fn timer(&mut self, id: &InjectionId, now: Now, effects: &mut Vec<Effect>) {
        let lost_since_ms = self.lost_since_ms;
        let Some(held) = self.held.get_mut(id) else { return };
        if let Progress::Clock { asked_ms, .. } = held.progress
            && now.boottime_ms >= asked_ms + CLOCK_WITHIN_MS
        {
            let why = "the agent's time did not arrive within 10 s".to_owned();
            return self.finish(id, InjectionPhase::Missed, None, why, now, effects);
        }
        if let Progress::Residue { retry_at_ms } = held.progress {
            if now.boottime_ms >= retry_at_ms {
                held.progress = Progress::Undoing;
                effects.extend(held.record.clone().map(Effect::Undo));
            }
            return;
        }
        if held.deadline.has_passed(now.boottime_ms, now.wall_ms) {
            return self.begin_end(id, EndReason::Deadline, "", now, effects);
        }
        if held.link_loss_at(lost_since_ms).is_some_and(|at| now.boottime_ms >= at) {
            let why = format!("no agent for {} ms", held.injection.link_loss_after_ms);
            return self.begin_end(id, EndReason::LinkLost, &why, now, effects);
        }
        if let Progress::Active { look_at_ms, looking: looking @ false } = &mut held.progress
            && now.boottime_ms >= *look_at_ms
        {
            *looking = true;
            effects.extend(held.record.clone().map(Effect::Look));
        }
    }

    /// When this one needs a step at the latest, boottime ms.
    pub(super) fn wake_of(&self, held: &Held) -> Option<u64> {
        match held.progress {
            Progress::Clock { asked_ms, .. } => {
                Some((asked_ms + CLOCK_WITHIN_MS).min(held.deadline.boottime_ms))
            }
            Progress::Residue { retry_at_ms } => Some(retry_at_ms),
            Progress::Active { look_at_ms, looking } => {
                let look = (!looking).then_some(look_at_ms);
                let lost = held.link_loss_at(self.lost_since_ms);
                [look, lost, Some(held.deadline.boottime_ms)].into_iter().flatten().min()
            }
            Progress::Resolving => Some(held.deadline.boottime_ms),
            Progress::Journalling | Progress::Applying | Progress::Undoing => None,
        }
    }
}

impl Held {
    fn link_loss_at(&self, lost_since_ms: Option<u64>) -> Option<u64> {
        let reverts = self.injection.link_loss == LinkLossAction::Revert;
        lost_since_ms.filter(|_| reverts).map(|since| since.saturating_add(self.injection.link_loss_after_ms))
    }

    /// Writes the record again; nobody waits for it.
    fn rewrite(&mut self, effects: &mut Vec<Effect>, change: impl FnOnce(&mut Record)) {
        if let Some(record) = &mut self.record {
            change(Arc::make_mut(record));
            effects.push(Effect::WriteRecord(Arc::clone(record)));
        }
    }
}

fn effect_word(effect: step::Effect) -> Option<proto::injection::Effect> {
    match effect {
        step::Effect::NotCounted => None,
        step::Effect::NoTraffic => Some(proto::injection::Effect::NoTraffic),
        step::Effect::Seen => Some(proto::injection::Effect::Seen),
    }
}
