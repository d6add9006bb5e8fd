//! The same by `faultline run -f`, and on both clusters at once.

use anyhow::{Context, Result, ensure};
use e2e::product::Product;
use serde_json::{Value, json};

use super::stage;

#[test]
fn b_the_command_line_runs_it_on_half_of_both_clusters() {
    stage::scenario("b", |product| {
        half_of_both(product)?;
        a_plan_starts_nothing(product)
    });
}

fn half() -> Value {
    // It is to end by itself, and to be seen before in both on a busy machine.
    let mut experiment = stage::experiment("half", &["c1", "c2"], &[stage::late("30s")], &json!({}));
    experiment["spec"]["targets"][0]["pick"] = json!({ "percent": 50 });
    experiment
}

fn half_of_both(product: &Product) -> Result<()> {
    let both = product.lab.clusters().map(|cluster| stage::payments(cluster).map(|pods| (cluster, pods)));
    let both = both.into_iter().collect::<Result<Vec<_>>>()?;
    let started =
        product.cli_with(&["run", "-f", "-", "--run-name", "half-1", "--no-wait"], &half().to_string())?;
    ensure!(started.success(), "{}{}", started.stdout, started.stderr);
    stage::at_once(&both, |(cluster, pods)| {
        cluster.wait_for("one of two pods to be late", stage::WAIT, || {
            let late: Vec<f64> = pods.iter().map(stage::latency_ms).collect::<Result<_>>()?;
            let count = late.iter().filter(|ms| **ms >= 190.0).count();
            ensure!(count == 1 && late.iter().any(|ms| *ms < stage::QUICK_MS), "{late:?}");
            Ok(())
        })
    })?;
    let watched = product.cli(&["watch", "half-1", "-o", "json"])?;
    let run: Value = serde_json::from_str(&watched.stdout).with_context(|| watched.stderr.clone())?;
    ensure!(run["summary"]["outcome"] == "Completed" && run["summary"]["residue"] == "Clean", "{run}");
    // Nothing was measured, so nothing is claimed: exit code 4.
    ensure!(run["summary"]["verdict"] == "NotMeasured" && watched.code == 4, "{} {run}", watched.code);
    for cluster in product.lab.clusters() {
        for pod in stage::payments(cluster)? {
            stage::until_quick(cluster, &pod)?;
        }
    }
    Ok(())
}

fn a_plan_starts_nothing(product: &Product) -> Result<()> {
    let plan = product.cli_with(&["plan", "-f", "-"], &half().to_string())?;
    ensure!(plan.success(), "{}{}", plan.stdout, plan.stderr);
    for word in ["CLUSTER c1", "CLUSTER c2", "network.delay", "kernel-timed", "PLAN "] {
        ensure!(plan.stdout.contains(word), "{word} is not in\n{}", plan.stdout);
    }
    let mut wrong = half();
    wrong["spec"]["targets"][0]["pods"]["namespaces"] = json!(["kube-system"]);
    let refused = product.cli_with(&["plan", "-f", "-"], &wrong.to_string())?;
    ensure!(refused.code == 5, "{} {}", refused.code, refused.stdout);
    for cluster in product.lab.clusters() {
        for pod in stage::payments(cluster)? {
            stage::is_quick(&pod)?;
        }
    }
    Ok(())
}
