//! The workloads file of host mode: what stands for pods on a machine without
//! Kubernetes. The agent selects from it, the node daemon finds namespaces and
//! cgroups in it; both read the same file.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::Name;

/// Characters of a workload's uid.
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
    /// A cgroup directory; its first process stands for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// Its addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
}

impl WorkloadsFile {
    /// Reads the text of the file; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let mut names = BTreeSet::new();
        for Workload { name, namespace, .. } in &file.workloads {
            let valid = |text: &str| text.parse::<Name>().is_ok();
            if !valid(name) || !valid(namespace) {
                return Err(format!("workload {namespace:?}/{name:?} has no valid name"));
            }
            if !names.insert((namespace, name)) {
                return Err(format!("workload {namespace}/{name} is declared twice"));
            }
        }
        Ok(file)
    }
}

impl Workload {
    /// The uid that stands for a pod's: the first 32 hexadecimal digits of SHA-256 of `namespace/name`.
    pub fn uid(namespace: &str, name: &str) -> String {
        let mut hex = crate::hash::sha256_hex(format!("{namespace}/{name}").as_bytes());
        hex.truncate(UID_CHARS);
        hex
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_strictly_and_a_uid_is_stable() {
        let text =
            "workloads:\n  - { name: web, namespace: shop, labels: { app: web }, pid: 7, ips: [10.0.0.1] }\n";
        let file = WorkloadsFile::parse(text).unwrap();
        assert_eq!(file.workloads[0].pid, Some(7));
        assert_eq!(Workload::uid("shop", "web").len(), UID_CHARS);
        assert_ne!(Workload::uid("shop", "web"), Workload::uid("web", "shop"));
        for (wrong, why) in [
            ("workloads: [{ name: web, namespace: shop, pidd: 7 }]", "pidd"),
            ("workloads: [{ name: ../web, namespace: shop }]", "no valid name"),
            ("workloads: [{ name: web, namespace: shop }, { name: web, namespace: shop }]", "declared twice"),
        ] {
            let error = WorkloadsFile::parse(wrong).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
