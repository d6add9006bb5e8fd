//! The REST port's own certificate, followed: whoever renews it writes the two files anew, and the next handshake
//! uses them. Run by the process where such files are configured.

use std::path::PathBuf;
use std::time::Duration;

use certs::{Credential, ReloadableIdentity};
use tokio_util::sync::CancellationToken;

/// Looks at the files until `shutdown`. What cannot be used is logged, and what was used before stays in use.
///
/// # Errors
/// None; the signature is that of every part of the process.
pub(crate) async fn reload(
    identity: ReloadableIdentity,
    chain: PathBuf,
    key: PathBuf,
    every: Duration,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut used = read(&chain, &key).await.ok();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(every) => {}
        }
        match read(&chain, &key).await {
            Ok(found) if used.as_ref() == Some(&found) => {}
            Ok(found) => {
                let credential = Credential { chain_pem: found.0.clone(), key_pem: found.1.clone() };
                match identity.replace(&credential) {
                    Ok(()) => tracing::info!(file = %chain.display(), "REST certificate reloaded"),
                    // Most likely one of the two files is newer than the other: the next look finds both.
                    Err(error) => {
                        tracing::warn!(%error, file = %chain.display(), "REST certificate not reloaded");
                    }
                }
                used = Some(found);
            }
            Err(error) => tracing::warn!(%error, "REST certificate cannot be read"),
        }
    }
}

async fn read(chain: &PathBuf, key: &PathBuf) -> std::io::Result<(String, String)> {
    Ok((tokio::fs::read_to_string(chain).await?, tokio::fs::read_to_string(key).await?))
}
