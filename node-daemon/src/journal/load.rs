//! Reading the whole state directory at start. A file that is not whole is moved to `quarantine/` and
//! handed on by name, so that what it stood for is reported.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use proto::ids::InjectionId;

use super::file::{self, Content, UNFINISHED};
use super::{Ended, Error, Folders, Meta, Record};

/// Everything found at start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Epoch and halts; `None` when the file is damaged: then nothing may start.
    pub meta: Option<Meta>,
    /// Records that are not known to be clean.
    pub records: Vec<Record>,
    /// Ended injections by id; a damaged one still counts as ended.
    pub ended: BTreeMap<InjectionId, Option<Ended>>,
    /// Records that cannot be read.
    pub damaged: Vec<Damaged>,
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// By its file's name, where that is an id.
    pub id: Option<InjectionId>,
    /// Where it lies now.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

pub(super) fn load(folders: &Folders) -> Result<Loaded, Error> {
    let mut loaded = Loaded { meta: load_meta(folders)?, ..Loaded::default() };
    for path in list(&folders.ended())? {
        match id_of(&path) {
            Some(id) => {
                let ended = match file::read::<Ended>(&path)? {
                    Some(Content::Whole(ended)) => Some(ended),
                    _ => None,
                };
                loaded.ended.insert(id, ended);
            }
            None if is_unfinished(&path) => file::remove(&path)?,
            None => {}
        }
    }
    for path in list(&folders.quarantine())? {
        // Reported at every start until a person removes it.
        let why = "it was put aside by an earlier start".to_owned();
        loaded.damaged.push(Damaged { id: id_of(&path), path, why });
    }
    for path in list(&folders.journal())? {
        load_record(folders, &path, &mut loaded)?;
    }
    Ok(loaded)
}

fn load_meta(folders: &Folders) -> Result<Option<Meta>, Error> {
    // Only its own: beside it lies what the keeper is writing.
    let own = |path: &&PathBuf| path.file_prefix() == folders.meta().file_prefix();
    for path in list(&folders.root)?.iter().filter(own).filter(|path| is_unfinished(path)) {
        file::remove(path)?;
    }
    Ok(match file::read::<Meta>(&folders.meta())? {
        None => Some(Meta::default()),
        Some(Content::Whole(meta)) => Some(meta),
        Some(Content::Damaged(why)) => {
            tracing::error!(path = %folders.meta().display(), why, "state file damaged, nothing will start");
            None
        }
    })
}

fn load_record(folders: &Folders, path: &Path, loaded: &mut Loaded) -> Result<(), Error> {
    let lock = path.extension() == Some(OsStr::new("lock"));
    if is_unfinished(path) || (lock && !path.with_extension("json").exists()) {
        // Never confirmed, so nothing was done for it.
        return file::remove(path);
    }
    if lock {
        return Ok(());
    }
    let id = id_of(path);
    let why = match file::read::<Record>(path)? {
        None => return Ok(()),
        Some(Content::Whole(record)) if Some(&record.injection.id) == id.as_ref() => {
            loaded.records.push(record);
            return Ok(());
        }
        Some(Content::Whole(_)) => "it is of another injection than its name says".to_owned(),
        Some(Content::Damaged(why)) => why,
    };
    let aside = folders.quarantine().join(path.file_name().unwrap_or_default());
    let io = |source| Error::Io { action: "put aside", path: path.to_path_buf(), source };
    fs::rename(path, &aside).map_err(io)?;
    tracing::error!(path = %aside.display(), why, "journal record damaged, put aside");
    loaded.damaged.push(Damaged { id, path: aside, why });
    Ok(())
}

/// What the keeper knows of the journal. A record that was whole once stays known as it was, whatever becomes of
/// its file, until its end is recorded: who deletes the journal deletes no fault.
#[derive(Debug, Default)]
pub struct Known {
    records: BTreeMap<InjectionId, (Option<SystemTime>, Option<Record>)>,
}

impl Known {
    /// Whether no whole record is there.
    pub fn is_empty(&self) -> bool {
        self.whole().next().is_none()
    }

    /// One whole record.
    pub fn get(&self, id: &InjectionId) -> Option<&Record> {
        self.records.get(id)?.1.as_ref()
    }

    /// Forgets one that is over.
    pub fn drop_record(&mut self, id: &InjectionId) {
        self.records.remove(id);
    }

    /// All whole records.
    pub fn whole(&self) -> impl Iterator<Item = (&InjectionId, &Record)> {
        self.records.iter().filter_map(|(id, (_, record))| Some((id, record.as_ref()?)))
    }
}

/// A record that cannot be read now is read again by the next call; the others are read all the same.
pub(super) fn refresh(folders: &Folders, known: &mut Known) -> Result<(), Error> {
    let paths = list(&folders.journal())?;
    let ids: BTreeMap<InjectionId, &PathBuf> =
        paths.iter().filter_map(|path| Some((id_of(path)?, path))).collect();
    known
        .records
        .retain(|id, (_, record)| ids.contains_key(id) || (record.is_some() && !folders.is_ended(id)));
    let mut read = Ok(());
    for (id, path) in ids {
        let changed_at = fs::metadata(path).and_then(|file| file.modified()).ok();
        let entry = known.records.entry(id).or_insert((None, None));
        if entry.0 == changed_at && changed_at.is_some() {
            continue;
        }
        match file::read::<Record>(path) {
            Ok(content) => {
                entry.0 = changed_at;
                if let Some(Content::Whole(record)) = content {
                    entry.1 = Some(record);
                }
            }
            Err(error) => read = read.and(Err(error)),
        }
    }
    read
}

/// Files of a folder in a fixed order.
fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let io = |source| Error::Io { action: "list", path: folder.to_path_buf(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        paths.push(entry.map_err(io)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn is_unfinished(path: &Path) -> bool {
    path.extension() == Some(OsStr::new(UNFINISHED))
}

fn id_of(path: &Path) -> Option<InjectionId> {
    path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()
}
