//! A loopback port that says whether the daemon lives: for the kubelet and for scrapers. Nothing can be
//! asked of the daemon through it.

use std::fmt::Write;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A driver that has not turned for so long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// What the driver says of itself once a second.
#[derive(Debug, Clone, Default)]
pub struct Vitals {
    /// Its last turn; absent until recovery is done.
    pub alive_at: Option<Instant>,
    /// Whether an agent is heard.
    pub linked: bool,
    /// Injections that are not over.
    pub held: usize,
}

/// Serves until `stop`. Ready means recovered, not linked: a daemon without an agent is in order, and its
/// roll-out must not wait for a cluster that has not joined yet.
pub async fn serve(
    listener: TcpListener,
    vitals: watch::Receiver<Vitals>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let routes = Router::new()
        .route("/livez", get(lives))
        .route("/readyz", get(lives))
        .route("/healthz", get(lives))
        .route("/metrics", get(metrics))
        .with_state(vitals);
    axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await?;
    Ok(())
}

async fn lives(State(vitals): State<watch::Receiver<Vitals>>) -> (StatusCode, &'static str) {
    match vitals.borrow().alive_at {
        Some(at) if at.elapsed() < STUCK_AFTER => (StatusCode::OK, "ok\n"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "the driver is stuck\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "recovering\n"),
    }
}

async fn metrics(State(vitals): State<watch::Receiver<Vitals>>) -> String {
    let vitals = vitals.borrow().clone();
    let mut text = String::new();
    let gauges = [
        ("faultline_node_injections_held", "Injections that are not over.", vitals.held),
        ("faultline_node_link_up", "Whether an agent is heard.", usize::from(vitals.linked)),
    ];
    for (name, help, value) in gauges {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::JoinSet;

    use super::*;

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
        vitals.send_replace(Vitals { alive_at: Some(Instant::now()), linked: true, held: 3 });
        assert!(get("/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get("/livez").await.starts_with("HTTP/1.1 200"));
        let metrics = get("/metrics").await;
        assert!(metrics.contains("\nfaultline_node_injections_held 3\n"), "{metrics}");
        assert!(metrics.contains("\nfaultline_node_link_up 1\n"), "{metrics}");
    }
}
