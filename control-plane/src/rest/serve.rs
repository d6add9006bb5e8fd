//! Serving connections: each is a task that ends with the server, and none can be held open by a
//! client that sends its request, or takes its answer, slowly. Called by [`super::serve`].

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use certs::{Acceptor, Conn};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Of a request's head; exactly the preface of HTTP/2, and less than any head of HTTP/1.1.
const LEAST_HEAD_BYTES: usize = 24;
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
    /// Open connections; more wait to be accepted.
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

/// Serves until `shutdown`; then lets requests under way end, for a while, and cuts the rest off.
pub(super) async fn serve(
    mut acceptor: Acceptor,
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
            conn = acceptor.accept(), if open.len() < patience.connections => {
                open.spawn(connection(conn, router.clone(), patience, shutdown.clone()));
            }
        }
    }
    drop(acceptor);
    let drained = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(patience.drain_within, drained).await.is_err() {
        tracing::warn!(connections = open.len(), "requests were cut off");
    }
    open.shutdown().await;
}

async fn connection(conn: Conn, router: Router, patience: Patience, shutdown: CancellationToken) {
    let info = ConnectInfo(conn.info().clone());
    let answer = move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(info.clone());
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
    let io = TokioIo::new(Timed::new(conn, patience));
    let serving = builder.serve_connection(io, hyper::service::service_fn(answer));
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

/// A connection that gives up on a client that neither sends nor takes anything.
struct Timed<S> {
    inner: S,
    /// Ends the wait for the first bytes; gone once they are there.
    first: Option<Pin<Box<Sleep>>>,
    heard: usize,
    take_within: Duration,
    /// Running while something waits to be taken.
    taking: Option<Pin<Box<Sleep>>>,
}

impl<S> Timed<S> {
    fn new(inner: S, patience: Patience) -> Self {
        let first = Some(Box::pin(tokio::time::sleep(patience.head_within)));
        Self { inner, first, heard: 0, take_within: patience.take_within, taking: None }
    }

    /// What a write or flush said, or an error where the client has taken nothing for too long.
    fn taken<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.taking = None;
            return polled;
        }
        let until = Instant::now() + self.take_within;
        let taking = self.taking.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(taking.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
        let Some(first) = &mut this.first else { return polled };
        if polled.is_ready() {
            this.heard += buf.filled().len() - before;
            if this.heard >= LEAST_HEAD_BYTES {
                this.first = None;
            }
            return polled;
        }
        ready!(first.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.taken(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.taken(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.taken(cx, polled)
    }
}
