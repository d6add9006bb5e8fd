//! What the machine must have, checked before anything starts and reported all
//! at once, with the packages that bring what is missing. Called by `up` and by
//! `lab doctor`.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// (program, Debian package).
const TOOLS: [(&str, &str); 19] = [
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("runc", "runc"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("mount", "mount"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setsid", "util-linux"),
    ("buildah", "buildah"),
    ("mmdebstrap", "mmdebstrap"),
    ("strip", "binutils"),
    ("sleep", "coreutils"),
    ("tar", "tar"),
];

const CNI_FOLDER: &str = "/usr/lib/cni";

/// Where `name` is: on PATH or in the folders of system programs.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/go/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The static busybox that workloads and the pause image are made of.
pub fn busybox() -> Option<PathBuf> {
    // The `busybox` package is dynamic; only the static one runs in an empty image.
    find("busybox").filter(|_| Path::new("/usr/share/doc/busybox-static").exists())
}

/// One message with all that is missing, or nothing.
pub fn check() -> Result<()> {
    let mut problems = Vec::new();
    let mut packages = BTreeSet::new();
    if !nix::unistd::geteuid().is_root() {
        problems.push("the lab needs root".to_owned());
    }
    for (tool, package) in TOOLS {
        if find(tool).is_none() {
            problems.push(format!("{tool} is missing (Debian package {package})"));
            packages.insert(package);
        }
    }
    for plugin in ["bridge", "portmap", "host-local", "loopback"] {
        if !Path::new(CNI_FOLDER).join(plugin).is_file() {
            problems.push(format!(
                "{CNI_FOLDER}/{plugin} is missing (Debian package containernetworking-plugins)"
            ));
            packages.insert("containernetworking-plugins");
        }
    }
    if busybox().is_none() {
        problems.push("a static busybox is missing (Debian package busybox-static)".to_owned());
        packages.insert("busybox-static");
    }
    if find("go").is_none() && super::components::missing()?.is_some() {
        problems.push("go is missing; it builds the Kubernetes programs once (https://go.dev/dl)".to_owned());
    }
    if super::cgroup::hierarchies().is_empty() {
        problems.push("no cgroup hierarchy is mounted under /sys/fs/cgroup".to_owned());
    }
    if problems.is_empty() {
        return Ok(());
    }
    if !packages.is_empty() {
        let packages: Vec<&str> = packages.into_iter().collect();
        problems.push(format!("on Debian: apt-get update && apt-get install -y {}", packages.join(" ")));
    }
    bail!("this machine cannot run the lab:\n  {}", problems.join("\n  "))
}
