//! One session: Hello and Welcome, then three parts that never wait for each other. The reader
//! always drains and answers probes at once; the writer stores what was said; the sender says what
//! is due. The session ends when any of them does, or when three heartbeats are missed.

use std::sync::Arc;
use std::time::Duration;

use proto::cluster::ClusterSpec;
use proto::ids::ClusterId;
use proto::wire::{Down, Hello, Nack, Up, Welcome, WireError, common_protocol};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::hub::Hub;
use super::inbox::{Inbox, Item};
use super::ingest::Ingest;
use super::lane::{Due, Lane};
use super::outgoing;
use crate::engine::object::{Object, ObjectKey, SessionRecord};
use crate::store::{Compare, Outcome, Txn};

/// How long an agent may take to say Hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// How long an agent waits for the store before it is welcomed without.
const CLAIM_WITHIN: Duration = Duration::from_secs(2);
/// How long an agent may take to read one message.
const SEND_WITHIN: Duration = Duration::from_mins(1);
/// Heartbeats missed in a row before an agent counts as lost.
const MISSES: u32 = 3;
/// The code by which an agent refuses a centre on an older copy of the store.
const OLD_STORE: &str = "OldStore";
/// How long the last word may take.
const GOODBYE_WITHIN: Duration = Duration::from_secs(1);

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The agent closed its end.
    Closed,
    /// The agent said nothing for three heartbeats.
    Silent,
    /// The agent did not read for a minute.
    SlowReader,
    /// We closed it.
    Sent(&'static str),
}

/// Serves one agent until either side ends it. `cluster` comes from its certificate.
pub async fn serve(
    hub: Arc<Hub>,
    cluster: ClusterId,
    mut up: mpsc::Receiver<Result<Up, WireError>>,
    down: mpsc::Sender<Down>,
) -> End {
    let opened = match open(&hub, &cluster, &mut up).await {
        Ok(opened) => opened,
        Err(end) => {
            if let End::Sent(reason) = end {
                let _ = tokio::time::timeout(GOODBYE_WITHIN, down.send(outgoing::go_away(reason))).await;
            }
            return end;
        }
    };
    let Opened { lane, hello, spec, protocol } = opened;
    tracing::info!(cluster = %cluster, session = lane.session(), version = hello.version, "session opened");
    if down.send(Down::Welcome(welcome(&hub, &cluster, &lane, protocol))).await.is_err() {
        close(&hub, &cluster, &lane).await;
        return End::Closed;
    }
    hub.health.sessions.inc();
    hub.health.sessions_opened.inc();
    hub.cache.attach(&cluster, &lane);
    let inbox = Arc::new(Inbox::default());
    let ingest =
        Ingest { hub: hub.clone(), cluster: cluster.clone(), inbox: inbox.clone(), lane: lane.clone() };
    ingest.greet(&hello, spec.accepted);
    let mut parts = JoinSet::new();
    parts.spawn(reassert(hub.clone(), cluster.clone(), lane.clone(), hello.agent_epoch));
    parts.spawn(ingest.run(hello));
    parts.spawn(send(hub.clone(), cluster.clone(), lane.clone(), down));
    let reader = Reader {
        hub: hub.clone(),
        lane: lane.clone(),
        inbox,
        tokens: f64::from(hub.config.burst),
        filled_at: Instant::now(),
        refused_as_old: false,
    };
    parts.spawn(reader.run(up));
    let end = parts.join_next().await.and_then(Result::ok).unwrap_or(End::Closed);
    // A close that is due is still said, if the agent reads.
    if !matches!(end, End::Sent(_)) && lane.closed().is_some() {
        let _ = tokio::time::timeout(GOODBYE_WITHIN, parts.join_next()).await;
    }
    parts.shutdown().await;
    hub.cache.detach(&cluster, &lane);
    hub.health.sessions.dec();
    close(&hub, &cluster, &lane).await;
    tracing::info!(cluster = %cluster, session = lane.session(), ?end, "session ended");
    end
}

struct Opened {
    lane: Arc<Lane>,
    hello: Hello,
    spec: ClusterSpec,
    protocol: u32,
}

async fn open(
    hub: &Hub,
    cluster: &ClusterId,
    up: &mut mpsc::Receiver<Result<Up, WireError>>,
) -> Result<Opened, End> {
    let hello = match tokio::time::timeout(HELLO_WITHIN, up.recv()).await {
        Ok(Some(Ok(Up::Hello(hello)))) => hello,
        Ok(None) => return Err(End::Closed),
        Ok(Some(_)) => return Err(End::Sent("HelloExpected")),
        Err(_) => return Err(End::Silent),
    };
    if tokio::time::timeout(HELLO_WITHIN, hub.cache.complete()).await.is_err() {
        return Err(End::Sent("NotReady"));
    }
    let protocol = common_protocol(hello.protocol_min, hello.protocol_max);
    let protocol = protocol.ok_or(End::Sent("ProtocolUnsupported"))?;
    let (spec, uid) = hub.cache.read(|state| {
        let entry = state.clusters.get(cluster);
        let uid =
            entry.and_then(|entry| entry.status.as_ref()).map(|status| status.value.kube_system_uid.clone());
        (state.spec_of(cluster).cloned(), uid.unwrap_or_default())
    });
    let spec = spec.ok_or(End::Sent("UnknownCluster"))?;
    if spec.revoked {
        return Err(End::Sent("Revoked"));
    }
    if !uid.is_empty() && !hello.kube_system_uid.is_empty() && uid != hello.kube_system_uid {
        return Err(End::Sent("OtherCluster"));
    }
    let lane = Arc::new(Lane::new(hub.clock.new_session(), spec.accepted));
    let claimed = tokio::time::timeout(CLAIM_WITHIN, claim(hub, cluster, &lane, hello.agent_epoch));
    let silent = || crate::centre::Error::Internal("the store does not answer".to_owned());
    match claimed.await.unwrap_or_else(|_| Err(silent())) {
        Ok(true) => {}
        Ok(false) => return Err(End::Sent("Superseded")),
        // Without the store an agent is still told stops and halts; the key is put when it is back.
        Err(error) => {
            tracing::warn!(cluster = %cluster, %error, "claim the session");
            lane.reassert.notify_one();
        }
    }
    Ok(Opened { lane, hello, spec, protocol })
}

fn welcome(hub: &Hub, cluster: &ClusterId, lane: &Lane, protocol: u32) -> Welcome {
    Welcome {
        protocol,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        store_epoch: hub.store_epoch.clone(),
        accepted: lane.accepted(),
        heartbeat_interval_ms: u64::try_from(hub.config.heartbeat.as_millis()).unwrap_or(5000),
        cluster: cluster.clone(),
        session: lane.session().to_owned(),
    }
}

/// Puts the session's key. The newest session wins, but none of an older agent epoch; one that had
/// the key before takes it from no other.
async fn claim(
    hub: &Hub,
    cluster: &ClusterId,
    lane: &Lane,
    agent_epoch: u64,
) -> Result<bool, crate::centre::Error> {
    let lease = *hub.lease.borrow();
    let Some(lease) = lease else {
        return Err(crate::centre::Error::Internal("this replica has no lease now".to_owned()));
    };
    let record = SessionRecord {
        replica: hub.replica.clone(),
        session: lane.session().to_owned(),
        agent_epoch,
        opened_at: hub.clock.now(),
    };
    let object = Object::Session(cluster.clone(), record);
    let path = crate::driver::codec::path(&object.key())?;
    let value = crate::driver::codec::encode(&object)?;
    for _ in 0..8 {
        let entry = hub.store.get(&path).await?;
        let known: Option<SessionRecord> =
            entry.as_ref().and_then(|entry| serde_json::from_slice(&entry.value).ok());
        // A claim whose answer was lost may have been taken: then the key is ours already.
        let others = known.filter(|known| known.session != lane.session());
        if others.is_some_and(|other| lane.revision() != 0 || other.agent_epoch > agent_epoch) {
            return Ok(false);
        }
        let revision = entry.map_or(0, |entry| entry.mod_revision);
        let txn = Txn::new().when(Compare::ModRevision(path.clone(), revision)).put_leased(
            &path,
            value.clone(),
            lease,
        );
        if let Outcome::Committed { revision } = hub.store.txn(txn).await? {
            lane.set_revision(revision);
            return Ok(true);
        }
    }
    Ok(false)
}

/// Puts the key again when the store lost it though the session lives.
async fn reassert(hub: Arc<Hub>, cluster: ClusterId, lane: Arc<Lane>, agent_epoch: u64) -> End {
    loop {
        lane.reassert.notified().await;
        match claim(&hub, &cluster, &lane, agent_epoch).await {
            Ok(true) => {}
            // Another session has the key: it is the newer one.
            Ok(false) => lane.close("Superseded"),
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(500)).await;
                lane.reassert.notify_one();
            }
        }
    }
}

/// Takes the session's key back, unless another session has it.
async fn close(hub: &Hub, cluster: &ClusterId, lane: &Lane) {
    let now = hub.clock.now();
    let Ok(path) = crate::driver::codec::path(&ObjectKey::Session(cluster.clone())) else {
        return;
    };
    let work = async {
        let revision = lane.revision();
        let txn = Txn::new().when(Compare::ModRevision(path.clone(), revision)).delete(&path);
        if revision != 0 && !hub.store.txn(txn).await?.is_conflict() {
            hub.update_status(cluster, |status| status.disconnected_at = Some(now)).await?;
        }
        Ok::<_, crate::centre::Error>(())
    };
    match tokio::time::timeout(Duration::from_secs(5), work).await {
        Ok(Ok(())) => {}
        // The key then goes with the replica's lease at the latest.
        Ok(Err(error)) => tracing::warn!(cluster = %cluster, %error, "give the session's key back"),
        Err(_) => tracing::warn!(cluster = %cluster, "give the session's key back: no answer in time"),
    }
}

async fn send(hub: Arc<Hub>, cluster: ClusterId, lane: Arc<Lane>, down: mpsc::Sender<Down>) -> End {
    loop {
        // Room first: what is due is chosen, and the time left computed, when it can be sent.
        let permit = match tokio::time::timeout(SEND_WITHIN, down.reserve()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return End::Closed,
            Err(_) => return End::SlowReader,
        };
        let due = lane.next().await;
        let over = if let Due::Close(reason) = due { Some(reason) } else { None };
        if let Some(message) = outgoing::message(&hub, &cluster, &lane, due) {
            permit.send(message);
            hub.health.messages_down.inc();
        }
        if let Some(reason) = over {
            return End::Sent(reason);
        }
    }
}

struct Reader {
    hub: Arc<Hub>,
    lane: Arc<Lane>,
    inbox: Arc<Inbox>,
    tokens: f64,
    filled_at: Instant,
    /// The agent has refused us: nothing else of this session is taken.
    refused_as_old: bool,
}

impl Reader {
    async fn run(mut self, mut up: mpsc::Receiver<Result<Up, WireError>>) -> End {
        // Counted, and not one long wait: after a pause of this whole process (a virtual machine, a debugger) only
        // one has passed, and what the agent said meanwhile is still read.
        let mut unheard = 0;
        loop {
            let next = tokio::time::timeout(self.hub.config.heartbeat, up.recv()).await;
            unheard = if next.is_err() { unheard + 1 } else { 0 };
            match next {
                Err(_) if unheard >= MISSES => return End::Silent,
                Err(_) => continue,
                Ok(None) => return End::Closed,
                Ok(Some(Ok(message))) => {
                    self.hub.health.messages_up.inc();
                    self.take(message);
                }
                Ok(Some(Err(error))) => self.refuse("", 0, "Malformed", &error.to_string()),
            }
            self.throttle().await;
        }
    }

    /// A cluster that says too much is read more slowly; nobody else notices.
    async fn throttle(&mut self) {
        let rate = f64::from(self.hub.config.rate.max(1));
        let now = Instant::now();
        let filled = (now - self.filled_at).as_secs_f64() * rate;
        self.tokens = (self.tokens + filled).min(f64::from(self.hub.config.burst.max(1))) - 1.0;
        self.filled_at = now;
        if self.tokens < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-self.tokens / rate)).await;
        }
    }

    fn refuse(&self, run: &str, generation: u64, code: &str, detail: &str) {
        self.hub.health.nacks.inc();
        self.lane.nack(Nack {
            run: run.to_owned(),
            generation,
            code: code.to_owned(),
            detail: detail.to_owned(),
        });
    }

    fn take(&mut self, message: Up) {
        if self.refused_as_old {
            return;
        }
        match message {
            Up::ClockProbe { id } => self.lane.clock(id),
            Up::Heartbeat { seq, .. } => self.lane.heartbeat(seq),
            Up::Inventory(inventory) => self.store(Item::Inventory(inventory)),
            Up::Hello(_) => self.refuse("", 0, "HelloAgain", "a session has one Hello"),
            Up::EndpointsKept { sequence } => self.store(Item::EndpointsKept(sequence)),
            Up::Nack(nack) if nack.code == OLD_STORE => self.refuse_as_old(&nack),
            _ if !self.lane.accepted() => {
                self.refuse(
                    "",
                    0,
                    "NotAccepted",
                    "this cluster may only send heartbeats and its inventory until it is accepted",
                );
            }
            Up::Observed { observed, epoch, seq } => self.store(Item::Observed(observed, epoch, seq)),
            Up::Nack(nack) => self.store(Item::Nack(nack)),
            Up::SpecRequest { hash } => self.lane.spec(hash),
            Up::Authored(authored) => self.store(Item::Authored(authored)),
            Up::AuthoredList(refs) => self.store(Item::AuthoredList(refs)),
            Up::HaltState(state) => self.store(Item::HaltState(state)),
            Up::Renew { csr_pem, identity_csr_pem } => self.store(Item::Renew(csr_pem, identity_csr_pem)),
        }
    }

    /// This centre stands on a copy of the store that the agent has left: an operator must look.
    fn refuse_as_old(&mut self, nack: &Nack) {
        self.refused_as_old = true;
        self.hub.health.refused_as_old.inc();
        tracing::error!(
            session = self.lane.session(),
            store_epoch = self.hub.store_epoch,
            detail = nack.detail,
            "an agent refuses this centre: its store is an older copy of one that the agent has gone over to"
        );
        self.store(Item::RefusedAsOld);
    }

    fn store(&self, item: Item) {
        if !self.inbox.put(item) {
            self.refuse("", 0, "Overloaded", "too much of this cluster waits to be stored");
        }
    }
}
