//! What every session of a replica stands on.

use std::sync::Arc;
use std::time::Duration;

use proto::cluster::ClusterStatus;
use proto::ids::ClusterId;
use tokio::sync::watch;

use crate::audit::Auditor;
use crate::authored::{Intake, Quota};
use crate::cache::Cache;
use crate::centre::{Error, Latch};
use crate::driver::clock::Clock;
use crate::driver::codec;
use crate::engine::object::{Object, ObjectKey};
use crate::enrolment::Signer;
use crate::health::Health;
use crate::store::{Compare, LeaseId, Store, Txn};

/// Settings of the link.
#[derive(Debug, Clone, Copy)]
pub struct LinkConfig {
    /// How often both sides say that they are alive; three times nothing is a lost link.
    pub heartbeat: Duration,
    /// Messages per second that a cluster may send for long.
    pub rate: u32,
    /// Messages that a cluster may send at once.
    pub burst: u32,
    /// What a cluster may have authored.
    pub quota: Quota,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(5), rate: 500, burst: 5000, quota: Quota::default() }
    }
}

/// Shared by the sessions of a replica.
#[derive(Debug)]
pub struct Hub {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) clock: Clock,
    pub(crate) health: Arc<Health>,
    pub(crate) audit: Auditor,
    pub(crate) latch: Arc<Latch>,
    pub(crate) signer: Arc<Signer>,
    pub(crate) replica: String,
    pub(crate) lease: watch::Receiver<Option<LeaseId>>,
    pub(crate) store_epoch: String,
    pub(crate) config: LinkConfig,
}

impl Hub {
    pub(crate) fn intake(&self, cluster: &ClusterId) -> Intake {
        Intake {
            store: self.store.clone(),
            cache: self.cache.clone(),
            clock: self.clock.clone(),
            audit: self.audit.clone(),
            quota: self.config.quota,
            cluster: cluster.clone(),
        }
    }

    /// Changes what a cluster says of itself; writes only a difference.
    pub(crate) async fn update_status(
        &self,
        cluster: &ClusterId,
        change: impl Fn(&mut ClusterStatus),
    ) -> Result<(), Error> {
        let key = ObjectKey::ClusterStatus(cluster.clone());
        let path = codec::path(&key)?;
        let member = codec::path(&ObjectKey::ClusterSpec(cluster.clone()))?;
        for _ in 0..8 {
            let entry = self.store.get(&path).await?;
            let old: ClusterStatus = entry
                .as_ref()
                .and_then(|entry| serde_json::from_slice(&entry.value).ok())
                .unwrap_or_default();
            let mut new = old.clone();
            change(&mut new);
            if new == old && entry.is_some() {
                return Ok(());
            }
            let value = codec::encode(&Object::ClusterStatus(cluster.clone(), Box::new(new)))?;
            let revision = entry.map_or(0, |entry| entry.mod_revision);
            // A member that was removed stays removed.
            let txn = Txn::new()
                .when(Compare::Exists(member.clone()))
                .when(Compare::ModRevision(path.clone(), revision))
                .put(&path, value);
            if !self.store.txn(txn).await?.is_conflict() {
                return Ok(());
            }
            if self.store.get(&member).await?.is_none() {
                return Ok(());
            }
        }
        Err(Error::Conflict(format!("status of cluster {cluster} keeps changing")))
    }
}
