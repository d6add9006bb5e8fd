//! The store of a single replica, in one file: for the demo and for small installations. The
//! file holds every entry; reads and watches are served from memory, and a write is on the disk
//! before anybody sees it. History does not survive a restart: a watch from before it gets
//! [`Error::Compacted`]. Leases do survive, with their whole life before them again, as in etcd.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::time::Instant;

use super::local::{Disk, Local};
use super::memory::HISTORY;
use super::mvcc::{Mvcc, Prepared};
use super::{
    Entry, Error, Event, Health, Lease, LeaseId, Limits, Outcome, Page, PageRequest, Revision, Store, Txn,
    WatchStream,
};

/// key -> create revision, mod revision, version, lease (0 is none), value
type Row = (u64, u64, u64, i64, &'static [u8]);
const ENTRIES: TableDefinition<'_, &str, Row> = TableDefinition::new("entries");
/// id -> time to live in ms
const LEASES: TableDefinition<'_, i64, u64> = TableDefinition::new("leases");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
const FORMAT_NOW: u64 = 1;
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// A store in a file that this process alone has open.
#[derive(Debug)]
pub struct RedbStore {
    local: Local,
}

#[derive(Debug)]
struct File {
    database: Database,
}

/// What the file holds.
struct Contents {
    revision: Revision,
    entries: Vec<Entry>,
    leases: Vec<(LeaseId, Duration)>,
}

impl RedbStore {
    /// Opens the file, making it if there is none. Dropping the store closes it. Waits a little
    /// for a process that is just ending to let go of it.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it open, [`Error::Disk`], [`Error::Corrupt`].
    pub async fn open(path: impl AsRef<Path>, limits: Limits) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        let opened = tokio::task::spawn_blocking(move || File::open_patiently(&path)).await;
        let (file, contents) = opened.map_err(|error| disk("open", error))??;
        let mut mvcc = Mvcc::restored(contents.revision, contents.entries);
        let now = Instant::now();
        for (id, ttl) in contents.leases {
            mvcc.grant(id, ttl, now);
        }
        let local = Local::new(mvcc, limits, HISTORY, Some(Box::new(file)));
        local.start_expiry();
        Ok(Self { local })
    }
}

/// What a copy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// The store's revision.
    pub revision: Revision,
    /// Keys.
    pub keys: usize,
}

/// Copies a store's file that no process has open, and reads the copy back. `to` is there whole or not at all; what
/// was there before is replaced. Blocks; waits a little for a process that is just ending.
///
/// # Errors
/// [`Error::Locked`] when a process has the file open, [`Error::Disk`], [`Error::Corrupt`].
pub fn copy(from: &Path, to: &Path) -> Result<Copied, Error> {
    let temporary = to.with_extension("copying");
    let copied = copy_to(from, &temporary);
    if copied.is_err() {
        // Half a copy is of no use; that there was none to remove is no news.
        let _ = std::fs::remove_file(&temporary);
        return copied;
    }
    std::fs::rename(&temporary, to).map_err(|error| disk("put the copy in place", error))?;
    copied
}

fn copy_to(from: &Path, to: &Path) -> Result<Copied, Error> {
    let failed = |error: std::io::Error| disk("copy", error);
    // Opening would make a store where there is none.
    if std::fs::metadata(from).map_err(failed)?.len() == 0 {
        return Err(failed(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "the file is empty: no store",
        )));
    }
    // Held open: nobody writes while it is copied.
    let (source, _) = File::open_patiently(from)?;
    std::fs::copy(from, to).map_err(failed)?;
    drop(source);
    let (copy, contents) = File::open(to.to_owned())?;
    drop(copy);
    std::fs::File::open(to).and_then(|file| file.sync_all()).map_err(failed)?;
    Ok(Copied { revision: contents.revision, keys: contents.entries.len() })
}

fn disk(operation: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Disk { operation, source: source.into() }
}

impl File {
    /// Waits a little for whoever has it open, and is just ending, to let go of it.
    fn open_patiently(path: &Path) -> Result<(Self, Contents), Error> {
        let give_up = std::time::Instant::now() + LOCK_WAIT;
        loop {
            match Self::open(path.to_owned()) {
                Err(Error::Locked { .. }) if std::time::Instant::now() < give_up => {
                    std::thread::sleep(LOCK_POLL);
                }
                opened => return opened,
            }
        }
    }

    fn open(path: PathBuf) -> Result<(Self, Contents), Error> {
        let database = Database::create(&path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                Error::Locked { path }
            }
            error => disk("open", error),
        })?;
        let file = Self { database };
        file.initialise().map_err(|error| disk("open", error))?;
        let contents = file.load().map_err(|error| disk("open", error))?;
        match contents {
            (FORMAT_NOW, contents) => Ok((file, contents)),
            (format, _) => Err(Error::Corrupt(format!("file format {format} is not {FORMAT_NOW}"))),
        }
    }

    fn initialise(&self) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            write.open_table(ENTRIES)?;
            write.open_table(LEASES)?;
            let mut meta = write.open_table(META)?;
            if meta.get(FORMAT)?.is_none() {
                meta.insert(FORMAT, FORMAT_NOW)?;
                meta.insert(REVISION, 1)?;
            }
        }
        write.commit()?;
        Ok(())
    }

    fn load(&self) -> Result<(u64, Contents), redb::Error> {
        let read = self.database.begin_read()?;
        let meta = read.open_table(META)?;
        let number = |name| Ok::<_, redb::Error>(meta.get(name)?.map_or(0, |value| value.value()));
        let mut entries = Vec::new();
        for row in read.open_table(ENTRIES)?.iter()? {
            let (key, value) = row?;
            let (create_revision, mod_revision, version, lease, bytes) = value.value();
            entries.push(Entry {
                key: key.value().to_owned(),
                value: Bytes::copy_from_slice(bytes),
                create_revision,
                mod_revision,
                version,
                lease: (lease != 0).then_some(LeaseId(lease)),
            });
        }
        let mut leases = Vec::new();
        for row in read.open_table(LEASES)?.iter()? {
            let (id, ttl_ms) = row?;
            leases.push((LeaseId(id.value()), Duration::from_millis(ttl_ms.value())));
        }
        Ok((number(FORMAT)?, Contents { revision: number(REVISION)?, entries, leases }))
    }

    fn write(&self, prepared: &Prepared, revoked: Option<LeaseId>) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut entries = write.open_table(ENTRIES)?;
            for event in &prepared.events {
                match event {
                    Event::Put(entry) => {
                        let lease = entry.lease.map_or(0, |lease| lease.0);
                        let row = (
                            entry.create_revision,
                            entry.mod_revision,
                            entry.version,
                            lease,
                            entry.value.as_ref(),
                        );
                        entries.insert(entry.key.as_str(), row)?;
                    }
                    Event::Delete { key, .. } => {
                        entries.remove(key.as_str())?;
                    }
                }
            }
            write.open_table(META)?.insert(REVISION, prepared.revision)?;
            if let Some(id) = revoked {
                write.open_table(LEASES)?.remove(id.0)?;
            }
        }
        write.commit()?;
        Ok(())
    }

    fn write_lease(&self, id: LeaseId, ttl: Duration) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        write.open_table(LEASES)?.insert(id.0, ttl.as_millis() as u64)?;
        write.commit()?;
        Ok(())
    }
}

impl Disk for File {
    fn commit(&self, prepared: &Prepared, revoked: Option<LeaseId>) -> Result<(), Error> {
        self.write(prepared, revoked).map_err(|error| disk("commit", error))
    }

    fn grant(&self, id: LeaseId, ttl: Duration) -> Result<(), Error> {
        self.write_lease(id, ttl).map_err(|error| disk("grant lease", error))
    }
}

#[async_trait]
impl Store for RedbStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.local.get(key)
    }

    async fn list(&self, prefix: &str, page: PageRequest) -> Result<Page, Error> {
        self.local.list(prefix, &page)
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        self.local.txn(txn).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        self.local.watch(prefix, from)
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, Error> {
        self.local.grant(ttl).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, Error> {
        self.local.keep_alive(id)
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.local.revoke(id).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.local.compact(revision)
    }

    async fn health(&self) -> Result<Health, Error> {
        Ok(self.local.health())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_waits_for_the_one_that_is_just_ending() {
        let folder = tempfile::TempDir::new().unwrap();
        let (from, to) = (folder.path().join("store"), folder.path().join("copy"));
        let held = File::open(from.clone()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(LOCK_POLL);
                drop(held);
            });
            assert_eq!(copy(&from, &to).unwrap(), Copied { revision: 1, keys: 0 });
        });
    }
}
