//! A lease that a replica holds for as long as it lives: kept alive in the background, with its
//! loss signalled. The replica's session keys and its candidature hang on it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::{Error, LeaseId, Store};

/// A lease kept alive until this is dropped, or the store is out of reach for its whole life.
#[derive(Debug)]
pub struct KeptLease {
    store: Arc<dyn Store>,
    id: LeaseId,
    lost: CancellationToken,
    keeper: JoinSet<()>,
}

impl KeptLease {
    /// Grants a lease of at least `ttl` and keeps it alive, three times within its life.
    ///
    /// # Errors
    /// What the store says to the grant.
    pub async fn grant(store: Arc<dyn Store>, ttl: Duration) -> Result<Self, Error> {
        // Its life counts from before the request, so that we never believe in it for too long.
        let asked = Instant::now();
        let lease = store.lease_grant(ttl).await?;
        let lost = CancellationToken::new();
        let mut keeper = JoinSet::new();
        keeper.spawn(keep(store.clone(), lease.id, lease.ttl, asked, lost.clone()));
        Ok(Self { store, id: lease.id, lost, keeper })
    }

    /// The lease's name, for [`super::Txn::put_leased`].
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Fires once, when the lease may have ended: its keys may be gone, another may lead.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Ends the lease now, deleting its keys.
    ///
    /// # Errors
    /// What the store says; the lease then ends by itself within its life.
    pub async fn revoke(mut self) -> Result<(), Error> {
        self.keeper.shutdown().await;
        self.lost.cancel();
        self.store.lease_revoke(self.id).await
    }
}

impl Drop for KeptLease {
    fn drop(&mut self) {
        self.lost.cancel();
    }
}

async fn keep(
    store: Arc<dyn Store>,
    id: LeaseId,
    mut ttl: Duration,
    mut renewed: Instant,
    lost: CancellationToken,
) {
    let mut backoff = Backoff::new(ttl / 30, ttl / 6);
    let mut next = renewed + ttl / 3;
    loop {
        let end = renewed + ttl;
        tokio::time::sleep_until(next.min(end)).await;
        let asked = Instant::now();
        match tokio::time::timeout_at(end, store.lease_keep_alive(id)).await {
            Ok(Ok(granted)) if !granted.is_zero() => {
                (renewed, ttl) = (asked, granted);
                next = asked + ttl / 3;
                backoff.reset();
            }
            Ok(Err(error)) if error.retryable() && Instant::now() < end => {
                tracing::warn!(lease = %id, error = &error as &dyn std::error::Error, "keep lease alive");
                next = Instant::now() + backoff.next_delay();
            }
            Ok(Err(error)) => {
                tracing::warn!(lease = %id, error = &error as &dyn std::error::Error, "lease lost");
                break;
            }
            Ok(Ok(_)) | Err(_) => {
                tracing::warn!(lease = %id, "lease lost: no answer within its life");
                break;
            }
        }
    }
    lost.cancel();
}
