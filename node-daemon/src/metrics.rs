//! What the daemon measures of itself, for its health port. The driver fills it; nothing decides by it. Every label
//! takes its values from a fixed set.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use proto::injection::InjectionPhase;

use crate::engine::Census;

/// Seconds: from a qdisc to an undo that was tried several times.
const ACTS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Seconds: an fsync.
const WRITES: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];

type ByKind<T> = Family<[(&'static str, &'static str); 1], T>;
type Times = Family<[(&'static str, &'static str); 1], Histogram, fn() -> Histogram>;

/// The daemon's metrics. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    held: Gauge,
    active: ByKind<Gauge>,
    residue: Gauge,
    halts: Gauge,
    link_up: Gauge,
    certificate_expiry: Gauge,
    sessions: Counter,
    ended: ByKind<Counter>,
    inject: Times,
    revert: Times,
    failed_undos: Counter,
    journal: Histogram,
    journal_errors: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let acts: fn() -> Histogram = || Histogram::new(ACTS);
        let mut registry = Registry::with_prefix("faultline_node");
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let held = gauge("injections_held", "injections that are not over");
        let residue = gauge("residue", "injections that left something on this node");
        let halts = gauge("halts", "halts in force on this node");
        let link_up = gauge("link_up", "whether an agent is heard");
        let help = "when the certificate towards the agent ends; 0 before the first, and in host mode";
        let certificate_expiry = gauge("certificate_expiry_timestamp_seconds", help);
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let sessions = counter("link_sessions", "sessions opened with an agent");
        let failed_undos = counter("undo_failures", "undos after which something was left");
        let journal_errors = counter("journal_errors", "groups of records that the disk did not take");
        let (active, ended) = (ByKind::<Gauge>::default(), ByKind::<Counter>::default());
        registry.register("injections_active", "injections read back as made, by kind", active.clone());
        registry.register("injections_ended", "injections that ended, by their last phase", ended.clone());
        let (inject, revert) = (Times::new_with_constructor(acts), Times::new_with_constructor(acts));
        let mut times = |name: &str, help: &str, times: &Times| {
            registry.register_with_unit(name, help, Unit::Seconds, times.clone());
        };
        times("inject_duration", "making an injection and reading it back", &inject);
        times("revert_duration", "taking an injection away and reading back that it is gone", &revert);
        let journal = Histogram::new(WRITES);
        let help = "writing one group of records, with its fsync";
        registry.register_with_unit("journal_commit_duration", help, Unit::Seconds, journal.clone());
        for entry in proto::catalogue::ENTRIES.iter().filter(|entry| entry.kind != "pod.kill") {
            let label = [("kind", entry.kind)];
            drop((active.get_or_create(&label), inject.get_or_create(&label), revert.get_or_create(&label)));
        }
        for phase in ENDS {
            drop(ended.get_or_create(&[("phase", phase_word(phase))]));
        }
        let registry = Arc::new(registry);
        Self {
            registry,
            held,
            active,
            residue,
            halts,
            link_up,
            certificate_expiry,
            sessions,
            ended,
            inject,
            revert,
            failed_undos,
            journal,
            journal_errors,
        }
    }
}

const ENDS: [InjectionPhase; 6] = [
    InjectionPhase::Reverted,
    InjectionPhase::TargetGone,
    InjectionPhase::Refused,
    InjectionPhase::Missed,
    InjectionPhase::Failed,
    InjectionPhase::Residue,
];

fn phase_word(phase: InjectionPhase) -> &'static str {
    match phase {
        InjectionPhase::Accepted => "Accepted",
        InjectionPhase::Injected => "Injected",
        InjectionPhase::Reverting => "Reverting",
        InjectionPhase::Reverted => "Reverted",
        InjectionPhase::TargetGone => "TargetGone",
        InjectionPhase::Refused => "Refused",
        InjectionPhase::Missed => "Missed",
        InjectionPhase::Failed => "Failed",
        InjectionPhase::Residue => "Residue",
        InjectionPhase::Unknown => "Unknown",
    }
}

impl Metrics {
    /// All of it as OpenMetrics.
    ///
    /// # Errors
    /// None known.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Takes a census.
    pub(crate) fn counted(&self, census: &Census) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.held.set(number(census.held));
        self.residue.set(number(census.residue));
        self.halts.set(number(census.halts));
        self.link_up.set(i64::from(census.linked));
        for entry in proto::catalogue::ENTRIES.iter().filter(|entry| entry.kind != "pod.kill") {
            let active = census.active.get(entry.kind).copied().unwrap_or_default();
            self.active.get_or_create(&[("kind", entry.kind)]).set(number(active));
        }
    }

    /// A new certificate is in use; its last instant in seconds since 1970.
    pub(crate) fn certified(&self, not_after_s: i64) {
        self.certificate_expiry.set(not_after_s);
    }

    pub(crate) fn session_opened(&self) {
        self.sessions.inc();
    }

    pub(crate) fn ended(&self, phase: InjectionPhase) {
        self.ended.get_or_create(&[("phase", phase_word(phase))]).inc();
    }

    pub(crate) fn injected(&self, kind: &'static str, took: Duration) {
        self.inject.get_or_create(&[("kind", kind)]).observe(took.as_secs_f64());
    }

    pub(crate) fn undone(&self, kind: &'static str, took: Duration, clean: bool) {
        self.revert.get_or_create(&[("kind", kind)]).observe(took.as_secs_f64());
        if !clean {
            self.failed_undos.inc();
        }
    }

    pub(crate) fn journalled(&self, took: Duration, ok: bool) {
        self.journal.observe(took.as_secs_f64());
        if !ok {
            self.journal_errors.inc();
        }
    }
}
