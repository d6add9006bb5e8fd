//! Node daemons towards the agent's server: a token gives a certificate, a certificate gives a link, and nothing
//! else does.

use std::sync::Arc;
use std::time::Duration;

use certs::client::{self, Expect, Trust};
use certs::{Connector, Credential, PrivateKey, Protocol, Reloadable, ReloadableIdentity, TrustBundle};
use cluster_agent::clock::{Clock, SystemClock};
use cluster_agent::cluster::memory::Memory;
use cluster_agent::driver::Input;
use cluster_agent::nodes::authority::NodeAuthority;
use cluster_agent::nodes::server::NodeServer;
use cluster_agent::nodes::session::{NodeConnection, NodeEvent, NodeSettings, session};
use proto::api::node as pb;
use proto::api::node::NodeEnrolRequest;
use proto::api::node::node_link_client::NodeLinkClient;
use proto::wire::{NodeDown, NodeHello, NodeUp};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const PATIENCE: Duration = Duration::from_mins(1);

struct Server {
    address: String,
    memory: Memory,
    links: mpsc::Receiver<NodeConnection>,
    tasks: JoinSet<()>,
}

async fn server() -> Server {
    let memory = Memory::new();
    memory.set_token("good", "n1");
    let doors = memory.doors();
    let authority = NodeAuthority::load(&*doors.secrets, "t.test", SystemClock.now().wall).await.unwrap();
    let again = NodeAuthority::load(&*doors.secrets, "t.test", SystemClock.now().wall).await.unwrap();
    assert_eq!(authority.get().bundle_pem(), again.get().bundle_pem(), "one CA over restarts");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, links) = mpsc::channel(4);
    let server = NodeServer {
        cluster: "c2".parse().unwrap(),
        names: vec!["127.0.0.1".into()],
        authority: Arc::new(authority),
        auth: doors.node_auth.unwrap(),
        clock: Arc::new(SystemClock),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { server.run(listener, tell).await.unwrap() });
    Server { address, memory, links, tasks }
}

async fn dial(server: &Server, identity: &ReloadableIdentity) -> NodeLinkClient<Channel> {
    let bundle = TrustBundle::from_pem(&server.memory.snapshot().node_bundle.unwrap()).unwrap();
    let trust = Trust::Bundle(Reloadable::new(bundle));
    let config = client::config(identity, trust, Expect::Name, Protocol::Grpc).unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    NodeLinkClient::new(endpoint.connect_with_connector(Connector::new(config)).await.unwrap())
}

async fn enrol(server: &Server, token: &str) -> Result<(PrivateKey, pb::NodeEnrolReply), tonic::Status> {
    let key = PrivateKey::generate().unwrap();
    let request = NodeEnrolRequest { token: token.into(), csr_pem: key.csr_pem().unwrap() };
    let reply = dial(server, &ReloadableIdentity::empty()).await.enrol(request).await?;
    Ok((key, reply.into_inner()))
}

fn hello(node: &str) -> NodeUp {
    NodeUp::Hello(Box::new(NodeHello {
        node: node.into(),
        version: "0".into(),
        boot_id: "b".into(),
        highest_epoch: 0,
        capabilities: proto::cluster::NodeCapabilities::default(),
        held: vec![],
    }))
}

/// The name in the certificate counts, not the one that is said.
#[tokio::test]
async fn a_daemon_that_claims_another_node_is_not_heard() {
    let (said, up) = mpsc::channel(4);
    let (down, mut told) = mpsc::channel(4);
    let (tell, mut inputs) = mpsc::channel(4);
    said.send(hello("n2")).await.unwrap();
    let settings = NodeSettings { agent_epoch: 4, heartbeat: Duration::from_secs(5) };
    let connection = NodeConnection { node: "n1".into(), up, down };
    let session = session(connection, 1, settings, Arc::new(SystemClock), tell);
    tokio::time::timeout(PATIENCE, session).await.expect("it is ended");
    assert!(inputs.recv().await.is_none() && told.recv().await.is_none());
}

#[tokio::test]
async fn a_token_gives_a_certificate_and_that_a_link() {
    let mut server = server().await;
    assert_eq!(enrol(&server, "bad").await.err().map(|s| s.code()), Some(Code::Unauthenticated));
    let (key, reply) = enrol(&server, "good").await.unwrap();
    assert_eq!(reply.node, "n1");

    let (_up, ups) = mpsc::channel::<pb::NodeUp>(4);
    let nobody = dial(&server, &ReloadableIdentity::empty()).await.link(ReceiverStream::new(ups)).await;
    assert_eq!(nobody.err().map(|s| s.code()), Some(Code::Unauthenticated));

    let credential = Credential { chain_pem: reply.chain_pem, key_pem: key.to_pem() };
    let identity = ReloadableIdentity::new(&credential).unwrap();
    let (up, ups) = mpsc::channel::<pb::NodeUp>(4);
    let mut down = dial(&server, &identity).await.link(ReceiverStream::new(ups)).await.unwrap().into_inner();
    let connection = tokio::time::timeout(PATIENCE, server.links.recv()).await.unwrap().unwrap();
    assert_eq!(connection.node, "n1");

    let (tell, mut inputs) = mpsc::channel(16);
    let settings = NodeSettings { agent_epoch: 4, heartbeat: Duration::from_secs(5) };
    server.tasks.spawn(session(connection, 1, settings, Arc::new(SystemClock), tell));
    up.send(hello("n1").into()).await.unwrap();
    let welcome = NodeDown::try_from(down.message().await.unwrap().unwrap()).unwrap();
    assert!(matches!(welcome, NodeDown::Welcome { agent_epoch: 4, .. }), "{welcome:?}");
    let opened = tokio::time::timeout(PATIENCE, inputs.recv()).await.unwrap();
    assert!(matches!(&opened, Some(Input::Node(NodeEvent::Up { node, .. })) if node == "n1"), "{opened:?}");
    up.send(NodeUp::ClockProbe { id: 9 }.into()).await.unwrap();
    let reply = NodeDown::try_from(down.message().await.unwrap().unwrap()).unwrap();
    assert!(matches!(reply, NodeDown::ClockReply { id: 9, .. }), "{reply:?}");
    drop(up);
    drop(opened);
    let closed = tokio::time::timeout(PATIENCE, inputs.recv()).await.unwrap();
    assert!(matches!(closed, Some(Input::Node(NodeEvent::Down { session: 1, .. }))), "{closed:?}");
}
