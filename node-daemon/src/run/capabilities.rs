//! What the probe found, in the words that plans use.

use proto::cluster::{CapabilityState, NodeCapabilities, capability};

use crate::config::{Config, Resolver};
use crate::system::probe::{self, NodeProbe};

pub(super) fn probe(config: &Config) -> NodeCapabilities {
    let socket = match &config.resolver {
        Resolver::Cri { socket } => socket.as_deref(),
        Resolver::Workloads(_) => None,
    };
    let found = probe::run(&config.roots, socket);
    let mut capabilities =
        NodeCapabilities { kernel: found.kernel_release.clone(), ..NodeCapabilities::default() };
    let mut add = |name: &str, state| capabilities.capabilities.insert(name.to_owned(), state);
    add(capability::NFT_SETS, all_of(&found, &[probe::NFT]));
    add(capability::NFQUEUE, all_of(&found, &[probe::QUEUE]));
    add(capability::NETEM, all_of(&found, &[probe::NETEM, probe::PRIO]));
    add(capability::FREEZER, all_of(&found, &[probe::FREEZER]));
    add(capability::KEEPER, all_of(&found, &[probe::KEEPER]));
    add(capability::CPU_CGROUP, cpu_cgroup(config));
    add(
        capability::CRI,
        match &config.resolver {
            Resolver::Cri { .. } => all_of(&found, &[probe::RUNTIME]),
            // Nobody asks a runtime where the targets are declared.
            Resolver::Workloads(path) => {
                CapabilityState { present: true, detail: format!("workloads declared in {}", path.display()) }
            }
        },
    );
    capabilities
}

fn all_of(found: &NodeProbe, names: &[&str]) -> CapabilityState {
    let of = |name: &&str| found.capabilities.iter().find(|capability| capability.name == *name);
    let details: Vec<String> =
        names.iter().filter_map(of).map(|capability| capability.detail.clone()).collect();
    CapabilityState { present: names.iter().all(|name| found.has(name)), detail: details.join("; ") }
}

fn cpu_cgroup(config: &Config) -> CapabilityState {
    let root = &config.roots.cgroup;
    let v2 = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if v2.split_whitespace().any(|name| name == "cpu") {
        return CapabilityState { present: true, detail: "cgroup v2".to_owned() };
    }
    let v1 = ["cpu,cpuacct", "cpu"].iter().find(|name| root.join(name).join("cgroup.procs").exists());
    match v1 {
        Some(name) => CapabilityState { present: true, detail: format!("cgroup v1, {name}") },
        None => {
            CapabilityState { present: false, detail: format!("no cpu controller under {}", root.display()) }
        }
    }
}
