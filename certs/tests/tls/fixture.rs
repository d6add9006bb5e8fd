//! An echoing server over our acceptor, and a client that tells whether it was let in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use certs::{Acceptor, ClientConfig, ConnInfo, Connector, ServerConfig};
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Longer than any of these tests should take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const DAY: Duration = Duration::from_hours(24);

pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// A server that sends every connection one `!`, until it is dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) accepted: mpsc::Receiver<ConnInfo>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start(config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::over(Acceptor::new(listener, config))
    }

    pub(crate) fn over(mut acceptor: Acceptor) -> Self {
        let addr = acceptor.local_addr().unwrap();
        let (tell, accepted) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let mut conn = acceptor.accept().await;
                let info = conn.info().clone();
                // A client that is gone already is its own business.
                let _ = conn.write_all(b"!").await;
                let _ = conn.shutdown().await;
                tell.send(info).await.unwrap();
            }
        });
        Self { addr, accepted, _tasks: tasks }
    }

    pub(crate) fn uri(&self) -> http::Uri {
        format!("http://{}", self.addr).parse().unwrap()
    }

    /// Dials and reads the `!`. An error is the whole chain of causes as one text.
    pub(crate) async fn dial(&self, config: &Arc<ClientConfig>) -> Result<(), String> {
        let mut conn =
            Connector::new(config.clone()).connect(&self.uri()).await.map_err(|error| chain(&error))?;
        let mut byte = [0];
        // With TLS 1.3 the refusal of a client certificate arrives with the first read.
        match tokio::time::timeout(PATIENCE, conn.read_exact(&mut byte)).await.unwrap() {
            Ok(_) => Ok(()),
            Err(error) => Err(chain(&error)),
        }
    }

    /// Dials, expects to be let in, and returns what the server knows about us.
    pub(crate) async fn meet(&mut self, config: &Arc<ClientConfig>) -> ConnInfo {
        self.dial(config).await.unwrap();
        tokio::time::timeout(PATIENCE, self.accepted.recv()).await.unwrap().unwrap()
    }
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
