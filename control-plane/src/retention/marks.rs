//! Which revision the store stood at when: the age of values that say nothing of it themselves.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::store::Revision;

/// Marks that cover the time that things are kept.
const MARKS: u32 = 48;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    at: Timestamp,
    revision: Revision,
}

/// The value of `revision-marks`, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Marks(Vec<Mark>);

impl Marks {
    /// Notes where the store stands, unless it was noted lately; whether anything changed.
    pub(super) fn note(&mut self, now: Timestamp, revision: Revision, keep_for: Duration) -> bool {
        let every = keep_for / MARKS;
        let lately = |mark: &Mark| now.duration_since(mark.at).unsigned_abs() < every;
        if self.0.last().is_some_and(lately) {
            return false;
        }
        // A clock that was set back, or a store that was: what is later than now was never so.
        self.0.retain(|mark| mark.at <= now && mark.revision <= revision);
        self.0.push(Mark { at: now, revision });
        // One mark that is old enough is all that is ever asked for.
        let old = |mark: &Mark| now.duration_since(mark.at).unsigned_abs() > keep_for + every * 2;
        let drop = self.0.iter().take_while(|mark| old(mark)).count().saturating_sub(1);
        self.0.drain(..drop);
        true
    }

    /// What was last written at or before this revision is older than `before`.
    pub(super) fn revision_before(&self, before: Timestamp) -> Option<Revision> {
        self.0.iter().rev().find(|mark| mark.at <= before).map(|mark| mark.revision)
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    const KEEP: Duration = Duration::from_hours(48);

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap() + SignedDuration::from_hours(hours)
    }

    #[test]
    fn an_age_is_never_overstated_and_the_marks_stay_few() {
        let mut marks = Marks::default();
        assert_eq!(marks.revision_before(at(0)), None);
        for hour in 0..500 {
            assert!(marks.note(at(hour), 1000 + hour as u64, KEEP));
            assert!(!marks.note(at(hour), 5000, KEEP), "once an hour is enough");
            let old = marks.revision_before(at(hour - 48));
            assert_eq!(old, (hour >= 48).then_some(1000 + hour as u64 - 48), "{hour}");
            assert!(marks.0.len() <= 54, "{}", marks.0.len());
        }
    }

    #[test]
    fn a_clock_or_a_store_that_went_back_makes_nothing_old() {
        let mut marks = Marks::default();
        for hour in 0..60 {
            marks.note(at(hour), 1000 + hour as u64, KEEP);
        }
        let mut back = marks.clone();
        back.note(at(10), 1060, KEEP);
        assert_eq!(back.revision_before(at(10)), Some(1060));
        assert_eq!(back.revision_before(at(9)), Some(1009));
        // Restored: revisions that the store has not seen yet do not make its new values old.
        marks.note(at(60), 1005, KEEP);
        assert_eq!(marks.revision_before(at(59)), None);
    }
}
