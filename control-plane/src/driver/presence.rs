//! This replica's life in the store: one lease, on which hang its own key, its candidature and the
//! keys of its sessions. Lost, it is granted anew and the sessions put theirs again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{DriverConfig, Feed, codec};
use crate::cache::Cache;
use crate::centre::Error;
use crate::engine::object::{Object, ReplicaRecord};
use crate::format::FORMAT;
use crate::store::election::campaign;
use crate::store::lease::KeptLease;
use crate::store::{Compare, LeaseId, Store, Txn};

const RETRY: Duration = Duration::from_secs(1);

/// Where a change of leadership is told.
pub(super) struct Leads(pub(super) mpsc::Sender<Feed>);

impl Leads {
    /// `false` when nobody listens any more.
    async fn tell(&self, fence: Option<Compare>) -> bool {
        self.0.send(Feed::Leading(fence)).await.is_ok()
    }
}

pub(super) async fn run(
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    config: DriverConfig,
    current: watch::Sender<Option<LeaseId>>,
    leads: Leads,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        let lease = match KeptLease::grant(store.clone(), config.lease_ttl).await {
            Ok(lease) => lease,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "grant the replica's lease");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(RETRY) => continue,
                }
            }
        };
        current.send_replace(Some(lease.id()));
        for (_, lane) in cache.all_lanes() {
            lane.reassert.notify_one();
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = announced(store.as_ref(), &cache, &config, lease.id()) => {}
            () = lead(&store, &config.replica, &lease, &leads) => {}
        }
        current.send_replace(None);
        if shutdown.is_cancelled()
            && let Err(error) = lease.revoke().await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "give the replica's lease back");
        }
    }
}

/// Keeps this replica's key in the store: other replicas find it by that. Never ends.
async fn announced(store: &dyn Store, cache: &Cache, config: &DriverConfig, lease: LeaseId) {
    // First in any case: a key of an earlier lease goes with that one.
    let mut done = false;
    loop {
        if !done || !cache.read(|state| state.replicas.contains_key(&config.replica)) {
            let announced = announce(store, config, lease).await;
            done = announced.is_ok();
            if let Err(error) = announced {
                tracing::warn!(error = &error as &dyn std::error::Error, "announce the replica");
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn announce(store: &dyn Store, config: &DriverConfig, lease: LeaseId) -> Result<(), Error> {
    let record = ReplicaRecord { peer_address: config.peer_address.clone(), format: FORMAT };
    let object = Object::Replica(config.replica.clone(), record);
    let txn = Txn::new().put_leased(codec::path(&object.key())?, codec::encode(&object)?, lease);
    // Nothing is compared, so nothing conflicts.
    let _ = store.txn(txn).await?;
    Ok(())
}

/// Leads whenever it can, for as long as the lease lives.
async fn lead(store: &Arc<dyn Store>, replica: &str, lease: &KeptLease, leads: &Leads) {
    let lost = lease.lost();
    loop {
        let leadership = match campaign(store.clone(), "leader", replica, lease).await {
            Ok(leadership) => leadership,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "campaign");
                if lost.is_cancelled() {
                    return;
                }
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        if !leads.tell(Some(leadership.fence())).await {
            return;
        }
        leadership.lost().cancelled().await;
        if !leads.tell(None).await || lost.is_cancelled() {
            return;
        }
    }
}
