//! What the in-memory and the embedded store share: one process owns the state, so a lock
//! around [`Mvcc`] gives the transactions. A [`Disk`] makes them durable before they are seen.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use futures::stream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::mvcc::{Mvcc, Prepared};
use super::txn::check_key;
use super::{
    Entry, Error, Health, Lease, LeaseId, Limits, Outcome, Page, PageRequest, Revision, Txn, WatchItem,
    WatchStream,
};

/// Most events in one batch, but for one larger transaction.
const BATCH_EVENTS: usize = 1000;
const EXPIRY_RETRY: Duration = Duration::from_secs(1);

/// Where an embedded store keeps what must survive the process. All calls block.
pub(super) trait Disk: Send + Sync + std::fmt::Debug {
    /// Makes a transaction durable, all or nothing; forgets `lease` with it.
    fn commit(&self, prepared: &Prepared, revoked: Option<LeaseId>) -> Result<(), Error>;
    /// Makes a lease durable.
    fn grant(&self, id: LeaseId, ttl: Duration) -> Result<(), Error>;
}

#[derive(Debug)]
struct Shared {
    limits: Limits,
    /// Revisions of history kept.
    history: usize,
    mvcc: RwLock<Mvcc>,
    /// Held from preparing a write until it is applied.
    writer: Mutex<()>,
    disk: Option<Box<dyn Disk>>,
    revision: watch::Sender<Revision>,
    leases_changed: Arc<Notify>,
}

/// A store inside this process.
#[derive(Debug)]
pub(super) struct Local {
    shared: Arc<Shared>,
    expiry: Mutex<JoinSet<()>>,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, Mvcc> {
        self.mvcc.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Mvcc> {
        self.mvcc.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn txn(&self, txn: &Txn) -> Result<Outcome, Error> {
        let _writer = self.writer();
        let prepared = {
            let mvcc = self.read();
            match mvcc.prepare(txn)? {
                None => {
                    return Ok(Outcome::Conflict { revision: mvcc.revision() });
                }
                Some(prepared) => prepared,
            }
        };
        let revision = prepared.revision;
        self.commit(prepared, None)?;
        Ok(Outcome::Committed { revision })
    }

    /// The caller holds the writer lock.
    fn commit(&self, prepared: Prepared, revoked: Option<LeaseId>) -> Result<(), Error> {
        if let Some(disk) = &self.disk
            && (revoked.is_some() || !prepared.events.is_empty())
        {
            disk.commit(&prepared, revoked)?;
        }
        let revision = {
            let mut mvcc = self.write();
            mvcc.apply(prepared);
            if let Some(id) = revoked {
                mvcc.forget_lease(id);
            }
            if mvcc.history_len() > self.history.saturating_mul(2)
                && let Some(point) = mvcc.compaction_point(self.history)
            {
                mvcc.compact(point)?;
            }
            mvcc.revision()
        };
        self.revision.send_replace(revision);
        Ok(())
    }

    fn grant(&self, ttl: Duration, now: Instant) -> Result<Lease, Error> {
        let _writer = self.writer();
        let last = self.read().leases().last().map_or(0, |id| id.0);
        // Revisions never repeat, so an id is not given again after its lease is gone.
        let id = LeaseId(last.max((self.read().revision() as i64) << 20) + 1);
        if let Some(disk) = &self.disk {
            disk.grant(id, ttl)?;
        }
        self.write().grant(id, ttl, now);
        self.leases_changed.notify_one();
        Ok(Lease { id, ttl })
    }

    fn revoke(&self, id: LeaseId) -> Result<(), Error> {
        let _writer = self.writer();
        let prepared = self.read().prepare_revoke(id);
        prepared.map_or(Ok(()), |prepared| self.commit(prepared, Some(id)))
    }

    /// Like [`Self::revoke`], unless the lease was kept alive in the meantime.
    fn expire(&self, id: LeaseId, now: Instant) -> Result<(), Error> {
        let _writer = self.writer();
        let prepared = {
            let mvcc = self.read();
            if !mvcc.expired(now).contains(&id) {
                return Ok(());
            }
            mvcc.prepare_revoke(id)
        };
        prepared.map_or(Ok(()), |prepared| self.commit(prepared, Some(id)))
    }
}

impl Local {
    pub(super) fn new(mvcc: Mvcc, limits: Limits, history: usize, disk: Option<Box<dyn Disk>>) -> Self {
        let (revision, _) = watch::channel(mvcc.revision());
        let shared = Shared {
            limits,
            history,
            mvcc: RwLock::new(mvcc),
            writer: Mutex::new(()),
            disk,
            revision,
            leases_changed: Arc::new(Notify::new()),
        };
        Self { shared: Arc::new(shared), expiry: Mutex::new(JoinSet::new()) }
    }

    /// Runs a write to its end even if the caller goes away: a commit half done in memory would
    /// differ from the disk. Without a disk nothing blocks and it runs in place.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        run(&self.shared, work).await
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        check_key(key)?;
        Ok(self.shared.read().get(key).cloned())
    }

    pub(super) fn list(&self, prefix: &str, page: &PageRequest) -> Result<Page, Error> {
        self.shared.read().list(prefix, page)
    }

    pub(super) async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        self.shared.limits.check(&txn)?;
        self.run(move |shared| shared.txn(&txn)).await
    }

    pub(super) fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        let from = from.max(1);
        self.shared.read().check_watch(from)?;
        let watcher = Watcher {
            shared: Arc::downgrade(&self.shared),
            revisions: self.shared.revision.subscribe(),
            prefix: prefix.to_owned(),
            from,
        };
        Ok(WatchStream::new(stream::unfold(Some(watcher), |watcher| async {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(item) => Some((Ok(item), Some(watcher))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    pub(super) async fn grant(&self, ttl: Duration) -> Result<Lease, Error> {
        let now = Instant::now();
        self.start_expiry();
        self.run(move |shared| shared.grant(ttl, now)).await
    }

    pub(super) fn keep_alive(&self, id: LeaseId) -> Result<Duration, Error> {
        // An expiry under way cannot be overtaken: what has expired for it has expired here too.
        self.shared.write().keep_alive(id, Instant::now())
    }

    pub(super) async fn revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.run(move |shared| shared.revoke(id)).await
    }

    pub(super) fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.shared.write().compact(revision)
    }

    pub(super) fn health(&self) -> Health {
        Health { revision: self.shared.read().revision() }
    }

    /// Starts the task that ends leases; needs a tokio runtime. Doing so twice is no error.
    pub(super) fn start_expiry(&self) {
        let mut expiry = self.expiry.lock().unwrap_or_else(PoisonError::into_inner);
        if expiry.is_empty() {
            expiry.spawn(expire_leases(Arc::downgrade(&self.shared), self.shared.leases_changed.clone()));
        }
    }
}

async fn run<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    if shared.disk.is_none() {
        return work(shared);
    }
    let shared = shared.clone();
    let done = tokio::task::spawn_blocking(move || work(&shared)).await;
    done.map_err(|source| Error::Disk { operation: "write", source: Box::new(source) })?
}

/// Holds the store only while it works on it, so that dropping the store closes its file.
async fn expire_leases(shared: Weak<Shared>, leases_changed: Arc<Notify>) {
    while let Some(strong) = shared.upgrade() {
        let now = Instant::now();
        let expired = strong.read().expired(now);
        let mut failed = false;
        for id in expired {
            if let Err(error) = run(&strong, move |shared| shared.expire(id, now)).await {
                tracing::error!(%id, error = &error as &dyn std::error::Error, "expire lease");
                failed = true;
            }
        }
        let next = strong.read().next_deadline();
        drop(strong);
        match next {
            _ if failed => tokio::time::sleep(EXPIRY_RETRY).await,
            Some(deadline) => {
                // Either way there is something to look at.
                let _ = tokio::time::timeout_at(deadline, leases_changed.notified()).await;
            }
            None => leases_changed.notified().await,
        }
    }
}

struct Watcher {
    shared: Weak<Shared>,
    revisions: watch::Receiver<Revision>,
    prefix: String,
    from: Revision,
}

impl Watcher {
    async fn next(&mut self) -> Result<WatchItem, Error> {
        loop {
            self.revisions.borrow_and_update();
            let changes = {
                let shared = self.shared.upgrade().ok_or(Error::Closed)?;
                let mvcc = shared.read();
                if mvcc.revision() < self.from {
                    None
                } else {
                    Some(mvcc.changes(&self.prefix, self.from, BATCH_EVENTS)?)
                }
            };
            if let Some(changes) = changes {
                self.from = changes.revision + 1;
                let revision = changes.revision;
                return Ok(match changes.events {
                    events if events.is_empty() => WatchItem::Progress { revision },
                    events => WatchItem::Events { revision, events },
                });
            }
            self.revisions.changed().await.map_err(|_| Error::Closed)?;
        }
    }
}
