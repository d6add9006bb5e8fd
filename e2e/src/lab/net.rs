//! Network namespaces, veth pairs and routes of the lab, and running a closure
//! inside a namespace. Called by up, down and the measurements.

use std::fs::{self, File};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use super::command::{SHORT, check, run, words};
use super::layout::{Folder, HUB_ADDRESS, HUB_LINK, LAB_RANGE, NodePlan};

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Runs `work` on a thread of its own inside the network namespace at `path`.
pub fn inside<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = File::open(path).with_context(|| format!("open {}", path.display()))?;
    thread::scope(|scope| {
        scope
            .spawn(move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
                work()
            })
            .join()
            .map_err(|_| anyhow!("the thread inside the network namespace ended badly"))?
    })
}

/// Forwarding on the machine and the bridge with the hub's address.
pub fn prepare_host(folder: &Folder) -> Result<()> {
    let before = fs::read_to_string(FORWARD)?;
    if !folder.forward_before().exists() {
        fs::write(folder.forward_before(), &before)?;
    }
    fs::write(FORWARD, "1").context("turn on forwarding")?;
    ip(&format!("link add {HUB_LINK} type bridge"))?;
    ip(&format!("addr add {HUB_ADDRESS}/32 dev {HUB_LINK}"))?;
    ip(&format!("link set {HUB_LINK} up"))
}

/// The namespace of one node, wired to the machine.
pub fn create(node: &NodePlan) -> Result<()> {
    let NodePlan { netns, veth, host_address, address, pod_range, .. } = node;
    ip(&format!("netns add {netns}"))?;
    ip(&format!("link add {veth} type veth peer name eth0 netns {netns}"))?;
    ip(&format!("addr add {host_address}/30 dev {veth}"))?;
    ip(&format!("link set {veth} up"))?;
    for line in [
        "link set lo up".to_owned(),
        format!("addr add {address}/30 dev eth0"),
        "link set eth0 up".to_owned(),
        // Not a default route: nothing of the lab may leave the machine.
        format!("route add {LAB_RANGE} via {host_address}"),
    ] {
        check(&mut words(&format!("nsenter --net=/run/netns/{netns} ip {line}")), SHORT)?;
    }
    ip(&format!("route add {pod_range} via {address}"))?;
    inside(&node.netns_path(), || fs::write(FORWARD, "1").context("turn on forwarding"))
}

/// Takes away one node's namespace and link; what is not there is fine.
pub fn delete(node: &NodePlan) -> Result<()> {
    if node.netns_path().exists() {
        ip(&format!("netns delete {}", node.netns))?;
    }
    delete_link(node.veth)
}

/// Takes away the hub's bridge and gives forwarding its old value.
pub fn restore_host(folder: &Folder) -> Result<()> {
    delete_link(HUB_LINK)?;
    if let Ok(before) = fs::read_to_string(folder.forward_before()) {
        fs::write(FORWARD, before.trim()).context("restore forwarding")?;
        fs::remove_file(folder.forward_before())?;
    }
    Ok(())
}

/// True when the machine has a link of that name.
pub fn link_exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

fn delete_link(name: &str) -> Result<()> {
    if !link_exists(name) {
        return Ok(());
    }
    let output = run(&mut words(&format!("ip link delete {name}")), SHORT)?;
    // Deleting its namespace may have taken it in between.
    if !output.success() && link_exists(name) {
        return Err(anyhow!("delete link {name}: {}", output.stderr));
    }
    Ok(())
}

fn ip(line: &str) -> Result<()> {
    check(&mut words(&format!("ip {line}")), SHORT).map(drop)
}
