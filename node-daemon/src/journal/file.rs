//! One checksummed JSON file: a line with the format and the SHA-256 of the rest, then the JSON. Used by
//! the journal for everything it keeps.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use data_encoding::HEXLOWER;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::Error;

const FORMAT: &str = "faultline-journal-1";
/// Ending of a file that is being written.
pub(super) const UNFINISHED: &str = "tmp";

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content<T> {
    /// A whole one.
    Whole(T),
    /// Not what was once written, and why.
    Damaged(String),
}

/// Writes beside its place, syncs, renames. The directory is synced by the caller, once per group. Daemon and keeper
/// may write the end of the same injection, so each has a name of its own beside it.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let io = |action| move |source| Error::Io { action, path: path.to_path_buf(), source };
    let body = serde_json::to_vec_pretty(value).map_err(|error| io("write")(error.into()))?;
    let sum = HEXLOWER.encode(&Sha256::digest(&body));
    let beside = path.with_added_extension(format!("{}.{UNFINISHED}", std::process::id()));
    let mut file = File::create(&beside).map_err(io("make"))?;
    file.write_all(format!("{FORMAT} {sum}\n").as_bytes()).map_err(io("write"))?;
    file.write_all(&body).map_err(io("write"))?;
    file.sync_data().map_err(io("sync"))?;
    fs::rename(&beside, path).map_err(io("rename"))
}

/// Reads and checks. `None` when there is no such file.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<Content<T>>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(Error::Io { action: "read", path: path.to_path_buf(), source });
        }
    };
    Ok(Some(parse(&bytes).map_or_else(Content::Damaged, Content::Whole)))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let split = bytes.iter().position(|byte| *byte == b'\n').ok_or("it has no first line")?;
    let (head, body) = (&bytes[..split], &bytes[split + 1..]);
    let head = std::str::from_utf8(head).map_err(|_| "its first line is no text")?;
    let (format, sum) = head.split_once(' ').ok_or("its first line has no checksum")?;
    if format != FORMAT {
        return Err(format!("its format is {format:?}, this version reads {FORMAT}"));
    }
    if sum != HEXLOWER.encode(&Sha256::digest(body)) {
        return Err("its checksum does not match: it is cut off or was changed".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| format!("its content is not understood: {error}"))
}

/// Makes renames and removals in this folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), Error> {
    let io = |source| Error::Io { action: "sync", path: path.to_path_buf(), source };
    File::open(path).and_then(|folder| folder.sync_all()).map_err(io)
}

/// Removes; absent is success.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::Io { action: "remove", path: path.to_path_buf(), source: error })
        }
        _ => Ok(()),
    }
}
