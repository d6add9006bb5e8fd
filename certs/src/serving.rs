//! Serving HTTP: each connection is a task that ends with the server, and none can be held open by a client that
//! sends its request, or takes its answer, slowly. The one way in which any process serves HTTP of its own: REST, and
//! the pages of health and metrics.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::serve::Listener;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::acceptor::{Limits, Plain};

const MAX_STREAMS: u32 = 64;
const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;

/// What a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the head of a request, and between two of them.
    pub head_within: Duration,
    /// For taking anything of an answer.
    pub take_within: Duration,
    /// For ending once the server is told to end.
    pub drain_within: Duration,
    /// Open connections; more wait to be accepted, and one source has a share of them.
    pub connections: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head_within: Duration::from_mins(1),
            take_within: Duration::from_secs(30),
            drain_within: Duration::from_secs(10),
            connections: 2048,
        }
    }
}

impl Patience {
    /// For the pages of health and metrics: a kubelet and some scrapers ask.
    pub fn for_health() -> Self {
        let short = Duration::from_secs(10);
        Self { head_within: short, take_within: short, drain_within: Duration::from_secs(1), connections: 64 }
    }

    /// What this means for the acceptor.
    pub fn limits(&self) -> Limits {
        Limits {
            connections: self.connections,
            first_within: self.head_within,
            take_within: self.take_within,
            ..Limits::default()
        }
    }
}

/// Serves the pages of health and metrics, in plain HTTP, until `shutdown`.
pub async fn serve_health(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let patience = Patience::for_health();
    serve(Plain::new(listener, patience.limits()), router, patience, shutdown).await;
}

/// Serves until `shutdown`; then lets requests under way end, for a while, and cuts the rest off.
pub async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    patience: Patience,
    shutdown: CancellationToken,
) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(_) = open.join_next(), if !open.is_empty() => {}
            (conn, _) = listener.accept() => {
                open.spawn(connection(conn, router.clone(), patience, shutdown.clone()));
            }
        }
    }
    drop(listener);
    let drained = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(patience.drain_within, drained).await.is_err() {
        tracing::warn!(connections = open.len(), "requests were cut off");
    }
    open.shutdown().await;
}

async fn connection(
    conn: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    patience: Patience,
    shutdown: CancellationToken,
) {
    let answer = move |request: Request<Incoming>| {
        let router = router.clone();
        async move { Ok::<Response<Body>, Infallible>(unwrapped(router.oneshot(request).await)) }
    };
    let streams = Streams::default();
    let mut builder = Builder::new(streams.clone());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head_within)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(patience.head_within)
        .keep_alive_timeout(patience.take_within)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST_BYTES);
    let serving = builder.serve_connection(TokioIo::new(conn), hyper::service::service_fn(answer));
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = error.as_ref() as &dyn std::error::Error, "a connection ended");
    }
}

fn unwrapped(answer: Result<Response<Body>, Infallible>) -> Response<Body> {
    match answer {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Runs the streams of one HTTP/2 connection; they end with it.
#[derive(Debug, Clone, Default)]
struct Streams(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while streams.try_join_next().is_some() {}
        streams.spawn(stream);
    }
}
