//! Who decides: one replica at a time holds a key that hangs on its lease. Losing the lease is
//! signalled late at worst, so every deciding transaction must carry [`Leadership::fence`]: the
//! store then refuses a leader that does not know yet that it was deposed.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::lease::KeptLease;
use super::{Compare, Entry, Error, Event, Revision, Store, Txn, WatchItem};

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The right to decide, until [`Leadership::lost`] fires.
#[derive(Debug)]
pub struct Leadership {
    store: Arc<dyn Store>,
    key: String,
    create_revision: Revision,
    lost: CancellationToken,
    _observer: JoinSet<()>,
}

impl Leadership {
    /// To be compared in every transaction that only the leader may do.
    pub fn fence(&self) -> Compare {
        Compare::CreateRevision(self.key.clone(), self.create_revision)
    }

    /// Grows with every change of leader.
    pub fn create_revision(&self) -> Revision {
        self.create_revision
    }

    /// Fires when the key is gone or the lease may have ended.
    pub fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Gives the leadership up; the lease lives on.
    ///
    /// # Errors
    /// What the store says; the key then goes with the lease.
    pub async fn resign(self) -> Result<(), Error> {
        self.lost.cancel();
        let txn = Txn::new().when(self.fence()).delete(self.key.clone());
        // A conflict means that somebody else leads already.
        self.store.txn(txn).await.map(|_| ())
    }
}

/// Waits until `replica` leads, for as long as `lease` lives. Cancel safe: a candidature given
/// up ends with the lease.
///
/// # Errors
/// [`Error::LeaseNotFound`] when the lease was lost while waiting; errors that are not retryable.
pub async fn campaign(
    store: Arc<dyn Store>,
    key: &str,
    replica: &str,
    lease: &KeptLease,
) -> Result<Leadership, Error> {
    let lost = lease.lost();
    let won = tokio::select! {
        biased;
        () = lost.cancelled() => return Err(Error::LeaseNotFound(lease.id())),
        won = win(store.as_ref(), key, replica, lease) => won?,
    };
    let lost = lost.child_token();
    let mut observer = JoinSet::new();
    let (observed, name, signal) = (store.clone(), key.to_owned(), lost.clone());
    observer.spawn(async move {
        let ours = |entry: &Entry| entry.create_revision == won;
        until_gone(observed.as_ref(), &name, ours).await;
        signal.cancel();
    });
    Ok(Leadership { store, key: key.to_owned(), create_revision: won, lost, _observer: observer })
}

/// Returns the revision that created the key as ours.
async fn win(store: &dyn Store, key: &str, replica: &str, lease: &KeptLease) -> Result<Revision, Error> {
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    loop {
        let txn = Txn::new().absent(key).put_leased(key, replica.to_owned(), lease.id());
        match store.txn(txn).await {
            // Also after a commit whose answer was lost, the key tells.
            Ok(_) => {}
            Err(error) if error.retryable() => {
                tracing::warn!(key, error = &error as &dyn std::error::Error, "campaign");
                tokio::time::sleep(backoff.next_delay()).await;
                continue;
            }
            Err(error) => return Err(error),
        }
        match store.get(key).await {
            Ok(Some(entry)) if entry.lease == Some(lease.id()) => return Ok(entry.create_revision),
            Ok(Some(entry)) => {
                backoff.reset();
                until_gone(store, key, |seen| seen.create_revision == entry.create_revision).await;
            }
            Ok(None) => {}
            Err(error) if error.retryable() => tokio::time::sleep(backoff.next_delay()).await,
            Err(error) => return Err(error),
        }
    }
}

/// Waits until the key is known to be gone, or to be another than `same`.
async fn until_gone(store: &dyn Store, key: &str, same: impl Fn(&Entry) -> bool) {
    let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
    loop {
        match watch_until_gone(store, key, &same).await {
            Ok(()) => return,
            Err(error) => {
                tracing::debug!(key, error = &error as &dyn std::error::Error, "watch the leader");
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

async fn watch_until_gone(store: &dyn Store, key: &str, same: &impl Fn(&Entry) -> bool) -> Result<(), Error> {
    let Some(entry) = store.get(key).await?.filter(same) else {
        return Ok(());
    };
    let mut watch = match store.watch(key, entry.mod_revision + 1).await {
        // Its last put is long compacted: watch from now, and look again in case it went between.
        Err(Error::Compacted { .. }) => {
            let now = store.health().await?.revision;
            let watch = store.watch(key, now + 1).await?;
            if !store.get(key).await?.is_some_and(|entry| same(&entry)) {
                return Ok(());
            }
            watch
        }
        other => other?,
    };
    loop {
        if let WatchItem::Events { events, .. } = watch.next().await?
            && events.iter().any(|event| matches!(event, Event::Delete { key: gone, .. } if gone == key))
        {
            return Ok(());
        }
    }
}
