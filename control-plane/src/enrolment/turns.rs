//! Whose turn it is to enrol, and what of it is noted. Everybody may ask who reaches the port, and each asking reads
//! the store, so each source has a budget and all together have one. A stranger who is refused pays more, and then
//! shares a smaller budget with the others like it, so that garbage cannot use up what new clusters need. Records of
//! refusals have budgets of their own, a slow one: they stay in the store for weeks. Used by the gRPC shell.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use certs::Source;
use jiff::Timestamp;

/// How much of something there may be.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rate {
    /// So much comes back each second.
    per_second: f64,
    /// There is so much at most.
    at_once: f64,
}

/// Turns of a source. Many clusters may be behind one address: a hundred enrol from one at once, and ten more each
/// second.
const EACH: Rate = Rate { per_second: 10.0, at_once: 100.0 };
/// Turns of all sources together.
const ALL: Rate = Rate { per_second: 50.0, at_once: 500.0 };
/// Turns, of those, for the sources that asked in vain the last time.
const VAIN: Rate = Rate { per_second: 10.0, at_once: 100.0 };
/// Turns that it costs a source to ask in vain.
const IN_VAIN: f64 = 10.0;
/// Refusals of a source that are noted: some, and six more each hour.
const NOTES_EACH: Rate = Rate { per_second: 1.0 / 600.0, at_once: 5.0 };
/// Refusals of all sources that are noted: some, and one more each minute.
const NOTES_ALL: Rate = Rate { per_second: 1.0 / 60.0, at_once: 50.0 };
/// As many of those who showed a secret that we know: no garbage takes their place.
const NOTES_HOLDERS: Rate = NOTES_ALL;

/// From so many sources on, those are forgotten that have all their turns back. How many have not is bounded by the
/// turns of all.
const FORGET_FROM: usize = 1024;

/// What is left of a budget.
#[derive(Debug, Clone, Copy)]
struct Budget {
    rate: Rate,
    left: f64,
    at: Timestamp,
}

impl Budget {
    fn new(rate: Rate, now: Timestamp) -> Self {
        Self { rate, left: rate.at_once, at: now }
    }

    fn refill(&mut self, now: Timestamp) {
        let passed = now.duration_since(self.at).as_secs_f64().max(0.0);
        self.left = (self.left + passed * self.rate.per_second).min(self.rate.at_once);
        self.at = now;
    }

    fn has_one(&self) -> bool {
        self.left >= 1.0
    }

    fn recovered(&self) -> bool {
        self.left >= self.rate.at_once / 2.0
    }
}

/// What became of asking for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Go on.
    Yours,
    /// Not now; `note` the first time that the budget is found empty.
    Wait { note: bool },
}

/// What a refused request showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing that we know.
    Stranger,
    /// A token's secret, or the signature of an identity key.
    Holder,
    /// It was not looked at: the centre could not.
    Unjudged,
}

/// Whether a refusal is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noting {
    /// It is.
    Each,
    /// That from now on they are not noted one by one.
    Last,
    /// It is counted only.
    Not,
}

#[derive(Debug)]
struct All {
    turns: Budget,
    vain: Budget,
    notes: Budget,
    notes_holders: Budget,
    /// It was noted that something is used up; told again only after everything recovered.
    told: bool,
}

impl All {
    fn new(now: Timestamp) -> Self {
        Self {
            turns: Budget::new(ALL, now),
            vain: Budget::new(VAIN, now),
            notes: Budget::new(NOTES_ALL, now),
            notes_holders: Budget::new(NOTES_HOLDERS, now),
            told: false,
        }
    }

    fn refill(&mut self, now: Timestamp) {
        let budgets = [&mut self.turns, &mut self.vain, &mut self.notes, &mut self.notes_holders];
        let recovered = budgets.into_iter().fold(true, |all, budget| {
            budget.refill(now);
            all && budget.recovered()
        });
        self.told &= !recovered;
    }

    fn tell(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }
}

#[derive(Debug)]
struct Each {
    turns: Budget,
    notes: Budget,
    /// The last refusal was of a stranger, and nobody of here was let in since.
    vain: bool,
    told: bool,
}

impl Each {
    fn new(now: Timestamp) -> Self {
        let (turns, notes) = (Budget::new(EACH, now), Budget::new(NOTES_EACH, now));
        Self { turns, notes, vain: false, told: false }
    }

    fn refill(&mut self, now: Timestamp) {
        self.turns.refill(now);
        self.notes.refill(now);
        self.told &= !(self.turns.recovered() && self.notes.recovered());
    }

    /// Whether it is new that something of this source is used up, and there is room to note it.
    fn tell(&mut self, all: &mut All) -> bool {
        if std::mem::replace(&mut self.told, true) {
            return false;
        }
        if !all.notes.has_one() {
            return all.tell();
        }
        all.notes.left -= 1.0;
        true
    }
}

#[derive(Debug, Default)]
struct Budgets {
    all: Option<All>,
    each: BTreeMap<Source, Each>,
}

impl Budgets {
    /// Everybody's and this source's, as of now.
    fn of(&mut self, source: Source, now: Timestamp) -> (&mut All, &mut Each) {
        let all = self.all.get_or_insert_with(|| All::new(now));
        all.refill(now);
        let own = self.each.entry(source).or_insert_with(|| Each::new(now));
        own.refill(now);
        (all, own)
    }

    fn forget(&mut self, now: Timestamp) {
        if self.each.len() >= FORGET_FROM {
            self.each.retain(|_, own| {
                own.refill(now);
                own.turns.left < EACH.at_once
            });
        }
    }
}

/// The turns of everybody.
#[derive(Debug, Default)]
pub(super) struct Turns {
    budgets: Mutex<Budgets>,
}

impl Turns {
    /// Takes a turn for a source, if it and all together have one.
    pub(super) fn take(&self, source: Source, now: Timestamp) -> Turn {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        budgets.forget(now);
        let (all, own) = budgets.of(source, now);
        if !own.turns.has_one() {
            return Turn::Wait { note: own.tell(all) };
        }
        if !all.turns.has_one() || own.vain && !all.vain.has_one() {
            return Turn::Wait { note: all.tell() };
        }
        own.turns.left -= 1.0;
        all.turns.left -= 1.0;
        if own.vain {
            all.vain.left -= 1.0;
        }
        Turn::Yours
    }

    /// A source that took a turn was let in.
    pub(super) fn granted(&self, source: Source, now: Timestamp) {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        budgets.of(source, now).1.vain = false;
    }

    /// A source that took a turn was refused: that costs a stranger more.
    pub(super) fn refused(&self, source: Source, standing: Standing, now: Timestamp) -> Noting {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = budgets.of(source, now);
        if standing == Standing::Stranger {
            own.turns.left -= IN_VAIN - 1.0;
            own.vain = true;
        }
        let notes = if standing == Standing::Holder { &mut all.notes_holders } else { &mut all.notes };
        let told = if !notes.has_one() {
            all.tell()
        } else if standing != Standing::Holder && !own.notes.has_one() {
            own.tell(all)
        } else {
            notes.left -= 1.0;
            if standing != Standing::Holder {
                own.notes.left -= 1.0;
            }
            return Noting::Each;
        };
        if told { Noting::Last } else { Noting::Not }
    }
}

#[cfg(test)]
mod tests;
