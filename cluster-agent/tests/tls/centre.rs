//! A whole agent process against a small centre: it enrols with its token, keeps one key over a failed attempt, and
//! says Hello over mTLS.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use certs::throwaway::Throwaway;
use certs::{Acceptor, ConnInfo, Csr, JoinToken, PrivateKey, Role};
use cluster_agent::cluster::memory::Memory;
use cluster_agent::cluster::{AuthoredSet, Inventory, Leadership, secret};
use cluster_agent::link::Backoff;
use cluster_agent::link::identity::StoredIdentity;
use cluster_agent::{Config, run_with};
use jiff::Timestamp;
use proto::api::enrolment::enrolment_server::{Enrolment, EnrolmentServer};
use proto::api::enrolment::{EnrolReply, EnrolRequest};
use proto::api::link as pb;
use proto::api::link::link_server::{Link, LinkServer};
use proto::wire::{Down, Up, Welcome};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

const PATIENCE: Duration = Duration::from_mins(1);

struct Centre {
    ca: Arc<Throwaway>,
    ttl: Duration,
    link_addr: String,
    keys: Arc<Mutex<Vec<String>>>,
    said: mpsc::Sender<(String, Up)>,
    pumps: Mutex<JoinSet<()>>,
}

impl Centre {
    fn sign(&self, csr_pem: &str) -> Result<String, Status> {
        let csr = Csr::from_pem(csr_pem).map_err(|e| Status::invalid_argument(e.to_string()))?;
        self.keys.lock().unwrap().push(csr.key_hash());
        let leaf = self.ca.authority.sign_client(&csr, &Role::agent("c2"), Timestamp::now(), self.ttl);
        Ok(leaf.map_err(|e| Status::internal(e.to_string()))?.chain_pem)
    }
}

#[tonic::async_trait]
impl Enrolment for Centre {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolReply>, Status> {
        let request = request.into_inner();
        let chain_pem = self.sign(&request.csr_pem)?;
        if self.keys.lock().unwrap().len() == 1 {
            return Err(Status::unavailable("the answer got lost"));
        }
        Ok(Response::new(EnrolReply {
            cluster: "c2".into(),
            chain_pem,
            bundle_pem: self.ca.authority.bundle_pem().into(),
            trust_domain: self.ca.authority.trust_domain().to_string(),
            link_endpoints: vec![self.link_addr.clone()],
        }))
    }
}

#[tonic::async_trait]
impl Link for Centre {
    type LinkStream = ReceiverStream<Result<pb::Down, Status>>;

    async fn link(&self, request: Request<Streaming<pb::Up>>) -> Result<Response<Self::LinkStream>, Status> {
        let peer = request.extensions().get::<ConnInfo>().and_then(|i| i.peer.clone()).unwrap().to_string();
        let (down, outgoing) = mpsc::channel(16);
        let welcome = Down::Welcome(Welcome {
            protocol: 1,
            version: "0".into(),
            store_epoch: "e".into(),
            accepted: true,
            heartbeat_interval_ms: 200,
            cluster: "c2".parse().unwrap(),
            session: "s".into(),
        });
        down.send(Ok(welcome.into())).await.unwrap();
        let said = self.said.clone();
        let (ca, ttl, keys) = (self.ca.clone(), self.ttl, self.keys.clone());
        let mut stream = request.into_inner();
        self.pumps.lock().unwrap().spawn(async move {
            while let Some(Ok(up)) = stream.next().await {
                let up = Up::try_from(up).unwrap();
                if let Up::Heartbeat { seq, .. } = up {
                    let ack = Down::HeartbeatAck { at: Timestamp::now(), seq, accepted: true };
                    let _ = down.send(Ok(ack.into())).await;
                }
                if let Up::Renew { csr_pem } = &up {
                    let csr = Csr::from_pem(csr_pem).unwrap();
                    keys.lock().unwrap().push(csr.key_hash());
                    let leaf =
                        ca.authority.sign_client(&csr, &Role::agent("c2"), Timestamp::now(), ttl).unwrap();
                    let bundle_pem = ca.authority.bundle_pem().to_owned();
                    let renewed = Down::Renewed { chain_pem: leaf.chain_pem, bundle_pem };
                    let _ = down.send(Ok(renewed.into())).await;
                }
                if said.send((peer.clone(), up)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

fn memory() -> Memory {
    let memory = Memory::new();
    memory.set_inventory(Inventory { cluster_uid: "k1".into(), ..Inventory::default() });
    memory.set_local_halts(vec![]);
    memory.set_authored(AuthoredSet::new());
    memory.set_leadership(Leadership::Active { epoch: 3 });
    memory
}

pub(crate) struct Running {
    ca: Arc<Throwaway>,
    heard: mpsc::Receiver<(String, Up)>,
    keys: Arc<Mutex<Vec<String>>>,
    memory: Memory,
    _token: tempfile::NamedTempFile,
    _tasks: JoinSet<()>,
}

/// A centre whose certificates last for `ttl`, and an agent that was given a token of it.
async fn start(ttl: Duration) -> Running {
    start_at(ttl, "127.0.0.1", None).await
}

/// The same, dialled under this name, through a proxy where one is given.
pub(crate) async fn start_at(ttl: Duration, host: &str, proxy: Option<certs::Proxy>) -> Running {
    let ca = Arc::new(Throwaway::new(Timestamp::now()).unwrap());
    let named = ca.authority.issue_server(&[host], None, Timestamp::now(), Duration::from_hours(1)).unwrap();
    ca.server.replace(&named).unwrap();
    let enrol =
        Acceptor::new(TcpListener::bind("127.0.0.1:0").await.unwrap(), ca.open_server_config().unwrap());
    let link = Acceptor::new(TcpListener::bind("127.0.0.1:0").await.unwrap(), ca.server_config().unwrap());
    let enrol_addr = format!("{host}:{}", enrol.local_addr().unwrap().port());
    let link_addr = format!("{host}:{}", link.local_addr().unwrap().port());
    let keys = Arc::new(Mutex::new(Vec::new()));
    let (said, heard) = mpsc::channel(64);
    let centre = |said: mpsc::Sender<(String, Up)>| Centre {
        ca: ca.clone(),
        ttl,
        link_addr: link_addr.clone(),
        keys: keys.clone(),
        said,
        pumps: Mutex::new(JoinSet::new()),
    };
    let mut tasks = JoinSet::new();
    let builder = tonic::transport::Server::builder;
    let enrolment = builder().add_service(EnrolmentServer::new(centre(said.clone())));
    tasks.spawn(async move { enrolment.serve_with_incoming(enrol).await.unwrap() });
    let links = builder().add_service(LinkServer::new(centre(said)));
    tasks.spawn(async move { links.serve_with_incoming(link).await.unwrap() });

    let token = JoinToken::generate(enrol_addr, "c2", ca.authority.pin(), None).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), token.reveal()).unwrap();
    let memory = memory();
    let fast = Backoff { first: Duration::from_millis(10), ..Backoff::default() };
    let config =
        Config { join_token_file: Some(file.path().to_owned()), backoff: fast, proxy, ..Config::default() };
    let doors = memory.doors();
    tasks.spawn(async move {
        run_with(doors, config, None, CancellationToken::new()).await.unwrap();
    });
    Running { ca, heard, keys, memory, _token: file, _tasks: tasks }
}

impl Running {
    pub(crate) async fn next(&mut self) -> (String, Up) {
        tokio::time::timeout(PATIENCE, self.heard.recv()).await.unwrap().unwrap()
    }

    fn kept(&self) -> StoredIdentity {
        serde_json::from_slice(&self.memory.snapshot().secrets[secret::IDENTITY]).unwrap()
    }
}

#[tokio::test]
async fn an_agent_enrols_with_one_key_and_links() {
    let mut running = start(Duration::from_hours(1)).await;
    let (peer, hello) = running.next().await;
    assert_eq!(peer, "spiffe://throwaway.test/cluster/c2/agent");
    assert!(
        matches!(hello, Up::Hello(h) if h.agent_epoch == 3 && h.kube_system_uid == "k1" && h.accepts_starts)
    );
    let keys = running.keys.lock().unwrap().clone();
    assert_eq!(keys.len(), 2, "one answer got lost");
    assert_eq!(keys[0], keys[1], "a retry comes with the same key");
    assert!(running.kept().enrolled.is_some());
    // Heartbeats keep it open well beyond three intervals; the inventory is said.
    let mut beats = 0;
    let mut inventory = false;
    while beats < 8 || !inventory {
        let (_, up) = running.next().await;
        assert!(!matches!(up, Up::Hello(_)), "the session was lost");
        beats += u32::from(matches!(up, Up::Heartbeat { .. }));
        inventory |= matches!(up, Up::Inventory(_));
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_at_half_life_kept_and_used() {
    let mut running = start(Duration::from_secs(12)).await;
    let mut hellos = 0;
    while hellos < 2 {
        hellos += u32::from(matches!(running.next().await.1, Up::Hello(_)));
    }
    let keys = running.keys.lock().unwrap().clone();
    assert_eq!(keys.len(), 3);
    assert_ne!(keys[2], keys[1], "a new key");
    let kept = running.kept();
    assert_eq!(PrivateKey::from_pem(&kept.key_pem).unwrap().key_hash(), keys[2]);
    assert_eq!(kept.enrolled.unwrap().bundle_pem, running.ca.authority.bundle_pem());
}
