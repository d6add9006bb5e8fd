//! What agents of released versions keep in their cluster, as they wrote it. An agent of this version takes over from
//! each of them, also in the middle of a run.

use std::collections::BTreeMap;
use std::path::Path;

use cluster_agent::cluster::{LatchedHalts, RunRecordHeld};
use cluster_agent::link::identity::StoredIdentity;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

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

/// Every field of `then` is in `now`, as it was.
fn keeps(then: &Value, now: &Value) -> bool {
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => {
            then.iter().all(|(name, value)| now.get(name).is_some_and(|now| keeps(value, now)))
        }
        (Value::Array(then), Value::Array(now)) => {
            then.len() == now.len() && then.iter().zip(now).all(|(then, now)| keeps(then, now))
        }
        _ => then == now,
    }
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
            assert!(keeps(&document, &now), "{name} was {document:#}, is read as {now:#}. {meaning}");
        }
    }
}

/// Every object of a document but maps of names.
fn objects(value: &Value, at: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            if !at.ends_with("/labels") {
                out.push(at.to_owned());
            }
            for (name, value) in object {
                objects(value, &format!("{at}/{name}"), out);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                objects(value, &format!("{at}/{index}"), out);
            }
        }
        _ => {}
    }
}

#[test]
fn an_agent_that_is_set_back_reads_what_a_later_one_kept() {
    for (version, documents) in versions() {
        for (name, document) in documents {
            let plain = reread(&name, &document).unwrap();
            let mut levels = Vec::new();
            objects(&document, "", &mut levels);
            for level in levels {
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
