//! A real apiserver of one's own: `etcd` from PATH and `kube-apiserver` from the folder that
//! `e2e/lab/components.sh --print` names (or FAULTLINE_COMPONENTS), on free loopback ports, with keys and data in
//! a temporary directory. Both are killed by pid when it is dropped, also when a test panics.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

use cluster_agent::cluster::kube::from_config;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;
use tokio::net::TcpSocket;

/// Two cores may be busy with builds.
const READY_BOUND: Duration = Duration::from_mins(3);
const ADMIN_TOKEN: &str = "admin-of-this-test";
/// What the apiserver says its own address is; nothing listens there.
pub(crate) const ADVERTISED: &str = "192.0.2.10";

/// Tests that leave the apiserver alone share one while any of them runs.
static SHARED: tokio::sync::Mutex<Weak<Apiserver>> = tokio::sync::Mutex::const_new(Weak::new());

pub(crate) struct Apiserver {
    etcd: Child,
    api: Child,
    port: u16,
    etcd_port: u16,
    ca_pem: String,
    folder: PathBuf,
    dir: tempfile::TempDir,
    /// Its ports.
    _held: [TcpSocket; 3],
}

/// The one that tests share; `None` where the programs are missing.
pub(crate) async fn shared() -> Option<Arc<Apiserver>> {
    let mut shared = SHARED.lock().await;
    if let Some(running) = shared.upgrade() {
        return Some(running);
    }
    let started = Arc::new(Apiserver::start().await?);
    *shared = Arc::downgrade(&started);
    Some(started)
}

/// The folder of kube-apiserver and helm, where both are and etcd is in PATH.
fn components() -> Option<PathBuf> {
    let folder = std::env::var_os("FAULTLINE_COMPONENTS").map(PathBuf::from).or_else(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/lab/components.sh");
        let output = Command::new(script).arg("--print").output().ok()?;
        Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
    })?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let etcd = std::env::split_paths(&path).any(|dir| dir.join("etcd").is_file());
    for (there, what) in [
        (etcd, "etcd in PATH".to_owned()),
        (folder.join("kube-apiserver").is_file(), folder.join("kube-apiserver").display().to_string()),
        (folder.join("helm").is_file(), folder.join("helm").display().to_string()),
    ] {
        if !there {
            eprintln!(
                "SKIPPED: no {what}: e2e/lab/components.sh builds it, FAULTLINE_COMPONENTS names its folder"
            );
            return None;
        }
    }
    Some(folder)
}

/// A port for a program that shares addresses, as those written in Go do: bound and never listened on, it is nobody
/// else's as long as this is there, also while the program is restarted.
fn hold_port() -> (TcpSocket, u16) {
    let held = TcpSocket::new_v4().unwrap();
    held.set_reuseaddr(true).unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = held.local_addr().unwrap().port();
    (held, port)
}

fn logged(command: &mut Command, log: &Path) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// Writes ca.pem, serving certificate and keys; gives back the authority as PEM.
fn write_keys(dir: &Path) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "authority of this test");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    let tokens = KeyPair::generate().unwrap();
    for (file, text) in [
        ("serving.pem", params.signed_by(&key, &issuer).unwrap().pem()),
        ("serving.key", key.serialize_pem()),
        ("tokens.pub", tokens.public_key_pem()),
        ("tokens.key", tokens.serialize_pem()),
        ("users.csv", format!("{ADMIN_TOKEN},admin,1,system:masters\n")),
    ] {
        fs::write(dir.join(file), text).unwrap();
    }
    issuer.pem()
}

fn spawn_etcd(dir: &Path, port: u16, peer_port: u16) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
    let mut etcd = Command::new("etcd");
    etcd.args(["--name=test", "--unsafe-no-fsync", "--log-level=warn"])
        .arg(format!("--data-dir={}", dir.join("etcd").display()))
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=test={peer}"));
    logged(&mut etcd, &dir.join("etcd.log"))
}

fn spawn_api(folder: &Path, dir: &Path, port: u16, etcd_port: u16) -> Child {
    let mut api = Command::new(folder.join("kube-apiserver"));
    api.arg(format!("--etcd-servers=http://127.0.0.1:{etcd_port}"))
        .arg(format!("--secure-port={port}"))
        .arg(format!("--advertise-address={ADVERTISED}"))
        .args([
            "--bind-address=127.0.0.1",
            "--service-cluster-ip-range=10.250.0.0/24",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--profiling=false",
        ]);
    for (flag, file) in [
        ("token-auth-file", "users.csv"),
        ("tls-cert-file", "serving.pem"),
        ("tls-private-key-file", "serving.key"),
        ("service-account-key-file", "tokens.pub"),
        ("service-account-signing-key-file", "tokens.key"),
    ] {
        api.arg(format!("--{flag}={}", dir.join(file).display()));
    }
    logged(&mut api, &dir.join("api.log"))
}

impl Apiserver {
    /// `None` where the programs are missing.
    pub(crate) async fn start() -> Option<Self> {
        let folder = components()?;
        let dir = tempfile::tempdir().unwrap();
        let ca_pem = write_keys(dir.path());
        let [(held_api, port), (held_etcd, etcd_port), (held_peer, peer_port)] =
            [(); 3].map(|()| hold_port());
        let etcd = spawn_etcd(dir.path(), etcd_port, peer_port);
        let api = spawn_api(&folder, dir.path(), port, etcd_port);
        let held = [held_api, held_etcd, held_peer];
        let mut started = Self { etcd, api, port, etcd_port, ca_pem, folder, dir, _held: held };
        started.wait_until_ready().await;
        started.install_kinds().await;
        started.says_where_it_is().await;
        Some(started)
    }

    /// Folder of the programs.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A client that may do everything.
    pub(crate) async fn admin(&self) -> Client {
        self.client(ADMIN_TOKEN).await.0
    }

    /// A client with this bearer token, as the agent makes its own.
    pub(crate) async fn client(&self, token: &str) -> (Client, Option<String>) {
        let server = format!("https://127.0.0.1:{}", self.port);
        let authority = data_encoding::BASE64.encode(self.ca_pem.as_bytes());
        let raw = json!({
            "clusters": [{ "name": "c", "cluster": { "server": server, "certificate-authority-data": authority } }],
            "users": [{ "name": "u", "user": { "token": token } }],
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            "current-context": "x",
        });
        let kubeconfig: Kubeconfig = serde_json::from_value(raw).unwrap();
        let options = KubeConfigOptions::default();
        from_config(Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap()).unwrap()
    }

    async fn wait_until_ready(&mut self) {
        let client = self.admin().await;
        let ready = async {
            let mut tick = tokio::time::interval(Duration::from_millis(200));
            loop {
                tick.tick().await;
                let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
                if client.request_text(request).await.is_ok() {
                    return true;
                }
                if self.api.try_wait().unwrap().is_some() || self.etcd.try_wait().unwrap().is_some() {
                    return false;
                }
            }
        };
        let ready = tokio::time::timeout(READY_BOUND, ready).await;
        assert_eq!(ready, Ok(true), "the apiserver is not ready: {}", self.log());
    }

    async fn install_kinds(&self) {
        let client = self.admin().await;
        let kinds: Api<CustomResourceDefinition> = Api::all(client);
        for (_, crd) in proto::crd::all().unwrap() {
            let name = crd["metadata"]["name"].as_str().unwrap().to_owned();
            let params = PatchParams::apply("test").force();
            kinds.patch(&name, &params, &Patch::Apply(&crd)).await.unwrap();
            let there = await_condition(kinds.clone(), &name, conditions::is_crd_established());
            tokio::time::timeout(READY_BOUND, there).await.unwrap().unwrap();
        }
    }

    /// It is ready a moment before its own Service and the endpoints behind it are there.
    async fn says_where_it_is(&self) {
        let client = self.admin().await;
        let service: Api<Service> = Api::namespaced(client.clone(), "default");
        let slice: Api<EndpointSlice> = Api::namespaced(client, "default");
        let has_addresses =
            |seen: Option<&EndpointSlice>| seen.is_some_and(|seen| !seen.endpoints.is_empty());
        let there = async {
            await_condition(service, "kubernetes", |seen: Option<&Service>| seen.is_some()).await.unwrap();
            await_condition(slice, "kubernetes", has_addresses).await.unwrap();
        };
        tokio::time::timeout(READY_BOUND, there).await.unwrap();
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("api.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Stops it in its tracks: connections stay, nothing answers.
    pub(crate) fn freeze(&self) {
        kill(Pid::from_raw(self.api.id().cast_signed()), Signal::SIGSTOP).unwrap();
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        kill(Pid::from_raw(self.api.id().cast_signed()), Signal::SIGCONT).unwrap();
    }

    /// Ends it at once; its connections are reset.
    pub(crate) fn kill_api(&mut self) {
        end(&mut self.api);
    }

    /// Starts it again on the same port and data.
    pub(crate) async fn restart_api(&mut self) {
        self.api = spawn_api(&self.folder, self.dir.path(), self.port, self.etcd_port);
        self.wait_until_ready().await;
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

impl Drop for Apiserver {
    fn drop(&mut self) {
        end(&mut self.api);
        end(&mut self.etcd);
    }
}
