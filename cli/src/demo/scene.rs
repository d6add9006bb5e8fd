//! What the demo is made of: folders, the centre's files, and what each
//! cluster is told.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cluster_agent::cluster::host::HostConfig;
use control_plane::config::{Config, StoreChoice};
use serde_json::{Value, json};

use super::services::Service;
use crate::context::Context;
use crate::serve::HostRole;

/// Where a cluster's files are.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: &'static str,
    folder: PathBuf,
}

/// The centre: its configuration and how its operator reaches it.
pub(crate) fn centre(folder: &Path, ports: [SocketAddr; 4]) -> anyhow::Result<(Config, Context)> {
    let home = folder.join("centre");
    fs::create_dir_all(&home)?;
    let random = || -> anyhow::Result<String> {
        // A fresh key is as good a secret as any.
        Ok(certs::PrivateKey::generate()?.key_hash().clone())
    };
    let write = |name: &str, text: &str| -> anyhow::Result<PathBuf> {
        let path = home.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    };
    let token = random()?;
    let (kek, admin) = (write("kek", &random()?)?, write("admin.token", &token)?);
    let now = jiff::Timestamp::now();
    let authority = certs::Authority::create(certs::TrustDomain::new("demo.local".to_owned())?, now)?;
    let names = ["127.0.0.1"];
    let credential = authority.issue_server(&names, None, now, std::time::Duration::from_hours(24))?;
    let tls = (write("rest.crt", &credential.chain_pem)?, write("rest.key", &credential.key_pem)?);
    let mut config = Config::new(StoreChoice::Embedded { data_dir: home.join("data") }, kek, admin);
    [config.rest_addr, config.link_addr, config.enrol_addr, config.health_addr] = ports;
    config.rest_tls = Some(tls);
    config.heartbeat = std::time::Duration::from_millis(500);
    let server = format!("https://{}", ports[0]);
    Ok((config, Context { server, pin: None, ca_pem: Some(authority.bundle_pem().to_owned()), token }))
}

impl Member {
    /// Writes what a cluster is told before it starts: workloads, Ceiling, token.
    pub(crate) fn new(
        folder: &Path,
        name: &'static str,
        service: &Service,
        token: &str,
    ) -> anyhow::Result<Self> {
        let member = Self { name, folder: folder.join(name) };
        fs::create_dir_all(member.authored())?;
        let workloads = json!({ "workloads": [{
            "name": "payments", "namespace": "shop", "labels": { "app": "payments" },
            "pid": service.pid, "ips": [service.address.ip()],
        }]});
        let ceiling = json!({
            "from": [{ "clusters": { "names": ["east", "west"] }, "namespaces": ["shop"] }],
            "namespaces": ["shop"], "kinds": ["network.*"], "maxTargets": 1, "maxDuration": "1m",
        });
        fs::write(member.file("workloads.yaml"), workloads.to_string())?;
        fs::write(member.file("ceiling.yaml"), ceiling.to_string())?;
        fs::write(member.file("join.token"), token)?;
        Ok(member)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn authored(&self) -> PathBuf {
        self.folder.join("authored")
    }

    /// The role of this cluster.
    pub(crate) fn role(&self) -> HostRole {
        let host = HostConfig {
            state_dir: self.file("agent"),
            workloads: self.file("workloads.yaml"),
            ceiling: self.file("ceiling.yaml"),
            authored_dir: self.authored(),
            node_name: self.name.to_owned(),
            denied: Vec::new(),
        };
        HostRole::new(host, Some(self.file("join.token")), self.file("node"))
    }

    /// Authors an object here, as `kubectl apply` would in a cluster.
    pub(crate) fn author(&self, manifest: &Value) -> anyhow::Result<()> {
        let name = format!("{}.json", manifest["kind"].as_str().unwrap_or_default().to_lowercase());
        let temporary = self.file(&name);
        fs::write(&temporary, manifest.to_string())?;
        fs::rename(&temporary, self.authored().join(name)).context("author an object")
    }
}

/// The experiment: payments of west is late, and must stay usable.
pub(crate) fn experiment(west: SocketAddr) -> Value {
    json!({
        "apiVersion": "faultline.dev/v1alpha1", "kind": "Experiment",
        "metadata": { "name": "slow-payments", "namespace": "shop" },
        "spec": {
            "hypothesis": "Payments answers within 1 s while its packets are 100 ms late.",
            "clusters": { "names": ["west"] },
            "targets": [{
                "name": "payments",
                "pods": { "namespaces": ["shop"], "labelSelector": { "matchLabels": { "app": "payments" } } },
                "atMost": { "perCluster": 1 },
            }],
            "steadyState": [{
                "name": "payments-answers",
                "http": { "url": format!("http://{west}/health") },
                "expect": { "status": [200], "within": "1s" },
                "every": "250ms",
            }],
            "faults": [{
                "name": "late", "target": "payments", "for": "6s",
                "network": { "delay": { "latency": "100ms", "jitter": "10ms" } },
            }],
        },
    })
}

/// The run of it.
pub(crate) fn run() -> Value {
    json!({
        "apiVersion": "faultline.dev/v1alpha1", "kind": "Run",
        "metadata": { "name": "slow-payments-demo", "namespace": "shop" },
        "spec": { "experimentRef": { "name": "slow-payments" } },
    })
}
