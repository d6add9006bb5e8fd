//! Whether this replica can do its work, and what it counts. Written by driver, link and
//! enrolment; served by `rest` on the health port.

use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::assignment::Outcome;

use crate::store;

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
    /// Errors of the store by call.
    pub store_errors: store::counted::Errors,
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
        let runs_finished = Family::<[(&str, String); 1], Counter>::default();
        registry.register(
            "runs_finished",
            "runs that this replica, leading, brought to their end",
            runs_finished.clone(),
        );
        for outcome in OUTCOMES {
            drop(runs_finished.get_or_create(&[("outcome", format!("{outcome:?}"))]));
        }
        let store_errors = store::counted::Errors::default();
        registry.register("store_errors", "calls of the store that failed", store_errors.clone());
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let commits = counter("decisions", "decisions committed");
        let conflicts = counter("decision_conflicts", "decisions that lost a race and were made again");
        let observations = counter("observations", "observations stored");
        let nacks = counter("nacks", "messages refused by an agent or by the centre");
        let enrolments = counter("enrolments", "clusters enrolled");
        let enrolments_refused = counter("enrolments_refused", "enrolments refused");
        let audit_dropped = counter("audit_dropped", "audit records that found no room");
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
            store_errors,
            conflicts,
            observations,
            nacks,
            enrolments,
            enrolments_refused,
            audit_dropped,
        }
    }
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
