//! The host side of one cluster: its etcd, apiserver, controller-manager and
//! scheduler. Called by `up`, one thread per cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::cluster::kubectl;
use super::command::run;
use super::layout::{ClusterPlan, Folder};
use super::pki::Authority;
use super::process::{Ledger, Process};
use super::wait::wait_for;

/// Bound for an apiserver to answer, on two cores busy with builds.
const READY: Duration = Duration::from_mins(6);

/// What bringing a cluster up needs to know.
#[derive(Debug)]
pub struct Site<'a> {
    /// The cluster's plan.
    pub plan: &'a ClusterPlan,
    /// The lab's folder.
    pub folder: &'a Folder,
    /// The record of processes.
    pub ledger: &'a Ledger,
    /// Folder of the Kubernetes programs.
    pub programs: &'a Path,
    /// The cluster's authority.
    pub authority: Authority,
}

impl Site<'_> {
    /// The cluster's own folder.
    pub fn home(&self) -> PathBuf {
        self.folder.of(self.plan.name)
    }

    /// A command for one of the Kubernetes programs.
    pub fn program(&self, name: &str) -> Command {
        Command::new(self.programs.join(name))
    }

    /// Writes the kubeconfig of a client of this cluster.
    pub fn client(&self, file: &str, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let pair = self.authority.issue(file, user, group, &[])?;
        let path = self.home().join(format!("{file}.kubeconfig"));
        self.authority.kubeconfig(&path, self.plan.name, &self.plan.api_url(), &pair)?;
        Ok(path)
    }

    /// Starts etcd, then the apiserver, and waits until that one is ready.
    pub fn start_api(&self) -> Result<()> {
        let plan = self.plan;
        let admin = self.authority.issue("admin", "lab-admin", Some("system:masters"), &[])?;
        let kubeconfig = self.folder.kubeconfig(plan.name);
        self.authority.kubeconfig(&kubeconfig, plan.name, &plan.api_url(), &admin)?;
        let etcd = self.start_etcd()?;
        let api = self.start_apiserver()?;
        wait_for(&format!("the apiserver of {}", plan.name), READY, || {
            self.ledger.must_live(&etcd)?;
            self.ledger.must_live(&api)?;
            let ask = ["get", "--raw", "/readyz", "--request-timeout=10s"];
            let output = run(kubectl(&kubeconfig).args(ask), Duration::from_secs(30))?;
            if !output.success() {
                bail!("{}{}", output.stdout, output.stderr);
            }
            Ok(())
        })
    }

    fn start_etcd(&self) -> Result<Process> {
        let (client, peer) = (self.plan.port_base + 379, self.plan.port_base + 380);
        let mut etcd = Command::new("etcd");
        etcd.args(["--logger=zap", "--unsafe-no-fsync", "--name=lab", "--snapshot-count=5000"])
            .arg("--data-dir")
            .arg(self.home().join("etcd"))
            .arg(format!("--listen-client-urls=http://127.0.0.1:{client}"))
            .arg(format!("--advertise-client-urls=http://127.0.0.1:{client}"))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"))
            .arg(format!("--initial-cluster=lab=http://127.0.0.1:{peer}"));
        self.ledger.start(&format!("{}-etcd", self.plan.name), &etcd)
    }

    fn start_apiserver(&self) -> Result<Process> {
        let plan = self.plan;
        let names = [
            plan.api_address,
            plan.service_first,
            "127.0.0.1",
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let serving = self.authority.issue("apiserver", "kube-apiserver", None, &names)?;
        let kubelet =
            self.authority.issue("kubelet-client", "kube-apiserver", Some("system:masters"), &[])?;
        let (public, private) = self.authority.token_keys()?;
        let mut api = self.program("kube-apiserver");
        api.arg(format!("--etcd-servers=http://127.0.0.1:{}", plan.port_base + 379))
            .arg(format!("--bind-address={0}", plan.api_address))
            .arg(format!("--advertise-address={0}", plan.api_address))
            .arg(format!("--service-cluster-ip-range={}", plan.service_range))
            .args([
                "--secure-port=6443",
                "--authorization-mode=Node,RBAC",
                "--allow-privileged=true",
                "--kubelet-preferred-address-types=InternalIP",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                "--profiling=false",
            ]);
        for (flag, path) in [
            ("client-ca-file", self.authority.ca_path()),
            ("tls-cert-file", serving.cert),
            ("tls-private-key-file", serving.key),
            ("kubelet-certificate-authority", self.authority.ca_path()),
            ("kubelet-client-certificate", kubelet.cert),
            ("kubelet-client-key", kubelet.key),
            ("service-account-key-file", public),
            ("service-account-signing-key-file", private),
        ] {
            api.arg(format!("--{flag}={}", path.display()));
        }
        self.ledger.start(&format!("{}-apiserver", plan.name), &api)
    }

    /// Starts the controller-manager and the scheduler; they need the apiserver.
    pub fn start_controllers(&self) -> Result<()> {
        let plan = self.plan;
        let config = self.client("controller-manager", "system:kube-controller-manager", None)?;
        let root = self.authority.pair();
        let mut manager = self.program("kube-controller-manager");
        manager.args(["--use-service-account-credentials=true", "--allocate-node-cidrs=false"]);
        for (flag, path) in [
            ("cluster-signing-cert-file", &root.cert),
            ("cluster-signing-key-file", &root.key),
            ("root-ca-file", &root.cert),
            ("service-account-private-key-file", &self.home().join("pki/tokens.key")),
        ] {
            manager.arg(format!("--{flag}={}", path.display()));
        }
        common_flags(&mut manager, &config, plan.port_base + 257);
        self.ledger.start(&format!("{}-controller-manager", plan.name), &manager)?;

        let config = self.client("scheduler", "system:kube-scheduler", None)?;
        let mut scheduler = self.program("kube-scheduler");
        common_flags(&mut scheduler, &config, plan.port_base + 259);
        self.ledger.start(&format!("{}-scheduler", plan.name), &scheduler)?;
        Ok(())
    }
}

fn common_flags(command: &mut Command, kubeconfig: &Path, port: u16) {
    for flag in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        command.arg(format!("--{flag}={}", kubeconfig.display()));
    }
    command
        .args(["--leader-elect=false", "--profiling=false", "--bind-address=127.0.0.1"])
        .arg(format!("--secure-port={port}"));
}

/// Makes the cluster's folder and its authority.
pub fn authority(folder: &Folder, plan: &ClusterPlan) -> Result<Authority> {
    let home = folder.of(plan.name);
    fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
    Authority::create(&home.join("pki"), &format!("lab {} authority", plan.name))
}
