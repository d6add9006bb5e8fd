//! The latched stop: fleet-wide from the centre, and by an object in one
//! cluster while the centre is dead.

use anyhow::{Context, Result, ensure};
use e2e::lab::cluster::Pod;
use e2e::product::{NAMESPACE, Product};
use serde_json::{Value, json};

use super::c_left_dead::scale;
use super::stage;

#[test]
fn d1_a_fleet_halt_ends_everything_until_released() {
    stage::scenario("d fleet", fleet);
}

#[test]
fn d2_a_halt_object_stops_its_cluster_without_a_centre() {
    stage::scenario("d object", object);
}

#[test]
fn d3_a_file_on_a_node_stops_that_node() {
    stage::scenario("d file", file);
}

#[test]
fn d4_a_halt_survives_restarts_of_everything() {
    stage::scenario("d restarts", restarts);
}

fn long(product: &Product, name: &str, clusters: &[&str]) -> Result<()> {
    let limits = json!({ "limits": { "onLinkLoss": { "do": "RunToDeadline" } } });
    stage::start(product, name, &stage::experiment(name, clusters, &[stage::late("120s")], &limits))
}

fn fleet(product: &Product) -> Result<()> {
    long(product, "halted", &["c1", "c2"])?;
    for cluster in product.lab.clusters() {
        for pod in stage::payments(cluster)? {
            stage::until_late(cluster, &pod)?;
        }
    }
    let set = product
        .cli_ok(&["halt", "set", "--fleet", "--id", "all-stop", "--reason", "scenario", "-o", "json"])?;
    let halts: Value = serde_json::from_str(&set)?;
    for name in ["c1", "c2"] {
        ensure!(halts[0]["clusters"][name] == "Clean", "{halts}");
    }
    for cluster in product.lab.clusters() {
        for pod in stage::payments(cluster)? {
            stage::is_quick(&pod).context("although the halt is Clean")?;
        }
    }
    stage::ended(product, "halted", "Halted")?;
    let refused = product.cli_with(
        &["run", "-f", "-", "--run-name", "while-halted"],
        &stage::experiment("while-halted", &["c2"], &[stage::late("5s")], &json!({})).to_string(),
    )?;
    ensure!(
        refused.code == 5 && refused.stdout.contains("Halted"),
        "{} {}{}",
        refused.code,
        refused.stdout,
        refused.stderr
    );
    product.cli_ok(&["halt", "release", "all-stop"])?;
    let after = product.cli_with(
        &["run", "-f", "-", "--run-name", "after-halt", "-o", "json"],
        &stage::experiment("after-halt", &["c2"], &[stage::late("5s")], &json!({})).to_string(),
    )?;
    let run: Value = serde_json::from_str(&after.stdout)?;
    ensure!(run["summary"]["outcome"] == "Completed", "{}", run["summary"]);
    Ok(())
}

fn object(product: &Product) -> Result<()> {
    let (c1, c2) = (&product.lab.c1, &product.lab.c2);
    long(product, "halted-by-object", &["c2"])?;
    let pods = stage::payments(c2)?;
    for pod in &pods {
        stage::until_late(c2, pod)?;
    }
    scale(c1, "faultline-control-plane", 0)?;
    c1.wait_for("the centre to be gone", stage::WAIT, || {
        let left = c1.pods(NAMESPACE, "app.kubernetes.io/component=control-plane")?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    for pod in &pods {
        stage::is_late(pod).context("before the halt")?;
    }
    c2.apply("{apiVersion: faultline.dev/v1alpha1, kind: Halt, metadata: {name: stop-here}, spec: {reason: scenario}}")?;
    c2.wait_for("the Halt object to be Clean", stage::WAIT, || {
        let halt = c2.get(&["halts.faultline.dev", "stop-here"])?;
        ensure!(halt["status"]["level"] == "Clean", "{halt}");
        Ok(())
    })?;
    for pod in &pods {
        stage::is_quick(pod).context("although the halt is Clean")?;
    }
    scale(c1, "faultline-control-plane", 1)?;
    product.rollout(c1, "deploy/faultline-control-plane")?;
    product.wait_connected(c2)?;
    stage::ended(product, "halted-by-object", "Halted")?;
    c2.kubectl_ok(&["delete", "halts.faultline.dev", "stop-here"])?;
    let after = product.cli_with(
        &["run", "-f", "-", "--run-name", "after-object", "-o", "json"],
        &stage::experiment("after-object", &["c2"], &[stage::late("5s")], &json!({})).to_string(),
    )?;
    let run: Value = serde_json::from_str(&after.stdout)?;
    ensure!(run["summary"]["outcome"] == "Completed", "{}", run["summary"]);
    Ok(())
}

fn file(product: &Product) -> Result<()> {
    let c2 = &product.lab.c2;
    let pods = stage::payments(c2)?;
    let limits = json!({ "onLinkLoss": { "do": "RunToDeadline" } });
    for (name, pod) in [("file-here", &pods[0]), ("file-there", &pods[1])] {
        stage::start(product, name, &stage::aimed(name, c2, pod, &stage::late("240s"), &limits))?;
    }
    for pod in &pods {
        stage::until_late(c2, pod)?;
    }
    ensure!(pods[0].node != pods[1].node, "the victims share a node: {pods:?}");
    let file = c2.node(&pods[0].node)?.path("/var/lib/faultline/halt");
    std::fs::write(&file, "scenario")?;
    let stopped = node_is_stopped(product, &pods);
    std::fs::remove_file(&file)?;
    stopped?;
    product.cli_ok(&["stop", "file-there"])?;
    stage::ended(product, "file-there", "Aborted").map(drop)
}

fn node_is_stopped(product: &Product, pods: &[Pod]) -> Result<()> {
    let c2 = &product.lab.c2;
    stage::until_quick(c2, &pods[0])?;
    stage::ended(product, "file-here", "Halted")?;
    let again = stage::aimed("file-again", c2, &pods[0], &stage::late("5s"), &json!({}));
    let refused = product.cli_with(&["run", "-f", "-", "--run-name", "file-again"], &again.to_string())?;
    ensure!(refused.code == 5 && refused.stdout.contains("Halted"), "{} {}", refused.code, refused.stdout);
    stage::is_late(&pods[1]).context("although the file is on another node")
}

/// Nobody forgets it: not the centre, not the agents, not the daemons.
fn restarts(product: &Product) -> Result<()> {
    let c2 = &product.lab.c2;
    product.cli_ok(&["halt", "set", "--fleet", "--id", "kept", "--reason", "scenario"])?;
    let kept = is_kept(product);
    product.cli_ok(&["halt", "release", "kept"])?;
    kept?;
    stage::is_quick(&stage::payments(c2)?[0])
}

fn is_kept(product: &Product) -> Result<()> {
    let c2 = &product.lab.c2;
    for cluster in product.lab.clusters() {
        cluster.kubectl_ok(&["delete", "pods", "--all", "-n", NAMESPACE, "--wait"])?;
    }
    product.rollout(&product.lab.c1, "deploy/faultline-control-plane")?;
    for cluster in product.lab.clusters() {
        product.wait_connected(cluster)?;
    }
    let pods = stage::payments(c2)?;
    let experiment = stage::aimed("kept", c2, &pods[0], &stage::late("5s"), &json!({}));
    let refused = product.cli_with(&["run", "-f", "-", "--run-name", "kept"], &experiment.to_string())?;
    ensure!(refused.code == 5 && refused.stdout.contains("Halted"), "{} {}", refused.code, refused.stdout);
    let set = product.cli_ok(&["halt", "status", "-o", "json"])?;
    ensure!(set.contains("kept") && set.contains("Clean"), "{set}");
    Ok(())
}
