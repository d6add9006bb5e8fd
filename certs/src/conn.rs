//! An accepted connection: who is at the other end, its place among all, and the patience with it. A peer that says
//! nothing at first, or takes nothing of what it is sent, is cut. Made by the acceptors.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use crate::acceptor::{Holder, Limits};
use crate::identity::Identity;
use crate::peer::Serial;
use crate::shares::Place;

/// The preface of HTTP/2, and less than any request of HTTP/1.1.
const FIRST_BYTES: usize = 24;

/// Who is at the other end. In tonic: `request.extensions().get::<ConnInfo>()`.
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
pub struct Conn<S = TlsStream<TcpStream>> {
    stream: S,
    info: ConnInfo,
    _place: Place<Holder>,
    /// Ends the wait for the first bytes; gone once they are there.
    first: Option<Pin<Box<Sleep>>>,
    heard: usize,
    take_within: Duration,
    /// Running while something waits to be taken.
    taking: Option<Pin<Box<Sleep>>>,
}

impl<S> Conn<S> {
    pub(crate) fn new(stream: S, info: ConnInfo, place: Place<Holder>, limits: &Limits) -> Self {
        Self {
            stream,
            info,
            _place: place,
            first: Some(Box::pin(tokio::time::sleep(limits.first_within))),
            heard: 0,
            take_within: limits.take_within,
            taking: None,
        }
    }

    /// Who is at the other end.
    pub fn info(&self) -> &ConnInfo {
        &self.info
    }

    /// What a write or flush said, or an error where the peer has taken nothing for too long.
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

impl<S> tonic::transport::server::Connected for Conn<S> {
    type ConnectInfo = ConnInfo;

    fn connect_info(&self) -> ConnInfo {
        self.info.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Conn<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let Some(first) = &mut this.first else { return polled };
        if polled.is_ready() {
            this.heard += buffer.filled().len() - before;
            if this.heard >= FIRST_BYTES {
                this.first = None;
            }
            return polled;
        }
        ready!(first.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Conn<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.taken(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.taken(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.taken(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.taken(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
