//! Host mode: an agent on a machine without Kubernetes. The `faultline` binary runs it together with a node daemon
//! in the same process; their link is a pair of channels.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cluster::host::{Host, HostConfig};
use crate::config::Config;
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
