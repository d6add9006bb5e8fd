//! The latched stop: fleet-wide from the centre, and by an object in one
//! cluster while the centre is dead.

use anyhow::{Result, ensure};
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

fn long(product: &Product, name: &str, clusters: &[&str]) -> Result<()> {
    let limits = json!({ "limits": { "onLinkLoss": { "do": "RunToDeadline" } } });
    let experiment = stage::experiment(name, clusters, &[stage::late("120s")], &limits);
    let started =
        product.cli_with(&["run", "-f", "-", "--run-name", name, "--no-wait"], &experiment.to_string())?;
    ensure!(started.success(), "{}{}", started.stdout, started.stderr);
    Ok(())
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
            ensure!(stage::latency_ms(&pod)? < stage::QUICK_MS, "{} is late although Clean", pod.name);
        }
    }
    let run = stage::finished(product, "halted")?;
    ensure!(
        run["summary"]["outcome"] == "Halted" && run["summary"]["residue"] == "Clean",
        "{}",
        run["summary"]
    );
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
        ensure!(stage::latency_ms(pod)? >= 190.0, "{} is not late any more before the halt", pod.name);
    }
    c2.apply("{apiVersion: faultline.dev/v1alpha1, kind: Halt, metadata: {name: stop-here}, spec: {reason: scenario}}")?;
    c2.wait_for("the Halt object to be Clean", stage::WAIT, || {
        let halt = c2.get(&["halts.faultline.dev", "stop-here"])?;
        ensure!(halt["status"]["level"] == "Clean", "{halt}");
        Ok(())
    })?;
    for pod in &pods {
        ensure!(stage::latency_ms(pod)? < stage::QUICK_MS, "{} is late although Clean", pod.name);
    }
    scale(c1, "faultline-control-plane", 1)?;
    product.rollout(c1, "deploy/faultline-control-plane")?;
    product.wait_connected(c2)?;
    let run = stage::finished(product, "halted-by-object")?;
    ensure!(
        run["summary"]["outcome"] == "Halted" && run["summary"]["residue"] == "Clean",
        "{}",
        run["summary"]
    );
    c2.kubectl_ok(&["delete", "halts.faultline.dev", "stop-here"])?;
    let after = product.cli_with(
        &["run", "-f", "-", "--run-name", "after-object", "-o", "json"],
        &stage::experiment("after-object", &["c2"], &[stage::late("5s")], &json!({})).to_string(),
    )?;
    let run: Value = serde_json::from_str(&after.stdout)?;
    ensure!(run["summary"]["outcome"] == "Completed", "{}", run["summary"]);
    Ok(())
}
