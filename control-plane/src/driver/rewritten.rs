//! What this version writes for what it reads in a stored value: by that the store's door sees which fields it does
//! not know. Called by [`crate::store::preserving`] through the replica.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec;
use crate::audit::Cursor;
use crate::authored::Tombstone;
use crate::centre::OperatorRecord;
use crate::engine::object::ObjectKey;
use crate::enrolment::{CertRecord, TokenRecord};

/// The value as this version writes it; `None` where it cannot read it, or writes it only once or byte by byte.
pub fn rewritten(path: &str, value: &[u8]) -> Option<Bytes> {
    match codec::parse(path) {
        Some(ObjectKey::Operator(_)) => again::<OperatorRecord>(value),
        // What is signed or named by its hash is nobody else's to add to.
        Some(ObjectKey::Spec(_) | ObjectKey::Endpoints) => None,
        Some(key) => codec::encode(&codec::decode(&key, value).ok()?).ok(),
        None => match path.split('/').next()? {
            "tokens" => again::<TokenRecord>(value),
            "certs" => again::<CertRecord>(value),
            "tombstones" => again::<Tombstone>(value),
            "audit-cursor" => again::<Cursor>(value),
            _ => None,
        },
    }
}

fn again<T: Serialize + DeserializeOwned>(value: &[u8]) -> Option<Bytes> {
    let value: T = serde_json::from_slice(value).ok()?;
    serde_json::to_vec(&value).ok().map(Bytes::from)
}
