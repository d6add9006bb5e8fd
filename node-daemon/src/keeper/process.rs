//! Inside the keeper's own process. It talks to nobody: the journal is all it reads and all it writes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
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
use crate::system::{System, cgroup, clock};

/// How often the journal is looked at.
const POLL: Duration = Duration::from_millis(200);
/// A daemon that lives gets so much longer than the deadline to undo by itself.
const GRACE_MS: u64 = 300;
/// Wait before an undo that left something is tried again.
const RETRY_MS: u64 = 5_000;
const LOCK_WITHIN: Duration = Duration::from_secs(2);

/// Runs until the journal holds nothing any more. `args` are the words after `keeper`. Call it before any
/// other thread is started.
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
        Err(error) => Some(format!("no cgroup outside the daemon's: {}", crate::resolve::spoken(&error))),
    };
    let identity = KeeperIdentity { process: identify(&roots, pid)?.process, inside_because };
    let beside = folders.keeper_identity().with_extension("tmp");
    std::fs::write(&beside, serde_json::to_vec(&identity)?)?;
    std::fs::rename(&beside, folders.keeper_identity())?;

    let system = KernelSystem::new(roots.clone());
    let mut known = Known::default();
    let mut retry_at_ms = BTreeMap::new();
    loop {
        // A journal that cannot be listed now is looked at again; what is known of it is kept.
        let _ = folders.refresh(&mut known);
        tend(&folders, &system, &known, &mut retry_at_ms);
        if known.is_empty() {
            // While the daemon holds the gate it may have written a record already.
            if let Some(_gate) = lock_within(&folders.keeper_gate(), LOOK_EVERY)
                && folders.refresh(&mut known).is_ok()
                && known.is_empty()
            {
                leave(&folders, &roots, &name, pid);
                drop(lock);
                return Ok(());
            }
        }
        std::thread::sleep(until_next(&known));
    }
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

/// Undoes what is due.
fn tend(folders: &Folders, system: &dyn System, known: &Known, retry_at_ms: &mut BTreeMap<InjectionId, u64>) {
    let daemon_lives = is_locked(&folders.daemon_lock());
    let grace_ms = if daemon_lives { GRACE_MS } else { 0 };
    retry_at_ms.retain(|id, _| known.get(id).is_some());
    for (id, record) in known.whole() {
        let (boottime_ms, wall_ms) = (clock::boottime_ms(), wall_ms());
        let passed = record
            .deadline
            .has_passed(boottime_ms.saturating_sub(grace_ms), wall_ms.saturating_sub_unsigned(grace_ms));
        if !passed || retry_at_ms.get(id).is_some_and(|at| boottime_ms < *at) {
            continue;
        }
        let _lock = folders.lock_record(id);
        if !folders.has_record(id) {
            continue;
        }
        // What is left is tried again for as long as this lives.
        let clean = undo_record(system, record).is_ok();
        if !clean || folders.end(&Ended { status: status_of(record), at_unix_ms: wall_ms }).is_err() {
            retry_at_ms.insert(id.clone(), boottime_ms + RETRY_MS);
        }
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

/// Takes the own cgroup away, as far as that goes: an empty one that stays does no harm.
fn leave(folders: &Folders, roots: &Roots, name: &str, pid: i32) {
    let _ = std::fs::remove_file(folders.keeper_identity());
    if let Ok(tops) = cgroup::hierarchies(roots) {
        for top in tops {
            let _ = cgroup::join(&[top], pid);
        }
    }
    let _ = cgroup::disown(roots, name);
}
