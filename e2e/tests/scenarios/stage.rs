//! What every scenario stands on: the product installed once, victims in both
//! clusters, documents, and measuring from outside.

use std::sync::OnceLock;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use e2e::lab::cluster::{Cluster, Pod};
use e2e::lab::node::Node;
use e2e::lab::probe::{Vantage, http_get, http_latency_ms};
use e2e::lab::wait::wait_for;
use e2e::lab::{Lab, images, say};
use e2e::product::{NAMESPACE, PASSING, Product};
use serde_json::{Value, json};

/// Bound of any single wait; the machine is slow and shared.
pub(crate) const WAIT: Duration = Duration::from_mins(3);
/// A healthy answer comes within this; far below the delays that are made.
pub(crate) const QUICK_MS: f64 = 150.0;
/// A pod that [`late`] hit never answers within this.
const LATE_MS: f64 = 190.0;

pub(crate) fn enabled() -> bool {
    let wanted = std::env::var_os("FAULTLINE_LAB").is_some_and(|value| value == "1");
    let root = nix::unistd::geteuid().is_root();
    if !(wanted && root) {
        say("scenarios", format_args!("SKIPPED: needs root and FAULTLINE_LAB=1"));
    }
    wanted && root
}

/// Runs a scenario on the installed product; dumps the lab when it fails.
pub(crate) fn scenario(name: &str, tell: impl FnOnce(&Product) -> Result<()>) {
    if !enabled() {
        return;
    }
    let product = product();
    let started = Instant::now();
    say("scenarios", format_args!("{name}"));
    let told = settled(product).and_then(|()| tell(product));
    let dump = |error: anyhow::Error| {
        // At once: the harness shows the rest after the last scenario only, if it gets there.
        say("scenarios", format_args!("{name}: FAILED: {error:#}"));
        let centre = product.cli(&["get", "runs", "-o", "json"]).map(|o| o.stdout).unwrap_or_default();
        format!(
            "{name}: {error:#}
{}
{centre}",
            product.lab.dump(&[NAMESPACE, "shop"])
        )
    };
    let failed = told.err().map(dump);
    assert!(failed.is_none(), "{}", failed.unwrap_or_default());
    say("scenarios", format_args!("{name}: {:.1} s", started.elapsed().as_secs_f64()));
}

fn product() -> &'static Product {
    static PRODUCT: OnceLock<Product> = OnceLock::new();
    PRODUCT.get_or_init(|| {
        // A run's name is used once, ever: the scenarios need clusters that nobody used.
        let lab = Lab::up_fresh().expect("the lab comes up");
        let guard = lab.guard();
        let product = Product::install(lab).expect("the product installs");
        victims(&product).expect("the victims run");
        std::mem::forget(guard);
        product
    })
}

fn victims(product: &Product) -> Result<()> {
    for cluster in product.lab.clusters() {
        cluster.apply(&deployment("shop", "payments", 2).to_string())?;
        cluster.apply(&service("payments").to_string())?;
    }
    for cluster in product.lab.clusters() {
        cluster.ready_pods("shop", "app=payments", 2, WAIT)?;
    }
    grant(product, "operators", &["--operator", "*"])
}

/// More victims, for a scenario that uses them up.
pub(crate) fn more_victims(cluster: &Cluster, namespace: &str, app: &str, count: u32) -> Result<Vec<Pod>> {
    cluster.apply(&deployment(namespace, app, count).to_string())?;
    cluster.ready_pods(namespace, &format!("app={app}"), count as usize, WAIT)
}

/// More victims, all on one node.
pub(crate) fn more_victims_on(cluster: &Cluster, node: &Node, app: &str, count: u32) -> Result<Vec<Pod>> {
    let mut deployment = deployment("shop", app, count);
    deployment["spec"]["template"]["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": node.name() });
    cluster.apply(&deployment.to_string())?;
    cluster.ready_pods("shop", &format!("app={app}"), count as usize, WAIT)
}

/// Every scenario begins with both clusters connected and the victims quick.
fn settled(product: &Product) -> Result<()> {
    for cluster in product.lab.clusters() {
        product.wait_connected(cluster)?;
        for pod in cluster.ready_pods("shop", "app=payments", 2, WAIT)? {
            until_quick(cluster, &pod)?;
        }
    }
    Ok(())
}

/// A grant at the victims' namespaces in both clusters, from whom `from` says.
pub(crate) fn grant(product: &Product, name: &str, from: &[&str]) -> Result<()> {
    let to = [
        "--to-cluster",
        "c1",
        "--to-cluster",
        "c2",
        "--to-namespace",
        "shop",
        "--to-namespace",
        PASSING,
        "--kind",
        "*",
        "--max-targets",
        "10",
    ];
    product.cli_ok(&[&["grant", name], from, &to].concat()).map(drop)
}

fn deployment(namespace: &str, name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    // Never both victims on one node while there are two.
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
                        "labelSelector": { "matchLabels": { "app": name } },
                    }],
                    "containers": [{
                        "name": "app", "image": images::VICTIM_IMAGE, "imagePullPolicy": "Never",
                        "ports": [{ "containerPort": 8080 }],
                    }],
                },
            },
        },
    })
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" },
        "spec": { "selector": { "app": name }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    })
}

/// A fault on the victims, as written in an Experiment.
pub(crate) fn fault(name: &str, lasts: &str, kind: &Value) -> Value {
    let mut fault = json!({ "name": name, "target": "payments", "for": lasts });
    for (group, parameters) in kind.as_object().into_iter().flatten() {
        fault[group] = parameters.clone();
    }
    fault
}

/// 200 ms on everything that the victims send.
pub(crate) fn late(lasts: &str) -> Value {
    fault("late", lasts, &json!({ "network": { "delay": { "latency": "200ms" } } }))
}

/// An Experiment on all victims of these clusters.
pub(crate) fn experiment(name: &str, clusters: &[&str], faults: &[Value], extra: &Value) -> Value {
    let mut spec = json!({
        "clusters": { "names": clusters },
        "targets": [{
            "name": "payments",
            "pods": { "namespaces": ["shop"], "labelSelector": { "matchLabels": { "app": "payments" } } },
            "atMost": { "perCluster": 2 },
        }],
        "faults": faults,
    });
    for (key, value) in extra.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "faultline.dev/v1alpha1", "kind": "Experiment",
        "metadata": { "name": name, "namespace": "shop" }, "spec": spec,
    })
}

/// An Experiment on one pod of a cluster.
pub(crate) fn aimed(name: &str, cluster: &Cluster, pod: &Pod, fault: &Value, limits: &Value) -> Value {
    let extra = json!({ "limits": limits });
    let mut experiment = experiment(name, &[cluster.name], std::slice::from_ref(fault), &extra);
    experiment["spec"]["targets"][0]["pods"] = json!({ "namespaces": [pod.namespace], "names": [pod.name] });
    experiment
}

/// Starts a run at the centre under `name`, and does not wait for it.
pub(crate) fn start(product: &Product, name: &str, experiment: &Value) -> Result<()> {
    let verb = ["run", "-f", "-", "--run-name", name, "--no-wait"];
    let started = product.cli_with(&verb, &experiment.to_string())?;
    ensure!(started.success(), "{name}: {}{}", started.stdout, started.stderr);
    Ok(())
}

/// A Run of an Experiment beside it.
pub(crate) fn run(name: &str, experiment: &str) -> Value {
    json!({
        "apiVersion": "faultline.dev/v1alpha1", "kind": "Run",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": { "experimentRef": { "name": experiment } },
    })
}

fn url(pod: &Pod) -> String {
    format!("http://{}:8080/", pod.address)
}

/// The least latency of a few requests, as a client on the machine sees it: a
/// delay that was made is in every one of them, a busy machine in some.
pub(crate) fn latency_ms(pod: &Pod) -> Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..4 {
        least = least.min(http_latency_ms(&Vantage::Host, &url(pod), Duration::from_secs(10))?);
        if least < QUICK_MS {
            break;
        }
    }
    Ok(least)
}

/// Fails when a pod is late now.
pub(crate) fn is_quick(pod: &Pod) -> Result<()> {
    let ms = latency_ms(pod)?;
    ensure!(ms < QUICK_MS, "{} answers in {ms} ms", pod.name);
    Ok(())
}

/// Fails when a pod is not late now.
pub(crate) fn is_late(pod: &Pod) -> Result<()> {
    let ms = latency_ms(pod)?;
    ensure!(ms >= LATE_MS, "{} answers in {ms} ms", pod.name);
    Ok(())
}

/// Whether the pod answers at all within a second.
pub(crate) fn answers(pod: &Pod) -> bool {
    answers_within(pod, Duration::from_secs(1))
}

fn answers_within(pod: &Pod, timeout: Duration) -> bool {
    http_get(&Vantage::Host, &url(pod), timeout).is_ok()
}

/// Looks at all of them side by side: what is there for seconds only is not looked for one after the other.
pub(crate) fn at_once<T: Sync>(all: &[T], look: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let looks: Vec<_> = all.iter().map(|one| scope.spawn(|| look(one))).collect();
        looks.into_iter().try_for_each(|look| look.join().map_err(|_| anyhow!("a thread ended badly"))?)
    })
}

/// Fails when a pod is silent for longer than a busy machine explains.
pub(crate) fn still_answers(pod: &Pod) -> Result<()> {
    for _ in 0..10 {
        ensure!(answers_within(pod, Duration::from_secs(5)), "{} is silent again", pod.name);
    }
    Ok(())
}

pub(crate) fn until_quick(cluster: &Cluster, pod: &Pod) -> Result<()> {
    cluster.wait_for(&format!("{} to be quick", pod.name), WAIT, || is_quick(pod))
}

pub(crate) fn until_late(cluster: &Cluster, pod: &Pod) -> Result<()> {
    cluster.wait_for(&format!("{} to be late", pod.name), WAIT, || is_late(pod))
}

pub(crate) fn until_silent(cluster: &Cluster, pod: &Pod) -> Result<()> {
    cluster.wait_for(&format!("{} to be silent", pod.name), WAIT, || {
        // Twice: one request may be unlucky on a busy machine.
        ensure!(!answers(pod) && !answers(pod), "it answers");
        Ok(())
    })
}

/// A thread that looks from now on, whatever else is waited for: when the pod first answers is known to about a second.
pub(crate) struct FirstAnswer(JoinHandle<Result<Instant>>);

impl FirstAnswer {
    pub(crate) fn of(pod: &Pod) -> Self {
        let pod = pod.clone();
        Self(thread::spawn(move || {
            wait_for(&format!("{} to answer", pod.name), 3 * WAIT, || {
                ensure!(answers(&pod), "it is silent");
                Ok(Instant::now())
            })
        }))
    }

    /// Waits for it.
    pub(crate) fn at(self) -> Result<Instant> {
        self.0.join().map_err(|_| anyhow!("a thread ended badly"))?
    }
}

pub(crate) fn until_answering(cluster: &Cluster, pod: &Pod) -> Result<()> {
    cluster.wait_for(&format!("{} to answer", pod.name), WAIT, || {
        ensure!(answers(pod), "it is silent");
        Ok(())
    })
}

/// What is said of a run that ended: outcome and reason; and nothing is left.
pub(crate) fn ended(product: &Product, name: &str, outcome: &str) -> Result<Value> {
    let run = finished(product, name)?;
    product.lab.c1.wait_for(&format!("run {name} to be {outcome} and Clean"), WAIT, || {
        let run = product.run(name)?;
        let summary = &run["summary"];
        ensure!(summary["outcome"] == outcome && summary["residue"] == "Clean", "{summary}");
        Ok(())
    })?;
    Ok(run)
}

/// Waits until a run at the centre is finished, and gives it.
pub(crate) fn finished(product: &Product, name: &str) -> Result<Value> {
    product.lab.c1.wait_for(&format!("run {name} to finish"), WAIT, || {
        let run = product.run(name)?;
        ensure!(run["summary"]["phase"] == "Finished", "{}", run["summary"]);
        Ok(run)
    })
}

/// The victims of a cluster.
pub(crate) fn payments(cluster: &Cluster) -> Result<Vec<Pod>> {
    cluster.ready_pods("shop", "app=payments", 2, WAIT)
}

/// The `status` of a Run object once `ready` says so.
pub(crate) fn status_when(
    cluster: &Cluster,
    run: &str,
    what: &str,
    ready: impl Fn(&Value) -> bool,
) -> Result<Value> {
    cluster.wait_for(&format!("Run {run} to be {what}"), WAIT, || {
        let object = cluster.get(&["runs.faultline.dev", run, "-n", "shop"])?;
        let status = object["status"].clone();
        ensure!(ready(&status), "{status}");
        Ok(status)
    })
}

/// Status of a condition.
pub(crate) fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|c| c["type"] == kind)
}

pub(crate) fn is_true(status: &Value, kind: &str) -> bool {
    condition(status, kind).is_some_and(|c| c["status"] == "True")
}
