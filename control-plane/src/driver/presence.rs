//! This replica's life in the store: one lease, on which hang its own key, its candidature and the
//! keys of its sessions. Lost, it is granted anew and the sessions put theirs again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{DriverConfig, Feed};
use crate::cache::Cache;
use crate::store::election::campaign;
use crate::store::keys::Key;
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
        announce(store.as_ref(), &config.replica, lease.id()).await;
        current.send_replace(Some(lease.id()));
        for (_, lane) in cache.all_lanes() {
            lane.reassert.notify_one();
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
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

async fn announce(store: &dyn Store, replica: &str, lease: LeaseId) {
    let Ok(key) = (Key::Replica { id: replica }).path() else {
        return;
    };
    if let Err(error) = store.txn(Txn::new().put_leased(key, "{}", lease)).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "announce the replica");
    }
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
