//! Liveness, readiness and metrics, for the kubelet and Prometheus.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::exposition;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cluster::Sight;

/// What the agent measures of itself. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// 1 while this process leads.
    pub leading: Gauge,
    /// 1 while a session with the centre is open.
    pub link_up: Gauge,
    /// Connected node daemons.
    pub nodes: Gauge,
    /// Runs held.
    pub runs: Gauge,
    /// Runs with injections that may be active.
    pub active_runs: Gauge,
    /// Halts in force.
    pub halts: Gauge,
    /// Sessions opened with the centre.
    pub sessions: Counter,
    /// 0 while stop-only: the lease cannot be renewed.
    pub accepts_starts: Gauge,
    /// Injections read back as made, by kind.
    pub active: Family<[(&'static str, &'static str); 1], Gauge>,
    /// Runs that left something, or of which that is not known.
    pub residue: Family<[(&'static str, &'static str); 1], Gauge>,
    /// When the certificate towards the centre ends, seconds since 1970; 0 before enrolment.
    pub certificate_expiry: Gauge,
}

impl Metrics {
    /// All of it as OpenMetrics.
    ///
    /// # Errors
    /// None known.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        for kind in proto::catalogue::ENTRIES.iter().map(|entry| entry.kind) {
            drop(self.active.get_or_create(&[("kind", kind)]));
        }
        for state in ["Unknown", "Dirty"] {
            drop(self.residue.get_or_create(&[("state", state)]));
        }
        let mut registry = Registry::with_prefix("faultline_agent");
        let gauges = [
            ("leading", "1 while this process leads", &self.leading),
            (
                "accepts_starts",
                "0 while stop-only, because the lease cannot be renewed",
                &self.accepts_starts,
            ),
            ("link_up", "1 while a session with the centre is open", &self.link_up),
            ("node_daemons", "connected node daemons", &self.nodes),
            ("runs", "runs held", &self.runs),
            ("active_runs", "runs with injections that may be active", &self.active_runs),
            ("halts", "halts in force", &self.halts),
            (
                "certificate_expiry_timestamp_seconds",
                "when the certificate towards the centre ends; 0 before enrolment",
                &self.certificate_expiry,
            ),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        registry.register("link_sessions", "sessions opened with the centre", self.sessions.clone());
        registry.register("injections_active", "injections read back as made, by kind", self.active.clone());
        let help = "runs that left something (Dirty), or of which that is not known (Unknown)";
        registry.register("runs_with_residue", help, self.residue.clone());
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

#[derive(Debug, Clone)]
struct Shared {
    metrics: Metrics,
    sight: Arc<dyn Sight>,
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, metrics: Metrics, sight: Arc<dyn Sight>) {
    let shared = Shared { metrics, sight };
    let app = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state(shared);
    certs::serving::serve_health(listener, app, CancellationToken::new()).await;
}

/// Ready once the cluster was seen, whether leading or not.
async fn ready(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if shared.sight.inventory().borrow().is_some() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the cluster was not read yet")
    }
}

async fn metrics_text(State(shared): State<Shared>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    match shared.metrics.text() {
        Ok(text) => {
            let (kind, text) = exposition::answer(accept, text);
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text)
        }
        Err(error) => {
            let kind = exposition::PROMETHEUS;
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, kind)], error.to_string())
        }
    }
}
