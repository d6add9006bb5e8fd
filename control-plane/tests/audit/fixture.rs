//! A replica on a store, notes in its audit, and the audit read back.

use std::sync::Arc;
use std::time::Duration;

use certs::ca::AuthorityPem;
use certs::{Authority, TrustBundle, TrustDomain};
use control_plane::audit::{AuditConfig, believe};
use control_plane::centre::{Caller, Role};
use control_plane::driver::clock::Clock;
use control_plane::enrolment::Signer;
use control_plane::replica::{Replica, ReplicaConfig, Started};
use control_plane::retention::RetentionConfig;
use control_plane::store::{PageRequest, Store};
use proto::audit::{AuditCheckpoint, AuditLine, ChainReport, Extent, verify};
use proto::rest::AuditRecord;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Longer than anything here should take, on a machine with other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until `look` finds something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn admin() -> Caller {
    Caller { name: "ann".to_owned(), role: Role::Admin }
}

/// What outlives a replica.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Clock,
    pub(crate) ca: AuthorityPem,
    pub(crate) audit: AuditConfig,
    pub(crate) retention: RetentionConfig,
}

/// A replica that runs.
pub(crate) struct Running {
    pub(crate) started: Started,
    shutdown: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl World {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        let clock = Clock::new();
        let authority = Authority::create(TrustDomain::new("test.local").unwrap(), clock.now()).unwrap();
        Self {
            store,
            clock,
            ca: authority.to_pem(),
            audit: AuditConfig { checkpoint_every: 4, ..AuditConfig::default() },
            retention: RetentionConfig { every: Duration::from_millis(50), compact_every: None },
        }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::from_pem(&self.ca.root.chain_pem).unwrap()
    }

    pub(crate) async fn start(&self, name: &str) -> Running {
        let signer = Arc::new(Signer::new(Authority::from_pem(&self.ca).unwrap(), name));
        let mut config = ReplicaConfig::new(name, "127.0.0.1:7445");
        config.lease_ttl = Duration::from_secs(2);
        config.audit = self.audit.clone();
        config.retention = self.retention;
        let replica = Replica::new(self.store.clone(), signer, self.clock.clone(), config).await.unwrap();
        let (shutdown, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let started = replica.start(&mut tasks, &shutdown);
        eventually("it is ready", async || started.health.not_ready().is_none().then_some(())).await;
        Running { started, shutdown, tasks }
    }

    /// Everything of one kind.
    async fn all<T: serde::de::DeserializeOwned>(&self, prefix: &str) -> Vec<T> {
        let mut request = PageRequest::first(100);
        let mut found = Vec::new();
        loop {
            let page = self.store.list(prefix, request.clone()).await.unwrap();
            found.extend(page.entries.iter().map(|entry| serde_json::from_slice(&entry.value).unwrap()));
            match request.next(&page) {
                Some(next) => request = next,
                None => return found,
            }
        }
    }

    pub(crate) async fn records(&self) -> Vec<AuditRecord> {
        self.all("audit/").await
    }

    pub(crate) async fn checkpoints(&self) -> Vec<AuditCheckpoint> {
        self.all("audit-checkpoints/").await
    }

    /// The store's audit, verified.
    pub(crate) async fn reports(&self) -> Vec<ChainReport> {
        let checkpoints = self.checkpoints().await;
        let lines = self.records().await.into_iter().map(AuditLine::Record);
        self.verify(lines.chain(checkpoints.into_iter().map(AuditLine::Checkpoint)).collect())
    }

    pub(crate) fn verify(&self, lines: Vec<AuditLine>) -> Vec<ChainReport> {
        let bundle = self.bundle();
        verify(lines, Extent::Whole, |checkpoint| believe(&bundle, checkpoint))
    }

    pub(crate) async fn report(&self, replica: &str) -> ChainReport {
        self.find(replica).await.expect("the chain is there")
    }

    pub(crate) async fn find(&self, replica: &str) -> Option<ChainReport> {
        self.reports().await.into_iter().find(|report| report.replica == replica)
    }
}

impl Running {
    /// Notes so many things in the audit: stops of runs that do not exist.
    pub(crate) async fn note(&self, count: usize) {
        for index in 0..count {
            let refused = self.started.centre.stop_run(&admin(), &format!("none-{index}")).await;
            assert!(refused.is_err());
        }
    }

    /// An orderly end.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap().unwrap();
        }
    }

    /// As the power cord would.
    pub(crate) async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}
