//! What agents of released versions keep in their cluster, as they wrote it. An agent of this version takes over from
//! each of them, also in the middle of a run.

use std::collections::BTreeMap;
use std::path::Path;

use cluster_agent::cluster::{LatchedHalts, RunRecordHeld};
use cluster_agent::link::identity::StoredIdentity;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::levels::objects;
use super::lost::lost;

/// Reads a document as what its name says, up to a comma, and writes it again.
fn reread(name: &str, document: &Value) -> Result<Value, String> {
    fn of<T: Serialize + DeserializeOwned>(document: &Value) -> Result<Value, String> {
        let read: T = serde_json::from_value(document.clone()).map_err(|error| error.to_string())?;
        serde_json::to_value(read).map_err(|error| error.to_string())
    }
    match name.split(',').next().unwrap() {
        "LatchedHalts" => of::<LatchedHalts>(document),
        "RunRecordHeld" => of::<RunRecordHeld>(document),
        "StoredIdentity" => of::<StoredIdentity>(document),
        other => Err(format!("no type is read as {other}")),
    }
}

fn versions() -> Vec<(String, BTreeMap<String, Value>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster_door/frozen");
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        (path.file_stem().unwrap().to_string_lossy().into_owned(), serde_json::from_str(&text).unwrap())
    };
    let versions: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| read(&entry.unwrap().path())).collect();
    assert!(!versions.is_empty());
    versions
}

#[test]
fn what_agents_of_released_versions_keep_is_read() {
    for (version, documents) in versions() {
        for (name, document) in documents {
            let meaning = format!(
                "an agent of version {version} may be replaced by this one: read what it keeps, or its runs are \
                 forgotten and its cluster has to be enrolled again"
            );
            let now = reread(&name, &document).unwrap_or_else(|error| panic!("{name}: {error}. {meaning}"));
            let lost = lost(&document, &now);
            assert!(lost.is_empty(), "{name}: {lost:#?}. {meaning}");
        }
    }
}

#[test]
fn an_agent_that_is_set_back_reads_what_a_later_one_kept() {
    for (version, documents) in versions() {
        for (name, document) in documents {
            let plain = reread(&name, &document).unwrap();
            for level in objects(&document, &|name, _| name == "labels") {
                let mut more = document.clone();
                let object = more.pointer_mut(&level).and_then(Value::as_object_mut).unwrap();
                object.insert("fromTheFuture".to_owned(), json!({ "a": [1] }));
                assert_eq!(reread(&name, &more).as_ref(), Ok(&plain), "{name} of {version} at {level:?}");
            }
        }
    }
    let mut halts = versions()[0].1["LatchedHalts"].clone();
    halts["halts"][0]["scope"] = json!({ "type": "Region", "region": "eu" });
    let halts = reread("LatchedHalts", &halts).unwrap();
    assert_eq!(halts["halts"][0]["scope"], json!({ "type": "Fleet" }), "it stops everything here");
    // A state that is not known is none of ours: the record stays, and its run never starts here.
    let mut later = versions()[0].1["RunRecordHeld"].clone();
    later["state"] = json!("Suspended");
    assert!(reread("RunRecordHeld", &later).is_err());
}
