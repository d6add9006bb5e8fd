//! The agent of a Kubernetes cluster: the kube door and everything behind it. Called by the `faultline` binary.

use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::cluster::kube::{Kube, LeaseTiming, Settings, connect};
use crate::config::Config;

/// Service account of the node daemons, as the member chart names it.
const NODE_SERVICE_ACCOUNT: &str = "faultline-node";
/// The Lease is given back within this after the agent ended.
const RELEASE_WITHIN: Duration = Duration::from_secs(8);

/// Runs an agent until `shutdown`. The error means that the process should end with a failure.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
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
    };
    let door = Kube::new(client, api_host, settings);
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
