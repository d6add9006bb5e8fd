//! One cluster of a running lab, as scenarios use it: kubectl and helm, pods,
//! their processes, and a dump for when a test fails.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::command::{self, Output};
use super::components;
use super::images::Image;
use super::layout::ClusterPlan;
use super::node::Node;
use super::probe::Vantage;
use super::process::{OWNER_VARIABLE, Process};
use super::wait;

const KUBECTL: Duration = Duration::from_mins(5);
const HELM: Duration = Duration::from_mins(10);

/// A running cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Short name: c1 or c2.
    pub name: &'static str,
    /// Kubeconfig of its administrator.
    pub kubeconfig: PathBuf,
    /// Its nodes.
    pub nodes: Vec<Node>,
    plan: &'static ClusterPlan,
    helm: PathBuf,
}

/// What a scenario needs to know of a pod.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Name of its node.
    pub node: String,
    /// Its address; empty while it has none.
    pub address: String,
    /// Phase.
    pub phase: String,
    /// True when its Ready condition is.
    pub ready: bool,
    /// (container name, id without the scheme, restarts).
    pub containers: Vec<(String, String, u64)>,
}

/// A kubectl with one of the lab's own kubeconfigs. It carries the lab's mark:
/// taking the lab down also ends the one that a killed bring-up was waiting for.
pub fn kubectl(kubeconfig: &Path) -> Command {
    let mut kubectl = Command::new(components::kubectl());
    kubectl.arg("--kubeconfig").arg(kubeconfig);
    if let Some(folder) = kubeconfig.parent() {
        kubectl.env(OWNER_VARIABLE, folder);
    }
    kubectl
}

impl Cluster {
    /// The cluster of that plan; `programs` holds helm.
    pub fn new(plan: &'static ClusterPlan, kubeconfig: PathBuf, nodes: Vec<Node>, programs: &Path) -> Self {
        Self { name: plan.name, kubeconfig, nodes, plan, helm: programs.join("helm") }
    }

    /// Where its apiserver answers, from the machine and from its pods.
    pub fn api_url(&self) -> String {
        self.plan.api_url()
    }

    /// Address of its DNS server.
    pub fn dns_address(&self) -> &'static str {
        self.plan.dns_address()
    }

    /// Runs kubectl; an exit code other than 0 is not an error.
    pub fn kubectl(&self, args: &[&str]) -> Result<Output> {
        command::run(kubectl(&self.kubeconfig).args(args), KUBECTL)
    }

    /// Runs kubectl and gives its standard output; another exit code is an error.
    pub fn kubectl_ok(&self, args: &[&str]) -> Result<String> {
        command::check(kubectl(&self.kubeconfig).args(args), KUBECTL)
    }

    /// `kubectl get ARGS -o json`, parsed.
    pub fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self.kubectl_ok(&[&["get", "-o", "json"], args].concat())?;
        serde_json::from_str(&text).with_context(|| format!("read what kubectl get {args:?} printed"))
    }

    /// `kubectl apply -f -`; an exit code other than 0 is not an error.
    pub fn try_apply(&self, yaml: &str) -> Result<Output> {
        command::run_with_input(kubectl(&self.kubeconfig).args(["apply", "-f", "-"]), Some(yaml), KUBECTL)
    }

    /// `kubectl apply -f -`; a refusal is an error with its text.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let output = self.try_apply(yaml)?;
        if !output.success() {
            bail!("apply in {}: {}{}", self.name, output.stdout, output.stderr);
        }
        Ok(())
    }

    /// Runs helm against this cluster; an exit code other than 0 is not an error.
    pub fn helm(&self, args: &[&str]) -> Result<Output> {
        let home = self.kubeconfig.with_extension("helm");
        let mut helm = Command::new(&self.helm);
        if let Some(folder) = self.kubeconfig.parent() {
            helm.env(OWNER_VARIABLE, folder);
        }
        helm.env("KUBECONFIG", &self.kubeconfig)
            .env("HELM_CACHE_HOME", home.join("cache"))
            .env("HELM_CONFIG_HOME", home.join("config"))
            .env("HELM_DATA_HOME", home.join("data"));
        command::run(helm.args(args), HELM)
    }

    /// Like [`wait::wait_for`], with the cluster's name in the message.
    pub fn wait_for<T>(&self, what: &str, timeout: Duration, probe: impl FnMut() -> Result<T>) -> Result<T> {
        wait::wait_for(&format!("{what} in {}", self.name), timeout, probe)
    }

    /// Loads an image archive into every node.
    pub fn load_image(&self, image: &Image) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.load_image(image))
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|node| node.name() == name)
            .with_context(|| format!("{} has no node {name}", self.name))
    }

    /// One pod.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<Pod> {
        Pod::parse(&self.get(&["pod", name, "-n", namespace])?)
    }

    /// The pods that a label selector matches, in order of name.
    pub fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
        let list = self.get(&["pods", "-n", namespace, "-l", selector])?;
        let items = list["items"].as_array().context("a list has items")?;
        items.iter().map(Pod::parse).collect()
    }

    /// Waits until `count` pods match and are all Ready, and gives them.
    pub fn ready_pods(
        &self,
        namespace: &str,
        selector: &str,
        count: usize,
        timeout: Duration,
    ) -> Result<Vec<Pod>> {
        self.wait_for(&format!("{count} ready pods {selector} of {namespace}"), timeout, || {
            let pods = self.pods(namespace, selector)?;
            let ready = pods.iter().filter(|pod| pod.ready).count();
            if pods.len() != count || ready != count {
                let seen: Vec<String> = pods
                    .iter()
                    .map(|pod| format!("{} {} ready={}", pod.name, pod.phase, pod.ready))
                    .collect();
                bail!("{ready} ready of {}: {}", pods.len(), seen.join(", "));
            }
            Ok(pods)
        })
    }

    /// The processes of a pod's container (the first one when `container` is
    /// None), its main process first.
    pub fn container_processes(&self, pod: &Pod, container: Option<&str>) -> Result<Vec<Process>> {
        let (_, id, _) = pod
            .containers
            .iter()
            .find(|(name, ..)| container.is_none_or(|wanted| wanted == name))
            .with_context(|| format!("{} has no such container", pod.name))?;
        let found = self.node(&pod.node)?.container_processes(id);
        if found.is_empty() {
            bail!("no process of {} runs on {}", pod.name, pod.node);
        }
        Ok(found)
    }

    /// Sends `signal` to a container's main process and gives that process. The
    /// machine sees it from outside its pid namespace, so SIGKILL and SIGSTOP work.
    pub fn signal(&self, pod: &Pod, container: Option<&str>, signal: Signal) -> Result<Process> {
        let all = self.container_processes(pod, container)?;
        let main = all.first().cloned().ok_or_else(|| anyhow!("no process"))?;
        if !main.signal(signal)? {
            bail!("the main process of {} ended before the signal", pod.name);
        }
        Ok(main)
    }

    /// A pod's network namespace, to measure from.
    pub fn vantage(&self, pod: &Pod) -> Result<Vantage> {
        let all = self.container_processes(pod, None)?;
        all.first().map(|main| Vantage::Netns(main.netns_path())).context("no process")
    }

    /// Everything a person wants to read after a failure: nodes, pods, events,
    /// and the logs of all containers of `namespaces`.
    pub fn dump(&self, namespaces: &[&str]) -> String {
        let mut text = format!("==== {}\n", self.name);
        for args in [
            &["get", "nodes", "-o", "wide"][..],
            &["get", "pods", "-A", "-o", "wide"],
            &["get", "events", "-A", "--sort-by=.lastTimestamp"],
        ] {
            self.dump_one(&mut text, args);
        }
        for namespace in namespaces {
            self.dump_one(&mut text, &["describe", "pods", "-n", namespace]);
            let names = self.kubectl(&["get", "pods", "-n", namespace, "-o", "name"]);
            let names = names.map(|output| output.stdout).unwrap_or_default();
            for name in names.lines() {
                let logs = ["logs", "-n", namespace, name, "--all-containers", "--prefix", "--tail=300"];
                self.dump_one(&mut text, &logs);
                self.dump_one(&mut text, &[&logs[..], &["--previous"]].concat());
            }
        }
        text
    }

    fn dump_one(&self, text: &mut String, args: &[&str]) {
        let shown = match self.kubectl(args) {
            Ok(output) => format!("{}{}", output.stdout, output.stderr),
            Err(error) => format!("{error:#}"),
        };
        // Writing to a String cannot fail.
        let _ = write!(text, "---- kubectl {}\n{shown}\n", args.join(" "));
    }
}

impl Pod {
    fn parse(value: &Value) -> Result<Self> {
        let text =
            |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let list =
            |pointer: &str| value.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
        let name = text("/metadata/name");
        if name.is_empty() {
            bail!("not a pod: {value}");
        }
        let containers = list("/status/containerStatuses").into_iter().map(|status| {
            let id = status["containerID"].as_str().unwrap_or_default();
            let id = id.split_once("://").map_or(id, |(_, id)| id);
            let name = status["name"].as_str().unwrap_or_default();
            (name.to_owned(), id.to_owned(), status["restartCount"].as_u64().unwrap_or(0))
        });
        Ok(Self {
            namespace: text("/metadata/namespace"),
            uid: text("/metadata/uid"),
            node: text("/spec/nodeName"),
            address: text("/status/podIP"),
            phase: text("/status/phase"),
            ready: list("/status/conditions")
                .iter()
                .any(|each| each["type"] == "Ready" && each["status"] == "True"),
            containers: containers.collect(),
            name,
        })
    }
}
