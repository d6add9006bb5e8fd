//! Samples of one duration, summed up. Used by both measurements.

use std::time::Duration;

/// Sorted samples; never empty.
#[derive(Debug, Clone)]
pub(super) struct Figures(Vec<Duration>);

impl Figures {
    /// None without a sample.
    pub(super) fn new(mut samples: Vec<Duration>) -> Option<Self> {
        samples.sort();
        (!samples.is_empty()).then_some(Self(samples))
    }

    /// The sample that `percent` of all samples do not exceed (nearest rank).
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0[rank.min(self.0.len()) - 1]
    }

    /// One row of a table: name, count, minimum, p50, p99, maximum.
    pub(super) fn row(&self, name: &str) -> String {
        let cells = [self.0[0], self.percentile(50), self.percentile(99), self.0[self.0.len() - 1]];
        let cells: Vec<String> = cells.into_iter().map(ms).collect();
        format!("| {name} | {} | {} |\n", self.0.len(), cells.join(" | "))
    }
}

/// Heads the rows.
pub(super) const HEAD: &str =
    "| what | samples | min ms | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|---|\n";

/// Milliseconds with one decimal; two below ten.
pub(super) fn ms(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.1}") }
}

/// How many times `floor` goes into `this`.
pub(super) fn ratio(this: Duration, floor: Duration) -> f64 {
    this.as_secs_f64() / floor.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let figures = Figures::new((1..=200).rev().map(Duration::from_millis).collect()).unwrap();
        assert_eq!(figures.percentile(50), Duration::from_millis(100));
        assert_eq!(figures.percentile(99), Duration::from_millis(198));
        assert_eq!(Figures::new(vec![Duration::from_millis(7)]).unwrap().percentile(99).as_millis(), 7);
        assert!(Figures::new(vec![]).is_none());
        assert_eq!(figures.row("x"), "| x | 200 | 1.00 | 100.0 | 198.0 | 200.0 |\n");
    }
}
