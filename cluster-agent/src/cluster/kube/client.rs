//! The client of the apiserver: in-cluster, or by KUBECONFIG. Called once by `run`.

use std::time::Duration;

use kube::{Client, Config};

use crate::cluster::Error;

/// A connection that is not made by then never will be.
const CONNECT_BOUND: Duration = Duration::from_secs(5);
/// A watch ends by itself before that (see `follow`), so silence this long is a dead connection.
const READ_BOUND: Duration = Duration::from_secs(45);
const WRITE_BOUND: Duration = Duration::from_secs(30);

/// A client, and the host of the apiserver as it dials it. Makes no connection yet; refused where neither
/// KUBECONFIG nor a pod's service account says how.
pub async fn connect() -> Result<(Client, Option<String>), Error> {
    let config = Config::infer().await.map_err(|e| refused(&e))?;
    from_config(config)
}

/// As [`connect`], with the configuration given.
pub fn from_config(mut config: Config) -> Result<(Client, Option<String>), Error> {
    config.connect_timeout = Some(CONNECT_BOUND);
    config.read_timeout = Some(READ_BOUND);
    config.write_timeout = Some(WRITE_BOUND);
    config.reset_reader_on_write = true;
    // Every call here is bounded and repeated by its caller; hidden repeats would outlive a Lease.
    config.default_retry = false;
    let host = config.cluster_url.host().map(|h| h.trim_matches(['[', ']']).to_owned());
    let client = Client::try_from(config).map_err(|e| refused(&e))?;
    Ok((client, host))
}

fn refused(why: &dyn std::error::Error) -> Error {
    Error::Refused { what: "configure the apiserver's client".to_owned(), why: why.to_string() }
}
