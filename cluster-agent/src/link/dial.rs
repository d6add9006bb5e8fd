//! Opening a connection to the centre. The gRPC shell converts on the first and last line and decides nothing.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use certs::Connector;
use proto::api::link::link_client::LinkClient;
use proto::wire::{Down, MAX_DOCUMENT_BYTES, Nack, Up};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::identity::Credentials;
use super::session::Connection;

/// Messages under way in each direction before the sender waits.
const WINDOW: usize = 64;
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why no connection came about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DialError(pub String);

/// Opens connections to the centre.
#[async_trait]
pub trait Dial: Send + Sync + Debug {
    /// One attempt; `attempt` grows with each failure and chooses the endpoint.
    async fn dial(&self, attempt: usize) -> Result<Connection, DialError>;
}

/// gRPC over mTLS.
#[derive(Debug)]
pub struct Grpc {
    credentials: Credentials,
    endpoints: Vec<String>,
    proxy: Option<certs::Proxy>,
}

impl Grpc {
    /// Dials the endpoints of the identity, or `instead` where that is not empty.
    pub fn new(credentials: Credentials, instead: &[String]) -> Self {
        let endpoints = if instead.is_empty() { credentials.endpoints().to_vec() } else { instead.to_vec() };
        Self { credentials, endpoints, proxy: None }
    }

    /// Dials through this proxy what it is for.
    #[must_use]
    pub fn through(self, proxy: Option<certs::Proxy>) -> Self {
        Self { proxy, ..self }
    }
}

#[async_trait]
impl Dial for Grpc {
    async fn dial(&self, attempt: usize) -> Result<Connection, DialError> {
        let failed = |error: &(dyn std::error::Error + 'static)| DialError(chain(error));
        let at = attempt.checked_rem(self.endpoints.len()).unwrap_or(0);
        let address = self.endpoints.get(at).ok_or_else(|| DialError("no endpoint is known".to_owned()))?;
        let config = self.credentials.client_config().map_err(|e| DialError(format!("{e:#}")))?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| failed(&e))?
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let connector = Connector::new(config).with_proxy(self.proxy.clone());
        let channel = endpoint.connect_with_connector(connector).await.map_err(|e| failed(&e))?;
        let mut client = LinkClient::new(channel).max_decoding_message_size(4 * MAX_DOCUMENT_BYTES);
        let (up, outgoing) = mpsc::channel::<Up>(WINDOW);
        let (arrived, down) = mpsc::channel::<Down>(WINDOW);
        let outgoing = ReceiverStream::new(outgoing).map(Into::into);
        // The answer's headers may wait for the first message: dial and read in one pump.
        let nack = up.downgrade();
        let mut pumps = JoinSet::new();
        pumps.spawn(async move {
            let mut stream = match client.link(outgoing).await {
                Ok(response) => response.into_inner(),
                Err(status) => return tracing::warn!(code = %status.code(), message = status.message(), "link refused"),
            };
            while let Some(message) = stream.next().await {
                let message = match message {
                    Ok(message) => message,
                    Err(status) => return tracing::debug!(code = %status.code(), message = status.message(), "link ended"),
                };
                match Down::try_from(message) {
                    Ok(down) => {
                        if arrived.send(down).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "message not understood");
                        if let Some(up) = nack.upgrade() {
                            let detail = error.to_string();
                            let nack = Nack { run: String::new(), generation: 0, code: "Malformed".into(), detail };
                            let _ = up.try_send(Up::Nack(nack));
                        }
                    }
                }
            }
        });
        Ok(Connection { up, down, pumps })
    }
}

/// An error with all its causes in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
