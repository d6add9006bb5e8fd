//! Inside the keeper's own process. It talks to nobody: the journal is all it reads and all it writes. What it read
//! once it undoes even when the journal is deleted under it, and leaves when that is done.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use proto::ids::InjectionId;
use proto::injection::{EndReason, InjectionPhase, InjectionStatus};

use super::{KeeperIdentity, LOOK_EVERY, is_locked, lock_within};
use crate::journal::{Ended, Folders, Known, Record};
use crate::recover::undo_record;
use crate::system::kernel::KernelSystem;
use crate::system::target::{Roots, identify};
use crate::system::{System, cgroup, clock, spoken};

/// How often the journal is looked at.
const POLL: Duration = Duration::from_millis(200);
/// A daemon that lives gets so much longer than the deadline to undo by itself.
const GRACE_MS: u64 = 300;
/// Wait before an undo that left something is tried again.
const RETRY_MS: u64 = 5_000;
/// After so many tries, ten minutes, one whose record was deleted is tried less often: nobody else can undo it, and
/// it is over at the latest when its target is gone.
const ORPHAN_TRIES: u32 = 120;
/// The wait from then on.
const ORPHAN_RETRY_MS: u64 = 300_000;
const LOCK_WITHIN: Duration = Duration::from_secs(2);

/// Runs until the journal holds nothing any more, or is gone with nothing left to undo. `args` are the words after
/// `keeper`. Call it before any other thread is started.
pub fn main(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    let (folders, roots, name) = parse(args)?;
    // It leaves when its work is done and not before: who wants it gone removes the faults.
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block().context("block signals")?;
    // Fails only for a process that leads a group already, which serves as well.
    let _ = nix::unistd::setsid();

    let Some(lock) = lock_within(&folders.keeper_lock(), LOCK_WITHIN) else {
        return Ok(());
    };
    let pid = i32::try_from(std::process::id()).context("own process id")?;
    let inside_because = match cgroup::own(&roots, &name, pid) {
        Ok(()) => None,
        Err(error) => Some(format!("no cgroup outside the daemon's: {}", spoken(&error))),
    };
    let identity = KeeperIdentity { process: identify(&roots, pid)?.process, inside_because };
    let mut known = appear(&folders, &identity)?;

    let system = KernelSystem::new(roots.clone());
    let mut tried = BTreeMap::new();
    loop {
        let own = is_at(&lock, &folders.keeper_lock());
        if own {
            // A journal that cannot be listed now is looked at again; what is known of it is kept.
            let _ = folders.refresh(&mut known);
        }
        tend(&folders, &system, &mut known, &mut tried);
        if known.is_empty() {
            if !own {
                // The directory was deleted; one that stands there now has a keeper of its own.
                leave(&roots, &name, pid);
                return Ok(());
            }
            // While the daemon holds the gate it may have written a record already.
            if let Some(_gate) = lock_within(&folders.keeper_gate(), LOOK_EVERY)
                && (folders.refresh(&mut known).is_ok()
                    || matches!(folders.journal().try_exists(), Ok(false)))
                && known.is_empty()
            {
                let _ = std::fs::remove_file(folders.keeper_identity());
                leave(&roots, &name, pid);
                drop(lock);
                return Ok(());
            }
        }
        std::thread::sleep(until_next(&known));
    }
}

/// Reads the journal and only then says that a keeper is there: who waited for it has written a record, and may be
/// killed and lose the journal in the next moment.
fn appear(folders: &Folders, identity: &KeeperIdentity) -> anyhow::Result<Known> {
    let mut known = Known::default();
    // What cannot be read now is read again, as ever after.
    let _ = folders.refresh(&mut known);
    let beside = folders.keeper_identity().with_extension("tmp");
    std::fs::write(&beside, serde_json::to_vec(identity)?)?;
    std::fs::rename(&beside, folders.keeper_identity())?;
    Ok(known)
}

fn parse(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<(Folders, Roots, String)> {
    let (mut state_dir, mut name, mut roots) = (None, None, Roots::default());
    let mut words = args.into_iter();
    while let Some(flag) = words.next() {
        let value = words.next().context("a flag without a value")?;
        match flag.to_str() {
            Some("--state-dir") => state_dir = Some(PathBuf::from(value)),
            Some("--proc-root") => roots.proc = value.into(),
            Some("--cgroup-root") => roots.cgroup = value.into(),
            Some("--name") => name = Some(value.to_string_lossy().into_owned()),
            _ => anyhow::bail!(
                "usage: worker keeper --state-dir DIR --name NAME, started by the node daemon only"
            ),
        }
    }
    let state_dir = state_dir.context("--state-dir is missing")?;
    Ok((Folders::new(&state_dir), roots, name.context("--name is missing")?))
}

/// An undo that did not end well.
#[derive(Debug, Clone, Copy, Default)]
struct Tried {
    times: u32,
    /// Not again before this boottime.
    again_ms: u64,
}

/// Undoes what is due.
fn tend(folders: &Folders, system: &dyn System, known: &mut Known, tried: &mut BTreeMap<InjectionId, Tried>) {
    let daemon_lives = is_locked(&folders.daemon_lock());
    let grace_ms = if daemon_lives { GRACE_MS } else { 0 };
    let mut over = Vec::new();
    tried.retain(|id, _| known.get(id).is_some());
    for (id, record) in known.whole() {
        let (boottime_ms, wall_ms) = (clock::boottime_ms(), wall_ms());
        let passed = record
            .deadline
            .has_passed(boottime_ms.saturating_sub(grace_ms), wall_ms.saturating_sub_unsigned(grace_ms));
        if !passed || tried.get(id).is_some_and(|t| boottime_ms < t.again_ms) {
            continue;
        }
        let _lock = folders.lock_record(id);
        let orphan = !folders.has_record(id);
        if orphan && folders.is_ended(id) {
            over.push(id.clone());
            continue;
        }
        // What is left is tried again for as long as this lives. A record that is deleted ends nothing: its fault
        // is undone all the same, its end is written where that can be, and nobody waits for more.
        let clean = undo_record(system, record).is_ok();
        let written = clean && folders.end(&Ended { status: status_of(record), at_unix_ms: wall_ms }).is_ok();
        let times = tried.get(id).map_or(0, |t| t.times) + 1;
        if orphan && clean {
            over.push(id.clone());
        } else if !written {
            let wait_ms = if orphan && times >= ORPHAN_TRIES { ORPHAN_RETRY_MS } else { RETRY_MS };
            tried.insert(id.clone(), Tried { times, again_ms: boottime_ms + wait_ms });
        }
    }
    for id in over {
        known.drop_record(&id);
    }
}

fn status_of(record: &Record) -> InjectionStatus {
    InjectionStatus {
        id: record.injection.id.clone(),
        run: record.injection.run.clone(),
        phase: InjectionPhase::Reverted,
        reason: Some(EndReason::Deadline),
        message: "by the keeper".to_owned(),
        effect: None,
        backend: record.injection.backend.clone(),
        injected_at_unix_ms: record.injected_at_unix_ms,
        reverted_at_unix_ms: Some(wall_ms()),
        resolves_at_unix_ms: None,
    }
}

fn until_next(known: &Known) -> Duration {
    let now_ms = clock::boottime_ms();
    let due = known.whole().map(|(_, record)| record.deadline.boottime_ms.saturating_sub(now_ms));
    // A record that is due and could not be ended waits for its retry.
    let next = due.filter(|left| *left > 0).min().map(Duration::from_millis);
    next.unwrap_or(POLL).min(POLL)
}

fn wall_ms() -> i64 {
    i64::try_from(clock::wall_ms()).unwrap_or(i64::MAX)
}

/// Whether that open file is still the one at its place; where that cannot be seen, it is taken to be.
fn is_at(file: &File, path: &Path) -> bool {
    match (std::fs::metadata(path), file.metadata()) {
        (Ok(there), Ok(own)) => (there.dev(), there.ino()) == (own.dev(), own.ino()),
        (Err(error), _) => error.kind() != ErrorKind::NotFound,
        (Ok(_), Err(_)) => true,
    }
}

/// Takes the own cgroup away, as far as that goes: an empty one that stays does no harm.
fn leave(roots: &Roots, name: &str, pid: i32) {
    if let Ok(tops) = cgroup::hierarchies(roots) {
        for top in tops {
            let _ = cgroup::join(&[top], pid);
        }
    }
    let _ = cgroup::disown(roots, name);
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;
    use crate::journal::tests::{Stubborn, left_behind};
    use crate::system::fake::FakeSystem;
    use crate::system::target::ProcessRef;

    const ID: &str = "r1.a.0";

    /// What a keeper has read of a state directory that is no more, long after the deadline.
    fn orphaned() -> (FakeSystem, Folders, Known) {
        let folder = tempfile::tempdir().unwrap();
        let system = left_behind(folder.path(), ID);
        let (folders, mut known) = (Folders::new(folder.path()), Known::default());
        folders.refresh(&mut known).unwrap();
        drop(folder);
        assert!(folders.refresh(&mut known).is_err() && !known.is_empty());
        (system, folders, known)
    }

    #[test]
    fn a_keeper_is_there_only_once_it_has_read_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        left_behind(folder.path(), ID);
        let folders = Folders::new(folder.path());
        // A record whose reader waits for this test.
        let record = folders.journal().join(format!("{ID}.json"));
        let text = std::fs::read(&record).unwrap();
        std::fs::remove_file(&record).unwrap();
        nix::unistd::mkfifo(&record, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let process = ProcessRef { pid: 1, start_ticks: 1 };
        let identity = KeeperIdentity { process, inside_because: None };
        std::thread::scope(|scope| {
            let appearing = scope.spawn(|| appear(&folders, &identity).unwrap());
            // Opens once somebody has come to read.
            let mut pipe = loop {
                let open = File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&record);
                if let Ok(pipe) = open {
                    break pipe;
                }
                assert!(!appearing.is_finished(), "it is there and has read nothing");
                std::thread::yield_now();
            };
            let was_there = folders.keeper_identity().exists();
            pipe.write_all(&text).unwrap();
            drop(pipe);
            assert!(!appearing.join().unwrap().is_empty());
            assert!(!was_there && folders.keeper_identity().exists());
        });
    }

    #[test]
    fn what_was_read_is_undone_though_the_journal_is_gone() {
        let (system, folders, mut known) = orphaned();
        tend(&folders, &system, &mut known, &mut BTreeMap::new());
        assert_eq!(system.things(), 0);
        assert!(known.is_empty(), "and nothing keeps the keeper");
    }

    #[test]
    fn what_cannot_be_undone_without_a_journal_is_tried_ever_after_but_less_often() {
        let (system, folders, mut known) = orphaned();
        let (stubborn, mut tried) = (Stubborn(system), BTreeMap::new());
        tend(&folders, &stubborn, &mut known, &mut tried);
        let id: InjectionId = ID.parse().unwrap();
        let first = tried[&id];
        assert!(first.times == 1 && first.again_ms > clock::boottime_ms() && !known.is_empty());
        tried.insert(id.clone(), Tried { times: ORPHAN_TRIES - 1, again_ms: 0 });
        tend(&folders, &stubborn, &mut known, &mut tried);
        let slow = tried[&id];
        assert!(slow.times == ORPHAN_TRIES && !known.is_empty(), "nobody else could undo it");
        assert!(slow.again_ms > clock::boottime_ms() + ORPHAN_RETRY_MS - 60_000);
        tried.insert(id, Tried { again_ms: 0, ..slow });
        let without_its_target = FakeSystem::new();
        tend(&folders, &without_its_target, &mut known, &mut tried);
        assert!(known.is_empty());
    }
}
