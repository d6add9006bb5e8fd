//! Every process of ours is killed in the middle of two faults and left dead until
//! after their deadline: the clients see the faults end all the same. Then it is
//! started again: nothing starts, and the reports say what happened.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::lab::cluster::{Cluster, Pod};
use e2e::lab::say;
use e2e::product::{NAMESPACE, Product};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::stage::{self, FirstAnswer, WAIT};

/// How long a fault is asked for that is to end by itself.
const LASTS: Duration = Duration::from_secs(25);
/// The same of one that a lost link is to end, however slowly the link is lost.
const LINKED: Duration = Duration::from_mins(2);
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

/// A fault in one pod: what is to be done when a link is lost, and who ends it when
/// nobody lives.
struct Fault {
    run: String,
    pod: Pod,
    lasts: Duration,
    /// Before it can have been made, and once it was seen.
    between: (Instant, Instant),
    answers: FirstAnswer,
}

#[test]
fn c1_the_centre_is_left_dead() {
    scenario(Victim::Centre);
}

#[test]
fn c2_the_agent_is_left_dead() {
    scenario(Victim::Agent);
}

#[test]
fn c3_the_daemons_pod_is_left_dead() {
    scenario(Victim::DaemonPod);
}

#[test]
fn c4_the_daemons_process_is_left_hanging_and_then_killed() {
    scenario(Victim::DaemonProcess);
}

fn scenario(victim: Victim) {
    stage::scenario(&format!("c {victim:?}"), |product| left_dead(product, victim));
}

fn left_dead(product: &Product, victim: Victim) -> Result<()> {
    let c2 = &product.lab.c2;
    // On one node, so that one dead daemon is everybody's.
    let pods = stage::more_victims_on(c2, &c2.nodes[0], "dead", 2)?;
    // A partition ends in the kernel, a pause by the keeper.
    let partition = json!({ "network": { "partition": {} } });
    let pause = json!({ "container": { "pause": {} } });
    let name = |kind: &str| format!("dead-{}-{kind}", format!("{victim:?}").to_lowercase());
    let link_is_lost = matches!(victim, Victim::Centre | Victim::Agent);
    let lasts = if link_is_lost { LINKED } else { LASTS };
    let faults = [
        Fault::start(product, name("partition"), &pods[0], lasts, &partition, "Revert")?,
        Fault::start(product, name("pause"), &pods[1], LASTS, &pause, "RunToDeadline")?,
    ];
    let dead = Dead::make(product, victim, &pods[0])?;
    let mut over = Vec::new();
    for fault in faults {
        let ended = fault.answers.at()?;
        let (asked, seen) = (ended - fault.between.0, ended - fault.between.1);
        say(
            "scenarios",
            format_args!("{}: ended {:.1} s after it was asked for", fault.run, asked.as_secs_f64()),
        );
        ensure!(seen < fault.lasts + SLACK, "{} outlived its deadline: {seen:?}", fault.run);
        if fault.lasts == LINKED {
            ensure!(asked < LINKED, "the lost link did not revert {}: {asked:?}", fault.run);
        } else {
            ensure!(asked >= LASTS, "{} ended early: {asked:?}", fault.run);
        }
        over.push((fault.run, fault.pod));
    }
    // Left dead until after the last end.
    dead.revive(product)?;
    over.iter().try_for_each(|(run, pod)| aftermath(product, run, pod))
}

impl Fault {
    fn start(
        product: &Product,
        run: String,
        pod: &Pod,
        lasts: Duration,
        kind: &Value,
        link_lost: &str,
    ) -> Result<Self> {
        let c2 = &product.lab.c2;
        let fault = stage::fault("gone", &format!("{}s", lasts.as_secs()), kind);
        let limits = json!({ "onLinkLoss": { "after": "4s", "do": link_lost }, "startWithin": "20s" });
        let asked = Instant::now();
        stage::start(product, &run, &stage::aimed(&run, c2, pod, &fault, &limits))?;
        stage::until_silent(c2, pod)?;
        let (between, answers) = ((asked, Instant::now()), FirstAnswer::of(pod));
        Ok(Self { run, pod: pod.clone(), lasts, between, answers })
    }
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
        // Or the kubelet would start the container again.
        cluster.wait_for(&format!("{} to be unwanted", pod.name), WAIT, || {
            let object = cluster.get(&["pod", &pod.name, "-n", NAMESPACE])?;
            ensure!(object["metadata"]["deletionTimestamp"].is_string(), "{}", object["metadata"]);
            Ok(())
        })?;
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
