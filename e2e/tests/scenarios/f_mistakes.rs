//! Ten mistakes in one spec: ten problems with paths, and nothing is changed,
//! by the command line and by kubectl alike.

use anyhow::{Context, Result, ensure};
use e2e::product::Product;
use serde_json::{Value, json};

use super::stage;

const PATHS: [&str; 10] = [
    "spec.hypothesys",
    "spec.targets[0].pick",
    "spec.targets[0].atMost.perCluster",
    "spec.targets[0].pods.namespaces",
    "spec.steadyState[0].http.url",
    "spec.steadyState[0].every",
    "spec.faults[0].target",
    "spec.faults[0].for",
    "spec.faults[0].network.delay.latancy",
    "spec.faults[0].network.delay.latency",
];

#[test]
fn f_ten_mistakes_are_ten_problems() {
    stage::scenario("f", |product| {
        by_the_command_line(product)?;
        by_kubectl(product)
    });
}

fn wrong() -> Value {
    let mut experiment = stage::experiment("wrong", &["c2"], &[stage::late("10m")], &json!({}));
    let spec = &mut experiment["spec"];
    spec["hypothesys"] = json!("x");
    spec["targets"][0]["pick"] = json!({ "one": true, "all": true });
    spec["targets"][0]["atMost"] = json!({ "perCluster": 0 });
    spec["targets"][0]["pods"]["namespaces"] = json!([]);
    spec["steadyState"] = json!([{ "name": "s", "http": { "url": "ftp://x" }, "every": "1ms" }]);
    spec["faults"][0]["target"] = json!("paiments");
    spec["faults"][0]["for"] = json!("11m");
    spec["faults"][0]["network"]["delay"] = json!({ "latancy": "1s", "latency": "2m" });
    experiment
}

fn by_the_command_line(product: &Product) -> Result<()> {
    for verb in [&["validate", "-f", "-"][..], &["apply", "-f", "-"], &["run", "-f", "-"]] {
        let refused = product.cli_with(verb, &wrong().to_string())?;
        ensure!(refused.code == 1, "{verb:?}: {} {}", refused.code, refused.stderr);
        for path in PATHS {
            ensure!(refused.stderr.contains(path), "{verb:?}: no {path} in\n{}", refused.stderr);
        }
        ensure!(refused.stderr.contains("10 problem"), "{verb:?}: {}", refused.stderr);
    }
    let stored = product.cli(&["get", "experiments", "wrong"])?;
    ensure!(!stored.success(), "it was stored: {}", stored.stdout);
    Ok(())
}

/// An old client that validates nothing: what the schema lets through is
/// reported by us, nothing is pruned silently.
fn by_kubectl(product: &Product) -> Result<()> {
    let c1 = &product.lab.c1;
    let mut experiment = wrong();
    // What the apiserver's own schema refuses outright is refused there.
    let refused = c1.try_apply(&experiment.to_string())?;
    ensure!(!refused.success(), "the apiserver took it: {}", refused.stdout);
    experiment["spec"]["targets"][0]["atMost"]["perCluster"] = json!(1);
    experiment["spec"]["steadyState"] = json!([]);
    c1.apply(&experiment.to_string())?;
    let accepted = c1.wait_for("the Experiment to be answered", stage::WAIT, || {
        let object = c1.get(&["experiments.faultline.dev", "wrong", "-n", "shop"])?;
        stage::condition(&object["status"], "Accepted").cloned().context(object["status"].to_string())
    })?;
    ensure!(accepted["status"] == "False" && accepted["reason"] == "Invalid", "{accepted}");
    let message = accepted["message"].as_str().unwrap_or_default();
    for path in ["spec.hypothesys", "spec.faults[0].target", "spec.faults[0].network.delay.latancy"] {
        ensure!(message.contains(path), "no {path} in {message}");
    }
    c1.kubectl_ok(&["delete", "experiments.faultline.dev", "wrong", "-n", "shop"]).map(drop)
}
