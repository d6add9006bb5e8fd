//! How far the audit's sink has come: written by the leader's export, 0 and quiet elsewhere.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The sink's metrics, and whether its lag is alarming.
#[derive(Debug)]
pub struct SinkHealth {
    late: AtomicBool,
    pending: Gauge,
    lag_seconds: Gauge,
    last_success: Gauge,
    lines: Counter,
    failures: Counter,
}

impl SinkHealth {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::<i64>::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let pending =
            gauge("audit_sink_pending", "audit records that the sink failed to take, as last counted");
        let lag_seconds =
            gauge("audit_sink_lag_seconds", "age of the oldest audit record that the sink lacks");
        let last_success =
            gauge("audit_sink_last_success", "when the sink last took something, in seconds since 1970");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let lines = counter("audit_sink_lines", "audit records and checkpoints that the sink took");
        let failures = counter("audit_sink_failures", "rounds of sending to the sink that failed");
        Self { late: AtomicBool::new(false), pending, lag_seconds, last_success, lines, failures }
    }

    /// Whether the sink is further behind than is allowed.
    pub fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }

    pub(crate) fn set_late(&self, late: bool) {
        self.late.store(late, Ordering::Relaxed);
    }

    /// Records that the sink lacks, where they were counted, and the age of the oldest.
    pub(crate) fn behind(&self, pending: Option<u64>, lag: Duration) {
        if let Some(pending) = pending {
            self.pending.set(pending as i64);
        }
        self.lag_seconds.set(lag.as_secs() as i64);
    }

    pub(crate) fn sent(&self, lines: u64, at: Timestamp) {
        self.lines.inc_by(lines);
        self.last_success.set(at.as_second());
    }

    pub(crate) fn failed(&self) {
        self.failures.inc();
    }

    /// The sink has everything, or is somebody else's to fill.
    pub(crate) fn current(&self) {
        self.behind(Some(0), Duration::ZERO);
        self.set_late(false);
    }
}
