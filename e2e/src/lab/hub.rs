//! The etcd of Faultline's own control plane, on the machine's side at an
//! address that pods of both clusters reach, with client certificates. The
//! scenarios kill and restart it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::command::{SHORT, check, run_with_input};
use super::layout::{Folder, HUB_ADDRESS};
use super::pki::Authority;
use super::process::{Ledger, OWNER_VARIABLE, Process};
use super::wait::wait_for;

const NAME: &str = "hub-etcd";
const READY: Duration = Duration::from_mins(3);

/// The hub's etcd; all paths are PEM files on the machine.
#[derive(Debug, Clone)]
pub struct HubEtcd {
    folder: Folder,
    ledger: Arc<Ledger>,
    /// `https://10.88.0.1:2379`.
    pub endpoint: String,
    /// Authority of the server and of its clients.
    pub ca: PathBuf,
    /// A client's certificate.
    pub client_cert: PathBuf,
    /// That client's key.
    pub client_key: PathBuf,
}

/// Makes the hub's authority and certificates; once per lab.
pub fn prepare(folder: &Folder) -> Result<()> {
    let authority = Authority::create(&folder.of("hub").join("pki"), "lab hub authority")?;
    authority.issue("server", "hub-etcd", None, &[HUB_ADDRESS, "127.0.0.1", "localhost"])?;
    authority.issue("client", "faultline-control-plane", None, &[])?;
    Ok(())
}

impl HubEtcd {
    /// The hub's etcd of the lab in `folder`, running or not.
    pub fn new(folder: &Folder, ledger: &Arc<Ledger>) -> Self {
        let pki = folder.of("hub").join("pki");
        Self {
            folder: folder.clone(),
            ledger: Arc::clone(ledger),
            endpoint: format!("https://{HUB_ADDRESS}:2379"),
            ca: pki.join("ca.pem"),
            client_cert: pki.join("client.pem"),
            client_key: pki.join("client-key.pem"),
        }
    }

    /// Starts it on its data, also after [`Self::kill`], and waits until it
    /// serves a linearised read.
    pub fn start(&self) -> Result<()> {
        let home = self.folder.of("hub");
        let pki = home.join("pki");
        let mut etcd = Command::new("etcd");
        etcd.args(["--logger=zap", "--unsafe-no-fsync", "--name=hub", "--client-cert-auth"])
            .arg(format!("--data-dir={}", home.join("etcd").display()))
            .arg(format!("--listen-client-urls={}", self.endpoint))
            .arg(format!("--advertise-client-urls={}", self.endpoint))
            .arg(format!("--trusted-ca-file={}", self.ca.display()))
            .arg(format!("--cert-file={}", pki.join("server.pem").display()))
            .arg(format!("--key-file={}", pki.join("server-key.pem").display()))
            .args(["--listen-peer-urls=http://127.0.0.1:20380"])
            .args(["--initial-advertise-peer-urls=http://127.0.0.1:20380"])
            .args(["--initial-cluster=hub=http://127.0.0.1:20380"]);
        let process = self.ledger.start(NAME, &etcd)?;
        wait_for("the hub's etcd", READY, || {
            self.ledger.must_live(&process)?;
            check(self.etcdctl().args(["endpoint", "health"]), SHORT).map(drop)
        })
    }

    /// SIGKILL, and waits for the end. The data stays.
    pub fn kill(&self) -> Result<()> {
        self.process()?.kill()
    }

    /// [`Self::kill`], then [`Self::start`].
    pub fn restart(&self) -> Result<()> {
        self.kill()?;
        self.start()
    }

    /// Its process, for SIGSTOP and SIGCONT.
    pub fn process(&self) -> Result<Process> {
        self.ledger.process(NAME).context("the hub's etcd was never started")
    }

    /// Everything under `prefix` as `etcdctl get` prints it: key and value lines.
    pub fn dump(&self, prefix: &str) -> Result<String> {
        check(self.etcdctl().args(["get", "--prefix", prefix]), SHORT)
    }

    /// An etcdctl (API 3) with the client's certificate.
    pub fn etcdctl(&self) -> Command {
        let mut etcdctl = Command::new("etcdctl");
        etcdctl
            .env("ETCDCTL_API", "3")
            .env(OWNER_VARIABLE, self.folder.root())
            .arg(format!("--endpoints={}", self.endpoint))
            .arg(format!("--cacert={}", self.ca.display()))
            .arg(format!("--cert={}", self.client_cert.display()))
            .arg(format!("--key={}", self.client_key.display()))
            .args(["--dial-timeout=5s", "--command-timeout=10s"]);
        etcdctl
    }

    /// Writes one value; for the lab's own test.
    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        let output = run_with_input(self.etcdctl().args(["put", key]), Some(value), SHORT)?;
        anyhow::ensure!(output.success(), "put {key}: {}", output.stderr);
        Ok(())
    }
}
