//! The gRPC shells of both ends: who is at the other end is decided by its certificate alone, and
//! messages are converted on the first and last line.

use std::sync::Arc;
use std::time::Duration;

use certs::client::{self, Expect, Trust};
use certs::{ConnInfo, Connector, Identity, Protocol, Role};
use proto::api::peer as pb;
use proto::api::peer::peer_client::PeerClient;
use proto::api::peer::peer_server::{Peer, PeerServer};
use proto::halt::Halt;
use proto::ids::RunId;
use proto::status::RunPhase;
use proto::wire::{Latched, MAX_DOCUMENT_BYTES, MAX_LATCHED};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::PeersConfig;
use crate::cache::Cache;
use crate::centre::{Error, Latch};

/// How long another replica may take to answer.
const CALL_WITHIN: Duration = Duration::from_secs(2);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(3);
const MAX_MESSAGE_BYTES: usize = MAX_LATCHED * MAX_DOCUMENT_BYTES;

/// Why another replica was not told.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// Its address or name is none.
    #[error("no replica can be dialled there")]
    Address(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It could not be reached, or refused.
    #[error("call another replica")]
    Refused(#[from] Status),
    /// It said nothing for too long.
    #[error("no answer of another replica within 2 s")]
    Silent,
}

/// Makes connections to replicas, each of which must be who it is known as.
#[derive(Debug)]
pub(super) struct Dialler(PeersConfig);

impl Dialler {
    pub(super) fn new(config: PeersConfig) -> Self {
        Self(config)
    }

    /// A client that dials when it is first used, and again when the connection broke.
    pub(super) fn client(&self, replica: &str, address: &str) -> Result<Client, CallError> {
        let identity = Identity::new(self.0.trust_domain.clone(), Role::control_plane(replica))
            .map_err(|error| CallError::Address(Box::new(error)))?;
        let trust = Trust::Bundle(self.0.bundle.clone());
        let tls = client::config(&self.0.identity, trust, Expect::Identity(identity), Protocol::Grpc)
            .map_err(|error| CallError::Address(Box::new(error)))?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| CallError::Address(Box::new(error)))?
            .connect_timeout(CALL_WITHIN)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_WITHIN)
            .keep_alive_while_idle(true);
        Ok(Client(PeerClient::new(endpoint.connect_with_connector_lazy(Connector::new(tls)))))
    }
}

/// One other replica.
#[derive(Debug, Clone)]
pub(super) struct Client(PeerClient<Channel>);

impl Client {
    /// Has it take these, and returns what it has.
    pub(super) async fn take(mut self, latched: Latched) -> Result<Latched, CallError> {
        let call = self.0.take(pb::TakeRequest::from(latched.clone()));
        tokio::time::timeout(CALL_WITHIN, call).await.map_err(|_| CallError::Silent)??;
        Ok(latched)
    }
}

/// The replica that this connection's certificate speaks for.
fn replica_of<T>(request: &Request<T>) -> Result<String, Status> {
    let info = request.extensions().get::<ConnInfo>();
    match info.and_then(|info| info.peer.as_ref()).map(Identity::role) {
        Some(Role::ControlPlane { replica }) => Ok(replica.clone()),
        _ => Err(Status::permission_denied("only a replica of this control plane may do that")),
    }
}

/// Serves `Peer`: what another replica took is taken here, too.
#[derive(Debug, Clone)]
pub struct PeerService {
    cache: Arc<Cache>,
    latch: Arc<Latch>,
}

/// Refuses who is no replica before anything of the message is read.
pub(super) type Guarded =
    InterceptedService<PeerServer<PeerService>, fn(Request<()>) -> Result<Request<()>, Status>>;

impl PeerService {
    /// Latches into `latch`.
    pub fn new(cache: Arc<Cache>, latch: Arc<Latch>) -> Self {
        Self { cache, latch }
    }

    /// As a service for the port of the links.
    pub(crate) fn guarded(self) -> Guarded {
        let server = PeerServer::new(self).max_decoding_message_size(MAX_MESSAGE_BYTES);
        InterceptedService::new(server, |request| replica_of(&request).map(|_| request))
    }

    /// Whether the store showed already that a run is stopped, or over.
    fn is_stopped(&self, run: &RunId) -> bool {
        self.cache.read(|state| {
            let Some(entry) = state.runs.get(run) else {
                return false;
            };
            entry.record.as_ref().is_some_and(|record| record.value.stop.is_some())
                || entry.summary.as_ref().is_some_and(|summary| summary.value.phase == RunPhase::Finished)
        })
    }

    /// Whether the store showed already that a halt is in force, or was lifted.
    fn is_settled(&self, halt: &Halt) -> bool {
        self.cache.read(|state| state.resumed.contains(&halt.id) || state.halts.contains_key(&halt.id))
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn take(&self, request: Request<pb::TakeRequest>) -> Result<Response<pb::TakeReply>, Status> {
        let from = replica_of(&request)?;
        let latched = Latched::try_from(request.into_inner())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let full = |error: Error| Status::resource_exhausted(error.to_string());
        for (run, stop) in latched.stops {
            if !self.is_stopped(&run) {
                self.latch.stop(&run, stop, Some(&from)).map_err(full)?;
            }
        }
        for halt in latched.halts {
            if !self.is_settled(&halt) {
                self.latch.halt(halt, Some(&from)).map_err(full)?;
            }
        }
        Ok(Response::new(pb::TakeReply {}))
    }
}
