//! Who a target is on this node, right now: the pod's sandbox and container by the runtime, or a
//! declared workload in host mode. Called by the driver between the clock and the journal; what is found
//! is journalled and checked again by every step.

use std::path::Path;

use async_trait::async_trait;
use proto::injection::TargetRef;
use serde::{Deserialize, Serialize};

use crate::engine::Unfit;
use crate::system::target::{CgroupRef, NetnsRef, ProcessRef, Roots, Target};
use crate::system::{netns, spoken};

mod cri;
pub mod workloads;

pub use cri::Cri;
pub use workloads::Workloads;

/// Devices that the kernel adds to every namespace once their module is loaded; no pod talks over them.
const FALLBACK_DEVICES: [&str; 9] =
    ["tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"];

/// A target in a form that is never confused with a later one of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The sandbox's id, or the workload's uid in host mode.
    pub sandbox: String,
    /// Its network namespace.
    pub netns: NetnsRef,
    /// The container meant; absent where none runs or none is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerIdentity>,
}

/// One run of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerIdentity {
    /// The runtime's id; changes with every restart.
    pub id: String,
    /// Its init.
    pub process: ProcessRef,
    /// Its cgroups.
    pub cgroup: CgroupRef,
}

/// A target that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Who.
    pub identity: Identity,
    /// Network devices its traffic takes.
    pub devices: Vec<String>,
    /// It lives in the node's own network namespace, which no pod's fault may touch.
    pub is_host_network: bool,
}

/// Finds targets.
#[async_trait]
pub trait Resolve: Send + Sync + std::fmt::Debug {
    /// Finds one, and the container of that name in it (the first by name where none is given).
    async fn resolve(&self, target: &TargetRef, container: Option<&str>) -> Result<Found, Unfit>;

    /// Finds one of whose containers nothing needs to be known.
    async fn resolve_sandbox(&self, target: &TargetRef) -> Result<Found, Unfit> {
        self.resolve(target, None).await
    }
}

impl ContainerIdentity {
    fn new(id: String, target: &Target) -> Self {
        Self { id, process: target.process.clone(), cgroup: target.cgroup.clone() }
    }
}

/// The devices of a namespace but loopback: `eth0` alone where there is one.
fn devices(netns: &NetnsRef) -> Result<Vec<String>, Unfit> {
    let list = netns::inside(netns, || {
        std::fs::read_to_string("/proc/thread-self/net/dev")
            .map_err(|source| crate::system::Error::refused("list network devices", source))
    });
    let names = names_of(&list.map_err(|error| Unfit::Refused(spoken(&error)))?);
    let has_eth0 = names.iter().any(|name| name == "eth0");
    Ok(if has_eth0 { vec!["eth0".to_owned()] } else { names })
}

fn names_of(list: &str) -> Vec<String> {
    let name = |line: &str| Some(line.split_once(':')?.0.trim().to_owned());
    let of_pod = |name: &String| name != "lo" && !FALLBACK_DEVICES.contains(&name.as_str());
    list.lines().filter_map(name).filter(of_pod).collect()
}

/// Whether that namespace is this daemon's own or the first process's.
fn is_own(roots: &Roots, found: &NetnsRef) -> bool {
    let own = [Path::new("/proc/self/ns/net").to_path_buf(), roots.proc.join("1/ns/net")];
    own.iter().any(|path| netns::cookie(path).is_ok_and(|cookie| cookie == found.cookie))
}

/// Gone is told apart from refused.
fn unfit(error: &crate::system::Error) -> Unfit {
    let text = spoken(error);
    if error.is_target_gone() { Unfit::TargetGone(text) } else { Unfit::Refused(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_those_a_pod_talks_over() {
        let list = "Inter-|   Receive\n face |bytes\n    lo: 1 2\n  eth0: 3 4\n tunl0: 0 0\nnet1@x: 1\n";
        assert_eq!(names_of(list), ["eth0", "net1@x"]);
    }
}
