//! A bounded TLS accept loop that serves tonic (as a stream of connections) and axum (as a listener) alike. One
//! slow, broken or hostile client costs at most one of [`MAX_HANDSHAKES`] places for [`HANDSHAKE_TIMEOUT`].

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::identity::Identity;
use crate::peer::{Peer, Serial};

/// Handshakes in flight before new connections wait in the kernel's backlog.
pub const MAX_HANDSHAKES: usize = 256;
/// The longest a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to rest after the kernel refused us a connection (most often: no file descriptors left).
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Who is at the other end. In tonic: `request.extensions().get::<ConnInfo>()`; in axum: the extractor
/// `ConnectInfo<ConnInfo>`, with `into_make_service_with_connect_info::<ConnInfo>()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnInfo {
    /// Address of the TCP peer.
    pub remote_addr: SocketAddr,
    /// The verified identity; `None` when no certificate was shown.
    pub peer: Option<Identity>,
    /// Serial of the certificate shown.
    pub serial: Option<Serial>,
}

/// One accepted connection, its handshake done.
#[derive(Debug)]
pub struct Conn {
    stream: TlsStream<TcpStream>,
    info: ConnInfo,
}

impl Conn {
    /// Who is at the other end.
    pub fn info(&self) -> &ConnInfo {
        &self.info
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
    max_handshakes: usize,
    timeout: Duration,
}

impl Acceptor {
    /// Accepts on a bound listener.
    pub fn new(listener: TcpListener, config: Arc<ServerConfig>) -> Self {
        Self::with_limits(listener, config, MAX_HANDSHAKES, HANDSHAKE_TIMEOUT)
    }

    /// As [`Self::new`], with other bounds; at least one handshake is let in.
    pub fn with_limits(
        listener: TcpListener,
        config: Arc<ServerConfig>,
        max_handshakes: usize,
        timeout: Duration,
    ) -> Self {
        let max_handshakes = max_handshakes.max(1);
        Self { listener, config, handshakes: JoinSet::new(), rest: None, max_handshakes, timeout }
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
            if self.handshakes.len() >= self.max_handshakes {
                return Poll::Pending;
            }
            if let Some(rest) = &mut self.rest {
                match rest.as_mut().poll(cx) {
                    Poll::Ready(()) => self.rest = None,
                    Poll::Pending => return Poll::Pending,
                }
            }
            match self.listener.poll_accept(cx) {
                Poll::Ready(Ok((stream, remote_addr))) => self.begin(stream, remote_addr),
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "accept failed");
                    self.rest = Some(Box::pin(tokio::time::sleep(ACCEPT_REST)));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, remote_addr: SocketAddr) {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        let timeout = self.timeout;
        self.handshakes.spawn(async move {
            match tokio::time::timeout(timeout, handshake(acceptor, stream, remote_addr)).await {
                Ok(Ok(conn)) => Some(conn),
                Ok(Err(error)) => {
                    tracing::debug!(%remote_addr, %error, "handshake failed");
                    None
                }
                Err(_) => {
                    tracing::debug!(%remote_addr, timeout_ms = timeout.as_millis(), "handshake timed out");
                    None
                }
            }
        });
    }
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream, remote_addr: SocketAddr) -> io::Result<Conn> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    // The verifier has let it in, so it reads; if that ever changes, no connection rather than an anonymous one.
    let peer = shown.map(Peer::from_der).transpose().map_err(io::Error::other)?;
    let (peer, serial) = peer.map(|peer| (peer.identity, peer.serial)).unzip();
    Ok(Conn { stream, info: ConnInfo { remote_addr, peer, serial } })
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
        let remote_addr = conn.info.remote_addr;
        (conn, remote_addr)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}

impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, Acceptor>> for ConnInfo {
    fn connect_info(stream: axum::serve::IncomingStream<'_, Acceptor>) -> Self {
        stream.io().info.clone()
    }
}

impl tonic::transport::server::Connected for Conn {
    type ConnectInfo = ConnInfo;

    fn connect_info(&self) -> ConnInfo {
        self.info.clone()
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
