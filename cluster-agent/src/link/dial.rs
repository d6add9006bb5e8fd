//! Opening a connection to the centre. The gRPC shell converts on the first and last line and decides nothing.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use certs::Connector;
use proto::api::link as pb;
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
/// How long a connection may take to come about: the next address waits behind it.
const WITHIN: Duration = Duration::from_secs(10);

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
    /// Dialled instead of what is kept, where that is not empty.
    instead: Vec<String>,
    proxy: Option<certs::Proxy>,
}

impl Grpc {
    /// Dials the endpoints that are kept with the identity at that time, or `instead` where that is not empty.
    pub fn new(credentials: Credentials, instead: &[String]) -> Self {
        Self { credentials, instead: instead.to_vec(), proxy: None }
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
        let follows = self.instead.is_empty();
        let endpoints = if follows { self.credentials.endpoints() } else { self.instead.clone() };
        let at = attempt.checked_rem(endpoints.len()).unwrap_or(0);
        let address = endpoints.get(at).ok_or_else(|| DialError("no endpoint is known".to_owned()))?;
        let config = self.credentials.client_config().map_err(|e| DialError(format!("{e:#}")))?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| failed(&e))?
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let connector = Connector::new(config).with_proxy(self.proxy.clone());
        let connecting = tokio::time::timeout(WITHIN, endpoint.connect_with_connector(connector));
        let late = |_| DialError(format!("{address} does not answer within {} s", WITHIN.as_secs()));
        let channel = connecting.await.map_err(late)?.map_err(|e| failed(&e))?;
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
                let about = about(&message);
                match Down::try_from(message) {
                    Ok(down) => {
                        if arrived.send(down).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "message not understood");
                        if let Some(up) = nack.upgrade() {
                            let (run, generation) = about;
                            let nack = Nack { run, generation, code: "Malformed".into(), detail: error.to_string() };
                            let _ = up.try_send(Up::Nack(nack));
                        }
                    }
                }
            }
        });
        Ok(Connection { up, down, pumps, address: follows.then(|| address.clone()) })
    }
}

/// The run and the generation that a message is about, by its envelope: what is refused is refused for that run.
fn about(message: &pb::Down) -> (String, u64) {
    match &message.kind {
        Some(pb::down::Kind::Desired(desired)) => (desired.run.clone(), desired.generation),
        _ => (String::new(), 0),
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
