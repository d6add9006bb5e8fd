//! The cgroup folders of the nodes, on cgroup v1 (every hierarchy) and v2: made
//! before a kubelet starts, emptied and removed when the lab goes down.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::layout::NodePlan;
use super::process::Process;
use super::wait::wait_for;

const ROOT: &str = "/sys/fs/cgroup";
/// As the node daemon names the cgroups of its keepers.
const KEEPER_PREFIX: &str = "faultline-keeper-";

/// Every mounted hierarchy: each v1 controller and cgroup2.
pub fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            (kind.starts_with("cgroup") && path.starts_with(ROOT)).then(|| PathBuf::from(path))
        })
        .collect()
}

/// Makes the node's folder in every hierarchy; a v1 cpuset gets its parent's
/// CPUs and memory nodes, a v2 one all controllers.
pub fn create(node: &NodePlan) -> Result<()> {
    for hierarchy in hierarchies() {
        let folder = hierarchy.join(node.netns);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let parent = hierarchy.join(file);
            if parent.exists() && !hierarchy.join("cgroup.controllers").exists() {
                fs::write(folder.join(file), fs::read_to_string(parent)?.trim())?;
            }
        }
        if let Ok(controllers) = fs::read_to_string(hierarchy.join("cgroup.controllers")) {
            let all: Vec<String> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
            fs::write(hierarchy.join("cgroup.subtree_control"), all.join(" "))?;
        }
    }
    Ok(())
}

/// The folders of one node that exist now.
pub fn folders(node: &NodePlan) -> Vec<PathBuf> {
    hierarchies().into_iter().map(|root| root.join(node.netns)).filter(|path| path.exists()).collect()
}

/// The processes in `folder` and all below it.
pub fn processes(folder: &Path) -> Vec<Process> {
    let mut found = Vec::new();
    for each in below(folder) {
        let text = fs::read_to_string(each.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| Process::find("pod process", line.parse().ok()?)));
    }
    found
}

/// Lets frozen processes run again, or a SIGKILL would never reach them.
pub fn thaw(folder: &Path) {
    for each in below(folder) {
        for (file, value) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
            let file = each.join(file);
            if file.exists() {
                // A folder that vanishes in between needs no thawing.
                drop(fs::write(file, value));
            }
        }
    }
}

/// Removes `folder` and all below it once the kernel has let go of them.
pub fn remove(folder: &Path) -> Result<()> {
    wait_for(&format!("{} to be empty", folder.display()), Duration::from_secs(30), || {
        for each in below(folder).into_iter().rev() {
            match fs::remove_dir(&each) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => bail!("{}: {error}", each.display()),
            }
        }
        Ok(())
    })
}

/// The cgroup folders that hold `process`, but not the hierarchies' roots.
pub fn of(process: &Process) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap_or_default();
    let mut found = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let relative = path.trim_start_matches('/');
        if relative.is_empty() || relative.starts_with("..") {
            continue;
        }
        let name = controllers.trim_start_matches("name=");
        for root in [Path::new(ROOT).join(name), Path::new(ROOT).join("unified"), PathBuf::from(ROOT)] {
            let folder = root.join(relative);
            if folder.join("cgroup.procs").exists() {
                found.push(folder);
            }
        }
    }
    found
}

/// The folders of keepers, at the top of every hierarchy. One that was killed with its whole machine, as a container is,
/// leaves its own behind.
pub fn of_keepers() -> Vec<PathBuf> {
    let entries = hierarchies().into_iter().filter_map(|top| fs::read_dir(top).ok()).flatten().flatten();
    let is_keepers = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(KEEPER_PREFIX);
    entries.filter(is_keepers).map(|entry| entry.path()).collect()
}

/// `folder` and all folders below it, parents first.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    let mut next = 0;
    while next < found.len() {
        if let Ok(entries) = fs::read_dir(&found[next]) {
            let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            found.extend(folders.map(|entry| entry.path()));
        }
        next += 1;
    }
    found
}
