//! `helm upgrade` and `helm uninstall` of a member in the middle of a fault. The
//! last scenarios: c2 is no member afterwards.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::command::{SHORT, check, words};
use e2e::lab::node::Node;
use e2e::lab::process::{self, Process};
use e2e::product::{NAMESPACE, Product};
use serde_json::{Value, json};

use super::g_link_lost::denied;
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

/// Every pod of ours is replaced. A daemon first lets its faults end by themselves: less than the chart's
/// `nodes.drainWaitSeconds` of them is left.
fn upgrade(product: &Product) -> Result<()> {
    let c2 = &product.lab.c2;
    let pods = stage::payments(c2)?;
    let late = stage::experiment("upgraded", &["c2"], &[stage::late("50s")], &json!({}));
    stage::start(product, "upgraded", &late)?;
    for pod in &pods {
        stage::until_late(c2, pod)?;
    }
    product.roll_daemons(c2, "upgraded")?;
    let node = c2.wait_for("a daemon to be told to end", WAIT, || {
        let daemons = c2.get(&["pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=node"])?;
        let mut all = daemons["items"].as_array().into_iter().flatten();
        let told = all.find(|pod| pod["metadata"]["deletionTimestamp"].is_string());
        let told = told.with_context(|| daemons["items"].to_string())?;
        Ok(told["spec"]["nodeName"].as_str().context("it has a node")?.to_owned())
    })?;
    let pod = pods.iter().find(|pod| pod.node == node).context("each node has a victim")?;
    c2.wait_for("the centre to hear of it", WAIT, || {
        let view: Value =
            serde_json::from_str(&product.cli_ok(&["get", "clusters", c2.name, "-o", "json"])?)?;
        let mut nodes = view["status"]["inventory"]["nodes"].as_array().into_iter().flatten();
        ensure!(nodes.any(|seen| seen["name"] == node && seen["draining"] == true), "{view}");
        Ok(())
    })?;
    denied(product, "upgrade-denied", pod, "Draining")?;
    stage::is_late(pod).context("although its daemon waits")?;
    // And the agent, in the middle of that.
    product.member(c2, "upgraded")?;
    product.wait_connected(c2)?;
    for pod in &pods {
        stage::until_quick(c2, pod)?;
    }
    stage::ended(product, "upgraded", "Completed").map(drop)
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
