//! Whether this replica can do its work, and what it counts. Written by driver, link and
//! enrolment; served by `rest` on the health port.

use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use proto::assignment::Outcome;

use crate::store;

mod sink;

pub use sink::SinkHealth;

/// Every outcome: series exist before the first run.
pub(crate) const OUTCOMES: [Outcome; 6] = [
    Outcome::Completed,
    Outcome::Aborted,
    Outcome::Halted,
    Outcome::Failed,
    Outcome::Denied,
    Outcome::Missed,
];

/// State of `/readyz` and the metrics.
#[derive(Debug)]
pub struct Health {
    synced: AtomicBool,
    store_ok: AtomicBool,
    draining: AtomicBool,
    /// Every metric; encode with `prometheus_client::encoding::text::encode`.
    pub registry: Registry,
    /// Sessions open on this replica.
    pub sessions: Gauge,
    /// Whether this replica decides: 1 or 0.
    pub leading: Gauge,
    /// Decisions committed.
    pub commits: Counter,
    /// Decisions that lost a race and were made again.
    pub conflicts: Counter,
    /// Runs that this replica, leading, brought to their end.
    runs_finished: Family<[(&'static str, String); 1], Counter>,
    /// Messages taken from agents.
    pub messages_up: Counter,
    /// Messages given to agents.
    pub messages_down: Counter,
    /// Calls of the store.
    pub store_calls: store::counted::Calls,
    /// Sessions opened on this replica since it started.
    pub sessions_opened: Counter,
    /// When the certificate of the listeners ends, seconds since 1970.
    pub certificate_expiry: Gauge,
    /// Observations stored.
    pub observations: Counter,
    /// Messages that an agent or the centre refused.
    pub nacks: Counter,
    /// Clusters enrolled.
    pub enrolments: Counter,
    /// Enrolments refused.
    pub enrolments_refused: Counter,
    /// Audit records that found no room: an operator must look.
    pub audit_dropped: Counter,
    /// Audit records deleted for their age.
    pub audit_pruned: Counter,
    /// Chains of the audit that do not hold together, as the leader found them: an operator must verify.
    pub audit_broken: Gauge,
    /// How far the audit's sink has come.
    pub sink: SinkHealth,
}

impl Default for Health {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("faultline");
        let (sessions, leading) = (Gauge::default(), Gauge::default());
        registry.register("sessions", "sessions open on this replica", sessions.clone());
        registry.register("leading", "whether this replica decides", leading.clone());
        let messages = Family::<[(&str, &str); 1], Counter>::default();
        registry.register("link_messages", "messages between this replica and agents", messages.clone());
        let direction = |way| messages.get_or_create(&[("direction", way)]).clone();
        let (messages_up, messages_down) = (direction("up"), direction("down"));
        let runs_finished = runs_finished(&mut registry);
        let store_calls = store::counted::Calls::default();
        registry.register("store_errors", "calls of the store that failed", store_calls.errors.clone());
        let durations = store_calls.durations.clone();
        registry.register_with_unit(
            "store_call_duration",
            "time of a call of the store",
            Unit::Seconds,
            durations,
        );
        let certificate_expiry = Gauge::default();
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "when the certificate of the listeners ends",
            certificate_expiry.clone(),
        );
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let sessions_opened = counter("sessions_opened", "sessions opened on this replica");
        let commits = counter("decisions", "decisions committed");
        let conflicts = counter("decision_conflicts", "decisions that lost a race and were made again");
        let observations = counter("observations", "observations stored");
        let nacks = counter("nacks", "messages refused by an agent or by the centre");
        let enrolments = counter("enrolments", "clusters enrolled");
        let enrolments_refused = counter("enrolments_refused", "enrolments refused");
        let audit_dropped = counter("audit_dropped", "audit records that found no room");
        let audit_pruned = counter("audit_pruned", "audit records deleted for their age");
        let audit_broken = Gauge::default();
        registry.register(
            "audit_broken",
            "chains of the audit that do not hold together",
            audit_broken.clone(),
        );
        let sink = SinkHealth::new(&mut registry);
        Self {
            synced: AtomicBool::new(false),
            store_ok: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            registry,
            sessions,
            leading,
            commits,
            runs_finished,
            messages_up,
            messages_down,
            store_calls,
            sessions_opened,
            certificate_expiry,
            conflicts,
            observations,
            nacks,
            enrolments,
            enrolments_refused,
            audit_dropped,
            audit_pruned,
            audit_broken,
            sink,
        }
    }
}

/// Every outcome is there from the start, at 0.
fn runs_finished(registry: &mut Registry) -> Family<[(&'static str, String); 1], Counter> {
    let finished = Family::<[(&str, String); 1], Counter>::default();
    let help = "runs that this replica, leading, brought to their end";
    registry.register("runs_finished", help, finished.clone());
    for outcome in OUTCOMES {
        drop(finished.get_or_create(&[("outcome", format!("{outcome:?}"))]));
    }
    finished
}

impl Health {
    /// Why this replica should get no traffic; `None` when it is ready. A store that is out of
    /// reach keeps a replica ready: its sessions live on, and it takes stops and halts.
    pub fn not_ready(&self) -> Option<&'static str> {
        if self.draining.load(Ordering::Relaxed) {
            Some("draining")
        } else if self.synced.load(Ordering::Relaxed) {
            None
        } else {
            Some("the store was not read completely yet")
        }
    }

    /// Whether the last probe of the store was answered.
    pub fn store_ok(&self) -> bool {
        self.store_ok.load(Ordering::Relaxed)
    }

    pub(crate) fn run_finished(&self, outcome: Outcome) {
        self.runs_finished.get_or_create(&[("outcome", format!("{outcome:?}"))]).inc();
    }

    pub(crate) fn set_synced(&self) {
        self.synced.store(true, Ordering::Relaxed);
    }

    pub(crate) fn set_store_ok(&self, ok: bool) {
        self.store_ok.store(ok, Ordering::Relaxed);
    }

    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}
