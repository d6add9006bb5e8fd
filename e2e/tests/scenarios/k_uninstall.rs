//! `helm upgrade` and `helm uninstall` of a member in the middle of a fault. The
//! last scenarios: c2 is no member afterwards.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::lab::command::{SHORT, check, words};
use e2e::lab::node::Node;
use e2e::lab::process::{self, Process};
use e2e::lab::say;
use e2e::product::{NAMESPACE, Product};
use serde_json::json;

use super::stage::{self, WAIT};

const LASTS: Duration = Duration::from_mins(5);

#[test]
fn k1_upgrading_a_member_leaves_nothing() {
    stage::scenario("k upgrade", upgrade);
}

#[test]
fn k2_uninstalling_a_member_takes_its_faults_away() {
    stage::scenario("k uninstall", uninstall);
}

/// Every pod of ours is replaced: a fault ends before its daemon does, at its
/// deadline or by the drain.
fn upgrade(product: &Product) -> Result<()> {
    let c2 = &product.lab.c2;
    let pods = stage::payments(c2)?;
    let late = stage::experiment("upgraded", &["c2"], &[stage::late("40s")], &json!({}));
    stage::start(product, "upgraded", &late)?;
    for pod in &pods {
        stage::until_late(c2, pod)?;
    }
    product.member(c2, "upgraded")?;
    product.wait_connected(c2)?;
    for pod in &pods {
        stage::until_quick(c2, pod)?;
    }
    let run = stage::finished(product, "upgraded")?;
    let summary = &run["summary"];
    say("scenarios", format_args!("upgraded: {} {}", summary["outcome"], summary["reason"]));
    ensure!(summary["residue"] == "Clean", "{summary}");
    let early = summary["outcome"] == "Aborted" && summary["reason"] == "DaemonDrain";
    ensure!(early || summary["outcome"] == "Completed", "{summary}");
    Ok(())
}

fn uninstall(product: &Product) -> Result<()> {
    let c2 = &product.lab.c2;
    let pods = stage::payments(c2)?;
    let lasts = format!("{}s", LASTS.as_secs());
    let late = stage::aimed("leave-late", c2, &pods[0], &stage::late(&lasts), &json!({}));
    let pause = stage::fault("still", &lasts, &json!({ "container": { "pause": {} } }));
    let still = stage::aimed("leave-still", c2, &pods[1], &pause, &json!({}));
    let begun = Instant::now();
    stage::start(product, "leave-late", &late)?;
    stage::start(product, "leave-still", &still)?;
    stage::until_late(c2, &pods[0])?;
    stage::until_silent(c2, &pods[1])?;
    let left = c2.helm(&["uninstall", "faultline-member", "-n", NAMESPACE, "--wait", "--timeout=4m"])?;
    ensure!(left.success(), "{}{}", left.stdout, left.stderr);
    stage::until_quick(c2, &pods[0])?;
    stage::until_answering(c2, &pods[1])?;
    ensure!(begun.elapsed() < LASTS, "the faults ended by their deadline");
    c2.wait_for("our pods to be gone", WAIT, || {
        let list = c2.get(&["pods", "-n", NAMESPACE])?;
        ensure!(list["items"].as_array().is_some_and(Vec::is_empty), "{}", list["items"]);
        Ok(())
    })?;
    let mut networks: Vec<PathBuf> = c2.nodes.iter().map(Node::netns).collect();
    for pod in &pods {
        let network = c2.container_processes(pod, None)?.remove(0).netns_path();
        let list = format!("nsenter --net={} nft list tables", network.display());
        let tables = check(&mut words(&list), SHORT)?;
        ensure!(tables.trim().is_empty(), "left in {}: {tables}", pod.name);
        networks.push(network);
    }
    c2.wait_for("the keepers and workers to end", WAIT, || {
        let left = of_ours(&networks);
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

/// Processes of ours in these networks: keepers in a node's, workers in a pod's.
fn of_ours(networks: &[PathBuf]) -> Vec<String> {
    let networks: Vec<_> = networks.iter().filter_map(|path| process::namespace(path)).collect();
    let here =
        |each: &Process| process::namespace(&each.netns_path()).is_some_and(|ns| networks.contains(&ns));
    let lines = process::all().into_iter().filter(here).map(|each| each.command_line());
    lines.filter(|line| line.contains("faultline") && line.contains(" worker ")).collect()
}
