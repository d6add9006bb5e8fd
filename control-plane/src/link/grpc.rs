//! The gRPC shell of the link: identity from the connection's certificate, messages converted on
//! the first and last line, nothing decided.

use std::pin::Pin;
use std::sync::Arc;

use certs::{ConnInfo, Role};
use futures::{Stream, StreamExt};
use proto::api::link as pb;
use proto::api::link::link_server::Link;
use proto::ids::ClusterId;
use proto::wire::{Down, Up};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{Hub, serve};

/// Messages between the socket and a session, each way.
const PUMP: usize = 16;

/// Serves `Link`.
#[derive(Debug, Clone)]
pub struct LinkService {
    hub: Arc<Hub>,
    sessions: Arc<Mutex<JoinSet<()>>>,
    drain: CancellationToken,
}

impl LinkService {
    /// A service whose sessions end when `drain` fires.
    pub fn new(hub: Arc<Hub>, drain: CancellationToken) -> Self {
        Self { hub, sessions: Arc::default(), drain }
    }

    /// The deny list once more: a connection may be older than an entry of it.
    fn refuse_denied<T>(&self, cluster: &ClusterId, request: &Request<T>) -> Result<(), Status> {
        let info = request.extensions().get::<ConnInfo>();
        let serial = info.and_then(|info| info.serial.as_ref()).map(ToString::to_string).unwrap_or_default();
        let denied = self.hub.cache.read(|state| state.revoked.contains(&(cluster.to_string(), serial)));
        if denied { Err(Status::permission_denied("the certificate is revoked")) } else { Ok(()) }
    }

    /// Tells every agent to go elsewhere, and waits until they did.
    pub async fn drained(&self) {
        self.hub.cache.drain();
        let mut sessions = self.sessions.lock().await;
        while sessions.join_next().await.is_some() {}
    }
}

/// The cluster that this connection's certificate speaks for.
fn cluster_of<T>(request: &Request<T>) -> Result<ClusterId, Status> {
    let info = request.extensions().get::<ConnInfo>();
    let peer = info.and_then(|info| info.peer.as_ref());
    let peer = peer
        .ok_or_else(|| Status::unauthenticated("a client certificate of this control plane is required"))?;
    match peer.role() {
        Role::Agent { cluster } => cluster.parse().map_err(|error| {
            Status::permission_denied(format!("certificate of an unusable cluster: {error}"))
        }),
        _ => Err(Status::permission_denied("only a cluster's agent may open a link")),
    }
}

#[tonic::async_trait]
impl Link for LinkService {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<pb::Down, Status>> + Send>>;

    async fn link(&self, request: Request<Streaming<pb::Up>>) -> Result<Response<Self::LinkStream>, Status> {
        let cluster = cluster_of(&request)?;
        self.refuse_denied(&cluster, &request)?;
        if self.drain.is_cancelled() {
            return Err(Status::unavailable("this replica is shutting down"));
        }
        let (up_sender, up) = mpsc::channel(PUMP);
        let (down_sender, down) = mpsc::channel::<Down>(PUMP);
        let incoming = request.into_inner();
        let hub = self.hub.clone();
        let mut sessions = self.sessions.lock().await;
        while sessions.try_join_next().is_some() {}
        sessions.spawn(async move {
            let pump = pump_up(incoming, up_sender);
            let session = serve(hub, cluster, up, down_sender);
            // The pump never ends a session by itself: its end is the end of `up`.
            tokio::pin!(pump);
            tokio::pin!(session);
            let ended = tokio::select! {
                end = &mut session => end,
                () = &mut pump => (&mut session).await,
            };
            tracing::debug!(?ended, "link closed");
        });
        let down = tokio_stream::wrappers::ReceiverStream::new(down).map(|message| Ok(message.into()));
        Ok(Response::new(Box::pin(down)))
    }
}

async fn pump_up(mut incoming: Streaming<pb::Up>, up: mpsc::Sender<Result<Up, proto::wire::WireError>>) {
    // An error of the transport is the end of the session.
    while let Some(Ok(message)) = incoming.next().await {
        if up.send(Up::try_from(message)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use certs::Identity;

    use super::*;

    fn shown_by(peer: Option<&str>) -> Result<String, tonic::Code> {
        let peer = peer.map(|uri| uri.parse::<Identity>().unwrap());
        let mut request = Request::new(());
        let remote_addr = ([127, 0, 0, 1], 1).into();
        request.extensions_mut().insert(ConnInfo { remote_addr, peer, serial: None });
        cluster_of(&request).map(|id| id.to_string()).map_err(|status| status.code())
    }

    /// All of them are signed by this centre.
    #[test]
    fn only_a_clusters_agent_opens_a_link_and_for_its_own_cluster() {
        assert_eq!(shown_by(Some("spiffe://t.test/cluster/c1/agent")), Ok("c1".to_owned()));
        for other in [
            "spiffe://t.test/cluster/c1/node/n1",
            "spiffe://t.test/control-plane/0",
            "spiffe://t.test/control-plane/0/audit",
            "spiffe://t.test/operator/ann",
        ] {
            assert_eq!(shown_by(Some(other)), Err(tonic::Code::PermissionDenied), "{other}");
        }
        assert_eq!(shown_by(None), Err(tonic::Code::Unauthenticated));
        assert_eq!(cluster_of(&Request::new(())).unwrap_err().code(), tonic::Code::Unauthenticated);
    }
}
