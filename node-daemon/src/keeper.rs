//! The keeper: a small process of ours in a cgroup outside every pod, alive only while faults are. It
//! reads the journal and, when a deadline comes and the daemon has not taken its record away (because it
//! is dead, stopped or slow), undoes it itself. The daemon starts it through [`KeeperProcess`] before
//! anything is made that does not end by itself; `faultline worker keeper` is its entry.
//!
//! Daemon and keeper may both undo the same record: undo is idempotent, and a lock per record keeps them
//! off each other's toes as long as both live.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::journal::{Folders, open_lock};
use crate::system::cgroup;
use crate::system::target::{ProcessRef, Roots, check_process};

mod process;

pub use process::main;

/// Longest wait for each keeper that is started to be there, or for one that is leaving.
const READY_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// So often one is started, at most, for who asks once, and so long is waited for all of them.
const STARTS: u32 = 3;
const ALL_READY_WITHIN: Duration = Duration::from_secs(8);

/// Name of the cgroup of that node's keeper, under the top of every hierarchy. Several nodes may share one machine, so
/// it is by node and folder.
pub fn group_name(node: &str, state_dir: &Path) -> String {
    let text = format!("{node}\n{}", state_dir.display());
    let digest = HEXLOWER.encode(&Sha256::digest(text.as_bytes()));
    format!("faultline-keeper-{}", digest.get(..12).unwrap_or_default())
}

/// Makes sure that somebody else knows the deadlines.
pub trait Keeper: Send + Sync + std::fmt::Debug {
    /// Starts the keeper unless it lives. Called after the record was written, and before anything is made
    /// that does not end by itself; the error says why deadlines cannot be promised.
    fn ensure(&self) -> Result<(), String>;
}

/// Who the keeper is; the content of `keeper.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeeperIdentity {
    pub(crate) process: ProcessRef,
    /// Why it could not leave the daemon's own cgroup; absent when it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inside_because: Option<String>,
}

/// The real one.
#[derive(Debug)]
pub struct KeeperProcess {
    folders: Folders,
    state_dir: PathBuf,
    roots: Roots,
    /// Name of its cgroup, unique on this machine.
    name: String,
    child: Mutex<Option<Child>>,
}

impl KeeperProcess {
    /// For this state directory. `name` tells the nodes of one machine apart.
    pub fn new(state_dir: PathBuf, roots: Roots, name: String) -> Self {
        Self { folders: Folders::new(&state_dir), state_dir, roots, name, child: Mutex::default() }
    }

    /// Removes the cgroup that a killed keeper left. A living one keeps its own.
    pub fn sweep(&self) {
        // Held meanwhile: one that starts now waits for it before it makes its cgroup.
        let Ok(lock) = open_lock(&self.folders.keeper_lock()) else { return };
        if lock.try_lock().is_ok()
            && let Err(error) = cgroup::disown(&self.roots, &self.name)
        {
            tracing::debug!(%error, "keeper's cgroup not removed");
        }
    }

    fn start(&self) -> std::io::Result<Child> {
        // The path of the executable may not exist in this mount namespace; this link always does.
        let mut command = Command::new("/proc/self/exe");
        command.arg("worker");
        command.arg("keeper").arg("--state-dir").arg(&self.state_dir);
        command.arg("--proc-root").arg(&self.roots.proc).arg("--cgroup-root").arg(&self.roots.cgroup);
        command.arg("--name").arg(&self.name);
        // Nothing of the daemon's is kept open: a runtime waits for the end of a container's output.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        command.spawn()
    }

    /// Starts one and waits until it lives. One that ends on its way, killed by whomever, is started again: whoever
    /// asked must not wait out the whole time for a process that is dead.
    fn started(&self, child: &mut Option<Child>) -> Result<KeeperIdentity, String> {
        let start = || self.start().map_err(|error| format!("start the keeper: {error}"));
        let asked = Instant::now();
        let (mut begun, mut ends) = (asked, 0);
        let mut own = child.insert(start()?);
        loop {
            // Before the looks: what came while this was stopped is seen by them and not late.
            let is_late = begun.elapsed() > READY_WITHIN || asked.elapsed() > ALL_READY_WITHIN;
            if let Some(identity) = self.living() {
                return Ok(identity);
            }
            if let Ok(Some(status)) = own.try_wait() {
                ends += 1;
                if ends == STARTS || is_late {
                    // It ends well only where it has no work, which cannot be now, or no lock.
                    let why =
                        if status.success() { "it could not take its lock" } else { &status.to_string() };
                    return Err(format!("the keeper ended before it was ready, {ends} times: {why}"));
                }
                own = child.insert(start()?);
                begun = Instant::now();
            } else if is_late {
                return Err(format!("the keeper was not ready within {} s", begun.elapsed().as_secs()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The keeper that lives, by its lock and by its process.
    fn living(&self) -> Option<KeeperIdentity> {
        if !is_locked(&self.folders.keeper_lock()) {
            return None;
        }
        let identity: KeeperIdentity =
            serde_json::from_slice(&std::fs::read(self.folders.keeper_identity()).ok()?).ok()?;
        check_process(&self.roots, &identity.process).is_ok().then_some(identity)
    }
}

impl Keeper for KeeperProcess {
    fn ensure(&self) -> Result<(), String> {
        // First ours, then the one between processes: that one is waited for by looking again and again.
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // While this is held no keeper leaves, and one that is about to has left.
        let Some(_gate) = lock_within(&self.folders.keeper_gate(), READY_WITHIN) else {
            return Err("the keeper neither stays nor leaves".to_owned());
        };
        if let Some(old) = child.as_mut() {
            // Reaps one that has left.
            let _ = old.try_wait();
        }
        let identity = if let Some(identity) = self.living() { identity } else { self.started(&mut child)? };
        identity.inside_because.map_or(Ok(()), Err)
    }
}

/// Whether another process holds that lock. Makes no file: the directory may be about to be deleted.
fn is_locked(path: &Path) -> bool {
    matches!(File::open(path).map(|file| file.try_lock()), Ok(Err(std::fs::TryLockError::WouldBlock)))
}

fn lock_within(path: &Path, time: Duration) -> Option<File> {
    let file = open_lock(path).ok()?;
    let started = Instant::now();
    while file.try_lock().is_err() {
        if started.elapsed() > time {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test's own executable takes the words of a keeper for a mistake and ends.
    #[test]
    fn one_that_ends_at_once_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let keeper = KeeperProcess::new(folder.path().to_owned(), Roots::default(), "test".to_owned());
        let why = keeper.ensure().unwrap_err();
        assert!(why.starts_with("the keeper ended before it was ready, 3 times: exit status: "), "{why}");
    }

    #[test]
    fn the_group_of_a_dead_keeper_is_swept_and_that_of_a_living_one_is_not() {
        let (folder, top) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(top.path().join("cgroup.controllers"), "").unwrap();
        let group = top.path().join("test");
        std::fs::create_dir(&group).unwrap();
        let roots = Roots { cgroup: top.path().to_owned(), ..Roots::default() };
        let keeper = KeeperProcess::new(folder.path().to_owned(), roots, "test".to_owned());
        let lock = open_lock(&keeper.folders.keeper_lock()).unwrap();
        lock.lock().unwrap();
        keeper.sweep();
        assert!(group.exists());
        drop(lock);
        // A process that another test starts has the lock as well, until it runs its own program.
        let begun = Instant::now();
        while group.exists() && begun.elapsed() < READY_WITHIN {
            keeper.sweep();
        }
        assert!(!group.exists());
        assert!(
            lock_within(&keeper.folders.keeper_lock(), READY_WITHIN).is_some(),
            "the next keeper can have it"
        );
    }
}
