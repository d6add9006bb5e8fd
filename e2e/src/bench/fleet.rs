//! Two real clusters: from the Run object's watch event in c1 to Injected on
//! ten pods of c2, seen in c1. One watch shows both ends, so what kubectl and
//! the apiserver add to it cancels out.

mod hops;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use control_plane::store::etcd::{EtcdConfig, EtcdStore, EtcdTls};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::figures::{Figures, HEAD, ms};
use super::floor::{FLOOR_BYTES, caught_up, put_to_watch};
use super::report::{Section, load};
use crate::lab::cluster::{Cluster, kubectl};
use crate::lab::hub::HubEtcd;
use crate::lab::{Lab, images};
use crate::product::Product;

const PODS: usize = 10;
const WARM_UP: usize = 2;
const SAMPLES: usize = 20;
const FLOOR_SAMPLES: usize = 100;
const WAIT: Duration = Duration::from_mins(3);
const EVENT: Duration = Duration::from_mins(1);
const EVENTS: usize = 1024;
const AIM: Duration = Duration::from_millis(250);

/// Brings the lab up with the product, measures, takes it down, writes it up.
pub(super) fn measure() -> Result<Section> {
    let lab = Lab::up_fresh()?;
    let guard = lab.guard();
    let measured = Product::install(lab.clone()).and_then(|product| on(&product));
    drop(guard);
    let down = lab.down();
    let section = measured?;
    down?;
    Ok(section)
}

fn on(product: &Product) -> Result<Section> {
    prepare(product)?;
    let load_before = load();
    let floor = floor(&product.lab.hub_etcd)?;
    let mut watch = Watch::open(&product.lab.c1)?;
    let mut runs = Vec::new();
    for n in 0..WARM_UP + SAMPLES {
        let run = one_run(product, &mut watch, n).with_context(|| product.lab.dump(&["faultline-system"]))?;
        if n >= WARM_UP {
            runs.push(run);
        }
    }
    section(floor, &runs, &load_before)
}

/// Bare puts in the etcd that the control plane uses, under keys of their own.
fn floor(hub: &HubEtcd) -> Result<Vec<Duration>> {
    let read =
        |path: &std::path::Path| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let mut config = EtcdConfig::new(vec![hub.endpoint.clone()]);
    "/bench-floor/".clone_into(&mut config.prefix);
    config.tls = Some(EtcdTls {
        ca_pem: read(&hub.ca)?,
        identity_pem: Some((read(&hub.client_cert)?, read(&hub.client_key)?)),
        server_name: None,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = EtcdStore::connect(config).await?;
        let mut watch = caught_up(&store).await?;
        let mut all = Vec::new();
        for n in 0..FLOOR_SAMPLES {
            all.push(put_to_watch(&store, &mut watch, &format!("n/{n}")).await?);
        }
        Ok(all)
    })
}

fn prepare(product: &Product) -> Result<()> {
    let (c1, c2) = (&product.lab.c1, &product.lab.c2);
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "fleet", "namespace": "shop" },
        "spec": {
            "replicas": PODS,
            "selector": { "matchLabels": { "app": "fleet" } },
            "template": {
                "metadata": { "labels": { "app": "fleet" } },
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{ "name": "app", "image": images::VICTIM_IMAGE, "imagePullPolicy": "Never" }],
                },
            },
        },
    });
    c2.apply(&deployment.to_string())?;
    c2.ready_pods("shop", "app=fleet", PODS, WAIT)?;
    let most = PODS.to_string();
    let grant = ["grant", "fleet", "--from-cluster", "c1", "--from-namespace", "shop", "--to-cluster", "c2"];
    let at = ["--to-namespace", "shop", "--kind", "*", "--max-targets", &most];
    product.cli_ok(&[&grant[..], &at].concat())?;
    c1.apply(
        &json!({
            "apiVersion": "faultline.dev/v1alpha1", "kind": "Experiment",
            "metadata": { "name": "fleet", "namespace": "shop" },
            "spec": {
                "clusters": { "names": ["c2"] },
                "targets": [{
                    "name": "fleet",
                    "pods": { "namespaces": ["shop"], "labelSelector": { "matchLabels": { "app": "fleet" } } },
                    "atMost": { "perCluster": PODS },
                }],
                "faults": [{ "name": "gone", "target": "fleet", "for": "5m", "network": { "partition": {} } }],
            },
        })
        .to_string(),
    )?;
    for cluster in product.lab.clusters() {
        product.wait_connected(cluster)?;
    }
    Ok(())
}

/// The instants of one run, as c1's watch showed them.
#[derive(Debug, Default, Clone)]
struct Times {
    /// (condition or phase, since the Run's own event).
    marks: Vec<(String, Duration)>,
    /// The ends of the hops, as the run has them on record.
    hops: Vec<Duration>,
    injected: Duration,
    /// From the deletion's call to Finished at the centre.
    ended: Duration,
}

fn one_run(product: &Product, watch: &mut Watch, n: usize) -> Result<Times> {
    let c1 = &product.lab.c1;
    let name = format!("fleet-{n}");
    let run = json!({
        "apiVersion": "faultline.dev/v1alpha1", "kind": "Run",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "experimentRef": { "name": "fleet" } },
    });
    c1.apply(&run.to_string())?;
    let (begun, _) = watch.until(|e| e["type"] == "ADDED" && e["object"]["metadata"]["name"] == *name)?;
    let begun_at = Timestamp::now() - begun.elapsed();
    let mut times = Times::default();
    let (at, status) = watch.until(|event| {
        if event["object"]["metadata"]["name"] != *name {
            return false;
        }
        let status = &event["object"]["status"];
        let is = |kind: &str| {
            let all = status["conditions"].as_array().into_iter().flatten();
            all.into_iter().any(|c| c["type"] == kind && c["status"] == "True")
        };
        for kind in ["Accepted", "Planned", "Injected"] {
            if is(kind) && times.marks.iter().all(|(seen, _)| seen != kind) {
                times.marks.push((kind.to_owned(), begun.elapsed()));
            }
        }
        is("Injected") || status["phase"] == "Finished"
    })?;
    let status = &status["object"]["status"];
    ensure!(status["phase"] != "Finished", "{status}");
    times.injected = at.duration_since(begun);
    let injected = product.run(status["runID"].as_str().unwrap_or_default())?;
    let counts = &injected["clusters"][0]["observed"]["counts"];
    ensure!(counts["injected"] == PODS && counts["active"] == PODS, "{counts}");
    times.hops = hops::of(&injected, begun_at)?;
    let deleted = Instant::now();
    c1.kubectl_ok(&["delete", "runs.faultline.dev", &name, "-n", "shop", "--wait=false"])?;
    c1.wait_for("the run to end", WAIT, || {
        let run = product.run(status["runID"].as_str().unwrap_or_default())?;
        ensure!(run["summary"]["phase"] == "Finished" && run["summary"]["residue"] == "Clean", "{run}");
        Ok(())
    })?;
    times.ended = deleted.elapsed();
    Ok(times)
}

/// kubectl following the Runs of c1, one JSON event a line.
#[derive(Debug)]
struct Watch {
    child: Child,
    events: Receiver<(Instant, String)>,
}

impl Watch {
    fn open(c1: &Cluster) -> Result<Self> {
        let path = "/apis/faultline.dev/v1alpha1/namespaces/shop/runs?watch=1&timeoutSeconds=3600";
        let mut child = kubectl(&c1.kubeconfig)
            .args(["get", "--raw", path])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start kubectl")?;
        let lines = BufReader::new(child.stdout.take().context("kubectl has an output")?);
        let (into, events) = sync_channel(EVENTS);
        thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if into.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, events })
    }

    /// The next event for which `ready` holds, and when it came.
    fn until(&mut self, mut ready: impl FnMut(&Value) -> bool) -> Result<(Instant, Value)> {
        loop {
            let (at, line) = self.events.recv_timeout(EVENT).map_err(|e| anyhow!("c1's watch: {e}"))?;
            let event: Value = serde_json::from_str(&line)?;
            if ready(&event) {
                return Ok((at, event));
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Ours, and it holds nothing.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn section(floor: Vec<Duration>, runs: &[Times], load_before: &str) -> Result<Section> {
    let figures = |all: Vec<Duration>| Figures::new(all).context("samples");
    let injected = figures(runs.iter().map(|run| run.injected).collect())?;
    let mut body = format!(
        "`make bench ARGS=fleet` prints this alone. Two real clusters on this machine, both charts installed, the\n\
         control plane in c1 with a real etcd (which, as those of the clusters, does not wait for the disk). A Run is\n\
         written in c1 and aims network.partition at {PODS} pods on two nodes of c2; times count from the Run's own\n\
         event in a watch of c1 to what the same watch shows later. The floor is a put of {FLOOR_BYTES} bytes in the\n\
         control plane's etcd until a watch shows it. Load average {load_before} before, {} after.\n\n{HEAD}",
        load()
    );
    body.push_str(&figures(floor)?.row("floor: bare etcd put to watch"));
    for kind in ["Accepted", "Planned"] {
        let marks = runs.iter().flat_map(|run| &run.marks).filter(|(seen, _)| seen == kind);
        if let Some(figures) = Figures::new(marks.map(|(_, at)| *at).collect()) {
            body.push_str(&figures.row(&format!("Run seen to {kind}, in c1")));
        }
    }
    body.push_str(&injected.row(&format!("Run seen to Injected on {PODS} pods of c2, in c1")));
    let ended = figures(runs.iter().map(|run| run.ended).collect())?;
    body.push_str(&ended.row("kubectl delete of the Run to Finished and Clean at the centre"));
    let met = if injected.percentile(50) <= AIM { "met" } else { "not met" };
    // Writing to a String cannot fail.
    let _ = write!(
        body,
        "\nAim: {} ms to Injected at p50: {met}. Deleting includes a start of kubectl and polls of the command line.\n\n\
         Hops, each from the end of the one before (medians do not add up exactly):\n\n{HEAD}",
        ms(AIM)
    );
    for (n, name) in hops::HOPS.iter().enumerate() {
        let took =
            |run: &Times| run.hops[n].saturating_sub(if n == 0 { Duration::ZERO } else { run.hops[n - 1] });
        body.push_str(&figures(runs.iter().map(took).collect())?.row(name));
    }
    let last = |run: &Times| run.injected.saturating_sub(run.hops[hops::HOPS.len() - 1]);
    body.push_str(
        &figures(runs.iter().map(last).collect())?.row("Injected stands in the Run's status in c1"),
    );
    Ok(Section { title: "Two real clusters, ten pods", body })
}
