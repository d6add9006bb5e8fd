//! Contexts: which control plane, whom to trust, and the token, in one file
//! that only its owner can read.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// A control plane and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Context {
    /// https://host:port
    pub(crate) server: String,
    /// SPKI pin of its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pin: Option<String>,
    /// Or a CA bundle, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_pem: Option<String>,
    /// Bearer token.
    pub(crate) token: String,
}

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contexts {
    /// The one in use.
    pub(crate) current: String,
    /// All, by name.
    pub(crate) contexts: BTreeMap<String, Context>,
}

fn path() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("FAULTLINE_CONFIG") {
        return Ok(path.into());
    }
    let base = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    Ok(base.context("neither HOME nor FAULTLINE_CONFIG is set")?.join("faultline/contexts.json"))
}

/// The file is at most this large, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Reads the file; an absent one is empty.
pub(crate) fn load() -> anyhow::Result<Contexts> {
    let path = path()?;
    let what = || format!("read {}", path.display());
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Contexts::default()),
        Err(error) => return Err(error).with_context(what),
    };
    let mode = file.metadata().with_context(what)?.permissions().mode();
    guarded(&path, mode)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).with_context(what)?;
    anyhow::ensure!(bytes.len() as u64 <= MAX_FILE, "{} is larger than {MAX_FILE} bytes", path.display());
    serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is broken: correct it, or remove it and log in again", path.display()))
}

/// Refuses a file into which others may write where tokens are sent, and says where others may read them: in a
/// container it may be mounted so.
fn guarded(path: &Path, mode: u32) -> anyhow::Result<()> {
    let path = path.display();
    if mode & 0o022 != 0 {
        bail!("others may write to {path}, and so learn your tokens: chmod 600 {path}, then look into it");
    }
    if mode & 0o044 != 0 {
        crate::output::note(&format!("warning: others may read the tokens in {path}: chmod 600 {path}"));
    }
    Ok(())
}

/// Writes the file, readable by its owner only.
pub(crate) fn save(contexts: &Contexts) -> anyhow::Result<()> {
    let path = path()?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let temporary = path.with_extension("new");
    // One that a killed process left may have another mode.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", temporary.display()));
        }
        _ => {}
    }
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
    let mut file = file.with_context(|| format!("create {}", temporary.display()))?;
    file.write_all(&serde_json::to_vec_pretty(contexts)?)?;
    file.sync_all()?;
    fs::rename(&temporary, &path).with_context(|| format!("write {}", path.display()))
}

/// The named context, or the current one.
pub(crate) fn choose(name: Option<&str>) -> anyhow::Result<Context> {
    let contexts = load()?;
    let name = name.unwrap_or(&contexts.current);
    match contexts.contexts.get(name) {
        Some(context) => Ok(context.clone()),
        None if contexts.contexts.is_empty() => {
            bail!("not logged in: run `faultline login https://HOST:7443 --pin PIN --token-file FILE`")
        }
        None => {
            let known: Vec<_> = contexts.contexts.keys().cloned().collect();
            bail!("no context {name:?}; known: {}", known.join(", "))
        }
    }
}
