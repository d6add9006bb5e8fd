//! Content hashes: specs travel by hash, plans are approved by hash.

use serde::Serialize;
use sha2::{Digest, Sha256};

/// SHA-256 of the bytes as lower-case hex (64 characters).
pub fn sha256_hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

/// SHA-256 of the value's JSON. Our types hold no maps with unstable order
/// and no floats, so equal values have equal hashes.
pub fn of_json<T: Serialize>(value: &T) -> Result<String, serde_json::Error> {
    Ok(sha256_hex(&serde_json::to_vec(value)?))
}
