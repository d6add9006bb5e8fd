//! Dialling with our own TLS: a tower service for tonic's `Endpoint::connect_with_connector` and for hyper-util's
//! legacy client. Use `http://` URIs, or they add TLS of their own on top.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::proxy::{Proxy, TunnelError};
use crate::verify::Rejected;

/// The longest that TCP connect and TLS handshake may take together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URI lacks a host.
    #[error("{0} has no host")]
    NoHost(Uri),
    /// The host is neither a DNS name nor an address.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    ServerName(String),
    /// TCP failed.
    #[error("connect to {address}")]
    Tcp {
        /// Host and port that were dialled.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// One of our checks refused the server.
    #[error("refuse the server at {address}")]
    Rejected {
        /// Host and port that were dialled.
        address: String,
        /// Which check.
        #[source]
        source: Box<Rejected>,
    },
    /// TLS failed otherwise.
    #[error("make a TLS connection to {address}")]
    Tls {
        /// Host and port that were dialled.
        address: String,
        /// What rustls said.
        #[source]
        source: io::Error,
    },
    /// The proxy opened no tunnel.
    #[error("reach {address} through the proxy {proxy} (HTTPS_PROXY)")]
    Proxy {
        /// Host and port that were meant.
        address: String,
        /// Host and port of the proxy.
        proxy: String,
        /// What it said.
        #[source]
        source: TunnelError,
    },
    /// Took longer than [`CONNECT_TIMEOUT`].
    #[error("no TLS connection to {0} within 10 s")]
    Timeout(String),
}

/// Dials host and port of the URI. The certificate comes from the configuration's resolver at each connection.
#[derive(Debug, Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    proxy: Option<Arc<Proxy>>,
}

impl Connector {
    /// Expects the server to be called what is dialled.
    pub fn new(config: Arc<ClientConfig>) -> Self {
        Self { config, server_name: None, proxy: None }
    }

    /// Goes through this proxy to every host that it is for. The TLS inside the tunnel is the same.
    #[must_use]
    pub fn with_proxy(self, proxy: Option<Proxy>) -> Self {
        Self { proxy: proxy.map(Arc::new), ..self }
    }

    /// Expects (and asks for, by SNI) `name` whatever is dialled.
    pub fn with_server_name(self, name: &str) -> Result<Self, Error> {
        Ok(Self { server_name: Some(server_name(name)?), ..self })
    }

    /// Connects to the URI's host and port (443 without one), within [`CONNECT_TIMEOUT`].
    pub async fn connect(&self, uri: &Uri) -> Result<Dialled, Error> {
        let host = uri.host().ok_or_else(|| Error::NoHost(uri.clone()))?;
        let address = format!("{host}:{}", uri.port_u16().unwrap_or(443));
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => server_name(host.trim_start_matches('[').trim_end_matches(']'))?,
        };
        let proxy = self.proxy.as_deref().filter(|proxy| proxy.is_for(host, uri.port_u16().unwrap_or(443)));
        match tokio::time::timeout(CONNECT_TIMEOUT, self.dial(&address, name, proxy)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout(match proxy {
                Some(proxy) => format!("{address} through the proxy {}", proxy.address()),
                None => address,
            })),
        }
    }

    async fn dial(
        &self,
        address: &str,
        name: ServerName<'static>,
        proxy: Option<&Proxy>,
    ) -> Result<Dialled, Error> {
        let stream = match proxy {
            Some(proxy) => proxy.tunnel(address).await.map_err(|source| Error::Proxy {
                address: address.to_owned(),
                proxy: proxy.address().to_owned(),
                source,
            })?,
            None => {
                direct(address).await.map_err(|source| Error::Tcp { address: address.to_owned(), source })?
            }
        };
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(name, stream).await.map_err(|source| tls_error(address, source))?;
        Ok(Dialled(stream))
    }
}

async fn direct(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn server_name(name: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name.to_owned()).map_err(|_| Error::ServerName(name.to_owned()))
}

/// Finds our own refusal inside the layers that rustls and io wrap around it.
fn tls_error(address: &str, source: io::Error) -> Error {
    let address = address.to_owned();
    let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) = inner
        && let Some(rejected) = other.0.downcast_ref::<Rejected>()
    {
        return Error::Rejected { address, source: Box::new(rejected.clone()) };
    }
    Error::Tls { address, source }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Dialled>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Response, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect(&uri).await.map(TokioIo::new) })
    }
}

/// A connection that we dialled, its handshake done (a refusal of our own certificate shows at the first read).
#[derive(Debug)]
pub struct Dialled(TlsStream<TcpStream>);

impl Connection for Dialled {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if self.0.get_ref().1.alpn_protocol() == Some(b"h2") { connected.negotiated_h2() } else { connected }
    }
}

impl AsyncRead for Dialled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
