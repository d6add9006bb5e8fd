//! One node of a cluster: a network namespace and a mount namespace in which
//! containerd, the kubelet and kube-proxy run, so that several nodes on one
//! machine each have their own /run, /var/lib and /var/log. Called by `up`; the
//! scenarios use it to look at and to signal what runs on a node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::cgroup;
use super::command::{SHORT, check};
use super::config;
use super::control::Site;
use super::images::Image;
use super::layout::{ClusterPlan, Folder, NodePlan};
use super::process::{self, Process};
use super::wait::wait_for;

const STARTED: Duration = Duration::from_mins(3);
const IMPORT: Duration = Duration::from_mins(5);
const SOCKET: &str = "/run/containerd/containerd.sock";

/// A node that was brought up.
#[derive(Debug, Clone)]
pub struct Node {
    plan: &'static NodePlan,
    folder: Folder,
    anchor: Process,
}

impl Node {
    /// The node of that plan, held open by `anchor`.
    pub fn new(plan: &'static NodePlan, folder: &Folder, anchor: Process) -> Self {
        Self { plan, folder: folder.clone(), anchor }
    }

    /// Kubernetes name.
    pub fn name(&self) -> &'static str {
        self.plan.name
    }

    /// Address of the node.
    pub fn address(&self) -> &'static str {
        self.plan.address
    }

    /// Its network namespace, to measure from.
    pub fn netns(&self) -> PathBuf {
        self.plan.netns_path()
    }

    /// A path of the node as seen from the machine, such as
    /// `/run/containerd/containerd.sock` or `/var/lib/faultline`.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.anchor.pid)).join(inside.trim_start_matches('/'))
    }

    /// A command that runs `program` inside the node.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.anchor.pid)).args(["--mount", "--net", "--"]).arg(program);
        command
    }

    /// Loads an image archive into the node's containerd, once per content.
    pub fn load_image(&self, image: &Image) -> Result<()> {
        let marks = self.folder.of(self.plan.name).join("images");
        fs::create_dir_all(&marks)?;
        let mark = marks.join(image.name());
        if fs::read_to_string(&mark).is_ok_and(|key| key == image.key()) {
            return Ok(());
        }
        let mut import = self.command("ctr");
        import.args(["-a", SOCKET, "-n", "k8s.io", "images", "import"]).arg(image.archive());
        check(&mut import, IMPORT).with_context(|| format!("import {} on {}", image.name(), self.name()))?;
        fs::write(mark, image.key())?;
        Ok(())
    }

    /// Processes in the node's own network namespace (its parts, and pods with
    /// `hostNetwork` and what they left behind) whose command line holds `pattern`.
    pub fn processes(&self, pattern: &str) -> Vec<Process> {
        let own = process::namespace(&self.netns());
        process::all()
            .into_iter()
            .filter(|each| own.is_some() && process::namespace(&each.netns_path()) == own)
            .filter(|each| each.command_line().contains(pattern))
            .collect()
    }

    /// The processes of one container, by its id without the scheme.
    pub fn container_processes(&self, id: &str) -> Vec<Process> {
        let mut found: Vec<Process> = Vec::new();
        for folder in cgroup::folders(self.plan) {
            for each in cgroup::processes(&folder) {
                if !found.contains(&each) && cgroup::of(&each).iter().any(|path| path.ends_with(id)) {
                    found.push(each);
                }
            }
            if !found.is_empty() {
                break;
            }
        }
        found.sort_by_key(|each| each.pid);
        found
    }
}

/// Prepares the node's namespaces and starts containerd with `images` in it.
pub fn start_runtime(site: &Site<'_>, plan: &'static NodePlan, images: &[Image]) -> Result<Node> {
    let home = site.folder.of(plan.name);
    for part in ["var-lib", "var-log", "cni"] {
        fs::create_dir_all(home.join(part))?;
    }
    cgroup::create(plan)?;
    let node = Node::new(plan, site.folder, start_anchor(site, plan)?);
    separate(&node, &home)?;
    fs::write(home.join("cni/10-lab.conflist"), config::cni(plan))?;
    fs::write(home.join("containerd.toml"), config::containerd(&home.join("cni")))?;
    fs::write(home.join("resolv.conf"), "")?;
    let mut containerd = node.command("containerd");
    containerd.arg("--config").arg(home.join("containerd.toml"));
    let running = site.ledger.start(&format!("{}-containerd", plan.name), &containerd)?;
    wait_for(&format!("containerd on {}", plan.name), STARTED, || {
        site.ledger.must_live(&running)?;
        check(node.command("ctr").args(["-a", SOCKET, "plugins", "ls", "-q"]), SHORT).map(drop)
    })?;
    for image in images {
        node.load_image(image)?;
    }
    Ok(node)
}

/// Starts the process that holds the node's namespaces open.
fn start_anchor(site: &Site<'_>, plan: &'static NodePlan) -> Result<Process> {
    // Never `ip netns exec`: it remounts /sys and the kubelet finds no cgroups.
    let mut anchor = Command::new("nsenter");
    anchor.arg(format!("--net={}", plan.netns_path().display())).args([
        "unshare",
        "--mount",
        "--propagation=slave",
        "sleep",
        "infinity",
    ]);
    let process = site.ledger.start(&anchor_name(plan), &anchor)?;
    wait_for(&format!("the namespaces of {}", plan.name), STARTED, || {
        site.ledger.must_live(&process)?;
        if !process.command_line().starts_with("sleep") {
            bail!("the anchor is still {}", process.command_line());
        }
        Ok(())
    })?;
    Ok(process)
}

/// Name under which a node's anchor is recorded.
pub fn anchor_name(plan: &NodePlan) -> String {
    format!("{}-anchor", plan.name)
}

/// Gives the node its own /run, /var/lib and /var/log.
fn separate(node: &Node, home: &Path) -> Result<()> {
    let mount = |args: &[&str]| check(node.command("mount").args(args), SHORT).map(drop);
    let (lib, log) = (home.join("var-lib"), home.join("var-log"));
    mount(&["--make-rshared", "/"])?;
    mount(&["--bind", &lib.to_string_lossy(), "/var/lib"])?;
    mount(&["--bind", &log.to_string_lossy(), "/var/log"])?;
    mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])
}

/// Starts the kubelet and kube-proxy; the apiserver must answer already.
pub fn start_kubelet(site: &Site<'_>, cluster: &ClusterPlan, node: &Node) -> Result<()> {
    let (plan, home) = (node.plan, site.folder.of(node.plan.name));
    let user = format!("system:node:{}", plan.name);
    let kubeconfig = site.client(&format!("kubelet-{}", plan.name), &user, Some("system:nodes"))?;
    let serving = site.authority.issue(
        &format!("kubelet-{}-serving", plan.name),
        &user,
        None,
        &[plan.name, plan.address],
    )?;
    let text = config::kubelet(cluster, plan, &site.authority.ca_path(), &serving, &home.join("resolv.conf"));
    fs::write(home.join("kubelet.yaml"), text)?;
    let mut kubelet = node.command(site.programs.join("kubelet"));
    kubelet
        .arg(format!("--config={}", home.join("kubelet.yaml").display()))
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--hostname-override={}", plan.name))
        .arg(format!("--node-ip={}", plan.address));
    site.ledger.start(&format!("{}-kubelet", plan.name), &kubelet)?;

    let kubeconfig = site.client(&format!("kube-proxy-{}", plan.name), "system:kube-proxy", None)?;
    fs::write(home.join("kube-proxy.yaml"), config::kube_proxy(cluster, plan, &kubeconfig))?;
    let mut proxy = node.command(site.programs.join("kube-proxy"));
    proxy.arg(format!("--config={}", home.join("kube-proxy.yaml").display()));
    site.ledger.start(&format!("{}-kube-proxy", plan.name), &proxy)?;
    Ok(())
}

/// Starts coredns on the cluster's first node.
pub fn start_dns(site: &Site<'_>, cluster: &ClusterPlan, node: &Node) -> Result<()> {
    let kubeconfig = site.client("coredns", "lab-coredns", Some("system:masters"))?;
    let corefile = site.home().join("Corefile");
    fs::write(&corefile, config::corefile(cluster, &kubeconfig))?;
    let mut coredns = node.command(site.programs.join("coredns"));
    coredns.arg("-conf").arg(&corefile);
    site.ledger.start(&format!("{}-coredns", cluster.name), &coredns)?;
    Ok(())
}
