//! Replicas among themselves: what one has latched it tells all others, so that a stop or a halt
//! reaches every agent while the store is down. Said whether the store is up or not: what is needed
//! in an outage is in use every day. Replicas are known from the cache, which outlives the store.
//!
//! Nothing here decides or waits for anybody: the latch says what each replica was not told yet, and
//! it is told, again and again, until it has it, until its lease is known to be gone, or until the
//! store shows it to everyone.

mod grpc;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use certs::{Reloadable, ReloadableIdentity, TrustBundle, TrustDomain};
pub use grpc::PeerService;
use grpc::{CallError, Dialler};
use proto::wire::Latched;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cache::Cache;
use crate::centre::Latch;
use crate::store::backoff::Backoff;

/// How often what is due is looked at while anything is latched.
const LOOK: Duration = Duration::from_millis(200);
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Replicas talked to; more of them get it from the store.
const MAX_PEERS: usize = 64;

/// How this replica is reached by others, and shows itself to them.
#[derive(Debug, Clone)]
pub struct PeersConfig {
    /// `host:port` of its links' listener, for other replicas.
    pub address: String,
    /// Its certificate, which names it as a replica.
    pub identity: ReloadableIdentity,
    /// Who may vouch for others.
    pub bundle: Reloadable<TrustBundle>,
    /// The trust domain of all of them.
    pub trust_domain: TrustDomain,
}

/// Tells the others.
#[derive(Debug)]
pub struct Peers {
    replica: String,
    cache: Arc<Cache>,
    latch: Arc<Latch>,
    dialler: Dialler,
}

/// One other replica.
struct Peer {
    address: String,
    client: grpc::Client,
    busy: bool,
    backoff: Backoff,
    not_before: Instant,
}

type Sent = (String, Result<Latched, CallError>);

impl Peers {
    /// Tells what `latch` holds to the replicas that `cache` knows.
    pub fn new(replica: &str, cache: Arc<Cache>, latch: Arc<Latch>, config: PeersConfig) -> Self {
        Self { replica: replica.to_owned(), cache, latch, dialler: Dialler::new(config) }
    }

    /// Tells for as long as this runs.
    pub async fn run(self) {
        let mut changes = self.latch.changes();
        let mut peers = BTreeMap::new();
        let mut sends: JoinSet<Sent> = JoinSet::new();
        loop {
            changes.mark_unchanged();
            self.look(&mut peers, &mut sends);
            let waiting = !self.latch.is_empty();
            tokio::select! {
                Some(done) = sends.join_next() => {
                    if let Ok((id, result)) = done {
                        self.sent(&mut peers, &id, result);
                    }
                }
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK), if waiting => {}
            }
        }
    }

    /// Says to everybody who is free what they were not told.
    fn look(&self, peers: &mut BTreeMap<String, Peer>, sends: &mut JoinSet<Sent>) {
        let known: BTreeMap<String, String> = self.cache.read(|state| {
            let others = state
                .replicas
                .iter()
                .filter(|(id, record)| **id != self.replica && !record.peer_address.is_empty());
            others.take(MAX_PEERS).map(|(id, record)| (id.clone(), record.peer_address.clone())).collect()
        });
        peers.retain(|id, peer| known.get(id) == Some(&peer.address));
        let now = Instant::now();
        for (id, address) in known {
            let due = self.latch.untold(&id);
            if due.is_empty() {
                continue;
            }
            if !peers.contains_key(&id) {
                match self.dialler.client(&id, &address) {
                    Ok(client) => {
                        let backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
                        let peer = Peer { address, client, busy: false, backoff, not_before: now };
                        peers.insert(id.clone(), peer);
                    }
                    Err(error) => {
                        tracing::warn!(
                            peer = id,
                            address,
                            error = &error as &dyn std::error::Error,
                            "address of a replica"
                        );
                        continue;
                    }
                }
            }
            let Some(peer) = peers.get_mut(&id).filter(|peer| !peer.busy && peer.not_before <= now) else {
                continue;
            };
            peer.busy = true;
            let client = peer.client.clone();
            sends.spawn(async move { (id, client.take(due).await) });
        }
    }

    fn sent(&self, peers: &mut BTreeMap<String, Peer>, id: &str, result: Result<Latched, CallError>) {
        let Some(peer) = peers.get_mut(id) else {
            return;
        };
        peer.busy = false;
        match result {
            Ok(told) => {
                peer.backoff.reset();
                self.latch.told(id, &told);
            }
            Err(error) => {
                peer.not_before = Instant::now() + peer.backoff.next_delay();
                tracing::warn!(peer = id, error = &error as &dyn std::error::Error, "tell another replica");
            }
        }
    }
}
