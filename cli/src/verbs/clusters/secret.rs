//! The Secret manifest of one invitation, for the chart's `join.existingSecret`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::Timestamp;
use proto::rest::Invitation;
use serde_json::Value;

/// The Secret's name.
const NAME: &str = "faultline-join";
const CLUSTER: &str = "faultline.dev/cluster-id";
const EXPIRES: &str = "faultline.dev/token-expires-at";

/// Where a cluster's manifest goes.
pub(super) fn path(out: &Path, name: &str) -> PathBuf {
    out.join(format!("{name}.yaml"))
}

/// What an earlier call left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) cluster: String,
    pub(super) expires_at: Timestamp,
}

/// Reads what an earlier call left; none where it is no manifest of ours.
pub(super) fn left(path: &Path) -> Option<Left> {
    let text = fs::read_to_string(path).ok()?;
    let manifest: Value = serde_saphyr::from_str(&text).ok()?;
    manifest["stringData"]["token"].as_str()?.parse::<certs::JoinToken>().ok()?;
    let annotations = &manifest["metadata"]["annotations"];
    let cluster = annotations[CLUSTER].as_str()?.to_owned();
    Some(Left { cluster, expires_at: annotations[EXPIRES].as_str()?.parse().ok()? })
}

/// Writes the manifest whole, readable by its owner only. It is applied to a cluster, so nothing else gets into it
/// than what an invitation of this member can hold.
pub(super) fn write(path: &Path, name: &str, invitation: &Invitation) -> anyhow::Result<()> {
    anyhow::ensure!(invitation.name == name, "the control plane invited another than {name}");
    invitation.token.parse::<certs::JoinToken>().context("the control plane gave no join token")?;
    let manifest = manifest(invitation);
    let what = || format!("write {}", path.display());
    let temporary = path.with_extension("new");
    // One that a killed process left may have another mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(what),
        _ => {}
    }
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
    let mut file = file.with_context(what)?;
    file.write_all(manifest.as_bytes()).with_context(what)?;
    file.sync_all().with_context(what)?;
    fs::rename(&temporary, path).with_context(what)
}

/// Nothing in it needs escaping: names, ids, instants and tokens have neither quotes nor backslashes, and were checked.
fn manifest(invitation: &Invitation) -> String {
    let Invitation { cluster, name, token, expires_at } = invitation;
    format!(
        "\
apiVersion: v1
kind: Secret
metadata:
  name: {NAME}
  labels:
    app.kubernetes.io/part-of: faultline
  annotations:
    faultline.dev/cluster: \"{name}\"
    {CLUSTER}: \"{cluster}\"
    {EXPIRES}: \"{expires_at}\"
type: Opaque
stringData:
  token: \"{token}\"
"
    )
}
