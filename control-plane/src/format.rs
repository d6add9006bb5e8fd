//! The format that the values of the store are written in: how replicas of two versions share one store. Each replica
//! announces the format that it writes with its key; the leader notes the lowest of all in the store, and raises it
//! when the last replica of the version before is gone. What a replica of the version before could not read is
//! written only once [`crate::engine::state::State::format`] has come to the number that brought it. Started and
//! checked by `replica`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::centre::Error;
use crate::driver::codec;
use crate::engine::object::{Object, ObjectKey, Versioned};
use crate::leading::{Led, while_leading};
use crate::store::{Compare, Store, Txn};

/// What this version reads and writes. A store from before replicas announced it has none, which is 0.
pub const FORMAT: u32 = 1;

/// How often the leader looks whether all replicas can read the next one.
const EVERY: Duration = Duration::from_secs(1);

/// The store belongs to a newer version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the store is written in format {stored}, this version ({}) reads up to {FORMAT}: run the newer version again, \
     or restore a backup that was made before the upgrade",
    env!("CARGO_PKG_VERSION")
)]
pub struct TooNew {
    /// The store's format.
    pub stored: u32,
}

/// Whether this version can read a store of this format.
///
/// # Errors
/// [`TooNew`].
pub fn readable(stored: u32) -> Result<(), TooNew> {
    if stored > FORMAT { Err(TooNew { stored }) } else { Ok(()) }
}

/// Looks before anything else is read or written.
///
/// # Errors
/// [`Error::Format`]; [`Error::Store`].
pub(crate) async fn check(store: &dyn Store) -> Result<(), Error> {
    let entry = store.get(&codec::path(&ObjectKey::Format)?).await?;
    match entry.map(|entry| codec::decode(&ObjectKey::Format, &entry.value)).transpose()? {
        Some(Object::Format(stored)) => Ok(readable(stored)?),
        _ => Ok(()),
    }
}

/// Raises the store's format while this replica leads.
#[derive(Debug)]
pub(crate) struct Raising {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) leads: watch::Receiver<Option<Compare>>,
}

impl Raising {
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        while_leading(&self, self.leads.clone(), shutdown).await;
    }

    async fn raise(&self, stored: Option<Versioned<u32>>, to: u32, fence: Compare) -> Result<(), Error> {
        let path = codec::path(&ObjectKey::Format)?;
        let revision = stored.map_or(0, |stored| stored.revision);
        let txn = Txn::new().when(fence).unchanged(&path, revision);
        if !self.store.txn(txn.put(&path, codec::encode(&Object::Format(to))?)).await?.is_conflict() {
            tracing::info!(format = to, "every replica can read it: the store's format was raised");
        }
        Ok(())
    }
}

impl Led for Raising {
    async fn lead(&self, fence: Compare) {
        self.cache.complete().await;
        loop {
            let (stored, least) = self.cache.read(|state| {
                (state.format.clone(), state.replicas.values().map(|replica| replica.format).min())
            });
            let written = stored.as_ref().map_or(0, |stored| stored.value);
            if written >= FORMAT {
                return std::future::pending().await;
            }
            if let Some(least) = least.filter(|least| *least > written)
                && let Err(error) = self.raise(stored, least.min(FORMAT), fence.clone()).await
            {
                tracing::warn!(error = &error as &dyn std::error::Error, "raise the store's format");
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    fn over(&self) {}
}
