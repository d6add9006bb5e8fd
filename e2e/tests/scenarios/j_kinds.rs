//! The kinds that no other scenario shows: pod.kill and cpu.stress.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::cgroup;
use e2e::lab::cluster::{Cluster, Pod};
use e2e::lab::probe::{Vantage, http_get};
use e2e::product::Product;
use serde_json::json;

use super::stage::{self, WAIT};

#[test]
fn j1_a_killed_pod_is_replaced_and_the_service_answers() {
    stage::scenario("j pod.kill", pod_kill);
}

#[test]
fn j2_processor_time_is_burnt_inside_the_container() {
    stage::scenario("j cpu.stress", cpu_stress);
}

fn pod_kill(product: &Product) -> Result<()> {
    let c2 = &product.lab.c2;
    let before = stage::payments(c2)?;
    let fault = json!({ "name": "gone", "target": "payments", "pod": { "kill": {} } });
    let mut experiment = stage::experiment("killed", &["c2"], &[fault], &json!({}));
    experiment["spec"]["targets"][0]["pick"] = json!({ "one": true });
    stage::start(product, "killed", &experiment)?;
    let after = c2.wait_for("one pod to be replaced", WAIT, || {
        let now = c2.pods("shop", "app=payments")?;
        let new = now.iter().filter(|pod| before.iter().all(|old| old.uid != pod.uid)).count();
        ensure!(now.len() == 2 && new == 1 && now.iter().all(|pod| pod.ready), "{now:?}");
        Ok(now)
    })?;
    for pod in &after {
        stage::still_answers(pod)?;
    }
    let service = c2.get(&["service", "payments", "-n", "shop"])?;
    let address = service["spec"]["clusterIP"].as_str().context("the Service has an address")?.to_owned();
    for node in &c2.nodes {
        let from = Vantage::Netns(node.netns());
        c2.wait_for(&format!("the Service to answer {}", node.name()), WAIT, || {
            http_get(&from, &format!("http://{address}/"), Duration::from_secs(5)).map(drop)
        })?;
    }
    let run = stage::ended(product, "killed", "Completed")?;
    let counts = &run["clusters"][0]["observed"]["counts"];
    ensure!(counts["total"] == 1 && counts["injected"] == 1, "{counts}");
    Ok(())
}

fn cpu_stress(product: &Product) -> Result<()> {
    let c2 = &product.lab.c2;
    let pods = stage::payments(c2)?;
    let (hit, spared) = (Meter::of(c2, &pods[0])?, Meter::of(c2, &pods[1])?);
    let idle = hit.cores()?;
    ensure!(idle < 0.1, "{} uses {idle} cores before", pods[0].name);
    let kind = json!({ "cpu": { "stress": { "workers": 1, "load": 50 } } });
    // Longer than anybody waits for it to be seen; it is stopped then.
    let fault = stage::fault("busy", "4m", &kind);
    stage::start(product, "stressed", &stage::aimed("stressed", c2, &pods[0], &fault, &json!({})))?;
    // Half a core is asked for; a busy machine gives less, nothing gives much more.
    c2.wait_for("the container to be busy", WAIT, || {
        let cores = hit.cores()?;
        ensure!((0.2..0.8).contains(&cores), "{cores} cores");
        Ok(())
    })?;
    let other = spared.cores()?;
    ensure!(other < 0.1, "{} was not to be hit, and uses {other} cores", pods[1].name);
    stage::still_answers(&pods[0])?;
    product.cli_ok(&["stop", "stressed"])?;
    c2.wait_for("the container to be idle", WAIT, || {
        let cores = hit.cores()?;
        ensure!(cores < 0.1, "{cores} cores");
        Ok(())
    })?;
    // A worker uses nothing while it ends.
    c2.wait_for("the container to have no worker left", WAIT, || {
        let processes = c2.container_processes(&pods[0], None)?;
        ensure!(processes.len() == 1, "{processes:?}");
        Ok(())
    })?;
    stage::ended(product, "stressed", "Aborted").map(drop)
}

/// Processor time of a container, by the kernel's own account of its cgroup.
struct Meter(PathBuf);

impl Meter {
    fn of(cluster: &Cluster, pod: &Pod) -> Result<Self> {
        let main = cluster.container_processes(pod, None)?.remove(0);
        let files = cgroup::of(&main).into_iter().flat_map(|folder| {
            ["cpuacct.usage", "cpu.stat"]
                .map(|file| folder.join(file))
                .into_iter()
                .filter(|file| file.is_file())
        });
        let mut files: Vec<PathBuf> = files.collect();
        // Version 1 has both: its cpu.stat counts throttling only.
        files.sort_by_key(|file| !file.ends_with("cpuacct.usage"));
        files.into_iter().next().map(Self).context("the kernel accounts for the container")
    }

    fn used(&self) -> Result<Duration> {
        let text = fs::read_to_string(&self.0)?;
        let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(match micros {
            Some(micros) => Duration::from_micros(micros.trim().parse()?),
            None => Duration::from_nanos(text.trim().parse()?),
        })
    }

    /// Cores in use over the next second.
    fn cores(&self) -> Result<f64> {
        let (begun, before) = (Instant::now(), self.used()?);
        std::thread::sleep(Duration::from_secs(1));
        let used = self.used()?.saturating_sub(before);
        Ok(used.as_secs_f64() / begun.elapsed().as_secs_f64())
    }
}
