//! Whether this replica can do its work, and what it counts. Written by driver, link and
//! enrolment; served by `rest` on the health port.

use std::sync::atomic::{AtomicBool, Ordering};

use certs::TurnedAway;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use proto::assignment::Outcome;

use crate::store;

mod recoveries;
mod sink;

pub use recoveries::Recoveries;
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
    /// Sessions that agents refused, because they have gone over to a newer copy of the store: an operator must look.
    pub refused_as_old: Counter,
    /// Clusters enrolled.
    pub enrolments: Counter,
    /// Enrolments refused.
    pub enrolments_refused: Counter,
    /// Agents that come back after their certificate expired.
    pub recoveries: Recoveries,
    /// Connections that a listener did not let in, by port and reason.
    turned_away: Family<[(&'static str, &'static str); 2], Counter>,
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
        let sessions = gauge(&mut registry, "sessions", "sessions open on this replica");
        let leading = gauge(&mut registry, "leading", "whether this replica decides");
        let messages = Family::<[(&str, &str); 1], Counter>::default();
        registry.register("link_messages", "messages between this replica and agents", messages.clone());
        let direction = |way| messages.get_or_create(&[("direction", way)]).clone();
        let (messages_up, messages_down) = (direction("up"), direction("down"));
        let runs_finished = runs_finished(&mut registry);
        let turned_away = turned_away(&mut registry);
        let store_calls = store_calls(&mut registry);
        let help = "when the certificate of the listeners ends";
        let certificate_expiry = gauge(&mut registry, "certificate_expiry_timestamp_seconds", help);
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
        let refused_as_old = counter(
            "refused_as_old",
            "sessions refused by agents that have left this store for a newer copy",
        );
        let enrolments = counter("enrolments", "clusters enrolled");
        let enrolments_refused = counter("enrolments_refused", "enrolments refused");
        let audit_dropped = counter("audit_dropped", "audit records that found no room");
        let audit_pruned = counter("audit_pruned", "audit records deleted for their age");
        let help = "chains of the audit that do not hold together";
        let audit_broken = gauge(&mut registry, "audit_broken", help);
        let sink = SinkHealth::new(&mut registry);
        let recoveries = Recoveries::new(&mut registry);
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
            refused_as_old,
            enrolments,
            enrolments_refused,
            recoveries,
            turned_away,
            audit_dropped,
            audit_pruned,
            audit_broken,
            sink,
        }
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn store_calls(registry: &mut Registry) -> store::counted::Calls {
    let calls = store::counted::Calls::default();
    registry.register("store_errors", "calls of the store that failed", calls.errors.clone());
    let help = "time of a call of the store";
    registry.register_with_unit("store_call_duration", help, Unit::Seconds, calls.durations.clone());
    calls
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

fn reason(why: TurnedAway) -> &'static str {
    match why {
        TurnedAway::Share => "share",
        TurnedAway::Slow => "slow",
        TurnedAway::Handshake => "handshake",
    }
}

/// Every port and reason is there from the start, at 0.
fn turned_away(registry: &mut Registry) -> Family<[(&'static str, &'static str); 2], Counter> {
    let family = Family::<[(&str, &str); 2], Counter>::default();
    let help = "connections that were not let in: their source or identity held its share, or the handshake was slow or failed";
    registry.register("connections_refused", help, family.clone());
    for port in ["rest", "link", "enrol"] {
        for why in [TurnedAway::Share, TurnedAway::Slow, TurnedAway::Handshake] {
            drop(family.get_or_create(&[("port", port), ("reason", reason(why))]));
        }
    }
    family
}

impl Health {
    /// Counts what the listener of a port does not let in.
    pub(crate) fn turned_away(
        &self,
        port: &'static str,
    ) -> impl Fn(TurnedAway) + Send + Sync + 'static + use<> {
        let family = self.turned_away.clone();
        move |why| {
            family.get_or_create(&[("port", port), ("reason", reason(why))]).inc();
        }
    }

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
