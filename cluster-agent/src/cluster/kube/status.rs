//! Writing the status of objects that people made: a merge patch of the difference, onto the very object (uid)
//! and the very version that was read, or that our last write made. Called by `acts`.

use std::collections::BTreeMap;
use std::sync::Mutex;

use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Map, Value, json};

use super::answer::{Failure, RACES, call};
use super::lock;
use crate::cluster::Error;

/// Objects whose last write is remembered; beyond that all are forgotten, and read again.
const REMEMBERED: usize = 1024;

/// The versions that our last writes made, by uid: the next write onto one of them needs no read before it.
#[derive(Debug, Default)]
pub(super) struct Written(Mutex<BTreeMap<String, Version>>);

#[derive(Debug, Clone, Default)]
struct Version {
    resource_version: String,
    status: Value,
}

impl Version {
    fn of(object: &DynamicObject) -> Option<(String, Self)> {
        let status = object.data.get("status").cloned().unwrap_or(Value::Null);
        let resource_version = object.metadata.resource_version.clone()?;
        Some((object.metadata.uid.clone()?, Self { resource_version, status }))
    }
}

impl Written {
    fn take(&self, uid: &str) -> Option<Version> {
        lock(&self.0).remove(uid)
    }

    fn keep(&self, object: &DynamicObject) {
        let mut all = lock(&self.0);
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.extend(Version::of(object));
    }
}

/// Makes `status` of the object equal to `wanted`. Fine, and nothing written, where it is equal already, where
/// the object is gone, or where it is another one by now (`uid`, where given).
pub(super) async fn write(
    api: &Api<DynamicObject>,
    written: &Written,
    name: &str,
    uid: Option<&str>,
    wanted: &Value,
) -> Result<(), Error> {
    let what = || format!("write the status of {name}");
    let mut lost = None;
    // What stands there is read, unless we wrote it ourselves and there is something to change in it.
    let known = uid.and_then(|uid| Some((uid.to_owned(), written.take(uid)?)));
    let mut known = known.filter(|(_, version)| difference(&version.status, wanted).is_some());
    for _ in 0..RACES {
        let (held_uid, held) = match known.take() {
            Some(known) => known,
            None => match call(api.get(name)).await {
                Ok(object) => Version::of(&object).unwrap_or_default(),
                Err(failure) if failure.is_missing(name) => return Ok(()),
                Err(failure) => return Err(failure.into_error(what())),
            },
        };
        if uid.is_some_and(|uid| uid != held_uid) {
            return Ok(());
        }
        let Some(difference) = difference(&held.status, wanted) else {
            return Ok(());
        };
        let patch = json!({
            "metadata": { "uid": held_uid, "resourceVersion": held.resource_version },
            "status": difference,
        });
        match call(api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))).await {
            Ok(object) => {
                // Without a uid it is never asked for.
                if uid.is_some() {
                    written.keep(&object);
                }
                return Ok(());
            }
            Err(failure) if failure.is_missing(name) => return Ok(()),
            Err(failure) if failure.is_conflict() => lost = Some(failure),
            Err(failure) => return Err(failure.into_error(what())),
        }
    }
    Err(lost.unwrap_or(Failure::Silent("no try was made".to_owned())).into_error(what()))
}

/// The merge patch (RFC 7396) that makes `held` equal to `wanted`; `None` where they are. `null` is absence.
fn difference(held: &Value, wanted: &Value) -> Option<Value> {
    let (Value::Object(held_fields), Value::Object(wanted_fields)) = (held, wanted) else {
        return (held != wanted).then(|| wanted.clone());
    };
    let mut patch = Map::new();
    for (key, value) in wanted_fields.iter().filter(|(_, value)| !value.is_null()) {
        let before = held_fields.get(key).unwrap_or(&Value::Null);
        if let Some(changed) = difference(before, value) {
            patch.insert(key.clone(), changed);
        }
    }
    for key in held_fields.keys() {
        if wanted_fields.get(key).is_none_or(Value::is_null) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_statuses_need_no_write() {
        let status =
            json!({ "phase": "Running", "clusters": { "total": 2 }, "samples": [{ "cluster": "a" }] });
        assert_eq!(difference(&status, &status), None);
        assert_eq!(
            difference(
                &status,
                &json!({ "samples": [{ "cluster": "a" }], "outcome": null,
            "phase": "Running", "clusters": { "total": 2 } })
            ),
            None,
            "order and nulls do not matter"
        );
    }

    #[test]
    fn what_is_no_longer_said_is_taken_away() {
        let held = json!({ "phase": "Running", "residueResolvesAt": "later", "clusters": { "total": 2, "running": 1 } });
        let wanted = json!({ "phase": "Finished", "clusters": { "total": 2 }, "samples": [] });
        let patch = json!({ "phase": "Finished", "samples": [], "residueResolvesAt": null, "clusters": { "running": null } });
        assert_eq!(difference(&held, &wanted), Some(patch));
        assert_eq!(difference(&Value::Null, &wanted), Some(wanted), "the first status");
    }
}
