//! Who a fault is aimed at, in a form that survives a restart of the daemon and is never confused with a
//! later holder of the same number: a namespace by its cookie, a process by its start time, a cgroup by
//! its directories. Made by [`identify`], checked again by every call of the door.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, netns};

/// Where this daemon sees the node's own file systems; a pod mounts the node's under other paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// A proc of the node's PID namespace, `/proc` by default. The daemon must stand in that PID namespace
    /// itself (`hostPID`), since it sends signals and starts workers.
    pub proc: PathBuf,
    /// The node's cgroup mount point, `/sys/fs/cgroup` by default.
    pub cgroup: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), cgroup: "/sys/fs/cgroup".into() }
    }
}

/// A network namespace: where to enter it, and the cookie that says it is still the same one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetnsRef {
    /// `<proc>/<pid>/ns/net` or a bind mount. Opened only while acting, never held.
    pub path: PathBuf,
    /// `SO_NETNS_COOKIE` of a socket made inside; unique within one boot.
    pub cookie: u64,
}

/// A process: its id and when it started, which together are unique within one boot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRef {
    /// Process id as seen in the configured proc.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`, in clock ticks since boot.
    pub start_ticks: u64,
}

/// The cgroup directories of one process, full paths under the configured root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CgroupRef {
    /// v1: one entry per controller (`freezer`, `cpu`, `cpuacct`, ...). v2: one entry named `unified`.
    pub directories: BTreeMap<String, PathBuf>,
}

/// Everything a fault needs to know about one process of a target (normally a container's init).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The process.
    pub process: ProcessRef,
    /// Its network namespace.
    pub netns: NetnsRef,
    /// Its cgroups.
    pub cgroup: CgroupRef,
}

/// Reads who `pid` is now.
pub fn identify(roots: &Roots, pid: i32) -> Result<Target, Error> {
    let process = ProcessRef { pid, start_ticks: start_ticks(roots, pid)? };
    let path = roots.proc.join(pid.to_string()).join("ns/net");
    let netns = NetnsRef { cookie: netns::cookie(&path)?, path };
    let cgroup = cgroup_of(roots, pid)?;
    check_process(roots, &process)?;
    Ok(Target { process, netns, cgroup })
}

/// Fails with [`Error::TargetGone`] unless that very process still runs (a zombie does not).
pub fn check_process(roots: &Roots, process: &ProcessRef) -> Result<(), Error> {
    if start_ticks(roots, process.pid)? == process.start_ticks {
        return Ok(());
    }
    Err(Error::gone(format!("process {} (its number now names another)", process.pid)))
}

pub(crate) fn start_ticks(roots: &Roots, pid: i32) -> Result<u64, Error> {
    let text = read_proc(roots, pid, "stat")?;
    // The command may hold spaces and parentheses: fields are counted after its last parenthesis.
    let mut fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    let state = fields.next().unwrap_or_default();
    if matches!(state, "Z" | "X") {
        return Err(Error::gone(format!("process {pid} has exited")));
    }
    fields
        .nth(18)
        .and_then(|ticks| ticks.parse().ok())
        .ok_or_else(|| Error::Invalid { what: format!("no start time in stat of process {pid}") })
}

/// The cgroup directories of `pid`.
pub fn cgroup_of(roots: &Roots, pid: i32) -> Result<CgroupRef, Error> {
    let text = read_proc(roots, pid, "cgroup")?;
    let mut directories = BTreeMap::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if path.starts_with("/..") {
            return Err(Error::Invalid {
                what: format!("cgroup of process {pid} lies outside this daemon's cgroup namespace ({path})"),
            });
        }
        for (name, mount) in mounts_of(roots, controllers) {
            let directory = mount.join(path.trim_start_matches('/'));
            if directory.is_dir() {
                directories.insert(name, directory);
            }
        }
    }
    Ok(CgroupRef { directories })
}

/// The pairs of controller name and mount point that one line of `/proc/<pid>/cgroup` stands for.
fn mounts_of(roots: &Roots, controllers: &str) -> Vec<(String, PathBuf)> {
    if controllers.is_empty() {
        let nested = roots.cgroup.join("unified");
        let mount = if nested.is_dir() { nested } else { roots.cgroup.clone() };
        return vec![("unified".to_owned(), mount)];
    }
    if let Some(name) = controllers.strip_prefix("name=") {
        return vec![(name.to_owned(), roots.cgroup.join(name))];
    }
    let joint = roots.cgroup.join(controllers);
    let one = |name: &str| {
        if joint.is_dir() { joint.clone() } else { roots.cgroup.join(name) }
    };
    controllers.split(',').map(|name| (name.to_owned(), one(name))).collect()
}

fn read_proc(roots: &Roots, pid: i32, file: &str) -> Result<String, Error> {
    let path = roots.proc.join(pid.to_string()).join(file);
    std::fs::read_to_string(&path).map_err(|error| gone_or_refused(&path, error))
}

/// Tells a thing that does not exist (any more) from one that may not be touched.
pub(crate) fn gone_or_refused(path: &Path, error: std::io::Error) -> Error {
    let gone = matches!(error.kind(), ErrorKind::NotFound) || error.raw_os_error() == Some(libc::ESRCH);
    if gone || error.raw_os_error() == Some(libc::ENODEV) {
        return Error::gone(path.display().to_string());
    }
    Error::refused(format!("open {}", path.display()), error)
}

#[cfg(test)]
mod tests;
