//! Between the engine's objects and the store's keys and bytes. JSON, readable with etcdctl.

use bytes::Bytes;
use jiff::Timestamp;
use proto::halt::{self, Halt, HaltScope};
use proto::ids::{ClusterId, RunId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::Commit;
use crate::engine::object::{Object, ObjectKey, SpecBody};
use crate::store::keys::{Key, KeyError};
use crate::store::{Compare, Op, Txn};

/// The key whose revision stands for all halts.
const HALTS_REVISION: &str = "halts-revision";
/// Under which lifted halts are kept.
pub const RESUMED: &str = "halts-resumed/";
/// Under which operators are kept.
pub const OPERATORS: &str = "operators/";
/// Under which taken-away tokens of the bootstrap file are kept.
pub const SPENT: &str = "operators-spent/";
/// Under which answers to requests with an idempotency key are kept.
pub const ONCE: &str = "once/";
/// The key whose revision stands for all operators.
pub const OPERATORS_REVISION: &str = "operators-revision";
/// The uid under which the first run of a name is kept; no uid from outside looks like this.
const FIRST: &str = "_first";

/// Why an object has no place in the store, or bytes of the store make none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name cannot be part of a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A value has no JSON form, or is none of ours.
    #[error("value of {key}: {source}")]
    Value {
        /// Whose.
        key: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// What everything under a prefix is followed for. `halts` has no slash: one watch sees halts,
/// what was resumed and their common revision in one order.
pub const FOLLOWED: &[&str] = &[
    "clusters/",
    "experiments/",
    "specs/",
    "runs/",
    "desired/",
    "observed/",
    "grants/",
    "halts",
    "session/",
    "revoked/",
    "replicas/",
    "endpoints",
    OPERATORS,
    "format",
];

/// Which of [`FOLLOWED`] has this key; `None` for one that is not followed.
pub fn followed_by(path: &str) -> Option<usize> {
    FOLLOWED.iter().position(|prefix| path.starts_with(prefix))
}

/// The key of an object.
///
/// # Errors
/// [`Error::Key`].
pub fn path(key: &ObjectKey) -> Result<String, Error> {
    let path = match key {
        ObjectKey::ClusterSpec(id) => Key::ClusterSpec { cluster: id.as_str() }.path()?,
        ObjectKey::ClusterStatus(id) => Key::ClusterStatus { cluster: id.as_str() }.path()?,
        ObjectKey::Session(id) => Key::Session { cluster: id.as_str() }.path()?,
        ObjectKey::Experiment((origin, namespace, name)) => {
            Key::Experiment { origin, namespace, name }.path()?
        }
        ObjectKey::Spec(hash) => Key::Spec { sha256: hash }.path()?,
        ObjectKey::Run(id) => Key::RunSpec { run: id.as_str() }.path()?,
        ObjectKey::Summary(id) => Key::RunSummary { run: id.as_str() }.path()?,
        ObjectKey::Plan(id, cluster) => {
            Key::RunPlan { run: id.as_str(), cluster: cluster.as_str() }.path()?
        }
        ObjectKey::Desired(cluster, id) => {
            Key::Desired { cluster: cluster.as_str(), run: id.as_str() }.path()?
        }
        ObjectKey::Observed(cluster, id) => {
            Key::Observed { cluster: cluster.as_str(), run: id.as_str() }.path()?
        }
        ObjectKey::Grant(name) => Key::Grant { name }.path()?,
        ObjectKey::Halt(id) => Key::Halt { id: id.as_str() }.path()?,
        ObjectKey::Resumed(id) => format!("{RESUMED}{id}"),
        ObjectKey::HaltsRevision => HALTS_REVISION.to_owned(),
        ObjectKey::Revoked(cluster, serial) => Key::Revoked { cluster, serial }.path()?,
        ObjectKey::Replica(id) => Key::Replica { id }.path()?,
        ObjectKey::Endpoints => Key::Endpoints.path()?,
        ObjectKey::Operator(hash) => operator_path(hash),
        ObjectKey::Format => Key::Format.path()?,
    };
    Ok(path)
}

/// `tokens/<id>`
///
/// # Errors
/// [`Error::Key`].
pub fn token_path(id: &str) -> Result<String, Error> {
    Ok(Key::Token { id }.path()?)
}

/// `certs/<cluster>`
///
/// # Errors
/// [`Error::Key`].
pub fn cert_path(cluster: &str) -> Result<String, Error> {
    Ok(Key::Cert { cluster }.path()?)
}

/// `operators/<hash>`
pub fn operator_path(hash: &str) -> String {
    format!("{OPERATORS}{hash}")
}

/// `operators-spent/<hash>`: a token of the bootstrap file that was revoked.
pub fn spent_path(hash: &str) -> String {
    format!("{SPENT}{hash}")
}

/// `once/<hash>`: what was answered to a request with an idempotency key.
pub fn once_path(hash: &str) -> String {
    format!("{ONCE}{hash}")
}

/// `tombstones/<origin>/<namespace>/<name>/<uid>`; without uid that of the name's first run.
///
/// # Errors
/// [`Error::Key`].
pub fn tombstone_path(origin: &str, namespace: &str, name: &str, uid: Option<&str>) -> Result<String, Error> {
    Ok(Key::Tombstone { origin, namespace, name, uid: uid.unwrap_or(FIRST) }.path()?)
}

/// A key of a followed prefix; `None` for one that is not kept in memory.
pub fn parse(path: &str) -> Option<ObjectKey> {
    if path == HALTS_REVISION {
        return Some(ObjectKey::HaltsRevision);
    }
    if let Some(id) = path.strip_prefix(RESUMED) {
        return Some(ObjectKey::Resumed(id.parse().ok()?));
    }
    if let Some(hash) = path.strip_prefix(OPERATORS) {
        return Some(ObjectKey::Operator(hash.to_owned()));
    }
    let cluster = |text: &str| text.parse::<ClusterId>().ok();
    let run = |text: &str| text.parse::<RunId>().ok();
    Some(match Key::parse(path).ok()? {
        Key::ClusterSpec { cluster: c } => ObjectKey::ClusterSpec(cluster(c)?),
        Key::ClusterStatus { cluster: c } => ObjectKey::ClusterStatus(cluster(c)?),
        Key::Session { cluster: c } => ObjectKey::Session(cluster(c)?),
        Key::Experiment { origin, namespace, name } => {
            ObjectKey::Experiment((origin.to_owned(), namespace.to_owned(), name.to_owned()))
        }
        Key::Spec { sha256 } => ObjectKey::Spec(sha256.to_owned()),
        Key::RunSpec { run: r } => ObjectKey::Run(run(r)?),
        Key::RunSummary { run: r } => ObjectKey::Summary(run(r)?),
        Key::RunPlan { run: r, cluster: c } => ObjectKey::Plan(run(r)?, cluster(c)?),
        Key::Desired { cluster: c, run: r } => ObjectKey::Desired(cluster(c)?, run(r)?),
        Key::Observed { cluster: c, run: r } => ObjectKey::Observed(cluster(c)?, run(r)?),
        Key::Grant { name } => ObjectKey::Grant(name.to_owned()),
        Key::Halt { id } => ObjectKey::Halt(id.parse().ok()?),
        Key::Revoked { cluster, serial } => ObjectKey::Revoked(cluster.to_owned(), serial.to_owned()),
        Key::Replica { id } => ObjectKey::Replica(id.to_owned()),
        Key::Endpoints => ObjectKey::Endpoints,
        Key::Format => ObjectKey::Format,
        _ => return None,
    })
}

fn json<T: Serialize>(key: &ObjectKey, value: &T) -> Result<Bytes, Error> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|source| Error::Value { key: format!("{key:?}"), source })
}

/// The bytes of an object.
///
/// # Errors
/// [`Error::Value`].
pub fn encode(object: &Object) -> Result<Bytes, Error> {
    let key = &object.key();
    match object {
        Object::ClusterSpec(value) => json(key, value),
        Object::ClusterStatus(_, value) => json(key, value),
        Object::Session(_, value) => json(key, value),
        Object::Experiment(_, value) => json(key, value),
        Object::Spec(body) => Ok(Bytes::from(body.json.clone())),
        Object::Run(value) => json(key, value),
        Object::Summary(value) => json(key, value),
        Object::Plan(_, _, value) => json(key, value),
        Object::Desired(_, value) => json(key, value),
        Object::Observed(_, value) => json(key, value),
        Object::Grant(_, value) => json(key, value),
        Object::Halt(value) => json(key, value),
        Object::Replica(_, value) => json(key, value),
        Object::Endpoints(value) => json(key, value),
        Object::Operator(_, text) => Ok(Bytes::from(text.clone())),
        Object::Format(format) => json(key, format),
        Object::Resumed(_) | Object::HaltsRevision | Object::Revoked(..) => Ok(Bytes::from_static(b"{}")),
    }
}

/// The object of a key's bytes.
///
/// # Errors
/// [`Error::Value`]: bytes that no version of ours wrote.
pub fn decode(key: &ObjectKey, bytes: &[u8]) -> Result<Object, Error> {
    fn read<T: DeserializeOwned>(key: &ObjectKey, bytes: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(bytes).map_err(|source| Error::Value { key: format!("{key:?}"), source })
    }
    let object = match key {
        ObjectKey::ClusterSpec(_) => Object::ClusterSpec(read(key, bytes)?),
        ObjectKey::ClusterStatus(id) => Object::ClusterStatus(id.clone(), read(key, bytes)?),
        ObjectKey::Session(id) => Object::Session(id.clone(), read(key, bytes)?),
        ObjectKey::Experiment(name) => Object::Experiment(name.clone(), read(key, bytes)?),
        ObjectKey::Spec(hash) => {
            Object::Spec(SpecBody { hash: hash.clone(), json: String::from_utf8_lossy(bytes).into_owned() })
        }
        ObjectKey::Run(_) => Object::Run(read(key, bytes)?),
        ObjectKey::Summary(_) => Object::Summary(read(key, bytes)?),
        ObjectKey::Plan(run, cluster) => Object::Plan(run.clone(), cluster.clone(), read(key, bytes)?),
        ObjectKey::Desired(cluster, _) => Object::Desired(cluster.clone(), read(key, bytes)?),
        ObjectKey::Observed(cluster, _) => Object::Observed(cluster.clone(), read(key, bytes)?),
        ObjectKey::Grant(name) => Object::Grant(name.clone(), read(key, bytes)?),
        ObjectKey::Halt(_) => {
            let invalid = |source| Error::Value { key: format!("{key:?}"), source };
            Object::Halt(halt::read(read(key, bytes)?).map_err(invalid)?)
        }
        ObjectKey::Resumed(id) => Object::Resumed(id.clone()),
        ObjectKey::HaltsRevision => Object::HaltsRevision,
        ObjectKey::Revoked(cluster, serial) => Object::Revoked(cluster.clone(), serial.clone()),
        ObjectKey::Replica(id) => Object::Replica(id.clone(), read(key, bytes)?),
        ObjectKey::Endpoints => Object::Endpoints(read(key, bytes)?),
        ObjectKey::Operator(hash) => {
            Object::Operator(hash.clone(), String::from_utf8_lossy(bytes).into_owned())
        }
        // What is no number is of a format that nobody here knows.
        ObjectKey::Format => Object::Format(read(key, bytes).unwrap_or(u32::MAX)),
    };
    Ok(object)
}

/// What stands for a value that cannot be read, written by a version that should have waited for this one or damaged.
/// Mostly nothing: what is not there allows nothing. But a halt stops, so one that cannot be read stops everything.
pub fn unreadable(key: &ObjectKey) -> Option<Object> {
    let ObjectKey::Halt(id) = key else { return None };
    let reason = "this halt cannot be read by this version: it is taken for one of the fleet".to_owned();
    let (scope, by) = (HaltScope::Fleet, "unreadable".to_owned());
    Some(Object::Halt(Halt { id: id.clone(), scope, reason, by, at: Timestamp::UNIX_EPOCH, origin: None }))
}

/// A decision as a transaction.
///
/// # Errors
/// As [`path`] and [`encode`].
pub fn txn(commit: &Commit) -> Result<Txn, Error> {
    let mut txn = Txn::new();
    for (key, revision) in &commit.compare {
        txn.compare.push(Compare::ModRevision(path(key)?, *revision));
    }
    for object in &commit.put {
        txn.ops.push(Op::Put(path(&object.key())?, encode(object)?, None));
    }
    for key in &commit.delete {
        txn.ops.push(Op::Delete(path(key)?));
    }
    Ok(txn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Vec<ObjectKey> {
        let cluster: ClusterId = "c-1".parse().unwrap();
        let run: RunId = "r-1".parse().unwrap();
        vec![
            ObjectKey::ClusterSpec(cluster.clone()),
            ObjectKey::ClusterStatus(cluster.clone()),
            ObjectKey::Session(cluster.clone()),
            ObjectKey::Experiment(("central".to_owned(), "central".to_owned(), "x".to_owned())),
            ObjectKey::Spec("ab".to_owned()),
            ObjectKey::Run(run.clone()),
            ObjectKey::Summary(run.clone()),
            ObjectKey::Plan(run.clone(), cluster.clone()),
            ObjectKey::Desired(cluster.clone(), run.clone()),
            ObjectKey::Observed(cluster, run),
            ObjectKey::Grant("g".to_owned()),
            ObjectKey::Halt("h".parse().unwrap()),
            ObjectKey::Resumed("h".parse().unwrap()),
            ObjectKey::HaltsRevision,
            ObjectKey::Revoked("c-1".to_owned(), "all".to_owned()),
            ObjectKey::Replica("cp-0".to_owned()),
            ObjectKey::Endpoints,
            ObjectKey::Operator("ab".to_owned()),
            ObjectKey::Format,
        ]
    }

    #[test]
    fn every_key_reads_back_and_is_followed_once() {
        for key in keys() {
            let path = path(&key).unwrap();
            assert_eq!(parse(&path).as_ref(), Some(&key), "{path}");
            assert_eq!(FOLLOWED.iter().filter(|prefix| path.starts_with(**prefix)).count(), 1, "{path}");
        }
    }

    #[test]
    fn what_is_not_kept_in_memory_is_not_followed() {
        for path in [
            token_path("t").unwrap(),
            cert_path("c").unwrap(),
            spent_path("h"),
            once_path("h"),
            "leader".to_owned(),
        ] {
            assert!(!FOLLOWED.iter().any(|prefix| path.starts_with(prefix)), "{path}");
        }
        assert!(token_path("../x").is_err());
        assert!(tombstone_path("a", "b", "c/d", None).is_err());
    }

    #[test]
    fn bytes_that_are_none_of_ours_are_an_error() {
        assert!(decode(&ObjectKey::Grant("g".to_owned()), b"{").is_err());
        assert!(decode(&ObjectKey::HaltsRevision, b"").is_ok());
    }
}
