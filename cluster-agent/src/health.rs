//! Liveness, readiness and metrics, for the kubelet and Prometheus.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

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
}

#[derive(Debug, Clone)]
struct Shared {
    registry: Arc<Registry>,
    sight: Arc<dyn Sight>,
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, metrics: Metrics, sight: Arc<dyn Sight>) -> std::io::Result<()> {
    let mut registry = Registry::with_prefix("faultline_agent");
    registry.register("leading", "1 while this process leads", metrics.leading);
    registry.register("link_up", "1 while a session with the centre is open", metrics.link_up);
    registry.register("node_daemons", "connected node daemons", metrics.nodes);
    registry.register("runs", "runs held", metrics.runs);
    registry.register("active_runs", "runs with injections that may be active", metrics.active_runs);
    registry.register("halts", "halts in force", metrics.halts);
    let shared = Shared { registry: Arc::new(registry), sight };
    let app = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state(shared);
    axum::serve(listener, app).await
}

/// Ready once the cluster was seen, whether leading or not.
async fn ready(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if shared.sight.inventory().borrow().is_some() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the cluster was not read yet")
    }
}

async fn metrics_text(State(shared): State<Shared>) -> impl IntoResponse {
    let mut text = String::new();
    let status = match encode(&mut text, &shared.registry) {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (status, [(header::CONTENT_TYPE, kind)], text)
}
