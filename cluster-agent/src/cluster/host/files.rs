//! Files that are never half written: a new one beside, synced, renamed, and the folder synced.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::Error;

/// A folder of small files.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// A folder in this one.
    pub(super) fn folder(&self, name: &str) -> Self {
        Self(self.0.join(name))
    }

    /// Takes the lock file, or says that another process has it.
    pub(super) fn lock(&self, name: &str) -> anyhow::Result<Flock<File>> {
        let path = self.0.join(name);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| anyhow::anyhow!("{} is in use by another agent ({errno})", path.display()))
    }

    /// The content, or `None` where there is no such file.
    pub(super) async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let path = self.0.join(name);
        match tokio::fs::read(&path).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unavailable("read", &path, &error)),
        }
    }

    /// When it was last changed.
    pub(super) async fn modified(&self, name: &str) -> Result<Option<Timestamp>, Error> {
        let path = self.0.join(name);
        match tokio::fs::metadata(&path).await.and_then(|m| m.modified()) {
            Ok(time) => Ok(super::timestamp(time)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unavailable("look at", &path, &error)),
        }
    }

    /// Names of its files, sorted; none where there is no folder. Files being written are not among them.
    pub(super) async fn names(&self) -> Result<Vec<String>, Error> {
        let failed = |error| unavailable("list", &self.0, &error);
        let mut entries = match tokio::fs::read_dir(&self.0).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        while let Some(entry) = entries.next_entry().await.map_err(failed)? {
            let is_file = entry.file_type().await.is_ok_and(|t| t.is_file());
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_file && !name.starts_with('.') {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Replaces a file; durable when it returns. Readable by its owner only.
    pub(super) async fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let (folder, name, bytes) = (self.0.clone(), name.to_owned(), bytes.to_vec());
        let path = folder.join(&name);
        let written = tokio::task::spawn_blocking(move || replace(&folder, &name, &bytes)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(unavailable("write", &path, &error)),
            Err(error) => Err(unavailable("write", &path, &std::io::Error::other(error))),
        }
    }

    /// Removes a file; fine where there is none.
    pub(super) async fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.0.join(name);
        match tokio::fs::remove_file(&path).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(unavailable("remove", &path, &error)),
        }
    }
}

/// One after the other: two who write the same file share its name beside it, which is always the same, so that what a
/// crash left there does not stay.
fn replace(folder: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    static WRITING: Mutex<()> = Mutex::new(());
    let _alone = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    std::fs::create_dir_all(folder)?;
    let beside = folder.join(format!(".{name}.new"));
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, folder.join(name))?;
    File::open(folder)?.sync_all()
}

/// A name that stays inside its folder.
pub(super) fn name(name: &str) -> Result<String, Error> {
    let good = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
    let refused =
        || Error::Refused { what: format!("use the name {name:?}"), why: "it is not a file name".into() };
    if good { Ok(name.to_owned()) } else { Err(refused()) }
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    let refused =
        |error: serde_json::Error| Error::Refused { what: "write JSON".into(), why: error.to_string() };
    serde_json::to_vec_pretty(value).map_err(refused)
}

pub(super) fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, Error> {
    let refused =
        |error: serde_json::Error| Error::Refused { what: format!("read {name}"), why: error.to_string() };
    serde_json::from_slice(bytes).map_err(refused)
}

fn unavailable(verb: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::Unavailable { what: format!("{verb} {}", path.display()), why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_writes_one_file_at_once_is_not_in_the_others_way() {
        let folder = tempfile::tempdir().unwrap();
        let texts: Vec<Vec<u8>> = (1..=4).map(|n| vec![b'0' + n; usize::from(n) * 10_000]).collect();
        std::thread::scope(|scope| {
            for text in &texts {
                scope.spawn(|| {
                    for _ in 0..50 {
                        replace(folder.path(), "state", text).unwrap();
                        let whole = std::fs::read(folder.path().join("state")).unwrap();
                        assert!(texts.contains(&whole), "{} bytes", whole.len());
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
