//! One replica of the centre put together from its parts, without any socket: what `run` serves
//! and what tests drive over channels.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use certs::{Reloadable, Revocations};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::audit::{self, AuditConfig, AuditWriter, Auditor, Export, Keeper, Sealer};
use crate::cache::Cache;
use crate::centre::{Centre, Error, Latch, Parts};
use crate::driver::clock::Clock;
use crate::driver::{Driver, DriverConfig, rewritten};
use crate::enrolment::{Enroller, RecoveryConfig, Signer};
use crate::format::{self, Raising};
use crate::health::Health;
use crate::link::{Hub, LinkConfig};
use crate::peers::{PeerService, Peers, PeersConfig};
use crate::retention::{Retention, RetentionConfig};
use crate::store::counted::Counted;
use crate::store::keys::Key;
use crate::store::preserving::Preserving;
use crate::store::{Compare, FollowConfig, LeaseId, Store, Txn};

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
    /// `host:port` that goes into join tokens, unless an admin said otherwise.
    pub enrol_advertise: String,
    /// `host:port` that agents dial, unless an admin said otherwise; may be empty.
    pub link_advertise: String,
    /// How the audit is kept.
    pub audit: AuditConfig,
    /// What the leader does about the rest of the past.
    pub retention: RetentionConfig,
    /// How other replicas reach it; `None`: they do not.
    pub peers: Option<PeersConfig>,
    /// Which agents come back by themselves after their certificate expired.
    pub recovery: RecoveryConfig,
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
            link_advertise: String::new(),
            audit: AuditConfig::default(),
            retention: RetentionConfig::default(),
            peers: None,
            recovery: RecoveryConfig::default(),
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
    export: Option<Export>,
    retention: Retention,
    format: Raising,
    latch: Arc<Latch>,
    cache: Arc<Cache>,
    peers: Option<Peers>,
}

impl Replica {
    /// Puts a replica together; nothing runs yet.
    ///
    /// # Errors
    /// [`Error::Store`] when the store's epoch can be neither read nor made; [`Error::Format`] when it is of a newer version.
    pub async fn new(
        store: Arc<dyn Store>,
        signer: Arc<Signer>,
        clock: Clock,
        config: ReplicaConfig,
    ) -> Result<Self, Error> {
        let health = Arc::new(Health::default());
        let store: Arc<dyn Store> = Arc::new(Counted::new(store, &health.store_calls));
        let store: Arc<dyn Store> = Arc::new(Preserving::new(store, rewritten));
        format::check(store.as_ref()).await?;
        let store_epoch = store_epoch(store.as_ref(), &clock).await?;
        let cache = Arc::new(Cache::default());
        let sealer = Sealer::new(signer.clone(), clock.clone(), &config.replica)
            .map_err(|error| Error::Internal(error.to_string()))?;
        let (audit, writer) =
            audit::new(store.clone(), sealer.clone(), clock.clone(), health.clone(), &config.audit);
        let latch = Latch::new(store.clone(), cache.clone(), audit.clone(), &config.replica);
        let latch = Arc::new(latch);
        let peers = config.peers.clone();
        let peers = peers.map(|peers| Peers::new(&config.replica, cache.clone(), latch.clone(), peers));
        let revocations = Reloadable::new(Revocations::default());
        let (lease, lease_seen) = watch::channel(None);
        let (leads, leads_seen) = watch::channel(None);
        let base = Base { store, cache, clock, signer, health, audit, latch };
        Ok(Self {
            centre: base.centre(&config),
            hub: Arc::new(base.hub(&config, lease_seen, store_epoch)),
            enroller: Arc::new(base.enroller(config.recovery)),
            driver: base.driver(&config, revocations.clone(), lease, leads),
            revocations,
            writer,
            export: base.export(&config, leads_seen.clone()),
            format: Raising {
                store: base.store.clone(),
                cache: base.cache.clone(),
                leads: leads_seen.clone(),
            },
            retention: base.retention(&config, sealer, leads_seen),
            peers,
            health: base.health,
            latch: base.latch,
            cache: base.cache,
        })
    }

    /// Starts driver, audit, latch and what tells other replicas. Each ends only after `shutdown`; an earlier end is fatal.
    pub fn start(self, tasks: &mut JoinSet<anyhow::Result<()>>, shutdown: &CancellationToken) -> Started {
        let driver = self.driver.run(shutdown.clone());
        tasks.spawn(async move { Ok(driver.await?) });
        let latch = self.latch.clone();
        tasks.spawn(until(shutdown.clone(), async move { latch.run().await }));
        if let Some(peers) = self.peers {
            tasks.spawn(until(shutdown.clone(), peers.run()));
        }
        let keeping = self.retention.run(shutdown.clone());
        tasks.spawn(async move {
            keeping.await;
            Ok(())
        });
        let raising = self.format.run(shutdown.clone());
        tasks.spawn(async move {
            raising.await;
            Ok(())
        });
        if let Some(export) = self.export {
            let sending = export.run(shutdown.clone());
            tasks.spawn(async move {
                sending.await;
                Ok(())
            });
        }
        let writing = self.writer.run(shutdown.clone());
        tasks.spawn(async move {
            writing.await;
            Ok(())
        });
        Started {
            centre: self.centre,
            hub: self.hub,
            peers: PeerService::new(self.cache, self.latch),
            enroller: self.enroller,
            revocations: self.revocations,
            health: self.health,
        }
    }
}

/// What most parts stand on.
struct Base {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    clock: Clock,
    signer: Arc<Signer>,
    health: Arc<Health>,
    audit: Auditor,
    latch: Arc<Latch>,
}

impl Base {
    fn centre(&self, config: &ReplicaConfig) -> Centre {
        Centre::new(Parts {
            store: self.store.clone(),
            cache: self.cache.clone(),
            clock: self.clock.clone(),
            audit: self.audit.clone(),
            signer: self.signer.clone(),
            health: self.health.clone(),
            latch: self.latch.clone(),
            enrol_advertise: config.enrol_advertise.clone(),
            link_advertise: config.link_advertise.clone(),
        })
    }

    fn hub(
        &self,
        config: &ReplicaConfig,
        lease: watch::Receiver<Option<LeaseId>>,
        store_epoch: String,
    ) -> Hub {
        Hub {
            store: self.store.clone(),
            cache: self.cache.clone(),
            clock: self.clock.clone(),
            health: self.health.clone(),
            audit: self.audit.clone(),
            latch: self.latch.clone(),
            signer: self.signer.clone(),
            replica: config.replica.clone(),
            lease,
            store_epoch,
            config: config.link,
        }
    }

    fn enroller(&self, recovery: RecoveryConfig) -> Enroller {
        Enroller::new(
            self.store.clone(),
            self.cache.clone(),
            self.signer.clone(),
            self.clock.clone(),
            self.audit.clone(),
            self.health.clone(),
        )
        .with_recovery(recovery)
    }

    fn driver(
        &self,
        config: &ReplicaConfig,
        revocations: Reloadable<Revocations>,
        lease: watch::Sender<Option<LeaseId>>,
        leads: watch::Sender<Option<Compare>>,
    ) -> Driver {
        let peer_address = config.peers.as_ref().map(|peers| peers.address.clone()).unwrap_or_default();
        Driver {
            store: self.store.clone(),
            cache: self.cache.clone(),
            clock: self.clock.clone(),
            audit: self.audit.clone(),
            health: self.health.clone(),
            revocations,
            lease,
            leads,
            config: DriverConfig {
                replica: config.replica.clone(),
                lease_ttl: config.lease_ttl,
                follow: config.follow,
                peer_address,
            },
        }
    }

    fn export(&self, config: &ReplicaConfig, leads: watch::Receiver<Option<Compare>>) -> Option<Export> {
        config.audit.sink.clone().map(|choice| Export {
            store: self.store.clone(),
            choice,
            replica: config.replica.clone(),
            clock: self.clock.clone(),
            health: self.health.clone(),
            alarm_after: config.audit.alarm_after,
            leads,
        })
    }

    fn retention(
        &self,
        config: &ReplicaConfig,
        sealer: Sealer,
        leads: watch::Receiver<Option<Compare>>,
    ) -> Retention {
        let sink = config.audit.sink.as_ref().map(audit::SinkChoice::name);
        Retention {
            store: self.store.clone(),
            cache: self.cache.clone(),
            clock: self.clock.clone(),
            health: self.health.clone(),
            keeper: Keeper { store: self.store.clone(), sealer, sink },
            leads,
            keep_for: config.audit.keep_for,
            certificates_live: self.signer.agent_ttl(),
            config: config.retention,
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
    /// What other replicas ask.
    pub peers: PeerService,
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
