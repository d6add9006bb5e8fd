//! The centre's etcd is killed and restarted in the middle of a run: no run is
//! lost, and none is made twice.

use anyhow::{Context, Result, ensure};
use e2e::product::Product;
use serde_json::{Value, json};

use super::stage;

#[test]
fn e_etcd_dies_in_the_middle() {
    stage::scenario("e", |product| {
        let c2 = &product.lab.c2;
        let experiment = stage::experiment("etcd", &["c2"], &[stage::late("12s")], &json!({}));
        stage::start(product, "etcd-1", &experiment)?;
        let pods = stage::payments(c2)?;
        stage::until_late(c2, &pods[0])?;
        let before = names(product)?;
        product.lab.hub_etcd.kill()?;
        stage::until_quick(c2, &pods[0])?;
        product.lab.hub_etcd.start()?;
        let run = stage::finished(product, "etcd-1")?;
        ensure!(
            run["summary"]["outcome"] == "Completed" && run["summary"]["residue"] == "Clean",
            "{}",
            run["summary"]
        );
        ensure!(names(product)? == before, "runs came or went");
        let counts = &run["clusters"][0]["observed"]["counts"];
        ensure!(counts["total"] == 2 && counts["injected"] == 2 && counts["reverted"] == 2, "{counts}");
        Ok(())
    });
}

fn names(product: &Product) -> Result<Vec<String>> {
    let runs: Value = serde_json::from_str(&product.cli_ok(&["get", "runs", "-o", "json"])?)?;
    let runs = runs.as_array().context("a list of runs")?;
    Ok(runs.iter().map(|r| r["record"]["name"].to_string()).collect())
}
