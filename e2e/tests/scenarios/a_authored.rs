//! Written in c1 with kubectl, executed in c2.

use anyhow::{Context, Result, ensure};
use e2e::lab::cluster::Cluster;
use e2e::product::Product;
use serde_json::{Value, json};

use super::stage::{self, WAIT};

#[test]
fn a_written_on_one_cluster_it_runs_on_the_other() {
    stage::scenario("a", |product| {
        without_a_grant_it_is_denied(product)?;
        stage::grant(product, "shop-of-c1", &["--from-cluster", "c1", "--from-namespace", "shop"])?;
        let first = it_runs_in_c2(product)?;
        nothing_runs_it_again(product, &first)?;
        the_centre_holds_no_credential(product)
    });
}

fn without_a_grant_it_is_denied(product: &Product) -> Result<()> {
    let c1 = &product.lab.c1;
    // It is to end by itself, and to be seen before on a busy machine.
    let faults = [stage::late("30s")];
    let extra = json!({
        "steadyState": [{ "name": "answers", "http": { "url": "http://payments.shop/" }, "expect": { "within": "3s" } }],
    });
    c1.apply(&stage::experiment("late", &["c2"], &faults, &extra).to_string())?;
    c1.apply(&stage::run("late-denied", "late").to_string())?;
    let status = stage::status_when(c1, "late-denied", "denied", |s| s["outcome"] == "Denied")?;
    let accepted = stage::condition(&status, "Accepted").context("an Accepted condition")?;
    ensure!(accepted["status"] == "False" && accepted["reason"] == "NoGrant", "{status}");
    let message = accepted["message"].as_str().unwrap_or_default();
    ensure!(message.contains("faultline grant"), "the message names no cure: {message}");
    Ok(())
}

/// The Run's status as it was when it finished.
fn it_runs_in_c2(product: &Product) -> Result<Value> {
    let (c1, c2) = (&product.lab.c1, &product.lab.c2);
    let (near, far) = (stage::payments(c1)?, stage::payments(c2)?);
    c1.apply(&stage::run("late-1", "late").to_string())?;
    let status = stage::status_when(c1, "late-1", "Injected", |s| stage::is_true(s, "Injected"))?;
    ensure!(status["runID"].is_string() && status["planHash"].is_string(), "{status}");
    stage::at_once(&far, |pod| stage::until_late(c2, pod))?;
    for pod in &near {
        stage::is_quick(pod)?;
    }
    c1.kubectl_ok(&[
        "wait",
        "--for=condition=Complete",
        "runs.faultline.dev/late-1",
        "-n",
        "shop",
        "--timeout=180s",
    ])?;
    for pod in &far {
        stage::until_quick(c2, pod)?;
    }
    let status = stage::status_when(c1, "late-1", "Reverted", |s| stage::is_true(s, "Reverted"))?;
    for (field, expected) in
        [("phase", "Finished"), ("outcome", "Completed"), ("verdict", "Held"), ("residue", "Clean")]
    {
        ensure!(status[field] == expected, "{field}: {status}");
    }
    for kind in ["Accepted", "Planned", "Injected", "Reverted", "Complete"] {
        let condition = stage::condition(&status, kind).with_context(|| format!("no {kind} in {status}"))?;
        ensure!(condition["lastTransitionTime"].as_str().is_some_and(|t| !t.is_empty()), "{condition}");
    }
    Ok(status)
}

fn nothing_runs_it_again(product: &Product, first: &Value) -> Result<()> {
    let c1 = &product.lab.c1;
    let runs = count_runs(product)?;
    for _ in 0..3 {
        c1.kubectl_ok(&[
            "annotate",
            "--overwrite",
            "experiments.faultline.dev/late",
            "-n",
            "shop",
            "touched=again",
        ])?;
        c1.apply(&stage::run("late-1", "late").to_string())?;
    }
    c1.kubectl_ok(&["delete", "runs.faultline.dev/late-1", "-n", "shop", "--wait"])?;
    c1.apply(&stage::run("late-1", "late").to_string())?;
    let again = stage::status_when(c1, "late-1", "denied", |s| s["outcome"] == "Denied")?;
    let accepted = stage::condition(&again, "Accepted").context("an Accepted condition")?;
    ensure!(accepted["reason"] == "AlreadyRan", "{again}");
    ensure!(again["runID"] != first["runID"], "{again}");
    let after = count_runs(product)?;
    ensure!(after <= runs + 1, "{runs} runs before, {after} after re-applying");
    for pod in stage::payments(&product.lab.c2)? {
        stage::is_quick(&pod)?;
    }
    Ok(())
}

fn count_runs(product: &Product) -> Result<usize> {
    let runs: Value = serde_json::from_str(&product.cli_ok(&["get", "runs", "-o", "json"])?)?;
    runs.as_array().map(Vec::len).context("a list of runs")
}

/// No Secret, token or kubeconfig of either cluster is in the centre's etcd, in
/// the clear or as base64.
fn the_centre_holds_no_credential(product: &Product) -> Result<()> {
    let dump = product.lab.hub_etcd.dump("/faultline")?;
    ensure!(dump.contains("late-1"), "the dump of the centre's etcd misses what must be there");
    for cluster in product.lab.clusters() {
        let kubeconfig = std::fs::read_to_string(&cluster.kubeconfig)?;
        for line in kubeconfig.lines().filter(|line| line.contains("-data:") || line.contains("token:")) {
            let value = line.rsplit(' ').next().unwrap_or_default();
            ensure!(value.len() < 16 || !dump.contains(value), "a kubeconfig of {} is in etcd", cluster.name);
        }
        for (name, value) in secrets(cluster)? {
            ensure!(!dump.contains(&value), "Secret {name} of {} is in etcd", cluster.name);
        }
    }
    Ok(())
}

/// Every value of every Secret, as base64 and as text where it is text. What
/// is public by nature (certificates) is no secret.
fn secrets(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let list = cluster.get(&["secrets", "-A"])?;
    let mut values = Vec::new();
    for secret in list["items"].as_array().into_iter().flatten() {
        let name = secret["metadata"]["name"].as_str().unwrap_or_default();
        for (key, value) in secret["data"].as_object().into_iter().flatten() {
            let encoded = value.as_str().unwrap_or_default();
            let text = data_encoding::BASE64.decode(encoded.as_bytes()).ok();
            let text = text.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
            if text.starts_with("-----BEGIN CERTIFICATE") || encoded.len() < 24 {
                continue;
            }
            for value in [encoded, text.trim()].into_iter().filter(|v| v.len() >= 16) {
                values.push((format!("{name}/{key}"), value.to_owned()));
            }
        }
    }
    ensure!(!values.is_empty(), "no Secret was looked at");
    cluster.wait_for("the victims to be there still", WAIT, || stage::payments(cluster).map(drop))?;
    Ok(values)
}
