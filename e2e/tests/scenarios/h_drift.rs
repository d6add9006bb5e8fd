//! What people do in the middle of a fault: they delete the Run, the Experiment,
//! the target, its namespace, and the table that makes the fault; a container
//! restarts. Every run ends by itself and says so; no object of ours holds
//! anything back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::cgroup;
use e2e::lab::cluster::{Cluster, Pod};
use e2e::lab::command::{SHORT, check, words};
use e2e::product::{PASSING, Product};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::stage::{self, WAIT};

/// Longer than all that is done meanwhile takes.
const LASTS: Duration = Duration::from_mins(4);
/// The one that shall run to its end.
const SHORT_LASTS: Duration = Duration::from_secs(30);

#[test]
fn h1_what_people_delete_wedges_nothing() {
    stage::scenario("h deletions", |product| {
        let victims = Victims::start(product)?;
        let begun = Instant::now();
        delete_experiment(product, &victims.experiment)?;
        delete_run(product, &victims.run)?;
        delete_table(product, &victims.table)?;
        restart_container(product, &victims.restart)?;
        delete_target(product, &victims.target)?;
        delete_namespace(product, &victims.namespace)?;
        ensure!(begun.elapsed() < LASTS, "this took so long that the deadline may have ended everything");
        the_experiment_is_gone(product, &victims.experiment)
    });
}

/// One pod for each thing that is deleted.
struct Victims {
    run: Pod,
    experiment: Pod,
    target: Pod,
    table: Pod,
    restart: Pod,
    namespace: Pod,
}

impl Victims {
    /// All faults are seen before anything is deleted.
    fn start(product: &Product) -> Result<Self> {
        let c2 = &product.lab.c2;
        let mut pods = stage::more_victims(c2, "shop", "drift", 5)?;
        let namespace = stage::more_victims(c2, PASSING, "passing", 1)?.remove(0);
        let mut next = || pods.pop().context("five pods");
        let all = Self {
            run: next()?,
            experiment: next()?,
            target: next()?,
            table: next()?,
            restart: next()?,
            namespace,
        };
        stage::grant(product, "drift", &["--from-cluster", "c1", "--from-namespace", "shop"])?;
        author(product, "drift-run", &all.run, LASTS)?;
        for (name, pod) in
            [("drift-target", &all.target), ("drift-table", &all.table), ("drift-namespace", &all.namespace)]
        {
            let fault = stage::late(&format!("{}s", LASTS.as_secs()));
            stage::start(product, name, &stage::aimed(name, c2, pod, &fault, &json!({})))?;
        }
        let lasts = format!("{}s", LASTS.as_secs());
        let still = stage::fault("still", &lasts, &json!({ "container": { "pause": {} } }));
        let still = stage::aimed("drift-restart", c2, &all.restart, &still, &json!({}));
        stage::start(product, "drift-restart", &still)?;
        for pod in [&all.run, &all.target, &all.table, &all.namespace] {
            stage::until_late(c2, pod)?;
        }
        stage::until_silent(c2, &all.restart)?;
        Ok(all)
    }
}

/// An Experiment and its Run in c1, aimed at a pod of c2.
fn author(product: &Product, name: &str, pod: &Pod, lasts: Duration) -> Result<()> {
    let c1 = &product.lab.c1;
    let fault = stage::late(&format!("{}s", lasts.as_secs()));
    c1.apply(&stage::aimed(name, &product.lab.c2, pod, &fault, &json!({})).to_string())?;
    c1.apply(&stage::run(name, name).to_string())
}

/// The definition goes as soon as the fault is seen, and the fault stays.
fn delete_experiment(product: &Product, pod: &Pod) -> Result<()> {
    author(product, "drift-experiment", pod, SHORT_LASTS)?;
    stage::until_late(&product.lab.c2, pod)?;
    let experiment = ["delete", "experiments.faultline.dev", "drift-experiment", "-n", "shop", "--wait"];
    product.lab.c1.kubectl_ok(&experiment)?;
    stage::is_late(pod).context("although only its Experiment was deleted")
}

/// Deleting the Run object stops its fault.
fn delete_run(product: &Product, pod: &Pod) -> Result<()> {
    product.lab.c1.kubectl_ok(&["delete", "runs.faultline.dev", "drift-run", "-n", "shop", "--wait"])?;
    stage::until_quick(&product.lab.c2, pod)?;
    stage::ended(product, "drift-run", "Aborted").map(drop)
}

/// Somebody flushes the rules in the pod's network: what is gone is not said to be there.
fn delete_table(product: &Product, pod: &Pod) -> Result<()> {
    let c2 = &product.lab.c2;
    let tables = tables(c2, pod)?;
    ensure!(tables.len() == 1, "{tables:?}");
    nft(c2, pod, &format!("delete table {}", tables[0]))?;
    stage::until_quick(c2, pod)?;
    let run = stage::ended(product, "drift-table", "Failed")?;
    let injection = &run["clusters"][0]["observed"]["injections"][0];
    ensure!(injection["message"].as_str().is_some_and(|m| m.contains("someone else")), "{injection}");
    Ok(())
}

/// A frozen container dies: the next one of the same pod runs freely.
fn restart_container(product: &Product, pod: &Pod) -> Result<()> {
    let c2 = &product.lab.c2;
    let main = c2.signal(pod, None, Signal::SIGKILL)?;
    // A frozen process gets no signal: somebody has to thaw it, as a node's administrator would.
    for folder in cgroup::of(&main) {
        cgroup::thaw(&folder);
    }
    stage::until_answering(c2, pod)?;
    c2.wait_for("the container to be restarted", WAIT, || {
        let now = c2.pod(&pod.namespace, &pod.name)?;
        ensure!(now.containers[0].2 > pod.containers[0].2, "{now:?}");
        Ok(())
    })?;
    target_gone(&stage::ended(product, "drift-restart", "Completed")?)
}

/// The pod is deleted; its successor is not touched.
fn delete_target(product: &Product, pod: &Pod) -> Result<()> {
    let c2 = &product.lab.c2;
    let before = c2.pods("shop", "app=drift")?;
    c2.kubectl_ok(&["delete", "pod", "-n", "shop", &pod.name, "--wait"])?;
    target_gone(&stage::ended(product, "drift-target", "Completed")?)?;
    let now = c2.ready_pods("shop", "app=drift", 5, WAIT)?;
    let next = now.iter().find(|pod| before.iter().all(|old| old.uid != pod.uid)).context("a new pod")?;
    stage::is_quick(next)?;
    ensure!(tables(c2, next)?.is_empty(), "{} was hit in its place", next.name);
    Ok(())
}

/// A namespace goes although a fault is active in it.
fn delete_namespace(product: &Product, pod: &Pod) -> Result<()> {
    let c2 = &product.lab.c2;
    c2.kubectl_ok(&["delete", "namespace", &pod.namespace, "--wait", "--timeout=120s"])?;
    target_gone(&stage::ended(product, "drift-namespace", "Completed")?)
}

fn target_gone(run: &Value) -> Result<()> {
    let injection = &run["clusters"][0]["observed"]["injections"][0];
    ensure!(injection["phase"] == "TargetGone", "{injection}");
    Ok(())
}

/// A run holds the definition it was made of: it went on to its own end.
fn the_experiment_is_gone(product: &Product, pod: &Pod) -> Result<()> {
    stage::until_quick(&product.lab.c2, pod)?;
    let run = stage::ended(product, "drift-experiment", "Completed")?;
    let counts = &run["clusters"][0]["observed"]["counts"];
    ensure!(counts["injected"] == 1 && counts["reverted"] == 1, "{counts}");
    product.lab.c2.kubectl_ok(&["delete", "deployment", "drift", "-n", "shop", "--wait"]).map(drop)
}

/// Family and name of every packet table in a pod's network.
pub(crate) fn tables(cluster: &Cluster, pod: &Pod) -> Result<Vec<String>> {
    let listed = nft(cluster, pod, "list tables")?;
    Ok(listed.lines().filter_map(|line| line.strip_prefix("table ")).map(ToOwned::to_owned).collect())
}

fn nft(cluster: &Cluster, pod: &Pod, words_of_nft: &str) -> Result<String> {
    let main = cluster.container_processes(pod, None)?.remove(0);
    let netns = main.netns_path();
    check(&mut words(&format!("nsenter --net={} nft {words_of_nft}", netns.display())), SHORT)
}
