//! Links and peers are lost in the middle of a fault, while every process of
//! ours lives: a firewall between c2 and the centre, or between a daemon and its
//! agent; c2's apiserver hangs; the agent moves to another node.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::cluster::{Cluster, Pod};
use e2e::lab::cut::{Cut, Paused};
use e2e::lab::say;
use e2e::product::{LINK_PORT, NAMESPACE, NODE_LINK_PORT, Product};
use serde_json::{Value, json};

use super::c_left_dead::scale;
use super::h_drift::tables;
use super::stage::{self, FirstAnswer, WAIT};

const AGENT: &str = "app.kubernetes.io/component=agent";
/// How long a fault is asked for that outlasts a lost link.
const LASTS: Duration = Duration::from_secs(40);
/// The same of one that a lost link is to end: longer than anybody waits for that.
const LINKED: Duration = Duration::from_mins(4);
/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(8);

#[test]
fn g1_a_firewall_cuts_the_cluster_off_from_the_centre() {
    stage::scenario("g centre cut off", cut_off_from_the_centre);
}

#[test]
fn g2_a_firewall_cuts_a_daemon_off_from_its_agent() {
    stage::scenario("g daemon cut off", cut_off_from_the_agent);
}

#[test]
fn g3_the_apiserver_hangs_and_stops_go_on() {
    stage::scenario("g apiserver hangs", apiserver_hangs);
}

#[test]
fn g4_the_agent_moves_to_another_node() {
    stage::scenario("g agent moves", agent_moves);
}

#[test]
fn g5_a_leader_that_slept_through_its_lease_wakes_up() {
    stage::scenario("g paused leader", paused_leader);
}

#[test]
fn g6_the_link_is_cut_between_plan_and_start() {
    stage::scenario("g cut before the start", cut_before_the_start);
}

fn limits(action: &str) -> Value {
    json!({ "onLinkLoss": { "after": "4s", "do": action } })
}

/// A pod cut from everybody, for `lasts`.
fn partition(product: &Product, name: &str, pod: &Pod, lasts: Duration, action: &str) -> Result<()> {
    let kind = json!({ "network": { "partition": {} } });
    let fault = stage::fault("gone", &format!("{}s", lasts.as_secs()), &kind);
    stage::start(product, name, &stage::aimed(name, &product.lab.c2, pod, &fault, &limits(action)))?;
    stage::until_silent(&product.lab.c2, pod)
}

fn cluster_view(product: &Product, cluster: &Cluster) -> Result<Value> {
    Ok(serde_json::from_str(&product.cli_ok(&["get", "clusters", cluster.name, "-o", "json"])?)?)
}

/// A run that must be Denied for `reason`.
pub(crate) fn denied(product: &Product, name: &str, pod: &Pod, reason: &str) -> Result<()> {
    let experiment = stage::aimed(name, &product.lab.c2, pod, &stage::late("5s"), &json!({}));
    let refused = product.cli_with(&["run", "-f", "-", "--run-name", name], &experiment.to_string())?;
    ensure!(
        refused.code == 5 && refused.stdout.contains(reason),
        "{} {}{}",
        refused.code,
        refused.stdout,
        refused.stderr
    );
    Ok(())
}

/// One fault that is to end with the link, one that is to outlast it.
fn cut_off_from_the_centre(product: &Product) -> Result<()> {
    let (c1, c2) = (&product.lab.c1, &product.lab.c2);
    let pods = stage::payments(c2)?;
    let (reverts, lasts) = (&pods[0], &pods[1]);
    partition(product, "cut-revert", reverts, LINKED, "Revert")?;
    let asked = Instant::now();
    partition(product, "cut-lasts", lasts, LASTS, "RunToDeadline")?;
    let (seen, answers) = (Instant::now(), FirstAnswer::of(lasts));
    let cut = Cut::make(&c2.nodes, Some(c1.nodes[0].address()), LINK_PORT)?;
    stage::until_answering(c2, reverts)?;
    say("scenarios", format_args!("ended {:.1} s after the cut", seen.elapsed().as_secs_f64()));
    c1.wait_for("the centre to know that c2 is away", WAIT, || {
        let view = cluster_view(product, c2)?;
        ensure!(view["state"] != "Connected", "{view}");
        Ok(())
    })?;
    denied(product, "cut-denied", reverts, "ClusterUnavailable")?;
    // The link's loss does not end a fault that is to run to its deadline.
    let ended = answers.at()?;
    let (asked, seen) = (ended - asked, ended - seen);
    ensure!(asked >= LASTS && seen < LASTS + SLACK, "not its deadline: {asked:?} {seen:?}");
    // Nothing is heard yet, and nothing is made up.
    for name in ["cut-revert", "cut-lasts"] {
        let summary = product.run(name)?["summary"].clone();
        ensure!(summary["phase"] != "Finished", "{summary}");
    }
    cut.heal()?;
    product.wait_connected(c2)?;
    let run = stage::ended(product, "cut-revert", "Aborted")?;
    ensure!(run["summary"]["reason"] == "LinkLost", "{}", run["summary"]);
    one_reverted(&run)?;
    one_reverted(&stage::ended(product, "cut-lasts", "Completed")?)?;
    stage::still_answers(reverts)
}

fn one_reverted(run: &Value) -> Result<()> {
    let counts = &run["clusters"][0]["observed"]["counts"];
    ensure!(counts["total"] == 1 && counts["injected"] == 1 && counts["reverted"] == 1, "{counts}");
    Ok(())
}

/// The daemon judges for itself, and says so when it is back.
fn cut_off_from_the_agent(product: &Product) -> Result<()> {
    let c2 = &product.lab.c2;
    let pods = stage::payments(c2)?;
    partition(product, "cut-daemon", &pods[0], LINKED, "Revert")?;
    let begun = Instant::now();
    let node = c2.node(&pods[0].node)?.clone();
    let cut = Cut::make(std::slice::from_ref(&node), None, NODE_LINK_PORT)?;
    stage::until_answering(c2, &pods[0])?;
    say("scenarios", format_args!("ended {:.1} s after the cut", begun.elapsed().as_secs_f64()));
    cut.heal()?;
    product.wait_connected(c2)?;
    let run = stage::ended(product, "cut-daemon", "Aborted")?;
    ensure!(run["summary"]["reason"] == "LinkLost", "{}", run["summary"]);
    one_reverted(&run)
}

/// Stop and Halt need no apiserver; a start needs one.
fn apiserver_hangs(product: &Product) -> Result<()> {
    let c2 = &product.lab.c2;
    let pods = stage::payments(c2)?;
    let long = Duration::from_mins(3);
    partition(product, "hang-stop", &pods[0], long, "RunToDeadline")?;
    partition(product, "hang-halt", &pods[1], long, "RunToDeadline")?;
    let begun = Instant::now();
    let apiserver = product.lab.ledger().process("c2-apiserver").context("c2 has an apiserver")?;
    let hanging = Paused::pause(apiserver)?;
    product.lab.c1.wait_for("the agent of c2 to be stop-only", WAIT, || {
        let view = cluster_view(product, c2)?;
        ensure!(view["status"]["inventory"]["acceptsStarts"] == false, "{view}");
        Ok(())
    })?;
    denied(product, "hang-denied", &pods[0], "StopOnly")?;
    product.cli_ok(&["stop", "hang-stop"])?;
    stage::until_answering(c2, &pods[0])?;
    ensure!(!stage::answers(&pods[1]), "the stop of one run ended another");
    product.cli_ok(&["halt", "set", "--cluster", "c2", "--id", "hang", "--no-wait"])?;
    stage::until_answering(c2, &pods[1])?;
    let lasted = begun.elapsed();
    ensure!(lasted + SLACK < long, "nothing ended before its deadline: {lasted:?}");
    hanging.go_on();
    c2.wait_for("the apiserver to answer", WAIT, || c2.kubectl_ok(&["get", "--raw", "/readyz"]).map(drop))?;
    stage::ended(product, "hang-stop", "Aborted")?;
    stage::ended(product, "hang-halt", "Halted")?;
    product.lab.c1.wait_for("the halt to be Clean", WAIT, || {
        let view = cluster_view(product, c2)?;
        ensure!(view["status"]["halts"]["hang"] == "Clean", "{view}");
        Ok(())
    })?;
    product.cli_ok(&["halt", "release", "hang"])?;
    product.wait_connected(c2)
}

/// The next agent adopts what the daemons hold, and can end it.
fn agent_moves(product: &Product) -> Result<()> {
    let c2 = &product.lab.c2;
    let limits = json!({ "onLinkLoss": { "do": "RunToDeadline" } });
    let pods = stage::payments(c2)?;
    stage::start(
        product,
        "moved",
        &stage::experiment("moved", &["c2"], &[stage::late("240s")], &json!({ "limits": limits })),
    )?;
    let begun = Instant::now();
    for pod in &pods {
        stage::until_late(c2, pod)?;
    }
    let before = c2.ready_pods(NAMESPACE, AGENT, 1, WAIT)?.remove(0);
    c2.kubectl_ok(&["cordon", &before.node])?;
    let moved = move_agent(c2, &before);
    c2.kubectl_ok(&["uncordon", &before.node])?;
    let after = moved?;
    ensure!(after.node != before.node, "{after:?}");
    product.wait_connected(c2)?;
    c2.wait_for("the run to be adopted", WAIT, || {
        let run = product.run("moved")?;
        let observed = &run["clusters"][0]["observed"];
        let adopted =
            observed["timeline"].as_array().is_some_and(|t| t.iter().any(|e| e["event"] == "Adopted"));
        ensure!(adopted && observed["counts"]["active"] == 2, "{observed}");
        Ok(())
    })?;
    for pod in &pods {
        stage::is_late(pod).context("although the next agent holds it")?;
    }
    let since = begun.elapsed().as_secs_f64();
    say("scenarios", format_args!("adopted {since:.1} s after the start"));
    product.cli_ok(&["stop", "moved"])?;
    for pod in &pods {
        stage::until_quick(c2, pod)?;
    }
    ensure!(begun.elapsed() < Duration::from_secs(230), "it ended by its deadline");
    let run = stage::ended(product, "moved", "Aborted")?;
    let counts = &run["clusters"][0]["observed"]["counts"];
    ensure!(counts["total"] == 2 && counts["reverted"] == 2, "{counts}");
    Ok(())
}

fn move_agent(c2: &Cluster, before: &Pod) -> Result<Pod> {
    c2.kubectl_ok(&["delete", "pod", "-n", NAMESPACE, &before.name, "--wait"])?;
    Ok(c2.ready_pods(NAMESPACE, &active(), 1, WAIT)?.remove(0))
}

/// Two agents: the one that leads is stopped until the other leads, then wakes up.
fn paused_leader(product: &Product) -> Result<()> {
    let c2 = &product.lab.c2;
    scale(c2, "faultline-agent", 2)?;
    let done = product.rollout(c2, "deploy/faultline-agent").and_then(|()| wake_up(product));
    scale(c2, "faultline-agent", 1)?;
    done?;
    c2.ready_pods(NAMESPACE, AGENT, 1, WAIT)?;
    c2.ready_pods(NAMESPACE, &active(), 1, WAIT)?;
    product.wait_connected(c2)
}

fn active() -> String {
    format!("{AGENT},faultline.dev/active=true")
}

fn wake_up(product: &Product) -> Result<()> {
    let c2 = &product.lab.c2;
    let pods = stage::payments(c2)?;
    let first = c2.ready_pods(NAMESPACE, &active(), 1, WAIT)?.remove(0);
    partition(product, "slept-stop", &pods[0], Duration::from_mins(4), "RunToDeadline")?;
    let begun = Instant::now();
    let asleep = Paused::pause(c2.container_processes(&first, None)?.remove(0))?;
    let second = c2.wait_for("the other agent to lead", WAIT, || {
        let leads = c2.pods(NAMESPACE, &active())?;
        ensure!(leads.len() == 1 && leads[0].uid != first.uid, "{leads:?}");
        Ok(leads[0].clone())
    })?;
    product.wait_connected(c2)?;
    asleep.go_on();
    // What the second leader holds and starts, the first one neither ends nor repeats.
    partition(product, "slept-new", &pods[1], Duration::from_secs(10), "RunToDeadline")?;
    product.cli_ok(&["stop", "slept-stop"])?;
    stage::until_answering(c2, &pods[0])?;
    ensure!(begun.elapsed() < Duration::from_mins(4), "it ended by its deadline");
    one_reverted(&stage::ended(product, "slept-stop", "Aborted")?)?;
    one_reverted(&stage::ended(product, "slept-new", "Completed")?)?;
    let leads = c2.pods(NAMESPACE, &active())?;
    ensure!(leads.len() == 1 && leads[0].uid == second.uid, "{leads:?}");
    Ok(())
}

/// Two runs over both clusters. The agent of c1 sleeps until the plans of c2 are in and c2 is cut off: so the Starts
/// are written while nobody hears them in c2. The link comes back in time for one of the runs.
fn cut_before_the_start(product: &Product) -> Result<()> {
    let (c1, c2) = (&product.lab.c1, &product.lab.c2);
    let (near, far) = (stage::payments(c1)?, stage::payments(c2)?);
    let agent = c1.ready_pods(NAMESPACE, &active(), 1, WAIT)?.remove(0);
    let asleep = Paused::pause(c1.container_processes(&agent, None)?.remove(0))?;
    let window = Duration::from_secs(15);
    for (name, within, at) in
        [("gap-in-time", "10m".to_owned(), 0), ("gap-too-late", format!("{}s", window.as_secs()), 1)]
    {
        let limits = json!({ "limits": { "startWithin": within } });
        let mut both = stage::experiment(name, &["c1", "c2"], &[stage::late("15s")], &limits);
        both["spec"]["targets"][0]["pods"] =
            json!({ "namespaces": ["shop"], "names": [near[at].name, far[at].name] });
        stage::start(product, name, &both)?;
    }
    for name in ["gap-in-time", "gap-too-late"] {
        c2.wait_for(&format!("the plan of {name} to be in, and no other"), WAIT, || {
            let run = product.run(name)?;
            let (here, there) = (part(&run, c2)?, part(&run, c1)?);
            ensure!(here["plan"].is_object() && there["plan"].is_null(), "{run}");
            Ok(())
        })?;
    }
    let cut = Cut::make(&c2.nodes, Some(c1.nodes[0].address()), LINK_PORT)?;
    for name in ["gap-in-time", "gap-too-late"] {
        let run = product.run(name)?;
        ensure!(run["summary"]["phase"] == "Planning", "{}", run["summary"]);
    }
    asleep.go_on();
    for pod in &near {
        stage::until_late(c1, pod)?;
    }
    let started = Instant::now();
    c1.wait_for("c2 to be away, and one start to be past", WAIT, || {
        let view = cluster_view(product, c2)?;
        ensure!(view["state"] != "Connected" && started.elapsed() > window, "{view}");
        Ok(())
    })?;
    for (name, pod) in [("gap-in-time", &far[0]), ("gap-too-late", &far[1])] {
        let run = product.run(name)?;
        let here = part(&run, c2)?;
        ensure!(here["intent"] == "Start" && here["observed"]["startedAt"].is_null(), "{here}");
        stage::is_quick(pod).context("although no start can have arrived")?;
    }
    cut.heal()?;
    stage::until_late(c2, &far[0])?;
    let missed = stage::ended(product, "gap-too-late", "Missed")?;
    let here = &part(&missed, c2)?["observed"];
    ensure!(here["outcome"] == "Missed" && here["counts"]["injected"] == 0, "{here}");
    ensure!(part(&missed, c1)?["observed"]["outcome"] == "Completed", "{missed}");
    ensure!(tables(c2, &far[1])?.is_empty(), "{} was hit too late", far[1].name);
    stage::is_quick(&far[1])?;
    let done = stage::ended(product, "gap-in-time", "Completed")?;
    for cluster in [c1, c2] {
        let counts = &part(&done, cluster)?["observed"]["counts"];
        ensure!(counts["injected"] == 1 && counts["reverted"] == 1, "{}: {counts}", cluster.name);
    }
    product.wait_connected(c1)
}

/// What a run is in one cluster.
fn part<'a>(run: &'a Value, cluster: &Cluster) -> Result<&'a Value> {
    let mut all = run["clusters"].as_array().into_iter().flatten();
    all.find(|part| part["name"] == cluster.name).with_context(|| format!("{} is not in {run}", cluster.name))
}
