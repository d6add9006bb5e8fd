//! Takes the lab down and says what is left, if anything. Works from fixed names
//! and an environment mark as well as from the record, so also after a crash in
//! the middle of `up`. Called by the binary and by the guard of the tests.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use super::cgroup;
use super::layout::{Folder, HUB_LINK, nodes};
use super::net;
use super::process::{self, Ledger, OWNER_VARIABLE, Process};
use super::wait::wait_for;

const ENDED: Duration = Duration::from_mins(1);

/// Stops and removes everything of the lab, then checks. Logs stay.
pub fn run(folder: &Folder) -> Result<()> {
    let namespaces = pod_namespaces();
    let hierarchies = cgroup::hierarchies();
    let mut cgroups: BTreeSet<PathBuf> = BTreeSet::new();
    wait_for("the end of all processes of the lab", ENDED, || {
        for path in nodes().flat_map(cgroup::folders) {
            cgroup::thaw(&path);
        }
        // The record first (kubelets must not restart what is killed below), then all else.
        let mut found = recorded(folder);
        found.extend(owned(folder));
        found.extend(nodes().flat_map(cgroup::folders).flat_map(|path| cgroup::processes(&path)));
        found.extend(dwellers(&namespaces));
        found.extend(mounted(folder));
        found.retain(Process::alive);
        for each in &found {
            cgroups.extend(cgroup::of(each));
            each.signal(Signal::SIGKILL)?;
        }
        if let Some(first) = found.first() {
            bail!("{} processes, such as {} ({})", found.len(), first.command_line(), first.pid);
        }
        Ok(())
    })?;
    unmount_below(folder.root())?;
    for node in nodes() {
        net::delete(node)?;
    }
    net::restore_host(folder)?;
    for path in nodes().flat_map(cgroup::folders) {
        cgroup::remove(&path)?;
    }
    cgroups.extend(cgroup::of_keepers());
    for path in cgroups {
        // A folder of a daemon's own (its keeper's, say) and its parents: the
        // kernel refuses those that anybody else is in.
        for folder in path.ancestors().take_while(|each| !hierarchies.contains(&each.to_path_buf())) {
            if fs::remove_dir(folder).is_err() && folder.exists() {
                break;
            }
        }
    }
    clear(folder)?;
    let left = leftovers(folder);
    if !left.is_empty() {
        bail!("left after taking the lab down:\n  {}", left.join("\n  "));
    }
    Ok(())
}

/// What of the lab is on the machine: processes, mounts, namespaces, links,
/// cgroups, files. Empty when it is down.
pub fn leftovers(folder: &Folder) -> Vec<String> {
    let mut left = Vec::new();
    for each in
        recorded(folder).into_iter().chain(owned(folder)).chain(mounted(folder)).filter(Process::alive)
    {
        left.push(format!("process {} {}", each.pid, each.command_line()));
    }
    left.extend(mounts_below(folder.root()).iter().map(|path| format!("mount {}", path.display())));
    for node in nodes() {
        if node.netns_path().exists() {
            left.push(format!("network namespace {}", node.netns));
        }
        if net::link_exists(node.veth) {
            left.push(format!("link {}", node.veth));
        }
        left.extend(cgroup::folders(node).iter().map(|path| format!("cgroup {}", path.display())));
    }
    if net::link_exists(HUB_LINK) {
        left.push(format!("link {HUB_LINK}"));
    }
    for entry in fs::read_dir(folder.root()).into_iter().flatten().flatten() {
        if entry.path() != folder.logs() && entry.path() != folder.lock() {
            left.push(format!("file {}", entry.path().display()));
        }
    }
    left
}

fn recorded(folder: &Folder) -> Vec<Process> {
    // An unreadable record is no reason to leave the rest running.
    Ledger::open(folder).map(|ledger| ledger.processes()).unwrap_or_default()
}

/// Processes that carry the lab's mark in their environment.
fn owned(folder: &Folder) -> Vec<Process> {
    let mark = format!("{OWNER_VARIABLE}={}", folder.root().display());
    let carries = |each: &Process| {
        let environment = fs::read(format!("/proc/{}/environ", each.pid)).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes())
    };
    process::all().into_iter().filter(carries).collect()
}

/// (kind of namespace, device, inode).
type Namespace = (&'static str, u64, u64);

/// The namespaces of nodes and pods, without the machine's own.
fn pod_namespaces() -> BTreeSet<Namespace> {
    let mut found: BTreeSet<Namespace> = nodes()
        .filter_map(|node| process::namespace(&node.netns_path()))
        .map(|(device, inode)| ("net", device, inode))
        .collect();
    for each in nodes().flat_map(cgroup::folders).flat_map(|path| cgroup::processes(&path)) {
        found.extend(namespaces_of(&format!("{}", each.pid)));
    }
    for own in ["self", "1"].into_iter().flat_map(namespaces_of) {
        found.remove(&own);
    }
    found
}

fn namespaces_of(pid: &str) -> Vec<Namespace> {
    let one =
        |kind| process::namespace(Path::new(&format!("/proc/{pid}/ns/{kind}"))).map(|(d, i)| (kind, d, i));
    ["net", "mnt"].into_iter().filter_map(one).collect()
}

/// Processes in one of those namespaces, whatever their cgroup: workers and
/// keepers that a daemon left behind.
fn dwellers(namespaces: &BTreeSet<Namespace>) -> Vec<Process> {
    let dwells =
        |each: &Process| namespaces_of(&each.pid.to_string()).iter().any(|one| namespaces.contains(one));
    process::all().into_iter().filter(dwells).collect()
}

/// Processes in a mount namespace of their own that holds something of a node:
/// what outlived its container, whose other namespaces are gone.
fn mounted(folder: &Folder) -> Vec<Process> {
    let own = process::namespace(Path::new("/proc/self/ns/mnt"));
    let name = folder.root().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let parts: Vec<String> = nodes().map(|node| format!("/{name}/{}/var-l", node.name)).collect();
    let holds = |each: &Process| {
        let base = format!("/proc/{}", each.pid);
        process::namespace(Path::new(&format!("{base}/ns/mnt"))) != own
            && fs::read_to_string(format!("{base}/mountinfo"))
                .is_ok_and(|mounts| parts.iter().any(|part| mounts.contains(part.as_str())))
    };
    process::all().into_iter().filter(holds).collect()
}

/// Mount points at or under `root`, deepest first.
fn mounts_below(root: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut found: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .filter(|path| path.starts_with(root))
        .collect();
    found.sort();
    found.reverse();
    found
}

fn unmount_below(root: &Path) -> Result<()> {
    for path in mounts_below(root) {
        umount2(&path, MntFlags::MNT_DETACH).with_context(|| format!("unmount {}", path.display()))?;
    }
    Ok(())
}

/// Removes all files but the logs and the lock.
fn clear(folder: &Folder) -> Result<()> {
    let entries = match fs::read_dir(folder.root()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("read the lab's folder"),
    };
    for entry in entries {
        let path = entry?.path();
        if path == folder.logs() || path == folder.lock() {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}
