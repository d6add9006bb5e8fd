//! From a start that was read to a fault that may be made: limits, a fresh clock, the target, conflicts,
//! the journal. Every refusal here has changed nothing on the node.

use std::sync::Arc;

use jiff::Timestamp;
use proto::ids::InjectionId;
use proto::injection::{Action, EndReason, Injection, InjectionPhase, InjectionStatus};
use proto::wire::{Inject, NodeUp};

use super::{DRAINING, Effect, Held, Now, Plan, Progress, State, Unfit, conflict};
use crate::journal::{Deadline, Record, Stage};

/// The agent's time must arrive within this, ms, or the start is missed.
pub(super) const CLOCK_WITHIN_MS: u64 = 10_000;

impl State {
    pub(super) fn admit(&mut self, inject: Inject, now: Now, effects: &mut Vec<Effect>) {
        let id = &inject.injection.id;
        // The same start again, for example after a reconnect: say how far it is.
        if let Some(held) = self.held.get(id) {
            return effects.push(Effect::tell(&held.status));
        }
        if let Some(Some(ended)) = self.ended.get(id) {
            return effects.push(Effect::tell(&ended.status));
        }
        let mut status = fresh_status(&inject.injection);
        if let Err((reason, why)) = self.check(&inject) {
            status.phase = InjectionPhase::Refused;
            status.reason = Some(reason);
            status.message = why;
            return effects.push(Effect::tell(&status));
        }
        self.raise_epoch(inject.agent_epoch, effects);
        let probe = self.next_probe;
        self.next_probe += 1;
        effects.push(Effect::Send(NodeUp::ClockProbe { id: probe }));
        let deadline = deadline_in(inject.remaining_ms, now);
        status.resolves_at_unix_ms = Some(deadline.wall_ms);
        effects.push(Effect::tell(&status));
        let held = Held {
            injection: Arc::new(inject.injection.clone()),
            status,
            deadline,
            start_before_ms: now.boottime_ms,
            end: None,
            record: None,
            progress: Progress::Clock { probe, asked_ms: now.boottime_ms, inject: Box::new(inject) },
        };
        self.held.insert(held.id(), held);
    }

    /// What can be judged at once. The id is not remembered: a refusal of an agent that may not ask
    /// takes nothing from one that may.
    fn check(&self, inject: &Inject) -> Result<(), (EndReason, String)> {
        let injection = &inject.injection;
        let error = |why: String| Err((EndReason::Error, why));
        if self.ended.contains_key(&injection.id) {
            return error("this id is over".to_owned());
        }
        if inject.agent_epoch < self.meta.highest_epoch {
            let highest = self.meta.highest_epoch;
            return error(format!("agent epoch {} is over, the latest is {highest}", inject.agent_epoch));
        }
        if self.draining {
            return Err((EndReason::DaemonDrain, DRAINING.to_owned()));
        }
        if self.meta_damaged {
            let why = "meta.json in the state directory is damaged: which halts hold is not known; \
                       nothing starts until a person has removed it and restarted the daemon";
            return error(why.to_owned());
        }
        if let Some(halt) = self.halt_over(injection) {
            return Err((EndReason::Halted, format!("halt {halt}")));
        }
        if injection.target.node != self.node.name {
            return error(format!("the target is on {}, this is {}", injection.target.node, self.node.name));
        }
        if self.limits.protected_namespaces.contains(&injection.target.namespace) {
            return error(format!("namespace {} is protected on this node", injection.target.namespace));
        }
        if inject.remaining_ms > self.limits.max_deadline_ms {
            let (asked, most) = (inject.remaining_ms / 1000, self.limits.max_deadline_ms / 1000);
            return error(format!("it would last {asked} s, this node allows {most} s (--max-deadline)"));
        }
        if self.held.len() >= self.limits.max_held {
            return error(format!("this node holds {} injections already", self.held.len()));
        }
        check_action(&injection.action).or_else(error)
    }

    /// The agent's time, measured after its start was read: no later than what is said here plus the
    /// whole way there and back.
    pub(super) fn clock_reply(&mut self, probe: u64, at: Timestamp, now: Now, effects: &mut Vec<Effect>) {
        let asked =
            |held: &&mut Held| matches!(&held.progress, Progress::Clock { probe: own, .. } if *own == probe);
        let Some(held) = self.held.values_mut().find(asked) else {
            return;
        };
        let Progress::Clock { asked_ms, inject, .. } = &held.progress else {
            return;
        };
        let way_ms = now.boottime_ms.saturating_sub(*asked_ms);
        let agent_ms = at.as_millisecond().saturating_add_unsigned(way_ms);
        let until = |instant: Timestamp| instant.as_millisecond().saturating_sub(agent_ms);

        let (start_left, agent_left) = (until(inject.start_before), until(inject.deadline));
        let id = held.id();
        if start_left < 0 {
            let why = format!("{} ms too late by the agent's clock", start_left.unsigned_abs());
            return self.finish(&id, InjectionPhase::Missed, None, why, now, effects);
        }
        let agent_left = agent_left.max(0).unsigned_abs();
        let own_left = held.deadline.boottime_ms.saturating_sub(now.boottime_ms);
        held.deadline = deadline_in(own_left.min(agent_left), now);
        held.start_before_ms = now.boottime_ms.saturating_add(start_left.unsigned_abs());
        held.status.resolves_at_unix_ms = Some(held.deadline.wall_ms);
        if held.deadline.has_passed(now.boottime_ms, now.wall_ms) {
            let why = "its deadline has passed".to_owned();
            return self.finish(&id, InjectionPhase::Missed, None, why, now, effects);
        }
        held.progress = Progress::Resolving;
        effects.push(Effect::Resolve(Arc::clone(&held.injection)));
    }

    pub(super) fn resolved(
        &mut self,
        id: &InjectionId,
        result: Result<Plan, Unfit>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let resolving = |held: &&Held| held.progress == Progress::Resolving;
        let Some(held) = self.held.get(id).filter(resolving) else {
            return;
        };
        let plan = match result {
            Ok(plan) => plan,
            Err(Unfit::TargetGone(why)) => {
                let reason = Some(EndReason::TargetGone);
                return self.finish(id, InjectionPhase::TargetGone, reason, why, now, effects);
            }
            Err(Unfit::Refused(why)) => {
                return self.finish(id, InjectionPhase::Refused, Some(EndReason::Error), why, now, effects);
            }
        };
        let mut others = self.held.values().filter_map(|held| held.record.as_deref());
        let clash = others.find_map(|other| Some((other, conflict::between(&held.injection, &plan, other)?)));
        if let Some((other, why)) = clash {
            let why = format!("conflicts with {}: {why}", other.injection.id);
            return self.finish(id, InjectionPhase::Refused, Some(EndReason::Error), why, now, effects);
        }
        let record = Arc::new(Record {
            injection: (*held.injection).clone(),
            identity: plan.identity,
            steps: plan.steps,
            deadline: held.deadline,
            boot_id: self.node.boot_id.clone(),
            stage: Stage::Intended,
            injected_at_unix_ms: None,
        });
        if let Some(held) = self.held.get_mut(id) {
            held.record = Some(Arc::clone(&record));
            held.progress = Progress::Journalling;
        }
        effects.push(Effect::WriteRecord(record));
    }

    pub(super) fn recorded(
        &mut self,
        id: &InjectionId,
        result: Result<(), String>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let journalling = |held: &&mut Held| held.progress == Progress::Journalling;
        let Some(held) = self.held.get_mut(id).filter(journalling) else {
            return;
        };
        let Some(record) = held.record.clone() else { return };
        if let Err(why) = result {
            let why = format!("the journal could not be written: {why}");
            return self.finish(id, InjectionPhase::Failed, Some(EndReason::Error), why, now, effects);
        }
        if let Some((reason, why)) = held.end.clone() {
            let phase =
                if reason == EndReason::Deadline { InjectionPhase::Missed } else { InjectionPhase::Refused };
            return self.finish(id, phase, Some(reason), why, now, effects);
        }
        if now.boottime_ms > held.start_before_ms {
            let why = "its time to start was over when the journal was written".to_owned();
            return self.finish(id, InjectionPhase::Missed, None, why, now, effects);
        }
        held.progress = Progress::Applying;
        effects.push(Effect::Apply { record, start_before_ms: held.start_before_ms });
    }
}

/// So long from now, by both clocks.
fn deadline_in(left_ms: u64, now: Now) -> Deadline {
    Deadline {
        boottime_ms: now.boottime_ms.saturating_add(left_ms),
        wall_ms: now.wall_ms.saturating_add_unsigned(left_ms),
    }
}

fn fresh_status(injection: &Injection) -> InjectionStatus {
    InjectionStatus {
        id: injection.id.clone(),
        run: injection.run.clone(),
        phase: InjectionPhase::Accepted,
        reason: None,
        message: String::new(),
        effect: None,
        backend: injection.backend.clone(),
        injected_at_unix_ms: None,
        reverted_at_unix_ms: None,
        resolves_at_unix_ms: None,
    }
}

/// Parameters that would do something else than what they say.
fn check_action(action: &Action) -> Result<(), String> {
    let peers = match action {
        Action::ContainerPause => return Ok(()),
        Action::CpuStress { workers, load_percent } => {
            let fits = (1..=64).contains(workers) && (1..=100).contains(load_percent);
            return if fits { Ok(()) } else { Err("workers must be 1 to 64 and load 1 to 100".to_owned()) };
        }
        Action::NetworkDelay { peers, latency_ms, jitter_ms, correlation_percent, .. } => {
            if !(1..=60_000).contains(latency_ms) || jitter_ms > latency_ms || *correlation_percent > 100 {
                let why =
                    "latency must be 1 to 60000 ms, jitter at most the latency, correlation at most 100";
                return Err(why.to_owned());
            }
            peers
        }
        Action::NetworkPartition { peers, .. } => peers,
    };
    // No range would be taken for every range.
    if peers.iter().any(|peer| peer.nets.is_empty()) {
        Err("a peer without ranges".to_owned())
    } else {
        Ok(())
    }
}
