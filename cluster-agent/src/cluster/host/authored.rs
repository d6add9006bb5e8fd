//! Experiment and Run manifests in a folder: a file dropped is an object created, a file removed an object deleted.
//! The status is written beside as `<name>.<kind>.status.json`; of a file with mistakes, as `<file>.status.json`.
//!
//! An Experiment keeps its uid while its name stays, and gets a new generation when its file changes. A Run's uid
//! comes from its content: the same file put back is the same run and starts nothing; another content under the
//! same name is another Run, which the centre refuses.

use std::path::Path;

use proto::hash::sha256_hex;
use proto::trace::TraceContext;
use proto::validate::{self, Manifest};
use proto::wire::{Authored, AuthoredKind, AuthoredRef, Mirror};
use serde_json::json;

use super::files::{self, Folder};
use crate::cluster::{AuthoredSet, Error};

/// A file larger than this is no manifest.
const MAX_FILE_BYTES: usize = 256 * 1024;
const EXTENSIONS: &[&str] = &["yaml", "yml", "json"];

/// Every object in the folder.
pub(super) async fn read(path: &Path) -> Result<AuthoredSet, Error> {
    let folder = Folder::new(path.to_owned());
    let mut set = AuthoredSet::new();
    for file in folder.names().await? {
        let is_manifest =
            Path::new(&file).extension().and_then(|e| e.to_str()).is_some_and(|e| EXTENSIONS.contains(&e));
        if !is_manifest || file.ends_with(".status.json") {
            continue;
        }
        let (Some(bytes), Some(modified)) = (folder.read(&file).await?, folder.modified(&file).await?) else {
            continue; // removed meanwhile
        };
        match objects(&bytes, modified.as_millisecond()) {
            Ok(objects) => set.extend(objects.into_iter().map(|o| (o.object.clone(), o))),
            Err(why) => refused(&folder, &file, &why).await?,
        }
    }
    Ok(set)
}

fn objects(bytes: &[u8], generation: i64) -> Result<Vec<Authored>, String> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(format!("larger than {MAX_FILE_BYTES} bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let manifests = validate::manifests(text).map_err(|problems| problems.to_string())?;
    manifests.iter().map(|manifest| object(manifest, generation)).collect()
}

fn object(manifest: &Manifest, generation: i64) -> Result<Authored, String> {
    let kind: AuthoredKind = manifest.kind.parse()?;
    let namespace = manifest.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let body = serde_json::to_vec(&manifest.spec).map_err(|e| e.to_string())?;
    let identity = format!("{}/{namespace}/{}", manifest.kind, manifest.name);
    let uid = match kind {
        AuthoredKind::Experiment => sha256_hex(identity.as_bytes()),
        AuthoredKind::Run => sha256_hex(&[identity.as_bytes(), b"\n", &body].concat()),
    };
    Ok(Authored {
        object: AuthoredRef {
            kind,
            namespace: namespace.parse().map_err(|e: proto::ids::InvalidName| e.to_string())?,
            name: manifest.name.parse().map_err(|e: proto::ids::InvalidName| e.to_string())?,
            uid: uid[..32].to_owned(),
        },
        generation: if kind == AuthoredKind::Run { 1 } else { generation },
        author: String::new(),
        body,
        trace: TraceContext::NONE,
    })
}

/// Says what is wrong with a file, once.
async fn refused(folder: &Folder, file: &str, why: &str) -> Result<(), Error> {
    let condition = json!({ "type": "Accepted", "status": "False", "reason": "Invalid", "message": why });
    let status = files::json(&json!({ "conditions": [condition] }))?;
    let name = format!("{file}.status.json");
    if folder.read(&name).await?.as_deref() != Some(&status) {
        tracing::warn!(file, why, "manifest not accepted");
        folder.write(&name, &status).await?;
    }
    Ok(())
}

/// Writes an object's status beside its file.
pub(super) async fn write_status(path: &Path, mirror: &Mirror) -> Result<(), Error> {
    let kind = mirror.object.kind.as_str().to_lowercase();
    let name = format!("{}.{kind}.status.json", mirror.object.name);
    Folder::new(path.to_owned()).write(&name, &mirror.status).await
}
