//! How long to wait before trying the store again: exponential with full jitter, so that
//! replicas that lost it together do not come back together. Called by follow, lease, election
//! and, for other replicas, by peers.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// A sequence of waits that grows until it is reset.
#[derive(Debug)]
pub(crate) struct Backoff {
    builder: ExponentialBuilder,
    ceilings: ExponentialBackoff,
    max: Duration,
}

impl Backoff {
    /// Ceilings from `min`, doubling up to `max`.
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        let builder = ExponentialBuilder::new().with_min_delay(min).with_max_delay(max).without_max_times();
        Self { builder, ceilings: builder.build(), max }
    }

    /// Starts again at the shortest wait: call it when something succeeded.
    pub(crate) fn reset(&mut self) {
        self.ceilings = self.builder.build();
    }

    /// The next wait: anything between nothing and the ceiling.
    pub(crate) fn next_delay(&mut self) -> Duration {
        self.ceilings.next().unwrap_or(self.max).mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_below_a_growing_ceiling_and_spread() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let mut seen = Vec::new();
        for ceiling_ms in [100, 200, 400, 800, 1000, 1000, 1000, 1000, 1000, 1000] {
            let delay = backoff.next_delay();
            assert!(delay <= Duration::from_millis(ceiling_ms), "{delay:?} over {ceiling_ms} ms");
            seen.push(delay);
        }
        seen.dedup();
        assert!(seen.len() > 5, "no jitter: {seen:?}");
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
