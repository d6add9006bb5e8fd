//! The state directory as a released version left it, kept as that wrote it, and as a later version may leave it. A
//! daemon that is started on either undoes what it can read, and never takes what it cannot for nothing.

#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeMap;
use std::path::Path;

use data_encoding::HEXLOWER;
use node_daemon::journal::{Journal, Loaded};
use node_daemon::recover::recover;
use node_daemon::system::fake::FakeSystem;
use proto::halt::HaltScope;
use proto::injection::InjectionPhase;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

#[path = "../../proto/tests/wire/levels.rs"]
mod levels;
#[path = "../../proto/tests/wire/lost.rs"]
mod lost;

use levels::objects;
use lost::lost;

/// Every released version's files by place, and the word that its first lines begin with.
fn versions() -> Vec<(String, String, BTreeMap<String, Value>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen");
    let read = |path: &Path| {
        let version = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).unwrap();
        let mut files: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
        let format = files.remove("format").unwrap().as_str().unwrap().to_owned();
        (version, format, files)
    };
    let versions: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| read(&entry.unwrap().path())).collect();
    assert!(!versions.is_empty());
    versions
}

fn place(folder: &Path, format: &str, file: &str, value: &Value) {
    let body = value.to_string();
    let path = folder.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let sum = HEXLOWER.encode(&Sha256::digest(body.as_bytes()));
    std::fs::write(path, format!("{format} {sum}\n{body}")).unwrap();
}

fn placed(format: &str, files: &BTreeMap<String, Value>) -> (TempDir, Journal, Loaded) {
    let folder = tempfile::tempdir().unwrap();
    for (file, value) in files {
        place(folder.path(), format, file, value);
    }
    let (journal, loaded) = Journal::open(folder.path()).unwrap();
    (folder, journal, loaded)
}

/// What was read, as this version writes it.
fn reread(loaded: &Loaded) -> BTreeMap<String, Value> {
    let mut files = BTreeMap::new();
    for record in &loaded.records {
        let file = format!("journal/{}.json", record.injection.id);
        files.insert(file, serde_json::to_value(record).unwrap());
    }
    for (id, ended) in &loaded.ended {
        files.insert(format!("ended/{id}.json"), serde_json::to_value(ended).unwrap());
    }
    files.insert("meta.json".to_owned(), serde_json::to_value(&loaded.meta).unwrap());
    files
}

#[test]
fn a_state_directory_of_a_released_version_is_read() {
    for (version, format, files) in versions() {
        let (_folder, _journal, loaded) = placed(&format, &files);
        let meaning = format!(
            "a daemon of version {version} may be replaced by this one while faults are active: read what it wrote, \
             or its undo is lost"
        );
        assert!(loaded.damaged.is_empty(), "{:?}. {meaning}", loaded.damaged);
        let now = reread(&loaded);
        for (file, value) in &files {
            let now = now.get(file).unwrap_or_else(|| panic!("{file} is not read. {meaning}"));
            let lost = lost(value, now);
            assert!(lost.is_empty(), "{file}: {lost:#?}. {meaning}");
        }
    }
}

#[test]
fn fields_from_later_do_not_keep_anything_from_being_undone() {
    for (version, format, files) in versions() {
        let plain = reread(&placed(&format, &files).2);
        let mut more = files.clone();
        for (file, value) in &mut more {
            for level in objects(value, &|name, _| ["directories", "verdict"].contains(&name)) {
                let object = value.pointer_mut(&level).and_then(Value::as_object_mut).unwrap();
                object.insert("fromTheFuture".to_owned(), json!({ "a": [1] }));
            }
            assert!(value.get("fromTheFuture").is_some(), "{file}");
        }
        let (_folder, _journal, loaded) = placed(&format, &more);
        assert!(loaded.damaged.is_empty(), "{version}: {:?}", loaded.damaged);
        assert_eq!(reread(&loaded), plain, "{version}");
    }
}

/// With one file changed.
fn with(file: &str, format: Option<&str>, change: impl Fn(&mut Value)) -> (TempDir, Journal, Loaded) {
    let (_, own, mut files) = versions().pop().unwrap();
    change(files.get_mut(file).unwrap());
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in &files {
        let format = if name == file { format.unwrap_or(&own) } else { &own };
        place(folder.path(), format, name, value);
    }
    let (journal, loaded) = Journal::open(folder.path()).unwrap();
    (folder, journal, loaded)
}

#[test]
fn a_record_from_later_is_put_aside_and_reported_and_the_others_are_undone() {
    let file = "journal/r1.still.0.json";
    for (what, format, pointer, word) in [
        ("a step", None, "/steps/0/step", "clockOffset"),
        ("a kind of fault", None, "/injection/action/kind", "clock.skew"),
        ("a stage", None, "/stage", "suspended"),
        ("a format", Some("faultline-journal-2"), "/stage", "injected"),
    ] {
        let (folder, journal, loaded) =
            with(file, format, |record| *record.pointer_mut(pointer).unwrap() = json!(word));
        assert_eq!((loaded.records.len(), loaded.damaged.len()), (3, 1), "{what}");
        // In the boot that it names, nothing is left of the others.
        let recovered = recover(&journal, loaded, &FakeSystem::new(), "another boot", 5);
        assert!(recovered.left.is_empty(), "{what}");
        let reported = &recovered.unreadable;
        assert_eq!((reported.len(), reported[0].phase), (1, InjectionPhase::Residue), "{what}");
        assert_eq!((reported[0].id.as_str(), reported[0].run.as_str()), ("r1.still.0", "r1"), "{what}");
        // It is there, whole, for the version that wrote it and for a person.
        assert!(folder.path().join("quarantine/r1.still.0.json").exists(), "{what}");
        assert!(
            reported[0].message.contains("quarantine/r1.still.0.json"),
            "{what}: {}",
            reported[0].message
        );
    }
}

#[test]
fn what_ended_by_a_later_version_stays_ended_and_halts_from_later_keep_everything_from_starting() {
    let (_folder, _journal, loaded) =
        with("ended/r0.late.0.json", None, |ended| ended["status"]["phase"] = json!("Dissolved"));
    assert_eq!(loaded.ended.into_iter().collect::<Vec<_>>(), [("r0.late.0".parse().unwrap(), None)]);
    let (_folder, _journal, loaded) =
        with("meta.json", None, |meta| meta["halts"][0]["scope"] = json!({ "type": "Region" }));
    assert_eq!(loaded.meta.unwrap().halts[0].scope, HaltScope::Fleet);
    // Without it the daemon refuses every start: `engine::admit`.
    let (_folder, _journal, loaded) = with("meta.json", None, |meta| meta["halts"][0]["id"] = json!(7));
    assert_eq!(loaded.meta, None);
}
