//! Where node daemons dial: enrolment by a projected service-account token, and links over mTLS. The shell converts
//! on the first and last line; `session` does the rest.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use certs::server::{self, ClientAuth};
use certs::{
    Acceptor, ConnInfo, Csr, PeerRules, Protocol, Reloadable, ReloadableIdentity, Revocations, Role,
    TrustBundle,
};
use proto::api::node as pb;
use proto::api::node::node_link_server::{NodeLink, NodeLinkServer};
use proto::ids::ClusterId;
use proto::wire::{MAX_DOCUMENT_BYTES, NodeDown, NodeUp};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::authority::NodeAuthority;
use super::session::NodeConnection;
use crate::clock::Clock;
use crate::cluster::NodeAuth;

/// Messages under way in each direction before the sender waits, or the session ends.
const WINDOW: usize = 256;
/// A node's certificate.
const NODE_LEAF: Duration = Duration::from_hours(24);
/// The server's own certificate is made anew well before its end.
const SERVER_LEAF: Duration = Duration::from_hours(48);
const SERVER_RENEWAL: Duration = Duration::from_hours(12);
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Of one connection; a daemon uses one.
const MAX_STREAMS: u32 = 16;
/// Of one request's headers.
const MAX_HEADER_LIST_BYTES: u32 = 16 << 10;

/// What the server needs.
#[derive(Debug)]
pub struct NodeServer {
    /// This cluster.
    pub cluster: ClusterId,
    /// Names that daemons dial.
    pub names: Vec<String>,
    /// The CA of the node links.
    pub authority: Arc<NodeAuthority>,
    /// Who a token stands for.
    pub auth: Arc<dyn NodeAuth>,
    /// Clocks.
    pub clock: Arc<dyn Clock>,
}

impl NodeServer {
    /// Serves until it is dropped. Each link becomes a [`NodeConnection`].
    pub async fn run(self, listener: TcpListener, links: mpsc::Sender<NodeConnection>) -> anyhow::Result<()> {
        let identity = ReloadableIdentity::empty();
        self.renew(&identity)?;
        let bundle = TrustBundle::from_pem(self.authority.get().bundle_pem())?;
        let rules = PeerRules {
            trust_domain: self.authority.get().trust_domain().clone(),
            bundle: Reloadable::new(bundle),
            revocations: Reloadable::new(Revocations::default()),
        };
        let config = server::config(&identity, ClientAuth::Optional(rules), Protocol::Grpc)?;
        let acceptor = Acceptor::new(listener, config);
        let service = Service {
            cluster: self.cluster.clone(),
            authority: self.authority.clone(),
            auth: self.auth.clone(),
            clock: self.clock.clone(),
            links,
            pumps: Mutex::new(JoinSet::new()),
        };
        let serve = tonic::transport::Server::builder()
            .max_concurrent_streams(MAX_STREAMS)
            .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(NodeLinkServer::new(service).max_decoding_message_size(4 * MAX_DOCUMENT_BYTES))
            .serve_with_incoming(acceptor);
        tokio::pin!(serve);
        loop {
            tokio::select! {
                ended = &mut serve => {
                    ended?;
                    anyhow::bail!("the node link server ended");
                }
                () = tokio::time::sleep(SERVER_RENEWAL) => self.renew(&identity)?,
            }
        }
    }

    fn renew(&self, identity: &ReloadableIdentity) -> anyhow::Result<()> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let role = Role::agent(self.cluster.as_str());
        let now = self.clock.now().wall;
        let credential = self.authority.get().issue_server(&names, Some(&role), now, SERVER_LEAF)?;
        Ok(identity.replace(&credential)?)
    }
}

struct Service {
    cluster: ClusterId,
    authority: Arc<NodeAuthority>,
    auth: Arc<dyn NodeAuth>,
    clock: Arc<dyn Clock>,
    links: mpsc::Sender<NodeConnection>,
    pumps: Mutex<JoinSet<()>>,
}

impl Service {
    /// The node that the certificate names. Certificates of other roles or clusters are not node daemons.
    fn node<T>(&self, request: &Request<T>) -> Result<String, Status> {
        let refused = || Status::unauthenticated("a node certificate of this cluster is required");
        let peer = request.extensions().get::<ConnInfo>().and_then(|info| info.peer.as_ref());
        match peer.ok_or_else(refused)?.role() {
            Role::Node { cluster, node } if cluster == self.cluster.as_str() => Ok(node.clone()),
            _ => Err(refused()),
        }
    }
}

#[tonic::async_trait]
impl NodeLink for Service {
    type LinkStream =
        tokio_stream::adapters::Map<ReceiverStream<NodeDown>, fn(NodeDown) -> Result<pb::NodeDown, Status>>;

    async fn enrol(
        &self,
        request: Request<pb::NodeEnrolRequest>,
    ) -> Result<Response<pb::NodeEnrolReply>, Status> {
        let request = request.into_inner();
        let node = self.auth.node_of(&request.token).await.map_err(|error| {
            tracing::warn!(%error, "a node daemon was refused");
            if error.retryable() {
                Status::unavailable("the token cannot be reviewed now")
            } else {
                Status::unauthenticated("the token is not that of a node daemon of ours")
            }
        })?;
        let csr = Csr::from_pem(&request.csr_pem).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let role = Role::node(self.cluster.as_str(), node.as_str());
        let leaf = self.authority.get().sign_client(&csr, &role, self.clock.now().wall, NODE_LEAF);
        let leaf = leaf.map_err(|error| {
            tracing::error!(%error, "a node certificate could not be signed");
            Status::internal("sign the certificate")
        })?;
        tracing::info!(%node, serial = %leaf.serial, "node enrolled");
        let bundle_pem = self.authority.get().bundle_pem().to_owned();
        Ok(Response::new(pb::NodeEnrolReply { node, chain_pem: leaf.chain_pem, bundle_pem }))
    }

    async fn link(
        &self,
        request: Request<Streaming<pb::NodeUp>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let node = self.node(&request)?;
        let mut stream = request.into_inner();
        let (arrived, up) = mpsc::channel::<NodeUp>(WINDOW);
        let (down, outgoing) = mpsc::channel::<NodeDown>(WINDOW);
        let name = node.clone();
        let pump = async move {
            while let Some(Ok(message)) = stream.next().await {
                match NodeUp::try_from(message) {
                    Ok(message) => {
                        if arrived.send(message).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::warn!(node = name, %error, "message not understood"),
                }
            }
        };
        {
            let mut pumps = self.pumps.lock().unwrap_or_else(PoisonError::into_inner);
            while pumps.try_join_next().is_some() {}
            pumps.spawn(pump);
        }
        let connection = NodeConnection { node, up, down };
        self.links.send(connection).await.map_err(|_| Status::unavailable("the agent is ending"))?;
        let convert: fn(NodeDown) -> Result<pb::NodeDown, Status> = |message| Ok(message.into());
        Ok(Response::new(ReceiverStream::new(outgoing).map(convert)))
    }
}
