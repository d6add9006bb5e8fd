//! Control groups, v1 and v2, by their files: the freezer, joining a target's group, its processor time,
//! and a group of our own outside every pod for the keeper.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Error;
use super::target::{CgroupRef, Roots, gone_or_refused};

/// Longest wait until every process of a group has stopped.
const FREEZE_WITHIN: Duration = Duration::from_secs(10);
/// So many looks at a v1 group that stays FREEZING, then a short thaw.
const LOOKS_UNTIL_THAW: u32 = 50;
/// How often a state that the kernel does not announce is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Names of v1 hierarchies in which a stress worker joins its target.
const CPU_CONTROLLERS: [&str; 2] = ["cpu", "cpuacct"];
const UNIFIED: &str = "unified";

/// What the freezer says of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezerState {
    /// Its processes run.
    Thawed,
    /// Asked to stop; some processes still run.
    Freezing,
    /// All have stopped.
    Frozen,
}

impl CgroupRef {
    fn v1_freezer(&self) -> Option<&PathBuf> {
        self.directories.get("freezer")
    }

    fn freezer_directory(&self) -> Result<&PathBuf, Error> {
        let directory = self.v1_freezer().or_else(|| self.directories.get(UNIFIED));
        directory.ok_or_else(|| Error::Missing {
            capability: "cgroup-freezer",
            detail: "the target is in no freezer and no unified group".to_owned(),
        })
    }

    /// The directory whose freezer is used; empty when there is none.
    pub fn freezer_path(&self) -> PathBuf {
        self.freezer_directory().cloned().unwrap_or_default()
    }

    /// What a person would run to thaw the group.
    pub fn thaw_command(&self) -> String {
        match self.v1_freezer() {
            Some(directory) => format!("echo THAWED > {}/freezer.state", directory.display()),
            None => format!("echo 0 > {}/cgroup.freeze", self.freezer_path().display()),
        }
    }

    /// The directories a stress worker joins so that its processor time is the target's.
    pub fn cpu_directories(&self) -> Vec<PathBuf> {
        let v1: Vec<PathBuf> =
            CPU_CONTROLLERS.iter().filter_map(|name| self.directories.get(*name).cloned()).collect();
        if v1.is_empty() { self.directories.get(UNIFIED).cloned().into_iter().collect() } else { v1 }
    }
}

/// Freezes and waits until frozen; on failure the group is thawed again. A root group is refused.
pub fn freeze(roots: &Roots, cgroup: &CgroupRef) -> Result<(), Error> {
    let directory = cgroup.freezer_directory()?;
    if hierarchies(roots)?.contains(directory) {
        return Err(Error::Invalid { what: format!("{} is no container's group", directory.display()) });
    }
    write_state(cgroup, true)?;
    let started = Instant::now();
    let mut looks = 0u32;
    while read_freezer(cgroup)? != Some(FreezerState::Frozen) {
        if started.elapsed() > FREEZE_WITHIN {
            write_state(cgroup, false)?;
            let after_ms = FREEZE_WITHIN.as_millis() as u64;
            return Err(Error::TimedOut { what: format!("freezing {}", directory.display()), after_ms });
        }
        looks += 1;
        if cgroup.v1_freezer().is_some() {
            // A member that cannot be frozen just now leaves a v1 group FREEZING for good: the kernel's own text
            // says to ask again, and a short thaw now and then lets such a member move on.
            if looks.is_multiple_of(LOOKS_UNTIL_THAW) {
                write_state(cgroup, false)?;
                std::thread::sleep(LOOK_EVERY);
            }
            write_state(cgroup, true)?;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

/// Thaws and waits until thawed; a group that is gone is success.
pub fn thaw(cgroup: &CgroupRef) -> Result<(), Error> {
    let started = Instant::now();
    loop {
        match write_state(cgroup, false) {
            Err(error) if error.is_target_gone() => return Ok(()),
            other => other?,
        }
        if matches!(read_freezer(cgroup)?, None | Some(FreezerState::Thawed)) {
            return Ok(());
        }
        if started.elapsed() > FREEZE_WITHIN {
            let after_ms = FREEZE_WITHIN.as_millis() as u64;
            let what = format!("thawing {}", cgroup.freezer_path().display());
            return Err(Error::TimedOut { what, after_ms });
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The freezer's state, or `None` when the group is gone.
pub fn read_freezer(cgroup: &CgroupRef) -> Result<Option<FreezerState>, Error> {
    let directory = cgroup.freezer_directory()?;
    let state = if cgroup.v1_freezer().is_some() {
        read(&directory.join("freezer.state")).map(|text| match text.trim() {
            "FROZEN" => FreezerState::Frozen,
            "FREEZING" => FreezerState::Freezing,
            _ => FreezerState::Thawed,
        })
    } else {
        read_v2(directory)
    };
    match state {
        Err(error) if error.is_target_gone() => Ok(None),
        other => other.map(Some),
    }
}

fn read_v2(directory: &Path) -> Result<FreezerState, Error> {
    if read(&directory.join("cgroup.events"))?.lines().any(|line| line == "frozen 1") {
        return Ok(FreezerState::Frozen);
    }
    let asked = read(&directory.join("cgroup.freeze"))?.trim() == "1";
    Ok(if asked { FreezerState::Freezing } else { FreezerState::Thawed })
}

fn write_state(cgroup: &CgroupRef, frozen: bool) -> Result<(), Error> {
    let directory = cgroup.freezer_directory()?;
    if cgroup.v1_freezer().is_some() {
        return write(&directory.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" });
    }
    write(&directory.join("cgroup.freeze"), if frozen { "1" } else { "0" })
}

/// Processor time the group has used, in microseconds; `None` when nothing counts it.
pub fn cpu_usage_us(cgroup: &CgroupRef) -> Result<Option<u64>, Error> {
    if let Some(directory) = cgroup.directories.get("cpuacct") {
        let nanos = read(&directory.join("cpuacct.usage"))?.trim().parse::<u64>().ok();
        return Ok(nanos.map(|nanos| nanos / 1000));
    }
    let Some(directory) = cgroup.directories.get(UNIFIED) else {
        return Ok(None);
    };
    let text = read(&directory.join("cpu.stat"))?;
    let value = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(value.and_then(|value| value.trim().parse().ok()))
}

/// Moves a process (0: the caller) into each directory.
pub fn join(directories: &[PathBuf], pid: i32) -> Result<(), Error> {
    directories.iter().try_for_each(|directory| write(&directory.join("cgroup.procs"), &pid.to_string()))
}

/// Puts a process into a group of that name directly under the top of **every** hierarchy, so that no
/// removal of a pod's groups reaches it.
pub fn own(roots: &Roots, name: &str, pid: i32) -> Result<(), Error> {
    join(&make(roots, name)?, pid)
}

/// Makes a group of that name under the top of every hierarchy; returns their directories.
pub(crate) fn make(roots: &Roots, name: &str) -> Result<Vec<PathBuf>, Error> {
    let mut directories = Vec::new();
    for top in hierarchies(roots)? {
        let directory = top.join(name);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(Error::refused(format!("make {}", directory.display()), error));
            }
            _ => {}
        }
        inherit_cpuset(&top, &directory)?;
        directories.push(directory);
    }
    Ok(directories)
}

/// Removes that group from every hierarchy where it is empty; returns where processes remain.
pub fn disown(roots: &Roots, name: &str) -> Result<Vec<PathBuf>, Error> {
    let mut busy = Vec::new();
    for top in hierarchies(roots)? {
        let directory = top.join(name);
        match fs::remove_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::ResourceBusy => busy.push(directory),
            Err(error) => return Err(Error::refused(format!("remove {}", directory.display()), error)),
            Ok(()) => {}
        }
    }
    Ok(busy)
}

/// The top directory of every mounted hierarchy.
pub fn hierarchies(roots: &Roots) -> Result<Vec<PathBuf>, Error> {
    if roots.cgroup.join("cgroup.controllers").is_file() {
        return Ok(vec![roots.cgroup.clone()]);
    }
    let entries = fs::read_dir(&roots.cgroup).map_err(|error| gone_or_refused(&roots.cgroup, error))?;
    let mut tops: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").is_file())
        .collect();
    tops.sort();
    Ok(tops)
}

/// Makes a group, looks for its freezer, removes it again; returns which version was found.
pub(crate) fn try_freezer(roots: &Roots, name: &str) -> Result<&'static str, Error> {
    let v1 = roots.cgroup.join("freezer");
    let (top, file, version) = if v1.is_dir() {
        (v1, "freezer.state", "cgroup v1")
    } else {
        (roots.cgroup.clone(), "cgroup.freeze", "cgroup v2")
    };
    let directory = top.join(name);
    fs::create_dir(&directory)
        .map_err(|error| Error::refused(format!("make {}", directory.display()), error))?;
    let found = directory.join(file).is_file();
    fs::remove_dir(&directory)
        .map_err(|error| Error::refused(format!("remove {}", directory.display()), error))?;
    let missing =
        || Error::Missing { capability: "cgroup-freezer", detail: format!("no {file} in {}", top.display()) };
    found.then_some(version).ok_or_else(missing)
}

/// A new v1 cpuset group takes no process before it has processors and memory nodes.
fn inherit_cpuset(top: &Path, directory: &Path) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = directory.join(file);
        if own.is_file() && read(&own)?.trim().is_empty() && top.join(file).is_file() {
            write(&own, read(&top.join(file))?.trim())?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|error| gone_or_refused(path, error))
}

fn write(path: &Path, value: &str) -> Result<(), Error> {
    // Not `fs::write`: these files exist already and must never be created.
    let result = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    result.map_err(|error| gone_or_refused(path, error))
}
