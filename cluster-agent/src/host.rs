//! Host mode: an agent on a machine without Kubernetes. The `faultline` binary runs it together with a node daemon
//! in the same process; their link is a pair of channels.

use std::path::Path;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cluster::host::{Host, HostConfig};
use crate::cluster::secret;
use crate::config::Config;
use crate::link::identity::StoredIdentity;
use crate::nodes::session::NodeConnection;

/// Runs the agent of a host-mode cluster until `shutdown`. Of `config`, what concerns Kubernetes is not used; the
/// daemon of this process sends its links over `nodes`.
pub async fn run(
    host: HostConfig,
    config: Config,
    nodes: mpsc::Receiver<NodeConnection>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let door = Host::open(host).await?;
    let doors = door.doors();
    tokio::select! {
        ended = crate::run_with(doors, config, Some(nodes), shutdown) => ended,
        ended = door.watch() => ended,
    }
}

/// The identity that the agent with this state folder keeps, for a look from outside; changes nothing.
pub async fn stored_identity(state_dir: &Path) -> anyhow::Result<Option<StoredIdentity>> {
    let path = state_dir.join("secrets").join(format!("{}.json", secret::IDENTITY));
    match tokio::fs::read(&path).await {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).context("read the identity")?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}
