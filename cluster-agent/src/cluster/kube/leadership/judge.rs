//! What a candidate does about the Lease as it reads it now. Pure: the clock is passed in. Called by the campaign.
//!
//! A foreign lease is over when it stayed the same for its whole duration by this candidate's own clock: no two
//! clocks are compared. A process takes the lead anew even where its pod's name is still on the lease, so that
//! each process that leads has an epoch of its own.

use std::time::{Duration, Instant};

/// A Lease as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// Empty: given back.
    pub(super) holder: String,
    pub(super) transitions: u64,
    /// As its holder promised.
    pub(super) duration: Duration,
    /// Resource version: changes with each renewal.
    pub(super) version: String,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// Another one leads.
    Wait,
    /// Take the lead: write these transitions.
    Take {
        /// The epoch is one more.
        transitions: u64,
    },
    /// It is ours: write it again with these transitions (the Lease may be missing).
    Renew {
        /// As before.
        transitions: u64,
    },
    /// It was ours.
    Lost,
}

/// One candidate's memory.
#[derive(Debug)]
pub(super) struct Candidate {
    name: String,
    /// The epoch it leads in.
    leads: Option<u64>,
    /// The foreign lease last seen, and since when.
    foreign: Option<(Held, Instant)>,
}

impl Candidate {
    /// One that leads nothing.
    pub(super) fn new(name: String) -> Self {
        Self { name, leads: None, foreign: None }
    }

    /// The epoch it leads in.
    pub(super) fn leads(&self) -> Option<u64> {
        self.leads
    }

    /// It leads, or no longer does.
    pub(super) fn set_leads(&mut self, epoch: Option<u64>) {
        self.leads = epoch;
        self.foreign = None;
    }

    /// What to do about the Lease as it is `now`. `floor`: the highest epoch that ever was.
    pub(super) fn judge(&mut self, held: Option<&Held>, floor: u64, now: Instant) -> Move {
        if let Some(epoch) = self.leads {
            let transitions = epoch.saturating_sub(1);
            return match held {
                None => Move::Renew { transitions },
                Some(held) if held.holder == self.name && held.transitions == transitions => {
                    Move::Renew { transitions }
                }
                Some(_) => Move::Lost,
            };
        }
        let Some(held) = held else {
            return Move::Take { transitions: floor };
        };
        let next = Move::Take { transitions: floor.max(held.transitions.saturating_add(1)) };
        if held.holder.is_empty() || held.holder == self.name {
            return next;
        }
        match &self.foreign {
            Some((same, since)) if same == held => {
                let over = now.saturating_duration_since(*since) >= held.duration;
                if over { next } else { Move::Wait }
            }
            _ => {
                self.foreign = Some((held.clone(), now));
                Move::Wait
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S15: Duration = Duration::from_secs(15);

    fn held(holder: &str, transitions: u64, version: &str) -> Held {
        Held { holder: holder.into(), transitions, duration: S15, version: version.into() }
    }

    #[test]
    fn a_foreign_lease_must_stand_still_for_its_whole_duration() {
        let mut a = Candidate::new("a".into());
        let t0 = Instant::now();
        assert_eq!(a.judge(Some(&held("b", 4, "1")), 5, t0), Move::Wait);
        assert_eq!(a.judge(Some(&held("b", 4, "1")), 5, t0 + Duration::from_secs(14)), Move::Wait);
        assert_eq!(a.judge(Some(&held("b", 4, "2")), 5, t0 + S15), Move::Wait, "it was renewed");
        assert_eq!(a.judge(Some(&held("b", 4, "2")), 5, t0 + S15 + S15), Move::Take { transitions: 5 });
    }

    #[test]
    fn epochs_grow_whatever_becomes_of_the_lease() {
        let now = Instant::now();
        let mut a = Candidate::new("a".into());
        assert_eq!(a.judge(None, 0, now), Move::Take { transitions: 0 }, "the first: epoch 1");
        assert_eq!(a.judge(None, 7, now), Move::Take { transitions: 7 }, "a deleted lease: epoch 8");
        assert_eq!(a.judge(Some(&held("", 2, "1")), 3, now), Move::Take { transitions: 3 }, "given back");
        assert_eq!(
            a.judge(Some(&held("a", 2, "1")), 3, now),
            Move::Take { transitions: 3 },
            "an earlier process"
        );
        assert_eq!(
            a.judge(Some(&held("", 2, "1")), 9, now),
            Move::Take { transitions: 9 },
            "made anew by hand"
        );
    }

    #[test]
    fn a_leader_renews_its_own_lease_and_no_other() {
        let now = Instant::now();
        let mut a = Candidate::new("a".into());
        a.set_leads(Some(3));
        assert_eq!(a.judge(Some(&held("a", 2, "1")), 3, now), Move::Renew { transitions: 2 });
        assert_eq!(a.judge(None, 3, now), Move::Renew { transitions: 2 });
        assert_eq!(a.judge(Some(&held("b", 3, "2")), 3, now), Move::Lost);
        assert_eq!(a.judge(Some(&held("a", 3, "2")), 3, now), Move::Lost, "another process of this name");
        assert_eq!(a.judge(Some(&held("", 2, "2")), 3, now), Move::Lost, "somebody gave it back");
    }
}
