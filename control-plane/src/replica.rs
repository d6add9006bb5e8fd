//! One replica of the centre put together from its parts, without any socket: what `run` serves
//! and what tests drive over channels.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use certs::{Reloadable, Revocations};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::audit::{self, AuditWriter};
use crate::cache::Cache;
use crate::centre::{Centre, Error, Latch, Parts};
use crate::driver::clock::Clock;
use crate::driver::{Driver, DriverConfig};
use crate::enrolment::{Enroller, Signer};
use crate::health::Health;
use crate::link::{Hub, LinkConfig};
use crate::store::counted::Counted;
use crate::store::keys::Key;
use crate::store::{FollowConfig, Store, Txn};

/// Settings of a replica.
#[derive(Debug, Clone)]
pub struct ReplicaConfig {
    /// This process's name in the store: nobody had it before.
    pub replica: String,
    /// How long a dead replica's sessions and leadership outlive it.
    pub lease_ttl: Duration,
    /// How the store is followed.
    pub follow: FollowConfig,
    /// Of the link.
    pub link: LinkConfig,
    /// `host:port` that goes into join tokens.
    pub enrol_advertise: String,
}

impl ReplicaConfig {
    /// The defaults, for a name and an address.
    pub fn new(replica: impl Into<String>, enrol_advertise: impl Into<String>) -> Self {
        Self {
            replica: replica.into(),
            lease_ttl: Duration::from_secs(15),
            follow: FollowConfig::default(),
            link: LinkConfig::default(),
            enrol_advertise: enrol_advertise.into(),
        }
    }
}

/// A replica.
#[derive(Debug)]
pub struct Replica {
    /// What people ask.
    pub centre: Centre,
    /// What sessions stand on.
    pub hub: Arc<Hub>,
    /// What joining clusters ask.
    pub enroller: Arc<Enroller>,
    /// The deny list of its listeners.
    pub revocations: Reloadable<Revocations>,
    /// Readiness and metrics.
    pub health: Arc<Health>,
    driver: Driver,
    writer: AuditWriter,
    latch: Arc<Latch>,
    cache: Arc<Cache>,
    store: Arc<dyn Store>,
}

impl Replica {
    /// Puts a replica together; nothing runs yet.
    ///
    /// # Errors
    /// [`Error::Store`] when the store's epoch can be neither read nor made.
    pub async fn new(
        store: Arc<dyn Store>,
        signer: Arc<Signer>,
        clock: Clock,
        config: ReplicaConfig,
    ) -> Result<Self, Error> {
        let health = Arc::new(Health::default());
        let store: Arc<dyn Store> = Arc::new(Counted::new(store, &health.store_errors));
        let store_epoch = store_epoch(store.as_ref(), &clock).await?;
        let (cache, latch) = (Arc::new(Cache::default()), Arc::new(Latch::default()));
        let (audit, writer) = audit::new(store.clone(), &config.replica, clock.clone(), health.clone());
        let revocations = Reloadable::new(Revocations::default());
        let (lease, lease_seen) = watch::channel(None);
        let enroller = Enroller::new(
            store.clone(),
            cache.clone(),
            signer.clone(),
            clock.clone(),
            audit.clone(),
            health.clone(),
        );
        let hub = Hub {
            store: store.clone(),
            cache: cache.clone(),
            clock: clock.clone(),
            health: health.clone(),
            audit: audit.clone(),
            latch: latch.clone(),
            signer: signer.clone(),
            replica: config.replica.clone(),
            lease: lease_seen,
            store_epoch,
            config: config.link,
        };
        let driver = Driver {
            store: store.clone(),
            cache: cache.clone(),
            clock: clock.clone(),
            audit: audit.clone(),
            health: health.clone(),
            revocations: revocations.clone(),
            lease,
            config: DriverConfig {
                replica: config.replica,
                lease_ttl: config.lease_ttl,
                follow: config.follow,
            },
        };
        let centre = Centre::new(Parts {
            store: store.clone(),
            cache: cache.clone(),
            clock,
            audit,
            signer,
            health: health.clone(),
            latch: latch.clone(),
            enrol_advertise: config.enrol_advertise,
        });
        let (hub, enroller) = (Arc::new(hub), Arc::new(enroller));
        Ok(Self { centre, hub, enroller, revocations, health, driver, writer, latch, cache, store })
    }

    /// Starts driver, audit and latch. Each ends only after `shutdown`; an earlier end is fatal.
    pub fn start(self, tasks: &mut JoinSet<anyhow::Result<()>>, shutdown: &CancellationToken) -> Started {
        let driver = self.driver.run(shutdown.clone());
        tasks.spawn(async move { Ok(driver.await?) });
        let (latch, store, cache) = (self.latch, self.store, self.cache);
        let work = async move { latch.run(store.as_ref(), &cache).await };
        tasks.spawn(until(shutdown.clone(), work));
        let writing = self.writer.run(shutdown.clone());
        tasks.spawn(async move {
            writing.await;
            Ok(())
        });
        Started {
            centre: self.centre,
            hub: self.hub,
            enroller: self.enroller,
            revocations: self.revocations,
            health: self.health,
        }
    }
}

/// The parts of a replica that runs.
#[derive(Debug, Clone)]
pub struct Started {
    /// What people ask.
    pub centre: Centre,
    /// What sessions stand on.
    pub hub: Arc<Hub>,
    /// What joining clusters ask.
    pub enroller: Arc<Enroller>,
    /// The deny list of its listeners.
    pub revocations: Reloadable<Revocations>,
    /// Readiness and metrics.
    pub health: Arc<Health>,
}

async fn until(shutdown: CancellationToken, work: impl Future<Output = ()>) -> anyhow::Result<()> {
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        () = work => Ok(()),
    }
}

/// The store's epoch: made with the store, new after a restore.
async fn store_epoch(store: &dyn Store, clock: &Clock) -> Result<String, Error> {
    let path = Key::Epoch.path().map_err(|error| Error::Internal(error.to_string()))?;
    if store.get(&path).await?.is_none() {
        // A conflict means that another replica was faster.
        let _ = store.txn(Txn::new().absent(&path).put(&path, clock.new_session())).await?;
    }
    let entry = store.get(&path).await?.ok_or_else(|| Error::Internal("the epoch vanished".to_owned()))?;
    Ok(String::from_utf8_lossy(&entry.value).into_owned())
}
