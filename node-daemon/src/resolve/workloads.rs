//! Declared workloads, for host mode: a file says which processes are the targets of a machine without
//! Kubernetes. Read again for every question, so that an edit counts at once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use data_encoding::HEXLOWER;
use proto::injection::TargetRef;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ContainerIdentity, Found, Identity, Resolve, devices, is_own, unfit};
use crate::engine::Unfit;
use crate::system::netns;
use crate::system::target::{NetnsRef, Roots, Target, identify};

const UID_CHARS: usize = 32;

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadsFile {
    /// All of them.
    pub workloads: Vec<Workload>,
}

/// One target: by a network namespace, a process, or a cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Workload {
    /// Unique within its namespace.
    pub name: String,
    /// A namespace as in Kubernetes; grants and ceilings name it.
    pub namespace: String,
    /// For selectors.
    pub labels: BTreeMap<String, String>,
    /// Path of its network namespace, for example `/run/netns/x`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// Its first process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// A cgroup directory; its first process stands for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

impl Workload {
    /// The uid that stands for a pod's: the same for the same namespace and name.
    pub fn uid(namespace: &str, name: &str) -> String {
        let mut hex = HEXLOWER.encode(&Sha256::digest(format!("{namespace}/{name}").as_bytes()));
        hex.truncate(UID_CHARS);
        hex
    }
}

impl WorkloadsFile {
    /// Reads the file; the error says what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text =
            std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
        serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }
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
            let file = WorkloadsFile::read(&path).map_err(Unfit::Refused)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_strictly_and_a_uid_is_stable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("workloads.yaml");
        let text =
            "workloads:\n  - { name: web, namespace: shop, labels: { app: web }, pid: 7, ips: [10.0.0.1] }\n";
        std::fs::write(&path, text).unwrap();
        let file = WorkloadsFile::read(&path).unwrap();
        assert_eq!(file.workloads[0].pid, Some(7));
        assert_eq!(Workload::uid("shop", "web").len(), UID_CHARS);
        assert_eq!(Workload::uid("shop", "web"), Workload::uid("shop", "web"));
        assert_ne!(Workload::uid("shop", "web"), Workload::uid("web", "shop"));
        std::fs::write(&path, "workloads:\n  - { name: web, namespace: shop, pidd: 7 }\n").unwrap();
        assert!(WorkloadsFile::read(&path).unwrap_err().contains("pidd"));
    }
}
