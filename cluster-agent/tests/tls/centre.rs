//! A whole agent process against a small centre: it enrols with its token, keeps one key over a failed attempt, and
//! says Hello over mTLS.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certs::recovery::{IdentityKey, Recovery};
use certs::throwaway::Throwaway;
use certs::{Acceptor, ConnInfo, Csr, JoinToken, PrivateKey, Role};
use cluster_agent::cluster::memory::Memory;
use cluster_agent::cluster::{AuthoredSet, Inventory, Leadership, secret};
use cluster_agent::link::Backoff;
use cluster_agent::link::identity::StoredIdentity;
use cluster_agent::{Config, run_with};
use jiff::Timestamp;
use proto::api::enrolment::enrolment_server::{Enrolment, EnrolmentServer};
use proto::api::enrolment::{EnrolReply, EnrolRequest, RecoverReply, RecoverRequest};
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

pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

struct Centre {
    ca: Arc<Throwaway>,
    ttl: Duration,
    link_addr: String,
    keys: Arc<Mutex<Vec<String>>>,
    recoveries: Arc<Recoveries>,
    said: mpsc::Sender<(String, Up)>,
    pumps: Mutex<JoinSet<()>>,
}

/// The identity key that was registered, and who recovered by it.
#[derive(Default)]
pub(crate) struct Recoveries {
    identity: Mutex<Option<IdentityKey>>,
    /// Counter and hash of the new key of each request.
    pub(crate) asked: Mutex<Vec<(u64, String)>>,
    /// So many answers get lost.
    pub(crate) unanswered: AtomicUsize,
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
        let identity = Csr::from_pem(&request.identity_csr_pem).unwrap();
        *self.recoveries.identity.lock().unwrap() = Some(IdentityKey::of(&identity));
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

    async fn recover(&self, request: Request<RecoverRequest>) -> Result<Response<RecoverReply>, Status> {
        let request = request.into_inner();
        let key_hash = Csr::from_pem(&request.csr_pem).unwrap().key_hash();
        let said = Recovery {
            trust_domain: self.ca.authority.trust_domain().as_str(),
            cluster: &request.cluster,
            kube_system_uid: &request.kube_system_uid,
            counter: request.counter,
            key_hash: &key_hash,
            at_unix_ms: request.at_unix_ms,
        };
        let identity = self.recoveries.identity.lock().unwrap().clone().unwrap();
        said.verify(&identity, &request.signature).unwrap();
        let chain_pem = self.sign(&request.csr_pem)?;
        self.recoveries.asked.lock().unwrap().push((request.counter, key_hash));
        let left = self.recoveries.unanswered.load(Ordering::Relaxed);
        if left > 0 {
            self.recoveries.unanswered.store(left - 1, Ordering::Relaxed);
            std::future::pending::<()>().await;
        }
        Ok(Response::new(RecoverReply { chain_pem, bundle_pem: self.ca.authority.bundle_pem().into() }))
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
            // No session is lost to a busy machine.
            heartbeat_interval_ms: 60_000,
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
                    for later in from_later().into_iter().filter(|_| seq == 1) {
                        let _ = down.send(Ok(later)).await;
                    }
                }
                if let Up::Renew { csr_pem, .. } = &up {
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

/// What a centre of a later version may say: a kind of message, and an intent, that are not known here.
fn from_later() -> [pb::Down; 2] {
    let document = br#"{"run":"r-9","generation":4,"intent":"Levitate"}"#.to_vec();
    let desired = pb::Desired {
        run: "r-9".into(),
        generation: 4,
        intent: "Levitate".into(),
        document,
        ..Default::default()
    };
    [pb::Down { kind: None }, pb::Down { kind: Some(pb::down::Kind::Desired(desired)) }]
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
    pub(crate) recoveries: Arc<Recoveries>,
    memory: Memory,
    config: Config,
    agent: JoinSet<()>,
    _token: tempfile::NamedTempFile,
    _tasks: JoinSet<()>,
}

/// A centre whose certificates last for `ttl`, and an agent that was given a token of it.
pub(crate) async fn start(ttl: Duration) -> Running {
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
    let recoveries = Arc::new(Recoveries::default());
    let (said, heard) = mpsc::channel(64);
    let centre = |said: mpsc::Sender<(String, Up)>| Centre {
        ca: ca.clone(),
        ttl,
        link_addr: link_addr.clone(),
        keys: keys.clone(),
        recoveries: recoveries.clone(),
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
    let agent = JoinSet::new();
    let mut running =
        Running { ca, heard, keys, recoveries, memory, config, agent, _token: file, _tasks: tasks };
    running.agent();
    running
}

impl Running {
    pub(crate) async fn next(&mut self) -> (String, Up) {
        tokio::time::timeout(PATIENCE, self.heard.recv()).await.unwrap().unwrap()
    }

    /// Starts an agent on what the one before kept.
    pub(crate) fn agent(&mut self) {
        let (doors, config) = (self.memory.doors(), self.config.clone());
        self.agent.spawn(async move {
            run_with(doors, config, None, CancellationToken::new()).await.unwrap();
        });
    }

    /// Kills it, wherever it stands.
    pub(crate) async fn crash(&mut self) {
        self.agent.shutdown().await;
        while self.heard.try_recv().is_ok() {}
    }

    pub(crate) fn kept(&self) -> StoredIdentity {
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
    // The heartbeat and the inventory are said. What is not understood is answered by the run that it is about, and
    // ends nothing.
    let mut beats = 0;
    let mut inventory = false;
    let mut nacks = Vec::new();
    while beats < 1 || !inventory || nacks.len() < 2 {
        let (_, up) = running.next().await;
        assert!(!matches!(up, Up::Hello(_)), "the session was lost");
        beats += u32::from(matches!(up, Up::Heartbeat { .. }));
        inventory |= matches!(up, Up::Inventory(_));
        if let Up::Nack(nack) = up {
            nacks.push((nack.run, nack.generation, nack.code));
        }
    }
    let malformed = |run: &str, generation| (run.to_owned(), generation, "Malformed".to_owned());
    assert_eq!(nacks, [malformed("", 0), malformed("r-9", 4)]);
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
