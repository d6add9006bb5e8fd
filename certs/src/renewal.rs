//! When a certificate is to be renewed: pure arithmetic for the drivers, which bring clock and jitter.

use jiff::{SignedDuration, Timestamp};

use crate::peer::Lifetime;

/// The jitter's full width, as a divisor of the lifetime: a tenth, so 45 % to 55 % of it.
const JITTER_DIVISOR: i32 = 10;

/// The instant to renew at: half the time from issue to end, moved by up to 5 % of it either way so that a fleet
/// which enrolled at once does not renew at once. `jitter` is uniform in 0..1; anything outside (NaN too) is clamped.
pub fn renew_at(lifetime: &Lifetime, jitter: f64) -> Timestamp {
    let jitter = if jitter.is_nan() { 0.5 } else { jitter.clamp(0.0, 1.0) };
    let issued_at = lifetime.issued_at();
    let total = lifetime.not_after.duration_since(issued_at).max(SignedDuration::ZERO);
    let width = total / JITTER_DIVISOR;
    let moved = width.as_millis() as f64 * jitter;
    let offset = total / 2 - width / 2 + SignedDuration::from_millis(moved as i64);
    issued_at.checked_add(offset).unwrap_or(lifetime.not_after)
}

/// True once the last valid instant has passed.
pub fn is_expired(lifetime: &Lifetime, now: Timestamp) -> bool {
    now > lifetime.not_after
}

/// Whole seconds of validity left, negative after the end.
pub fn seconds_left(lifetime: &Lifetime, now: Timestamp) -> i64 {
    lifetime.not_after.duration_since(now).as_secs()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::{is_expired, renew_at, seconds_left};
    use crate::peer::Lifetime;

    fn lifetime(from: i64, to: i64) -> Lifetime {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        Lifetime { not_before: at(from), not_after: at(to) }
    }

    #[test]
    fn half_life_with_a_tenth_of_jitter() {
        let day = lifetime(-300, 86_400);
        assert_eq!(renew_at(&day, 0.5).as_second(), 43_200);
        assert_eq!(renew_at(&day, 0.0).as_second(), 38_880);
        assert_eq!(renew_at(&day, 1.0).as_second(), 47_520);
        assert_eq!(renew_at(&day, f64::NAN), renew_at(&day, 0.5));
        assert_eq!(renew_at(&day, 7.0), renew_at(&day, 1.0));
    }

    #[test]
    fn a_short_lifetime_is_not_due_at_once() {
        // A minute, backdated by five.
        assert_eq!(renew_at(&lifetime(1000, 1360), 0.5).as_second(), 1330);
        assert_eq!(renew_at(&lifetime(1000, 1000), 0.5).as_second(), 1000);
    }

    #[test]
    fn the_last_instant_is_still_valid() {
        let day = lifetime(-300, 86_400);
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert!(!is_expired(&day, at(86_400)));
        assert!(is_expired(&day, at(86_401)));
        assert_eq!(seconds_left(&day, at(86_390)), 10);
        assert_eq!(seconds_left(&day, at(86_410)), -10);
    }

    proptest! {
        #[test]
        fn renewal_is_inside_the_lifetime(from in 0i64..4_000_000_000, length in 0i64..400_000_000, jitter in 0.0f64..1.0) {
            let lifetime = lifetime(from, from + length);
            let at = renew_at(&lifetime, jitter);
            prop_assert!(at >= lifetime.issued_at() && at <= lifetime.not_after);
        }
    }
}
