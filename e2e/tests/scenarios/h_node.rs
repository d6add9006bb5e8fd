//! The Node object of a node with a live fault is deleted, and its daemon with it. The machine and its kubelet live
//! on: the fault is there until its deadline, nobody can look at it, and nobody claims to have looked.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::cluster::{Cluster, Pod};
use e2e::lab::process::Process;
use e2e::product::{NAMESPACE, Product};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::stage::{self, FirstAnswer, WAIT};

/// Far less than a cluster takes to collect the pods of a node that is gone (40 s at least).
const LASTS: Duration = Duration::from_secs(20);
/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(8);

#[test]
fn h2_a_deleted_node_wedges_nothing() {
    stage::scenario("h node", |product| {
        let c2 = &product.lab.c2;
        let agent = c2.ready_pods(NAMESPACE, "app.kubernetes.io/component=agent", 1, WAIT)?.remove(0);
        let pods = stage::payments(c2)?;
        let pod =
            pods.iter().find(|pod| pod.node != agent.node).context("a victim beside the agent's node")?;
        let node = Lost::prepare(c2, &pod.node)?;
        let told = deleted(product, &node, pod);
        node.back()?;
        product.rollout(c2, "daemonset/faultline-node")?;
        told?;
        product.wait_connected(c2)?;
        // The daemon of the node that is back looks, and says so.
        let run = stage::ended(product, "node-gone", "Failed")?;
        ensure!(run["summary"]["reason"] == "NodeLost", "{}", run["summary"]);
        stage::still_answers(pod)
    });
}

fn deleted(product: &Product, node: &Lost<'_>, pod: &Pod) -> Result<()> {
    let c2 = &product.lab.c2;
    let kind = json!({ "network": { "partition": {} } });
    let fault = stage::fault("gone", &format!("{}s", LASTS.as_secs()), &kind);
    let asked = Instant::now();
    stage::start(product, "node-gone", &stage::aimed("node-gone", c2, pod, &fault, &json!({})))?;
    stage::until_silent(c2, pod)?;
    let (seen, answers) = (Instant::now(), FirstAnswer::of(pod));
    node.delete()?;
    c2.wait_for("the run to say that it does not know", WAIT, || {
        let run = product.run("node-gone")?;
        let injection = &run["clusters"][0]["observed"]["injections"][0];
        ensure!(injection["phase"] == "Unknown" && injection["resolvesAtUnixMs"].is_i64(), "{injection}");
        ensure!(run["summary"]["residueResolvesAt"].is_string(), "{}", run["summary"]);
        Ok(())
    })?;
    let ended = answers.at()?;
    let (asked, seen) = (ended - asked, ended - seen);
    ensure!(asked >= LASTS && seen < LASTS + SLACK, "not its deadline: {asked:?} {seen:?}");
    let run = stage::finished(product, "node-gone")?;
    ensure!(run["summary"]["residue"] == "Unknown", "nobody has looked: {}", run["summary"]);
    Ok(())
}

/// A Node object that can be deleted and made again. The kubelet then goes on with it.
struct Lost<'a> {
    cluster: &'a Cluster,
    object: Value,
}

impl<'a> Lost<'a> {
    fn prepare(cluster: &'a Cluster, name: &str) -> Result<Self> {
        let seen = cluster.get(&["node", name])?;
        let labels = &seen["metadata"]["labels"];
        let object =
            json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels } });
        Ok(Self { cluster, object })
    }

    /// And its daemon's pod, as the cluster's own collector does a minute later. The daemon is stopped before and
    /// killed after, so that nothing of a drain is handled.
    fn delete(&self) -> Result<()> {
        let (cluster, name) = (self.cluster, self.name()?);
        let mut pods = cluster.pods(NAMESPACE, "app.kubernetes.io/component=node")?;
        pods.retain(|pod| pod.node == name);
        ensure!(pods.len() == 1, "{pods:?}");
        let pod = pods.remove(0);
        let daemon = cluster.signal(&pod, None, Signal::SIGSTOP)?;
        cluster.kubectl_ok(&["delete", "node", name])?;
        cluster.kubectl_ok(&["delete", "pod", &pod.name, "-n", NAMESPACE, "--wait=false"])?;
        // Or the kubelet would start the container again.
        cluster.wait_for("the kubelet to tell the daemon to end", WAIT, || is_told_to_end(&daemon))?;
        let force = ["delete", "pod", &pod.name, "-n", NAMESPACE, "--force", "--grace-period=0"];
        cluster.kubectl_ok(&[&force[..], &["--ignore-not-found"]].concat())?;
        daemon.kill()
    }

    fn back(&self) -> Result<()> {
        self.cluster.apply(&self.object.to_string())?;
        let ready = ["wait", "--for=condition=Ready", "node", self.name()?, "--timeout=120s"];
        self.cluster.kubectl_ok(&ready).map(drop)
    }

    fn name(&self) -> Result<&str> {
        self.object["metadata"]["name"].as_str().context("a Node has a name")
    }
}

/// A stopped process has its SIGTERM before it, unhandled.
fn is_told_to_end(process: &Process) -> Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid))?;
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    let pending = u64::from_str_radix(pending.context("a mask")?.trim(), 16)?;
    ensure!(pending & (1 << (Signal::SIGTERM as i32 - 1)) != 0, "pending: {pending:#x}");
    Ok(())
}
