//! Brings the lab up: host, hub and both clusters in parallel, every wait on a
//! condition. Called by [`super::Lab`].

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::cluster::Cluster;
use super::control::{self, Site};
use super::hub::{self, HubEtcd};
use super::images::{self, Image};
use super::layout::{CLUSTERS, ClusterPlan, Folder};
use super::node::{self, Node};
use super::probe::{self, Vantage};
use super::process::Ledger;
use super::{components, net, say, wait::wait_for};

const READY: Duration = Duration::from_mins(6);
const ASK: Duration = Duration::from_secs(3);

/// Brings everything up on a machine on which nothing of the lab is left.
pub fn run(folder: &Folder, ledger: &Arc<Ledger>) -> Result<()> {
    let programs = components::ensure()?;
    let images = images::workload()?;
    fs::create_dir_all(folder.logs())?;
    net::prepare_host(folder)?;
    hub::prepare(folder)?;
    thread::scope(|scope| -> Result<()> {
        let hub = scope.spawn(|| HubEtcd::new(folder, ledger).start());
        let clusters: Vec<_> = CLUSTERS
            .iter()
            .map(|plan| scope.spawn(|| cluster(folder, ledger, plan, &programs, &images)))
            .collect();
        let mut results = vec![("hub", hub.join())];
        results.extend(
            CLUSTERS
                .iter()
                .map(|plan| plan.name)
                .zip(clusters.into_iter().map(thread::ScopedJoinHandle::join)),
        );
        for (name, result) in results {
            result.map_err(|_| anyhow!("the thread of {name} ended badly"))?.context(name)?;
        }
        Ok(())
    })?;
    fs::write(folder.complete(), "")?;
    Ok(())
}

fn cluster(
    folder: &Folder,
    ledger: &Ledger,
    plan: &'static ClusterPlan,
    programs: &Path,
    images: &[Image],
) -> Result<()> {
    let authority = control::authority(folder, plan)?;
    let site = Site { plan, folder, ledger, programs, authority };
    for node in plan.nodes {
        net::create(node)?;
    }
    let nodes = thread::scope(|scope| -> Result<Vec<Node>> {
        let api = scope.spawn(|| site.start_api());
        let site = &site;
        let runtimes: Vec<_> =
            plan.nodes.iter().map(|node| scope.spawn(|| node::start_runtime(site, node, images))).collect();
        let broken = |_| anyhow!("a thread ended badly");
        let nodes = runtimes.into_iter().map(|each| each.join().map_err(broken)?).collect();
        api.join().map_err(broken)??;
        nodes
    })?;
    say(plan.name, format_args!("apiserver ready"));
    for node in &nodes {
        node::start_kubelet(&site, plan, node)?;
    }
    site.start_controllers()?;
    let first = nodes.first().context("a cluster has a node")?;
    node::start_dns(&site, plan, first)?;
    let cluster = Cluster::new(plan, folder.kubeconfig(plan.name), nodes, programs);
    settled(&cluster, plan, ledger)?;
    say(plan.name, format_args!("all nodes ready, names resolve"));
    Ok(())
}

/// Waits until nodes are Ready, names resolve, Services route and pods may be made.
fn settled(cluster: &Cluster, plan: &ClusterPlan, ledger: &Ledger) -> Result<()> {
    let ours = || ledger.processes().into_iter().filter(|each| each.name.starts_with(plan.name));
    let alive = || ours().try_for_each(|each| ledger.must_live(&each));
    cluster.wait_for("all nodes to be Ready", READY, || {
        alive()?;
        nodes_ready(cluster)
    })?;
    let name = "kubernetes.default.svc.cluster.local";
    let service: IpAddr = plan.service_first.parse()?;
    for node in &cluster.nodes {
        let vantage = Vantage::Netns(node.netns());
        wait_for(&format!("names to resolve on {}", node.name()), READY, || {
            alive()?;
            let found = probe::resolve(&vantage, plan.dns_address().parse()?, name, ASK)?;
            if found != service {
                bail!("{name} is {found}");
            }
            Ok(())
        })?;
        wait_for(&format!("Services to route on {}", node.name()), READY, || {
            alive()?;
            probe::tcp_connect(&vantage, SocketAddr::new(service, 443), ASK)
        })?;
    }
    cluster.wait_for("the default service account", READY, || {
        alive()?;
        cluster.get(&["serviceaccount", "default", "-n", "default"]).map(drop)
    })
}

fn nodes_ready(cluster: &Cluster) -> Result<()> {
    let list = cluster.get(&["nodes"])?;
    let items = list["items"].as_array().context("a list has items")?;
    for node in &cluster.nodes {
        let found = items.iter().find(|each| each["metadata"]["name"] == node.name());
        let found = found.with_context(|| format!("{} has not registered", node.name()))?;
        let conditions = found["status"]["conditions"].as_array().context("a node has conditions")?;
        let ready =
            conditions.iter().find(|each| each["type"] == "Ready").context("no Ready condition yet")?;
        if ready["status"] != "True" {
            bail!("{}: {}", node.name(), ready["message"]);
        }
    }
    Ok(())
}
