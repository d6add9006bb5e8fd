//! What this node did, on disk before it was done: one checksummed file per injection with everything
//! an undo needs, one per ended injection (so that its id never starts again), and what must outlive
//! the process (highest epoch, latched halts). Written by the driver in groups, read by `recover` at
//! start and by the keeper all the time.
//!
//! A file is written beside its place, synced, renamed, and the directory is synced once per group: at
//! its place stands a whole file or none. One that is damaged all the same is moved to `quarantine/`
//! and reported, never ignored.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use proto::halt::Halt;
use proto::ids::InjectionId;
use proto::injection::{Injection, InjectionStatus};
use serde::{Deserialize, Serialize};

use crate::resolve::Identity;
use crate::step::Step;

mod file;
mod load;

pub use load::{Damaged, Known, Loaded};

/// An ended injection is remembered for so long: longer than any run can still start it.
pub const REMEMBER_MS: u64 = 7 * 24 * 3600 * 1000;
/// Longest wait for the lock of one record before acting without it: undoing twice is harmless, not
/// undoing is not.
const RECORD_LOCK_WITHIN: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Longest wait for the lock of the whole journal.
const OPEN_WITHIN: Duration = Duration::from_millis(500);

/// Why the journal could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another daemon of this node has it.
    #[error("the journal {} is in use by another daemon", .0.display())]
    InUse(PathBuf),
    /// The file system refused.
    #[error("{action} {}", .path.display())]
    Io {
        /// Bare verb phrase.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Until when, by both clocks; whichever comes first. The wall clock may only shorten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deadline {
    /// Milliseconds of `CLOCK_BOOTTIME`, of the boot in the record.
    pub boottime_ms: u64,
    /// This node's wall clock, ms since 1970.
    pub wall_ms: i64,
}

impl Deadline {
    /// Whether it has come by either clock.
    pub fn has_passed(&self, boottime_ms: u64, wall_ms: i64) -> bool {
        boottime_ms >= self.boottime_ms || wall_ms >= self.wall_ms
    }
}

/// How far a record's fault had come when it was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Nothing, or any part of it, may have been made.
    Intended,
    /// It was read back as made.
    Injected,
    /// An undo did not end clean.
    Residue,
}

/// One injection that is not known to be clean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// What was asked for.
    pub injection: Injection,
    /// Who exactly the target is, in this boot.
    pub identity: Identity,
    /// What is done, in order, each with its undo data.
    pub steps: Vec<Step>,
    /// Until when.
    pub deadline: Deadline,
    /// The boot it was written in.
    pub boot_id: String,
    /// How far it had come.
    pub stage: Stage,
    /// Wall clock, ms, when it was read back as made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub injected_at_unix_ms: Option<i64>,
}

/// One injection that is over; its id never starts again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// The last word on it.
    pub status: InjectionStatus,
    /// Wall clock, ms, when it was written.
    pub at_unix_ms: i64,
}

/// What must outlive the process besides the records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Highest agent epoch seen.
    pub highest_epoch: u64,
    /// Halts latched by the agent and not resumed.
    #[serde(deserialize_with = "proto::halt::read_all")]
    pub halts: Vec<Halt>,
}

/// One change. A group of them is confirmed together.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Epoch and halts.
    Meta(Arc<Meta>),
    /// A record, new or changed.
    Record(Arc<Record>),
    /// The record is over: remembered as ended, then removed.
    End(Arc<Ended>),
    /// An ended one that may be forgotten.
    Forget(InjectionId),
}

/// The state directory, and its exclusive lock while this lives.
#[derive(Debug)]
pub struct Journal {
    folders: Folders,
    _lock: File,
}

/// Where things are under the state directory. Made without any lock, for the keeper.
#[derive(Debug, Clone)]
pub struct Folders {
    root: PathBuf,
}

impl Folders {
    /// Of this state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self { root: state_dir.to_path_buf() }
    }

    /// Records that are not clean.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// Ended injections.
    pub fn ended(&self) -> PathBuf {
        self.root.join("ended")
    }

    /// Damaged files.
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Epoch and halts.
    pub fn meta(&self) -> PathBuf {
        self.root.join("meta.json")
    }

    /// Present = this node is halted.
    pub fn halt_file(&self) -> PathBuf {
        self.root.join("halt")
    }

    /// Held by the daemon while it lives.
    pub fn daemon_lock(&self) -> PathBuf {
        self.root.join("daemon.lock")
    }

    /// Held by the keeper while it lives.
    pub fn keeper_lock(&self) -> PathBuf {
        self.root.join("keeper.lock")
    }

    /// Held by the keeper while it decides to leave, and by the daemon while it looks for the keeper.
    pub fn keeper_gate(&self) -> PathBuf {
        self.root.join("keeper.gate")
    }

    /// Who the keeper is.
    pub fn keeper_identity(&self) -> PathBuf {
        self.root.join("keeper.json")
    }

    fn record(&self, id: &InjectionId) -> PathBuf {
        self.journal().join(format!("{id}.json"))
    }

    fn record_lock(&self, id: &InjectionId) -> PathBuf {
        self.journal().join(format!("{id}.lock"))
    }

    fn ended_file(&self, id: &InjectionId) -> PathBuf {
        self.ended().join(format!("{id}.json"))
    }

    /// Whether the record is still there.
    pub fn has_record(&self, id: &InjectionId) -> bool {
        self.record(id).exists()
    }

    /// Whether its end is recorded, and so its record removed or about to be.
    pub fn is_ended(&self, id: &InjectionId) -> bool {
        self.ended_file(id).exists()
    }

    /// Keeps the other process (daemon or keeper) off one record while this acts on it. `None` when it
    /// could not be had in time: act all the same.
    pub fn lock_record(&self, id: &InjectionId) -> Option<File> {
        let file = open_lock(&self.record_lock(id)).ok()?;
        let tries = RECORD_LOCK_WITHIN.as_millis() / LOOK_EVERY.as_millis();
        for _ in 0..tries {
            match file.try_lock() {
                Ok(()) => return Some(file),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_EVERY),
                Err(TryLockError::Error(_)) => return None,
            }
        }
        None
    }

    /// Records the end of an injection: remembered first, then its record is removed.
    pub fn end(&self, ended: &Ended) -> Result<(), Error> {
        self.commit(&[Write::End(Arc::new(ended.clone()))])
    }

    /// Brings what is known up to date with the journal folder; changes nothing when that is not there. For the
    /// keeper.
    pub fn refresh(&self, known: &mut Known) -> Result<(), Error> {
        load::refresh(self, known)
    }

    /// Writes a group: every file is synced, then each directory once. All or error; after an error any
    /// part may have been written.
    pub fn commit(&self, writes: &[Write]) -> Result<(), Error> {
        let mut touched = [false; 3];
        for write in writes {
            match write {
                Write::Meta(meta) => {
                    file::write(&self.meta(), &**meta)?;
                    touched[0] = true;
                }
                Write::Record(record) => {
                    file::write(&self.record(&record.injection.id), &**record)?;
                    touched[1] = true;
                }
                Write::End(ended) => {
                    file::write(&self.ended_file(&ended.status.id), &**ended)?;
                    touched[2] = true;
                }
                Write::Forget(id) => file::remove(&self.ended_file(id))?,
            }
        }
        for (folder, touched) in [self.root.clone(), self.journal(), self.ended()].iter().zip(touched) {
            if touched {
                file::sync_folder(folder)?;
            }
        }
        // Only now: an end that is remembered. A crash before this undoes a clean record once more.
        for write in writes {
            if let Write::End(ended) = write {
                file::remove(&self.record(&ended.status.id))?;
                file::remove(&self.record_lock(&ended.status.id))?;
            }
        }
        Ok(())
    }
}

impl Journal {
    /// Opens the state directory of this node, making it where absent, and reads everything in it.
    pub fn open(state_dir: &Path) -> Result<(Self, Loaded), Error> {
        let folders = Folders::new(state_dir);
        for folder in [folders.journal(), folders.ended(), folders.quarantine()] {
            fs::create_dir_all(&folder).map_err(|source| Error::Io {
                action: "make",
                path: folder,
                source,
            })?;
        }
        let path = folders.daemon_lock();
        let io = |source| Error::Io { action: "lock", path: path.clone(), source };
        let lock = open_lock(&path).map_err(io)?;
        // The keeper touches the lock for an instant to see whether a daemon lives.
        let mut tries = OPEN_WITHIN.as_millis() / LOOK_EVERY.as_millis();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if tries == 0 => {
                    return Err(Error::InUse(state_dir.to_path_buf()));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_EVERY),
                Err(TryLockError::Error(source)) => return Err(io(source)),
            }
            tries -= 1;
        }
        let loaded = load::load(&folders)?;
        Ok((Self { folders, _lock: lock }, loaded))
    }

    /// Where things are.
    pub fn folders(&self) -> &Folders {
        &self.folders
    }

    /// See [`Folders::commit`]; only the holder of the lock writes records.
    pub fn commit(&self, writes: &[Write]) -> Result<(), Error> {
        self.folders.commit(writes)
    }
}

/// A file to lock, made where absent.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).read(true).write(true).open(path)
}

#[cfg(test)]
pub(crate) mod tests;
