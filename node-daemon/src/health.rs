//! A loopback port that says whether the daemon lives: for the kubelet and for scrapers. Nothing can be
//! asked of the daemon through it.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use proto::exposition;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// A driver that has not turned for so long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// What the driver says of itself once a second.
#[derive(Debug, Clone, Default)]
pub struct Vitals {
    /// Its last turn; absent until recovery is done.
    pub alive_at: Option<Instant>,
    /// What it measures.
    pub metrics: Metrics,
}

/// Serves until `stop`. Ready means recovered, not linked: a daemon without an agent is in order, and its
/// roll-out must not wait for a cluster that has not joined yet.
pub async fn serve(listener: TcpListener, vitals: watch::Receiver<Vitals>, stop: CancellationToken) {
    let routes = Router::new()
        .route("/livez", get(lives))
        .route("/readyz", get(lives))
        .route("/healthz", get(lives))
        .route("/metrics", get(metrics))
        .with_state(vitals);
    certs::serving::serve_health(listener, routes, stop).await;
}

async fn lives(State(vitals): State<watch::Receiver<Vitals>>) -> (StatusCode, &'static str) {
    match vitals.borrow().alive_at {
        Some(at) if at.elapsed() < STUCK_AFTER => (StatusCode::OK, "ok\n"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "the driver is stuck\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "recovering\n"),
    }
}

async fn metrics(State(vitals): State<watch::Receiver<Vitals>>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let metrics = vitals.borrow().metrics.clone();
    match metrics.text() {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::JoinSet;

    use super::*;
    use crate::engine::Census;

    #[tokio::test]
    async fn it_is_ready_once_the_driver_turns_and_says_what_is_held() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (vitals, shown) = watch::channel(Vitals::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, shown, CancellationToken::new()));
        let get = async |path: &str| {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        assert!(get("/readyz").await.starts_with("HTTP/1.1 503"));
        vitals.send_modify(|vitals| {
            vitals.alive_at = Some(Instant::now());
            let active = [("container.pause", 2)].into();
            let census = Census { held: 3, active, linked: true, residue: 1, halts: 0 };
            vitals.metrics.counted(&census);
        });
        assert!(get("/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get("/livez").await.starts_with("HTTP/1.1 200"));
        let metrics = get("/metrics").await;
        assert!(metrics.contains("\nfaultline_node_injections_held 3\n"), "{metrics}");
        assert!(metrics.contains("\nfaultline_node_link_up 1\n"), "{metrics}");
        assert!(metrics.contains("\nfaultline_node_residue 1\n"), "{metrics}");
        assert!(metrics.contains("injections_active{kind=\"container.pause\"} 2\n"), "{metrics}");
        assert!(metrics.contains("injections_active{kind=\"cpu.stress\"} 0\n"), "{metrics}");
        assert!(!metrics.contains("# EOF"), "not OpenMetrics, since nobody asked for it: {metrics}");
    }
}
