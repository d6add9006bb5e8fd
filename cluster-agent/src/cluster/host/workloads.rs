//! The workloads file: what stands for pods on a machine without Kubernetes. The node daemon reads the same file
//! to find the namespaces and cgroups; here only what a selection needs is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use proto::hash::sha256_hex;
use proto::plan::Owner;
use serde::{Deserialize, Serialize};

use super::is_name;
use crate::cluster::{DECLARED, PodSeen};

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
    /// A namespace as in Kubernetes; grants and Ceilings name it.
    pub namespace: String,
    /// For selectors.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Path of its network namespace, for example `/run/netns/x`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// Its first process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// A cgroup directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// Its addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
}

/// The uid that stands for a pod's: the first 32 hexadecimal digits of SHA-256 of `namespace/name`.
pub fn workload_uid(namespace: &str, name: &str) -> String {
    let mut hex = sha256_hex(format!("{namespace}/{name}").as_bytes());
    hex.truncate(32);
    hex
}

impl WorkloadsFile {
    /// Reads the file; no file is no workloads.
    pub(super) async fn read(path: &Path) -> Result<Self, String> {
        let text = match tokio::fs::read_to_string(path).await {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(format!("read {}: {error}", path.display())),
        };
        let file: Self = serde_saphyr::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut names = BTreeSet::new();
        for workload in &file.workloads {
            if !is_name(&workload.name) || !is_name(&workload.namespace) {
                return Err(format!(
                    "workload {:?}/{:?} has no valid name",
                    workload.namespace, workload.name
                ));
            }
            if !names.insert((&workload.namespace, &workload.name)) {
                return Err(format!("workload {}/{} is declared twice", workload.namespace, workload.name));
            }
        }
        Ok(file)
    }
}

impl Workload {
    /// As a running pod of one container that bears its name.
    pub(super) fn seen(&self, node: &str) -> PodSeen {
        let uid = workload_uid(&self.namespace, &self.name);
        PodSeen {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: uid.clone(),
            node: node.to_owned(),
            ips: self.ips.clone(),
            labels: self.labels.clone(),
            owner: Owner {
                kind: DECLARED.to_owned(),
                namespace: self.namespace.clone(),
                name: self.name.clone(),
                uid,
            },
            containers: vec![self.name.clone()],
            host_network: false,
            running: true,
            terminating: false,
        }
    }
}
