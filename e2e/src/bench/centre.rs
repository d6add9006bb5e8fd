//! A control plane in this process on a real etcd of its own, which ends with it.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use control_plane::config::{Config, StoreChoice};
use control_plane::store::Store;
use control_plane::store::etcd::{EtcdConfig, EtcdStore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::rest::Client;

const READY: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(100);

/// etcd with its defaults, data synced to disk included.
#[derive(Debug)]
pub(super) struct Etcd {
    child: Child,
    endpoint: String,
}

impl Etcd {
    /// Starts it on free ports of loopback and waits until it answers.
    pub(super) async fn start(folder: &Path) -> Result<Self> {
        let [client, peer] = [free_port()?, free_port()?].map(|port| format!("http://127.0.0.1:{port}"));
        let log = fs::File::create(folder.join("etcd.log"))?;
        let child = Command::new("etcd")
            .args(["--logger=zap", "--name=bench"])
            .arg(format!("--data-dir={}", folder.join("etcd").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=bench={peer}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start etcd")?;
        let etcd = Self { child, endpoint: client };
        let end = Instant::now() + READY;
        loop {
            let healthy = match etcd.store("probe").await {
                Ok(store) => store.health().await.map(drop),
                Err(error) => Err(error),
            };
            match healthy {
                Ok(()) => return Ok(etcd),
                Err(error) if Instant::now() > end => return Err(error).context("etcd does not answer"),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    fn config(&self, prefix: &str) -> EtcdConfig {
        let mut config = EtcdConfig::new(vec![self.endpoint.clone()]);
        config.prefix = format!("/{prefix}/");
        config
    }

    /// A connection of its own, with its own keys.
    pub(super) async fn store(&self, prefix: &str) -> Result<EtcdStore, control_plane::store::Error> {
        EtcdStore::connect(self.config(prefix)).await
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It is ours and holds nothing worth keeping.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Key prefix of the control plane's store.
pub(super) const PREFIX: &str = "faultline";

/// A control plane that serves.
#[derive(Debug)]
pub(super) struct Centre {
    /// Its operator, who is an admin.
    pub(super) client: Client,
    parts: JoinSet<Result<()>>,
    shutdown: CancellationToken,
}

impl Centre {
    /// Starts it over `etcd` with its files in `folder`.
    pub(super) async fn start(folder: &Path, etcd: &Etcd) -> Result<Self> {
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            Ok(path)
        };
        // A fresh key is as good a secret as any.
        let random = || certs::PrivateKey::generate().map(|key| key.key_hash().clone());
        let token = random()?;
        let (kek, admin) = (write("kek", &random()?)?, write("admin.token", &token)?);
        let now = jiff::Timestamp::now();
        let authority = certs::Authority::create(certs::TrustDomain::new("bench.local".to_owned())?, now)?;
        let server = authority.issue_server(&["127.0.0.1"], None, now, Duration::from_hours(24))?;
        let mut config = Config::new(StoreChoice::Etcd(Box::new(etcd.config(PREFIX))), kek, admin);
        config.rest_tls = Some((write("rest.crt", &server.chain_pem)?, write("rest.key", &server.key_pem)?));
        let any: SocketAddr = "127.0.0.1:0".parse()?;
        [config.rest_addr, config.link_addr, config.enrol_addr, config.health_addr] = [any; 4];
        let listeners = control_plane::Listeners::bind(&config).await?;
        let authority_of_rest = listeners.rest.local_addr()?.to_string();
        let client = Client::new(authority_of_rest, authority.bundle_pem(), token)?;
        let shutdown = CancellationToken::new();
        let mut parts = JoinSet::new();
        parts.spawn(control_plane::serve(config, listeners, shutdown.clone()));
        let mut centre = Self { client, parts, shutdown };
        centre.ready().await?;
        Ok(centre)
    }

    async fn ready(&mut self) -> Result<()> {
        let end = Instant::now() + READY;
        loop {
            if let Some(ended) = self.parts.try_join_next() {
                ended??;
                anyhow::bail!("the control plane ended");
            }
            let asked = self.client.call(http::Method::GET, "/v1/whoami", &serde_json::Value::Null).await;
            match asked {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Drains it.
    pub(super) async fn end(mut self) -> Result<()> {
        self.shutdown.cancel();
        let ended = self.parts.join_next().await;
        ended.ok_or_else(|| anyhow!("the control plane is gone"))??
    }
}
