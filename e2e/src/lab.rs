//! Two real Kubernetes clusters on one Linux machine, without a container
//! daemon or a registry: etcd, apiservers and controllers on the machine's
//! side; every node a network and a mount namespace with containerd, kubelet
//! and kube-proxy in it. Used by the `lab` binary and by the scenario tests.
//!
//! Names and addresses are fixed (`layout`), so a machine holds one lab, and a
//! crashed one is taken down without knowing anything about it.

pub mod cgroup;
pub mod cli;
pub mod cluster;
pub mod command;
pub mod components;
pub mod config;
pub mod control;
pub mod cut;
pub mod down;
pub mod hub;
pub mod images;
pub mod layout;
pub mod net;
pub mod node;
pub mod pki;
pub mod probe;
pub mod process;
pub mod tools;
pub mod up;
pub mod wait;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};

use cluster::Cluster;
use hub::HubEtcd;
use images::Image;
use layout::{CLUSTERS, ClusterPlan, Folder};
use node::Node;
use process::Ledger;

/// A lab that is up.
#[derive(Debug, Clone)]
pub struct Lab {
    /// The cluster with one node.
    pub c1: Cluster,
    /// The cluster with two nodes.
    pub c2: Cluster,
    /// The etcd of Faultline's own control plane.
    pub hub_etcd: HubEtcd,
    folder: Folder,
    ledger: Arc<Ledger>,
    programs: PathBuf,
}

impl Lab {
    /// The lab that is up and healthy, or a new one. A failed start is taken
    /// down again; the error then holds the ends of the logs.
    pub fn up_or_reuse() -> Result<Self> {
        Self::bring(false)
    }

    /// A new lab; an older one is taken down first.
    pub fn up_fresh() -> Result<Self> {
        Self::bring(true)
    }

    fn bring(fresh: bool) -> Result<Self> {
        tools::check()?;
        let folder = Folder::from_env()?;
        let _lock = lock(&folder)?;
        if !fresh && folder.complete().exists() {
            match Self::attach(&folder).and_then(|lab| lab.check().map(|()| lab)) {
                Ok(lab) => return Ok(lab),
                Err(error) => say("lab", format_args!("not healthy, starting anew: {error:#}")),
            }
        }
        if !down::leftovers(&folder).is_empty() {
            say("lab", format_args!("taking the older one down"));
            down::run(&folder)?;
        }
        drop(fs::remove_dir_all(folder.logs()));
        fs::create_dir_all(folder.logs())?;
        let ledger = Arc::new(Ledger::open(&folder)?);
        if let Err(error) = up::run(&folder, &ledger) {
            wait::resume();
            let logs = log_tails(&folder);
            let ended =
                down::run(&folder).err().map_or_else(String::new, |left| format!("\nand then: {left:#}"));
            return Err(anyhow!("{error:#}{ended}\nthe logs end:\n{logs}"));
        }
        Self::attach(&folder)
    }

    /// The lab as recorded in `folder`.
    fn attach(folder: &Folder) -> Result<Self> {
        let ledger = Arc::new(Ledger::open(folder)?);
        let programs = components::folder()?;
        let cluster = |plan: &'static ClusterPlan| -> Result<Cluster> {
            let node = |node| {
                let anchor = ledger.process(&node::anchor_name(node)).context("a node was never started")?;
                Ok(Node::new(node, folder, anchor))
            };
            let nodes = plan.nodes.iter().map(node).collect::<Result<Vec<Node>>>()?;
            Ok(Cluster::new(plan, folder.kubeconfig(plan.name), nodes, &programs))
        };
        Ok(Self {
            c1: cluster(&CLUSTERS[0])?,
            c2: cluster(&CLUSTERS[1])?,
            hub_etcd: HubEtcd::new(folder, &ledger),
            folder: folder.clone(),
            ledger,
            programs,
        })
    }

    /// Fails unless all parts run and both apiservers answer; a dead hub etcd,
    /// as a scenario may leave it, is started again.
    pub fn check(&self) -> Result<()> {
        if !self.hub_etcd.process()?.alive() {
            self.hub_etcd.start()?;
        }
        self.ledger.processes().iter().try_for_each(|each| self.ledger.must_live(each))?;
        for cluster in self.clusters() {
            cluster.kubectl_ok(&["get", "--raw", "/readyz", "--request-timeout=20s"])?;
        }
        Ok(())
    }

    /// c1 and c2.
    pub fn clusters(&self) -> [&Cluster; 2] {
        [&self.c1, &self.c2]
    }

    /// The folder with logs, certificates and kubeconfigs.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The record of the processes that make the lab.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Folder of helm and the Kubernetes programs.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// Loads an image into every node of both clusters, all at once.
    pub fn load_image(&self, image: &Image) -> Result<()> {
        thread::scope(|scope| {
            let nodes = self.clusters().into_iter().flat_map(|cluster| &cluster.nodes);
            let loads: Vec<_> = nodes.map(|node| scope.spawn(|| node.load_image(image))).collect();
            loads.into_iter().try_for_each(|load| load.join().map_err(|_| anyhow!("a thread ended badly"))?)
        })
    }

    /// Both clusters' dumps of `namespaces` and the ends of all logs.
    pub fn dump(&self, namespaces: &[&str]) -> String {
        let clusters: Vec<String> = self.clusters().iter().map(|cluster| cluster.dump(namespaces)).collect();
        format!("{}\n{}", clusters.join("\n"), log_tails(&self.folder))
    }

    /// What takes the lab down when the test that holds it panics.
    pub fn guard(&self) -> DownOnPanic {
        DownOnPanic { lab: self.clone() }
    }

    /// Takes the lab down and checks that nothing is left.
    pub fn down(self) -> Result<()> {
        take_down()
    }
}

/// On a panic: dumps the lab to standard error and takes it down, unless
/// `FAULTLINE_LAB_KEEP` is set.
#[derive(Debug)]
pub struct DownOnPanic {
    lab: Lab,
}

impl Drop for DownOnPanic {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        say("lab", format_args!("a test failed:\n{}", self.lab.dump(&["faultline-system"])));
        if std::env::var_os("FAULTLINE_LAB_KEEP").is_some() {
            say("lab", format_args!("kept, because FAULTLINE_LAB_KEEP is set"));
        } else if let Err(error) = take_down() {
            say("lab", format_args!("{error:#}"));
        }
    }
}

/// Takes the lab of this machine down, whatever state it is in.
pub fn take_down() -> Result<()> {
    let folder = Folder::from_env()?;
    let _lock = lock(&folder)?;
    down::run(&folder)
}

/// One bring-up or tear-down at a time; waits for another one to end.
fn lock(folder: &Folder) -> Result<Flock<File>> {
    fs::create_dir_all(folder.root()).with_context(|| format!("create {}", folder.root().display()))?;
    wait::wait_for("another process to bring the lab up or down", Duration::from_mins(20), || {
        let taken = Flock::lock(File::create(folder.lock())?, FlockArg::LockExclusiveNonblock);
        taken.map_err(|(_, error)| anyhow!("locked: {error}"))
    })
}

fn log_tails(folder: &Folder) -> String {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder.logs()).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let tails = paths.iter().map(|path| format!("---- {}\n{}", path.display(), process::tail(path, 15)));
    tails.collect::<Vec<_>>().join("\n")
}

/// A progress line on standard error, with the seconds since the first one.
pub fn say(who: &str, what: fmt::Arguments<'_>) {
    static START: OnceLock<Instant> = OnceLock::new();
    let seconds = START.get_or_init(Instant::now).elapsed().as_secs_f64();
    // Nobody reading progress is no reason to stop.
    drop(writeln!(io::stderr().lock(), "{seconds:7.1}s {who}: {what}"));
}
