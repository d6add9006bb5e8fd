//! The gRPC shell against an agent's end made here: enrolment by token, mTLS as the node that was enrolled,
//! messages both ways, a lost connection that is made again, and a server that is not ours.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use certs::throwaway::Throwaway;
use certs::{Acceptor, ConnInfo, Csr, Role};
use futures::Stream;
use jiff::Timestamp;
use node_daemon::AgentLink;
use node_daemon::engine::Event;
use node_daemon::link::dial::Dialler;
use node_daemon::link::{Outbox, Session};
use node_daemon::metrics::Metrics;
use proto::api::node as pb;
use proto::api::node::node_link_server::{NodeLink, NodeLinkServer};
use proto::injection::InjectionPhase;
use proto::wire::{NodeDown, NodeHello, NodeUp};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(20);

/// An agent that enrols whoever has the token and hands each session to the test.
struct Agent {
    ca: Throwaway,
    enrolled: Arc<AtomicUsize>,
    sessions: mpsc::Sender<AgentSession>,
}

struct AgentSession {
    peer: String,
    ups: Streaming<pb::NodeUp>,
    downs: mpsc::Sender<Result<pb::NodeDown, Status>>,
}

#[tonic::async_trait]
impl NodeLink for Agent {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<pb::NodeDown, Status>> + Send>>;

    async fn enrol(
        &self,
        request: Request<pb::NodeEnrolRequest>,
    ) -> Result<Response<pb::NodeEnrolReply>, Status> {
        let request = request.into_inner();
        if request.token != "the-token" {
            return Err(Status::unauthenticated("another token"));
        }
        self.enrolled.fetch_add(1, Ordering::Relaxed);
        let csr =
            Csr::from_pem(&request.csr_pem).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let role = Role::node("c1", "n1");
        let leaf =
            self.ca.authority.sign_client(&csr, &role, Timestamp::now(), Duration::from_hours(1)).unwrap();
        let bundle_pem = self.ca.authority.bundle_pem().to_owned();
        Ok(Response::new(pb::NodeEnrolReply { node: "n1".into(), chain_pem: leaf.chain_pem, bundle_pem }))
    }

    async fn link(
        &self,
        request: Request<Streaming<pb::NodeUp>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let peer = request.extensions().get::<ConnInfo>().and_then(|info| info.peer.clone());
        let peer = peer.ok_or_else(|| Status::unauthenticated("no certificate"))?.to_string();
        let (downs, out) = mpsc::channel(16);
        let _ = self.sessions.send(AgentSession { peer, ups: request.into_inner(), downs }).await;
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }
}

impl AgentSession {
    async fn hears(&mut self) -> NodeUp {
        let up = tokio::time::timeout(PATIENCE, self.ups.message()).await.expect("silence");
        NodeUp::try_from(up.unwrap().expect("the session is over")).unwrap()
    }

    async fn says(&self, down: NodeDown) {
        self.downs.send(Ok(down.into())).await.unwrap();
    }
}

/// Stands between daemon and agent and counts the connections that are over.
async fn relayed(listener: TcpListener, agent: SocketAddr, over: watch::Sender<usize>) {
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            Ok((mut daemon, _)) = listener.accept() => {
                relays.spawn(async move {
                    let mut agent = TcpStream::connect(agent).await?;
                    tokio::io::copy_bidirectional(&mut daemon, &mut agent).await
                });
            }
            Some(_) = relays.join_next() => over.send_modify(|count| *count += 1),
        }
    }
}

/// A dialling daemon without its driver, which the test plays.
struct Rig {
    events: mpsc::Receiver<Event>,
    outbox: Arc<Outbox>,
    sessions: mpsc::Receiver<AgentSession>,
    enrolled: Arc<AtomicUsize>,
    metrics: Metrics,
    /// Connections to the agent that are over.
    over: watch::Receiver<usize>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    folder: tempfile::TempDir,
}

impl Rig {
    /// The bundle the daemon trusts is this one, or the agent's own.
    async fn start(bundle: Option<String>, token: &str) -> Self {
        let ca = Throwaway::new(Timestamp::now()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (bundle_path, token_path) = (folder.path().join("ca.crt"), folder.path().join("token"));
        std::fs::write(&bundle_path, bundle.unwrap_or_else(|| ca.authority.bundle_pem().to_owned())).unwrap();
        std::fs::write(&token_path, format!("{token}\n")).unwrap();
        let (sessions_in, sessions) = mpsc::channel(4);
        let enrolled = Arc::<AtomicUsize>::default();
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        let acceptor = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            Acceptor::new(listener, ca.open_server_config().unwrap())
        };
        let (relay, (count, over)) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), watch::channel(0));
        let addr = relay.local_addr().unwrap();
        tasks.spawn(relayed(relay, acceptor.local_addr().unwrap(), count));
        let agent = Agent { ca, enrolled: enrolled.clone(), sessions: sessions_in };
        let server = tonic::transport::Server::builder().add_service(NodeLinkServer::new(agent));
        tasks.spawn(async move {
            let _ = server.serve_with_incoming(acceptor).await;
        });
        let (events_in, events) = mpsc::channel(16);
        let outbox = Arc::<Outbox>::default();
        let session = Session { outbox: outbox.clone(), events: events_in };
        let link = AgentLink { address: addr.to_string(), bundle: bundle_path, token: token_path };
        let metrics = Metrics::default();
        tasks.spawn(Dialler::new(link, session).measured(metrics.clone()).run(stop.clone()));
        Self { events, outbox, sessions, enrolled, metrics, over, stop, tasks, folder }
    }

    async fn event(&mut self) -> Event {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("nothing happens").unwrap()
    }

    /// Plays the driver at the start of a session.
    async fn meets(&mut self) -> AgentSession {
        assert!(matches!(self.event().await, Event::Connected));
        self.outbox.push(NodeUp::Hello(Box::new(NodeHello {
            node: "n1".into(),
            version: "0".into(),
            boot_id: "b".into(),
            highest_epoch: 0,
            capabilities: proto::cluster::NodeCapabilities::default(),
            held: vec![],
        })));
        let mut session =
            tokio::time::timeout(PATIENCE, self.sessions.recv()).await.expect("no session").unwrap();
        assert!(matches!(session.hears().await, NodeUp::Hello(hello) if hello.node == "n1"));
        // Far apart: the first comes at once, and no session ends of silence meanwhile.
        let welcome = NodeDown::Welcome { agent_epoch: 4, heartbeat_interval_ms: 10_000 };
        session.says(welcome.clone()).await;
        assert!(matches!(self.event().await, Event::Down(down) if down == welcome));
        session
    }
}

#[tokio::test]
async fn a_daemon_enrols_links_and_links_again() {
    let mut rig = Rig::start(None, "the-token").await;
    let mut session = rig.meets().await;
    assert!(session.peer.ends_with("/cluster/c1/node/n1"), "{}", session.peer);
    let ends = rig.metrics.text().unwrap();
    let ends =
        ends.lines().find_map(|l| l.strip_prefix("faultline_node_certificate_expiry_timestamp_seconds "));
    let left = ends.unwrap().parse::<i64>().unwrap() - Timestamp::now().as_second();
    assert!((3000..=3600).contains(&left), "the agent's certificate is for an hour: {left} s left");
    assert!(matches!(session.hears().await, NodeUp::Heartbeat { .. }));
    // A message of a later version is left out, the session goes on.
    session.downs.send(Ok(pb::NodeDown { kind: None })).await.unwrap();
    // Nor does one end it that asks for a fault of a later version; the agent is told that it was not made.
    let later = pb::Inject {
        injection: "r1.a.0".into(),
        run: "r1".into(),
        document: br#"{"id":"r1.a.0","run":"r1","action":{"kind":"clock.skew"}}"#.to_vec(),
        ..pb::Inject::default()
    };
    let later = pb::NodeDown { kind: Some(pb::node_down::Kind::Inject(later)) };
    session.downs.send(Ok(later)).await.unwrap();
    let refused = loop {
        match session.hears().await {
            NodeUp::State(status) => break status,
            NodeUp::Heartbeat { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((refused.id.as_str(), refused.phase), ("r1.a.0", InjectionPhase::Refused));
    assert!(refused.message.contains("does not understand it"), "{}", refused.message);
    let revert = NodeDown::Revert { injection: "r1.a.0".parse().unwrap(), reason: "Stopped".into() };
    session.says(revert.clone()).await;
    assert!(matches!(rig.event().await, Event::Down(down) if down == revert));
    drop(session);
    assert!(matches!(rig.event().await, Event::Disconnected));
    let _session = rig.meets().await;
    assert_eq!(rig.enrolled.load(Ordering::Relaxed), 1, "a certificate that is valid is used again");
    rig.stop.cancel();
    rig.tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_ours_is_told_nothing() {
    let other = Throwaway::new(Timestamp::now()).unwrap();
    let mut rig = Rig::start(Some(other.authority.bundle_pem().to_owned()), "the-token").await;
    let tried = rig.over.wait_for(|count| *count >= 3);
    tokio::time::timeout(PATIENCE, tried).await.expect("it does not try again").unwrap();
    assert_eq!(rig.enrolled.load(Ordering::Relaxed), 0);
    assert!(rig.events.try_recv().is_err() && rig.sessions.try_recv().is_err());
}

#[tokio::test]
async fn a_token_is_read_again_at_every_try() {
    let mut rig = Rig::start(None, "old").await;
    std::fs::write(rig.folder.path().join("token"), "the-token").unwrap();
    rig.meets().await;
}
