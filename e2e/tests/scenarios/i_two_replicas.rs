//! Two replicas of the control plane, and their etcd is dead: a stop and a halt
//! given to one reach the agents of both.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, ensure};
use e2e::lab::cluster::{Pod, kubectl};
use e2e::lab::wait::wait_for;
use e2e::product::{NAMESPACE, Product};
use serde_json::{Value, json};

use super::stage::{self, WAIT};

const CENTRE: &str = "app.kubernetes.io/component=control-plane";

#[test]
fn i_without_etcd_any_replica_stops_everything() {
    stage::scenario("i", |product| {
        product.centre(2)?;
        let told = told_to_one(product);
        // What follows stands on one replica and a living store.
        if !product.lab.hub_etcd.process()?.alive() {
            product.lab.hub_etcd.start()?;
        }
        product.centre(1)?;
        told
    });
}

fn told_to_one(product: &Product) -> Result<()> {
    let (c1, c2) = (&product.lab.c1, &product.lab.c2);
    for cluster in product.lab.clusters() {
        product.wait_connected(cluster)?;
    }
    let (near, far) = (stage::payments(c1)?, stage::payments(c2)?);
    let limits = json!({ "onLinkLoss": { "do": "RunToDeadline" } });
    let late = stage::late("300s");
    for (name, cluster, pod) in
        [("dark-stop", c2, &far[0]), ("dark-halt-far", c2, &far[1]), ("dark-halt-near", c1, &near[0])]
    {
        stage::start(product, name, &stage::aimed(name, cluster, pod, &late, &limits))?;
    }
    for (cluster, pod) in [(c2, &far[0]), (c2, &far[1]), (c1, &near[0])] {
        stage::until_late(cluster, pod)?;
    }
    let other = one_that_does_not_serve_c2(product)?;
    let way = Way::to(product, &other)?;
    let context = product.login_at("other", &format!("https://127.0.0.1:{}", way.port))?;
    product.lab.hub_etcd.kill()?;

    product.cli_ok(&["--context", &context, "stop", "dark-stop"])?;
    stage::until_quick(c2, &far[0])?;
    stage::is_late(&far[1]).context("although only another run was stopped")?;
    let halt = ["--context", &context, "halt", "set", "--fleet", "--id", "dark", "--no-wait"];
    product.cli_ok(&halt)?;
    stage::until_quick(c2, &far[1])?;
    stage::until_quick(c1, &near[0])?;

    // And it is all in the store once there is one.
    product.lab.hub_etcd.start()?;
    stage::ended(product, "dark-stop", "Aborted")?;
    stage::ended(product, "dark-halt-far", "Halted")?;
    stage::ended(product, "dark-halt-near", "Halted")?;
    wait_for("the halt to be in the store", WAIT, || stored(product, "halts/dark").map(drop))?;
    product.cli_ok(&["halt", "release", "dark"]).map(drop)
}

/// A way to one replica past the Service: its certificate vouches for loopback,
/// not for its own pod's address.
struct Way {
    kubectl: Child,
    port: u16,
}

impl Way {
    fn to(product: &Product, pod: &Pod) -> Result<Self> {
        // On a port that it takes itself, and names.
        let mut kubectl = kubectl(&product.lab.c1.kubeconfig)
            .args(["port-forward", "-n", NAMESPACE, "--address=127.0.0.1", &pod.name, ":7443"])
            .stdout(Stdio::piped())
            .spawn()?;
        let said = BufReader::new(kubectl.stdout.take().context("a pipe")?);
        let mut way = Self { kubectl, port: 0 };
        let (tell, told) = mpsc::sync_channel(1);
        // To its end: it says a line for each connection, and only the first says the port.
        thread::spawn(move || said.lines().map_while(Result::ok).for_each(|line| drop(tell.try_send(line))));
        let line = told.recv_timeout(WAIT).context("port-forward says nothing")?;
        let port = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split(' ').next());
        way.port = port.and_then(|port| port.parse().ok()).with_context(|| format!("no port: {line:?}"))?;
        Ok(way)
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        // It may have ended with its pod.
        drop(self.kubectl.kill());
        drop(self.kubectl.wait());
    }
}

/// Its agent hears of anything only from the other replica.
fn one_that_does_not_serve_c2(product: &Product) -> Result<Pod> {
    let c1 = &product.lab.c1;
    let view: Value = serde_json::from_str(&product.cli_ok(&["get", "clusters", "c2", "-o", "json"])?)?;
    let id = view["spec"]["id"].as_str().context("c2 has an id")?;
    let session: Value = serde_json::from_str(&stored(product, &format!("session/{id}"))?)?;
    let serves = session["replica"].as_str().context("a replica serves c2")?;
    let replicas = c1.ready_pods(NAMESPACE, CENTRE, 2, WAIT)?;
    // A replica's id begins with its pod's name, cut to 40 characters.
    let (own, mut others): (Vec<Pod>, Vec<Pod>) =
        replicas.into_iter().partition(|pod| serves.starts_with(&pod.name[..pod.name.len().min(40)]));
    ensure!(own.len() == 1 && others.len() == 1, "{serves} is not one of {own:?} {others:?}");
    Ok(others.remove(0))
}

/// The value of a key of the centre's, by the end of its name.
fn stored(product: &Product, key: &str) -> Result<String> {
    let dump = product.lab.hub_etcd.dump("/faultline")?;
    let mut lines = dump.lines().skip_while(|line| !line.ends_with(key));
    lines.nth(1).map(ToOwned::to_owned).with_context(|| format!("{key} is not in the store"))
}
