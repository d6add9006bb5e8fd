//! Accept loops that one caller cannot keep for itself. Handshakes and connections have a bound each, of which every
//! source, or identity once it is known, has a share ([`crate::shares`]). [`Acceptor`] speaks TLS and serves tonic (as
//! a stream of connections) and axum (as a listener) alike; [`Plain`] is for pages that hold no secret.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::conn::{Conn, ConnInfo};
use crate::peer::Peer;
use crate::shares::{Shares, Source};

/// How long to rest after the kernel refused us a connection (most often: no file descriptors left).
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Connections of one identity. An agent or node has one, and two while it renews its certificate; what died without
/// a goodbye counts until a keepalive finds out.
const EACH_IDENTITY: usize = 32;

/// What the callers of a listener may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Handshakes under way. Where all are taken, new connections wait in the kernel's backlog.
    pub handshakes: usize,
    /// The longest a handshake may take.
    pub handshake_within: Duration,
    /// Open connections. Where all are taken, new ones wait.
    pub connections: usize,
    /// For the first bytes after the handshake.
    pub first_within: Duration,
    /// For taking anything of what is sent.
    pub take_within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 512,
            handshake_within: Duration::from_secs(10),
            connections: 65_536,
            first_within: Duration::from_secs(10),
            take_within: Duration::from_secs(30),
        }
    }
}

/// Why a connection was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TurnedAway {
    /// Its source, or its identity, holds its share already.
    Share,
    /// The handshake took too long.
    Slow,
    /// The handshake failed: no TLS of ours, or a certificate that is not let in.
    Handshake,
}

/// Whose a connection is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    Source(Source),
    Identity(String),
}

impl Holder {
    fn of(info: &ConnInfo) -> (Self, usize) {
        match &info.peer {
            Some(peer) => (Self::Identity(peer.to_string()), EACH_IDENTITY),
            None => (Self::Source(info.remote_addr.ip().into()), usize::MAX),
        }
    }
}

/// Who hears of what was turned away.
#[derive(Clone)]
struct Told(Arc<dyn Fn(TurnedAway) + Send + Sync>);

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Told")
    }
}

/// The accept loop: a `Stream` that never ends, and an `axum::serve::Listener`. It works while it is polled;
/// dropping it cuts the handshakes in flight.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    config: Arc<ServerConfig>,
    handshakes: JoinSet<Option<Conn>>,
    rest: Option<Pin<Box<Sleep>>>,
    limits: Limits,
    starting: Shares<Source>,
    open: Shares<Holder>,
    told: Told,
}

impl Acceptor {
    /// Accepts on a bound listener.
    pub fn new(listener: TcpListener, config: Arc<ServerConfig>) -> Self {
        Self::with_limits(listener, config, Limits::default())
    }

    /// As [`Self::new`], with other bounds; at least one of each is let in.
    pub fn with_limits(listener: TcpListener, config: Arc<ServerConfig>, limits: Limits) -> Self {
        Self {
            listener,
            config,
            handshakes: JoinSet::new(),
            rest: None,
            limits,
            starting: Shares::new(limits.handshakes),
            open: Shares::new(limits.connections),
            told: Told(Arc::new(|_| ())),
        }
    }

    /// Tells of every connection that is turned away. It must not wait.
    #[must_use]
    pub fn telling(mut self, tell: impl Fn(TurnedAway) + Send + Sync + 'static) -> Self {
        self.told = Told(Arc::new(tell));
        self
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection whose handshake succeeded. Safe to drop and call again.
    pub async fn accept(&mut self) -> Conn {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Conn> {
        loop {
            match self.handshakes.poll_join_next(cx) {
                Poll::Ready(Some(Ok(Some(conn)))) => return Poll::Ready(conn),
                // Failed, or panicked inside TLS: logged where it happened, and nobody else's business.
                Poll::Ready(Some(_)) => continue,
                Poll::Ready(None) | Poll::Pending => {}
            }
            ready!(self.starting.poll_free(cx));
            ready!(self.open.poll_free(cx));
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(cx));
                self.rest = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, remote_addr)) => self.begin(stream, remote_addr),
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    self.rest = Some(Box::pin(tokio::time::sleep(ACCEPT_REST)));
                }
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, remote_addr: SocketAddr) {
        let told = self.told.clone();
        let Some(place) = self.starting.enter(&remote_addr.ip().into(), usize::MAX) else {
            // Closed at once: a client tries again later, and the rest are not delayed.
            tracing::debug!(%remote_addr, "too many handshakes of one source");
            return (told.0)(TurnedAway::Share);
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        let (limits, open) = (self.limits, self.open.clone());
        self.handshakes.spawn(async move {
            let _place = place;
            let shaking = handshake(acceptor, stream, remote_addr);
            let (stream, info) = match tokio::time::timeout(limits.handshake_within, shaking).await {
                Ok(Ok(accepted)) => accepted,
                Ok(Err(error)) => {
                    tracing::debug!(%remote_addr, %error, "handshake failed");
                    (told.0)(TurnedAway::Handshake);
                    return None;
                }
                Err(_) => {
                    tracing::debug!(%remote_addr, "handshake timed out");
                    (told.0)(TurnedAway::Slow);
                    return None;
                }
            };
            let (holder, most) = Holder::of(&info);
            let Some(place) = open.enter(&holder, most) else {
                tracing::debug!(%remote_addr, ?holder, "too many connections of one caller");
                (told.0)(TurnedAway::Share);
                return None;
            };
            Some(Conn::new(stream, info, place, &limits))
        });
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    remote_addr: SocketAddr,
) -> io::Result<(TlsStream<TcpStream>, ConnInfo)> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    // The verifier has let it in, so it reads; if that ever changes, no connection rather than an anonymous one.
    let peer = shown.map(Peer::from_der).transpose().map_err(io::Error::other)?;
    let (peer, serial) = peer.map(|peer| (peer.identity, peer.serial)).unzip();
    Ok((stream, ConnInfo { remote_addr, peer, serial }))
}

impl Stream for Acceptor {
    type Item = io::Result<Conn>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_accept(cx).map(|conn| Some(Ok(conn)))
    }
}

impl axum::serve::Listener for Acceptor {
    type Io = Conn;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Conn, SocketAddr) {
        let conn = Self::accept(self).await;
        let remote_addr = conn.info().remote_addr;
        (conn, remote_addr)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}

impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, Acceptor>> for ConnInfo {
    fn connect_info(stream: axum::serve::IncomingStream<'_, Acceptor>) -> Self {
        stream.io().info().clone()
    }
}

/// An accept loop without TLS, as bounded.
#[derive(Debug)]
pub struct Plain {
    listener: TcpListener,
    limits: Limits,
    open: Shares<Holder>,
}

impl Plain {
    /// Accepts on a bound listener.
    pub fn new(listener: TcpListener, limits: Limits) -> Self {
        Self { listener, limits, open: Shares::new(limits.connections) }
    }
}

impl axum::serve::Listener for Plain {
    type Io = Conn<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            std::future::poll_fn(|cx| self.open.poll_free(cx)).await;
            let (stream, remote_addr) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            };
            let info = ConnInfo { remote_addr, peer: None, serial: None };
            let (holder, most) = Holder::of(&info);
            if let Some(place) = self.open.enter(&holder, most) {
                return (Conn::new(stream, info, place, &self.limits), remote_addr);
            }
            tracing::debug!(%remote_addr, "too many connections of one source");
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
