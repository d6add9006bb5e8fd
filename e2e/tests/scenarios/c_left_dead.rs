//! Every process of ours is killed in the middle of a fault and left dead until
//! after the deadline: the client sees the fault end all the same. Then it is
//! started again: nothing starts, and the report says what happened.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::lab::cluster::{Cluster, Pod};
use e2e::lab::say;
use e2e::product::{NAMESPACE, Product};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::stage::{self, WAIT};

/// How long each fault is asked for.
const LASTS: Duration = Duration::from_secs(25);
/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(8);

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Centre,
    Agent,
    DaemonPod,
    DaemonProcess,
}

/// What the experiment asks for when a link is lost, and the kind that is used:
/// one that the kernel ends, and one that the keeper ends.
const WAYS: [(&str, &str); 2] = [("Revert", "partition"), ("RunToDeadline", "pause")];

#[test]
fn c1_the_centre_is_left_dead() {
    both_ways(Victim::Centre);
}

#[test]
fn c2_the_agent_is_left_dead() {
    both_ways(Victim::Agent);
}

#[test]
fn c3_the_daemons_pod_is_left_dead() {
    both_ways(Victim::DaemonPod);
}

#[test]
fn c4_the_daemons_process_is_left_hanging_and_then_killed() {
    both_ways(Victim::DaemonProcess);
}

fn both_ways(victim: Victim) {
    for (action, kind) in WAYS {
        stage::scenario(&format!("c {victim:?} {action}"), |product| {
            left_dead(product, victim, action, kind)
        });
    }
}

fn left_dead(product: &Product, victim: Victim, action: &str, kind: &str) -> Result<()> {
    let c2 = &product.lab.c2;
    let name = format!("dead-{}-{kind}", format!("{victim:?}").to_lowercase());
    let pods = stage::payments(c2)?;
    let target = &pods[0];
    start(product, &name, target, action, kind)?;
    stage::until_silent(c2, target)?;
    let cut = Instant::now();
    let dead = Dead::make(product, victim, target)?;
    stage::until_answering(c2, target)?;
    let lasted = cut.elapsed();
    say("scenarios", format_args!("{name}: the fault was seen for {:.1} s", lasted.as_secs_f64()));
    ensure!(lasted < LASTS + SLACK, "the fault outlived its deadline: {lasted:?}");
    let link_is_lost = matches!(victim, Victim::Centre | Victim::Agent);
    if action == "RunToDeadline" {
        ensure!(lasted + SLACK > LASTS, "the fault ended early: {lasted:?}");
    } else if link_is_lost {
        ensure!(lasted + SLACK < LASTS, "the lost link did not revert the fault: {lasted:?}");
    }
    // Left dead until after the deadline.
    c2.wait_for("the deadline to pass", WAIT, || {
        ensure!(cut.elapsed() > LASTS + Duration::from_secs(1), "not yet");
        Ok(())
    })?;
    dead.revive(product)?;
    aftermath(product, &name, target)
}

fn start(product: &Product, name: &str, target: &Pod, action: &str, kind: &str) -> Result<()> {
    let kind = match kind {
        "partition" => json!({ "network": { "partition": {} } }),
        _ => json!({ "container": { "pause": {} } }),
    };
    let fault = stage::fault("gone", &format!("{}s", LASTS.as_secs()), &kind);
    let limits = json!({ "onLinkLoss": { "after": "4s", "do": action }, "startWithin": "20s" });
    stage::start(product, name, &stage::aimed(name, &product.lab.c2, target, &fault, &limits))
}

/// Nothing starts again, and the run ends with a report and nothing left.
fn aftermath(product: &Product, name: &str, target: &Pod) -> Result<()> {
    let c2 = &product.lab.c2;
    let run = stage::finished(product, name)?;
    let run = if run["summary"]["residue"] == "Clean" {
        run
    } else {
        c2.wait_for("the residue to be Clean", WAIT, || {
            let run = product.run(name)?;
            ensure!(run["summary"]["residue"] == "Clean", "{}", run["summary"]);
            Ok(run)
        })?
    };
    let summary = &run["summary"];
    say("scenarios", format_args!("{name}: {} {}", summary["outcome"], summary["reason"]));
    let early = summary["outcome"] != "Completed";
    ensure!(
        !early || !summary["reason"].as_str().unwrap_or_default().is_empty(),
        "ended early without a reason: {summary}"
    );
    stage::still_answers(target)
}

/// Somebody dead, and how to bring it back.
struct Dead {
    victim: Victim,
    node: Option<(Cluster, Pod)>,
}

impl Dead {
    /// SIGSTOP first, so that nothing of a drain is handled; then the pod is
    /// unwanted, and the process gets SIGKILL.
    fn make(product: &Product, victim: Victim, target: &Pod) -> Result<Self> {
        let (cluster, selector) = match victim {
            Victim::Centre => (&product.lab.c1, "app.kubernetes.io/component=control-plane"),
            Victim::Agent => (&product.lab.c2, "app.kubernetes.io/component=agent"),
            Victim::DaemonPod | Victim::DaemonProcess => {
                (&product.lab.c2, "app.kubernetes.io/component=node")
            }
        };
        let mut pods = cluster.pods(NAMESPACE, selector)?;
        pods.retain(|pod| matches!(victim, Victim::Centre | Victim::Agent) || pod.node == target.node);
        ensure!(pods.len() == 1, "{pods:?}");
        let pod = pods.remove(0);
        let process = cluster.signal(&pod, None, Signal::SIGSTOP)?;
        match victim {
            Victim::Centre => scale(cluster, "faultline-control-plane", 0)?,
            Victim::Agent => scale(cluster, "faultline-agent", 0)?,
            Victim::DaemonPod => select_nodes(cluster, &json!({ "faultline.dev/nowhere": "true" }))?,
            Victim::DaemonProcess => {
                return Ok(Self { victim, node: Some((cluster.clone(), pod)) });
            }
        }
        process.kill()?;
        Ok(Self { victim, node: None })
    }

    fn revive(self, product: &Product) -> Result<()> {
        match self.victim {
            Victim::Centre => {
                scale(&product.lab.c1, "faultline-control-plane", 1)?;
                product.rollout(&product.lab.c1, "deploy/faultline-control-plane")?;
            }
            Victim::Agent => {
                scale(&product.lab.c2, "faultline-agent", 1)?;
                product.rollout(&product.lab.c2, "deploy/faultline-agent")?;
            }
            Victim::DaemonPod => {
                select_nodes(&product.lab.c2, &json!({ "faultline.dev/nowhere": null }))?;
                product.rollout(&product.lab.c2, "daemonset/faultline-node")?;
            }
            Victim::DaemonProcess => {
                if let Some((cluster, pod)) = &self.node {
                    cluster.signal(pod, None, Signal::SIGKILL)?;
                }
            }
        }
        product.wait_connected(&product.lab.c2)
    }
}

pub(crate) fn scale(cluster: &Cluster, deployment: &str, replicas: u32) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    cluster.kubectl_ok(&["scale", "deployment", deployment, "-n", NAMESPACE, &replicas]).map(drop)
}

fn select_nodes(cluster: &Cluster, selector: &Value) -> Result<()> {
    let patch = json!({ "spec": { "template": { "spec": { "nodeSelector": selector } } } }).to_string();
    cluster.kubectl_ok(&[
        "patch",
        "daemonset",
        "faultline-node",
        "-n",
        NAMESPACE,
        "--type=merge",
        "-p",
        &patch,
    ])?;
    Ok(())
}
