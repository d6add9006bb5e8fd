//! The agent of a Kubernetes cluster: the kube door and everything behind it. Called by the `faultline` binary.

use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::cluster::kube::{Drained, Kube, LeaseTiming, Settings, connect, latch, lift};
use crate::config::Config;
use crate::link::identity::StoredIdentity;

/// Service account of the node daemons, as the member chart names it.
const NODE_SERVICE_ACCOUNT: &str = "faultline-node";
/// The Lease is given back within this after the agent ended.
const RELEASE_WITHIN: Duration = Duration::from_secs(8);

/// Runs an agent until `shutdown`. The error means that the process should end with a failure.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let door = door(&config).await?;
    let give_back = CancellationToken::new();
    let watching = door.run(give_back.clone());
    let agent = crate::run_with(door.doors(), config, None, shutdown);
    tokio::pin!(watching, agent);
    tokio::select! {
        ended = &mut agent => {
            give_back.cancel();
            let given_back = tokio::time::timeout(RELEASE_WITHIN, watching).await;
            ended?;
            Ok(given_back.context("give the Lease back")??)
        }
        ended = &mut watching => {
            ended.context("the cluster door failed")?;
            anyhow::bail!("the cluster door ended")
        }
    }
}

/// Halts this cluster by an object of this name before an uninstall, and waits until nothing is active here, for
/// `at_most`. That it took longer is told, and no failure: an uninstall is not held up for ever.
pub async fn drain(halt: &str, at_most: Duration) -> anyhow::Result<()> {
    let (client, _) = connect().await.context("reach the apiserver")?;
    match latch(client, halt, at_most).await.context("halt the cluster")? {
        Drained::Clean => tracing::info!(halt, "halted and clean"),
        Drained::NotInTime { level } => {
            let level = level.unwrap_or_else(|| "not acknowledged: is an agent running?".to_owned());
            tracing::warn!(halt, level, "not clean in time; daemons take their faults away when they end");
        }
    }
    Ok(())
}

/// Lifts the halt of [`drain`] after an uninstall.
pub async fn lift_drain(halt: &str) -> anyhow::Result<()> {
    let (client, _) = connect().await.context("reach the apiserver")?;
    lift(client, halt).await.context("lift the halt")?;
    tracing::info!(halt, "lifted");
    Ok(())
}

/// The identity that this cluster's agent keeps, for a look from outside; changes nothing.
pub async fn stored_identity(config: &Config) -> anyhow::Result<Option<StoredIdentity>> {
    StoredIdentity::load(&*door(config).await?.doors().secrets).await
}

async fn door(config: &Config) -> anyhow::Result<Kube> {
    let (client, api_host) = connect().await.context("reach the apiserver")?;
    let settings = Settings {
        namespace: config.namespace.clone(),
        pod_name: config.pod_name.clone(),
        lease_name: config.lease_name.clone(),
        identity_secret: config.identity_secret.clone(),
        node_ca_secret: config.node_ca_secret.clone(),
        node_bundle_configmap: config.node_bundle_configmap.clone(),
        node_service_account: NODE_SERVICE_ACCOUNT.to_owned(),
        lease: LeaseTiming::default(),
        api_faults_only: !config.node_daemons,
    };
    Ok(Kube::new(client, api_host, settings))
}
