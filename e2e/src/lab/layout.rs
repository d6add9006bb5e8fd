//! Names, addresses and paths of the lab, all fixed: a crashed run is taken
//! down from these names alone. Read by every other module of the lab.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Address of the machine that every pod of both clusters can reach; Faultline's
/// own control plane and its etcd listen here.
pub const HUB_ADDRESS: &str = "10.88.0.1";
/// Bridge that carries [`HUB_ADDRESS`].
pub const HUB_LINK: &str = "fl-hub";
/// Everything the lab routes: nodes, pods and services.
pub const LAB_RANGE: &str = "10.0.0.0/8";

/// One cluster as planned.
#[derive(Debug, Clone, Copy)]
pub struct ClusterPlan {
    /// Short name, also its context's name.
    pub name: &'static str,
    /// Host-side address that the apiserver binds and the nodes dial.
    pub api_address: &'static str,
    /// Pods of all its nodes.
    pub pod_range: &'static str,
    /// Service addresses.
    pub service_range: &'static str,
    /// First service address: the `kubernetes` Service.
    pub service_first: &'static str,
    /// First of a block of loopback ports for the host-side processes.
    pub port_base: u16,
    /// Its nodes; the first one also runs the cluster's DNS.
    pub nodes: &'static [NodePlan],
}

/// One node as planned: one network namespace and one mount namespace.
#[derive(Debug, Clone, Copy)]
pub struct NodePlan {
    /// Kubernetes node name.
    pub name: &'static str,
    /// Network namespace and cgroup folder name.
    pub netns: &'static str,
    /// Host end of the veth pair (at most 15 bytes).
    pub veth: &'static str,
    /// Address of the host end.
    pub host_address: &'static str,
    /// The node's own address.
    pub address: &'static str,
    /// Pod range of this node.
    pub pod_range: &'static str,
}

/// The two clusters: one with one node, one with two.
pub const CLUSTERS: [ClusterPlan; 2] = [
    ClusterPlan {
        name: "c1",
        api_address: "10.88.1.1",
        pod_range: "10.91.0.0/16",
        service_range: "10.101.0.0/16",
        service_first: "10.101.0.1",
        port_base: 21000,
        nodes: &[NodePlan {
            name: "c1-n1",
            netns: "fl-c1-n1",
            veth: "fl-c1-n1h",
            host_address: "10.88.1.1",
            address: "10.88.1.2",
            pod_range: "10.91.1.0/24",
        }],
    },
    ClusterPlan {
        name: "c2",
        api_address: "10.88.2.1",
        pod_range: "10.92.0.0/16",
        service_range: "10.102.0.0/16",
        service_first: "10.102.0.1",
        port_base: 22000,
        nodes: &[
            NodePlan {
                name: "c2-n1",
                netns: "fl-c2-n1",
                veth: "fl-c2-n1h",
                host_address: "10.88.2.1",
                address: "10.88.2.2",
                pod_range: "10.92.1.0/24",
            },
            NodePlan {
                name: "c2-n2",
                netns: "fl-c2-n2",
                veth: "fl-c2-n2h",
                host_address: "10.88.2.5",
                address: "10.88.2.6",
                pod_range: "10.92.2.0/24",
            },
        ],
    },
];

/// Every node of every cluster.
pub fn nodes() -> impl Iterator<Item = &'static NodePlan> {
    CLUSTERS.iter().flat_map(|cluster| cluster.nodes)
}

impl ClusterPlan {
    /// Where its apiserver answers.
    pub fn api_url(&self) -> String {
        format!("https://{}:6443", self.api_address)
    }

    /// Address of the cluster's DNS server.
    pub fn dns_address(&self) -> &'static str {
        self.nodes[0].address
    }
}

impl NodePlan {
    /// The named network namespace.
    pub fn netns_path(&self) -> PathBuf {
        Path::new("/run/netns").join(self.netns)
    }
}

/// The folder that holds the lab's state, certificates, kubeconfigs and logs.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// `$FAULTLINE_LAB_DIR`, or /var/tmp/faultline-lab. Refuses a relative path
    /// and the folders that each node covers with its own.
    pub fn from_env() -> Result<Self> {
        let root = env::var_os("FAULTLINE_LAB_DIR")
            .map_or_else(|| PathBuf::from("/var/tmp/faultline-lab"), PathBuf::from);
        if !root.is_absolute() {
            bail!("FAULTLINE_LAB_DIR must be an absolute path, not {}", root.display());
        }
        for covered in ["/run", "/var/run", "/var/lib", "/var/log", "/proc", "/sys", "/dev"] {
            if root.starts_with(covered) {
                bail!("FAULTLINE_LAB_DIR may not be under {covered}: every node has its own {covered}");
            }
        }
        Ok(Self { root })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Held exclusively by whoever brings the lab up or down.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The record of processes started.
    pub fn record(&self) -> PathBuf {
        self.root.join("record.json")
    }

    /// What `net.ipv4.ip_forward` was before the lab.
    pub fn forward_before(&self) -> PathBuf {
        self.root.join("ip_forward.before")
    }

    /// Written last: the lab was complete once.
    pub fn complete(&self) -> PathBuf {
        self.root.join("complete")
    }

    /// Logs of all processes; kept after the lab is down, until the next one.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The log of one process.
    pub fn log(&self, process: &str) -> PathBuf {
        self.logs().join(format!("{process}.log"))
    }

    /// State of one cluster, one node or the hub.
    pub fn of(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The admin kubeconfig of a cluster.
    pub fn kubeconfig(&self, cluster: &str) -> PathBuf {
        self.root.join(format!("{cluster}.kubeconfig"))
    }
}

/// Where things built once are kept between labs and clones:
/// `$FAULTLINE_CACHE`, or faultline/ under `$XDG_CACHE_HOME` or ~/.cache.
pub fn cache() -> PathBuf {
    if let Some(cache) = env::var_os("FAULTLINE_CACHE") {
        return PathBuf::from(cache);
    }
    let base = env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache"),
        PathBuf::from,
    );
    base.join("faultline")
}
