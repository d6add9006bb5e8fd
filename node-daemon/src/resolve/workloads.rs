//! Declared workloads, for host mode: a file says which processes are the targets of a machine without
//! Kubernetes. Read again for every question, so that an edit counts at once.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use proto::injection::TargetRef;
use proto::workloads::{Workload, WorkloadsFile};

use super::{ContainerIdentity, Found, Identity, Resolve, devices, is_own, unfit};
use crate::engine::Unfit;
use crate::system::netns;
use crate::system::target::{NetnsRef, Roots, Target, identify};

/// Reads the file; the error says what is wrong with it.
pub(crate) fn read(path: &Path) -> Result<WorkloadsFile, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    WorkloadsFile::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Looks into the file.
#[derive(Debug)]
pub struct Workloads {
    /// The file.
    pub path: PathBuf,
    /// Where the machine's file systems are.
    pub roots: Roots,
}

#[async_trait]
impl Resolve for Workloads {
    async fn resolve(&self, target: &TargetRef, _container: Option<&str>) -> Result<Found, Unfit> {
        let (path, roots, target) = (self.path.clone(), self.roots.clone(), target.clone());
        let found = tokio::task::spawn_blocking(move || {
            let file = read(&path).map_err(Unfit::Refused)?;
            let is_meant = |one: &&Workload| Workload::uid(&one.namespace, &one.name) == target.uid;
            let workload = file.workloads.iter().find(is_meant).ok_or_else(|| {
                Unfit::TargetGone(format!(
                    "workload {}/{} is not declared here",
                    target.namespace, target.pod
                ))
            })?;
            found(&roots, workload, &target.uid)
        });
        found.await.unwrap_or_else(|error| Err(Unfit::Refused(format!("look at the workload: {error}"))))
    }
}

fn found(roots: &Roots, workload: &Workload, uid: &str) -> Result<Found, Unfit> {
    let pid = match (&workload.pid, &workload.cgroup) {
        (Some(pid), _) => Some(*pid),
        (None, Some(cgroup)) => Some(first_process(cgroup)?),
        (None, None) => None,
    };
    let process: Option<Target> =
        pid.map(|pid| identify(roots, pid)).transpose().map_err(|error| unfit(&error))?;
    let netns = match (&workload.netns, &process) {
        (Some(path), _) => {
            NetnsRef { cookie: netns::cookie(path).map_err(|error| unfit(&error))?, path: path.clone() }
        }
        (None, Some(process)) => process.netns.clone(),
        (None, None) => {
            let why = format!("workload {} declares none of netns, pid and cgroup", workload.name);
            return Err(Unfit::Refused(why));
        }
    };
    let container = process.map(|process| ContainerIdentity::new(workload.name.clone(), &process));
    Ok(Found {
        devices: devices(&netns)?,
        is_host_network: is_own(roots, &netns),
        identity: Identity { sandbox: uid.to_owned(), netns, container },
    })
}

fn first_process(cgroup: &Path) -> Result<i32, Unfit> {
    let path = cgroup.join("cgroup.procs");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Unfit::TargetGone(format!("{}: {error}", path.display())))?;
    text.lines()
        .find_map(|line| line.parse().ok())
        .ok_or_else(|| Unfit::TargetGone(format!("no process in {}", cgroup.display())))
}
