//! The life of an agent process: wait for the lease, enrol, lead, give way, end. `run_with` takes the doors, so
//! that Kubernetes, host mode and tests share it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use certs::JoinToken;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SystemClock};
use crate::cluster::{Doors, Leadership};
use crate::config::Config;
use crate::engine::Settings;
use crate::health::{self, Metrics};
use crate::leading::Leading;
use crate::link::dial::Grpc;
use crate::link::enrol;
use crate::link::identity::{Credentials, StoredIdentity};
use crate::link::renewal::Renewal;
use crate::nodes::authority::NodeAuthority;
use crate::nodes::server::NodeServer;
use crate::nodes::session::NodeConnection;

/// Between attempts to enrol.
const ENROL_AGAIN: Duration = Duration::from_secs(5);
/// Node links waiting to be taken up.
const NODE_LINKS: usize = 64;

/// Runs an agent until `shutdown`. `nodes` brings links of daemons in the same process, beside those that dial.
/// The error means that the process should end with a failure.
pub async fn run_with(
    doors: Doors,
    config: Config,
    nodes: Option<mpsc::Receiver<NodeConnection>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    let mut parts: JoinSet<anyhow::Result<()>> = JoinSet::new();
    if let Some(addr) = config.health_addr {
        let listener = TcpListener::bind(addr).await.with_context(|| format!("listen on {addr}"))?;
        let (metrics, sight) = (metrics.clone(), doors.sight.clone());
        parts.spawn(async move {
            health::serve(listener, metrics, sight).await;
            Ok(())
        });
    }
    let agent = Agent { doors, config, metrics, clock: Arc::new(SystemClock) };
    let (links, mut taken) = mpsc::channel(NODE_LINKS);
    if let Some(mut nodes) = nodes {
        let links = links.clone();
        parts.spawn(async move {
            while let Some(node) = nodes.recv().await {
                links.send(node).await?;
            }
            // The daemon of this process ended; the agent lives on without it.
            std::future::pending().await
        });
    }
    tokio::select! {
        () = shutdown.cancelled() => {
            tracing::info!("ending");
            Ok(())
        }
        Some(ended) = parts.join_next() => {
            ended.context("a part of the agent failed")??;
            anyhow::bail!("a part of the agent ended")
        }
        ended = agent.lead_for_ever(&links, &mut taken) => ended,
    }
}

struct Agent {
    doors: Doors,
    config: Config,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
}

impl Agent {
    async fn lead_for_ever(
        &self,
        links: &mpsc::Sender<NodeConnection>,
        taken: &mut mpsc::Receiver<NodeConnection>,
    ) -> anyhow::Result<()> {
        let mut leadership = self.doors.sight.leadership();
        loop {
            let epoch = leading(&mut leadership).await?;
            self.metrics.leading.set(1);
            tokio::select! {
                ended = self.lead(epoch, links.clone(), taken) => return ended,
                lost = lost(&mut leadership, epoch) => lost?,
            }
            self.metrics.leading.set(0);
            self.metrics.link_up.set(0);
            tracing::warn!(epoch, "not leading any more");
        }
    }

    /// From the lease won to the end of the returned future.
    async fn lead(
        &self,
        epoch: u64,
        links: mpsc::Sender<NodeConnection>,
        taken: &mut mpsc::Receiver<NodeConnection>,
    ) -> anyhow::Result<()> {
        let mut inventory = self.doors.sight.inventory();
        let cluster_uid = {
            let seen = inventory.wait_for(Option::is_some).await.context("the cluster door is gone")?;
            seen.as_ref().map(|i| i.cluster_uid.clone()).unwrap_or_default()
        };
        let stored = self.identity(&cluster_uid).await?;
        let credentials = Credentials::new(stored, self.doors.secrets.clone())?
            .measured(self.metrics.certificate_expiry.clone());
        let cluster = credentials.cluster().clone();
        let mut server: JoinSet<anyhow::Result<()>> = JoinSet::new();
        if let (Some(addr), Some(auth)) = (self.config.node_link_addr, self.doors.node_auth.clone()) {
            let now = self.clock.now().wall;
            let authority =
                NodeAuthority::load(&*self.doors.secrets, credentials.trust_domain(), now).await?;
            let listener = TcpListener::bind(addr).await.with_context(|| format!("listen on {addr}"))?;
            tracing::info!(addr = %listener.local_addr()?, "node links");
            let node_server = NodeServer {
                cluster: cluster.clone(),
                names: self.config.node_service.clone(),
                authority: Arc::new(authority),
                auth,
                clock: self.clock.clone(),
            };
            server.spawn(node_server.run(listener, links));
        }
        let leading = Leading {
            settings: Settings { cluster, agent_epoch: epoch },
            doors: self.doors.clone(),
            dial: Arc::new(
                Grpc::new(credentials.clone(), &self.config.link_endpoints)
                    .through(self.config.proxy.clone()),
            ),
            renewal: Renewal::of(credentials, fastrand::f64()).through(self.config.proxy.clone()),
            backoff: self.config.backoff,
            node_heartbeat: self.config.node_heartbeat,
            denied: self.config.denied.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
        };
        tokio::select! {
            ended = leading.run(taken) => ended,
            Some(ended) = server.join_next() => ended.context("the node link server failed")?,
        }
    }

    /// The identity, enrolled; tried again until the centre answers.
    async fn identity(&self, cluster_uid: &str) -> anyhow::Result<StoredIdentity> {
        let mut said = String::new();
        loop {
            let token = match &self.config.join_token_file {
                Some(file) => match tokio::fs::read_to_string(file).await {
                    Ok(text) => Some(text.trim().parse::<JoinToken>().context("read the join token")?),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                    Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
                },
                None => None,
            };
            let proxy = self.config.proxy.as_ref();
            match enrol::identity(&self.doors.secrets, token.as_ref(), cluster_uid, proxy).await {
                Ok(stored) => return Ok(stored),
                Err(error) => {
                    let text = format!("{error:#}");
                    if text != said {
                        tracing::warn!(error = text, "not enrolled");
                    }
                    said = text;
                    tokio::time::sleep(ENROL_AGAIN.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                }
            }
        }
    }
}

async fn leading(leadership: &mut watch::Receiver<Leadership>) -> anyhow::Result<u64> {
    let now = leadership.wait_for(|l| l.epoch().is_some()).await.context("the cluster door is gone")?;
    now.epoch().context("the lease was lost at once")
}

async fn lost(leadership: &mut watch::Receiver<Leadership>, epoch: u64) -> anyhow::Result<()> {
    leadership.wait_for(|l| l.epoch() != Some(epoch)).await.context("the cluster door is gone")?;
    Ok(())
}
