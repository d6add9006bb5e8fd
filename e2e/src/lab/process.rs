//! Long-lived processes of the lab: started with a log and a record on disk,
//! recognised later by pid and start time, so that a recycled pid is never
//! signalled. Called by the modules that start parts and by the tear-down.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::layout::Folder;
use super::wait::{Hopeless, wait_for};

/// Set for every process of the lab to the lab's folder; shims inherit it, so a
/// crashed run's processes are found without a record.
pub const OWNER_VARIABLE: &str = "FAULTLINE_LAB_OWNER";

/// One process, alive or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Unique name, also the log's name.
    pub name: String,
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
}

impl Process {
    /// The process that has `pid` now.
    pub fn find(name: &str, pid: i32) -> Option<Self> {
        let start_ticks = stat(pid)?.start_ticks;
        Some(Self { name: name.to_owned(), pid, start_ticks })
    }

    /// True while this very process runs; an unreaped one does not count, unless
    /// other threads of it still exit and hold its sockets.
    pub fn alive(&self) -> bool {
        let this = || stat(self.pid).filter(|now| now.start_ticks == self.start_ticks);
        // Not another one that has its pid by now: whoever started that wants to reap it.
        if this().is_some() {
            // Reaps it if it is ours; for a stranger's child this is refused, which is fine.
            let _ = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
        }
        this().is_some_and(|now| !matches!(now.state, 'Z' | 'X') || now.threads > 1)
    }

    /// Sends `signal` if this very process is alive. Gives false when it was not.
    pub fn signal(&self, signal: Signal) -> Result<bool> {
        if !self.alive() {
            return Ok(false);
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(error) => {
                Err(error).with_context(|| format!("send {signal} to {} ({})", self.name, self.pid))
            }
        }
    }

    /// SIGKILL, and waits up to 30 s for the end.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        wait_for(&format!("the end of {} ({})", self.name, self.pid), Duration::from_secs(30), || {
            if self.alive() {
                bail!("still there");
            }
            Ok(())
        })
    }

    /// Its arguments joined by spaces; empty when it is gone.
    pub fn command_line(&self) -> String {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned()
    }

    /// Its network namespace, to measure from.
    pub fn netns_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid))
    }

    /// Resident memory in KiB; 0 when it is gone.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse().ok())
            .unwrap_or(0)
    }
}

/// Part of /proc/PID/stat (proc(5)).
struct Stat {
    state: char,
    threads: u64,
    start_ticks: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold spaces and parentheses itself.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse().ok();
    Some(Stat { state: fields.first()?.chars().next()?, threads: number(17)?, start_ticks: number(19)? })
}

/// All processes of the machine (one pid namespace holds the whole lab).
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            Process::find(name.trim_end(), pid)
        })
        .collect()
}

/// The namespace of `kind` ("net", "mnt") that the path under /proc or
/// /run/netns names, as (device, inode).
pub fn namespace(path: &Path) -> Option<(u64, u64)> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// The record of what was started, on disk before anything else happens.
#[derive(Debug)]
pub struct Ledger {
    folder: Folder,
    processes: Mutex<Vec<Process>>,
}

impl Ledger {
    /// Reads the record; none is an empty one.
    pub fn open(folder: &Folder) -> Result<Self> {
        let processes = match fs::read(folder.record()) {
            Ok(bytes) => serde_json::from_slice(&bytes).context("read the record of processes")?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).context("read the record of processes"),
        };
        Ok(Self { folder: folder.clone(), processes: Mutex::new(processes) })
    }

    /// Everything recorded, in order of start.
    pub fn processes(&self) -> Vec<Process> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The recorded process of that name.
    pub fn process(&self, name: &str) -> Option<Process> {
        self.processes().into_iter().find(|process| process.name == name)
    }

    /// Starts `command` in a session of its own with its output in the log of
    /// `name`, and records it. An older one of that name must be dead.
    pub fn start(&self, name: &str, command: &Command) -> Result<Process> {
        if self.process(name).is_some_and(|old| old.alive()) {
            bail!("{name} is already running");
        }
        let path = self.folder.log(name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        // setsid and nsenter replace themselves, so the pid stays.
        let mut session = Command::new("setsid");
        session.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => session.env(key, value),
                None => session.env_remove(key),
            };
        }
        let child = session
            .env(OWNER_VARIABLE, self.folder.root())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let pid = i32::try_from(child.id())?;
        let process = Process::find(name, pid).with_context(|| format!("{name} ended at once"))?;
        self.record(&process)?;
        Ok(process)
    }

    fn record(&self, process: &Process) -> Result<()> {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes.retain(|old| old.name != process.name);
        processes.push(process.clone());
        let path = self.folder.record();
        let next = path.with_extension("next");
        File::create(&next)?.write_all(&serde_json::to_vec_pretty(&*processes)?)?;
        fs::rename(&next, &path).context("write the record of processes")
    }

    /// A [`Hopeless`] error with the log's tail when `process` is dead.
    pub fn must_live(&self, process: &Process) -> Result<()> {
        if process.alive() {
            return Ok(());
        }
        let tail = tail(&self.folder.log(&process.name), 20);
        Err(Hopeless(format!("{} died; its log ends:\n{tail}", process.name)).into())
    }
}

/// The last `lines` of a log, at most its last 32 KiB.
pub fn tail(path: &Path, lines: usize) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(32 * 1024)))?;
        file.read_to_end(&mut bytes)
    });
    if let Err(error) = read {
        return format!("({}: {error})", path.display());
    }
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_child_is_not_alive_and_a_recycled_pid_is_not_it() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::find("sleep", i32::try_from(child.id()).unwrap()).unwrap();
        assert!(process.alive());
        let other = Process { start_ticks: process.start_ticks + 1, ..process.clone() };
        assert!(!other.alive());
        assert!(!other.signal(Signal::SIGKILL).unwrap());
        assert!(process.alive());
        process.kill().unwrap();
        assert!(!process.alive());
        drop(child.wait());
    }

    #[test]
    fn looking_for_a_process_does_not_reap_the_one_that_has_its_pid_now() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::find("sleep", i32::try_from(child.id()).unwrap()).unwrap();
        let other = Process { start_ticks: process.start_ticks + 1, ..process.clone() };
        child.kill().unwrap();
        let died = || stat(process.pid).filter(|now| now.state == 'Z').context("it lives");
        wait_for("its death", Duration::from_mins(1), died).unwrap();
        assert!(!other.alive());
        assert!(!child.wait().unwrap().success(), "its end is still there to be asked for");
    }
}
