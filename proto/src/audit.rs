//! The audit's chains: how a record is hashed, what a checkpoint signs, and the check of whole
//! chains. The control plane writes by it, the command line verifies by it, also with no control
//! plane at hand.
//!
//! Encoding, so that anybody can check without us. A record's hash is the SHA-256 of the text
//! `faultline-audit-record-v1`, then seq (8 bytes, big-endian), previous, replica, at (16 bytes,
//! big-endian nanoseconds since 1970), by, action, subject, result; every text is its length in
//! bytes (8 bytes, big-endian) and its UTF-8. A checkpoint signs `faultline-audit-checkpoint-v1`,
//! then replica, seq, hash, at and kind (`Progress` or `Pruned`) in the same way.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::hash::sha256_hex;
use crate::rest::AuditRecord;

mod verify;

pub use verify::{ChainReport, Extent, Flaw, FlawKind, verify};

/// What a checkpoint says beside "the chain stood so".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub enum CheckpointKind {
    /// The chain stood so.
    Progress,
    /// And records up to here were old enough, and have been deleted.
    Pruned,
}

/// A signed statement of the control plane: at this number, the chain had this hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditCheckpoint {
    /// Whose chain.
    pub replica: String,
    /// The last record that it covers.
    pub seq: u64,
    /// Hash of that record.
    pub hash: String,
    /// When it was signed.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// What it says.
    pub kind: CheckpointKind,
    /// Certificates of the key that signed, leaf first, PEM.
    pub chain_pem: String,
    /// ECDSA P-256 with SHA-256 over [`statement`], ASN.1, base64url.
    pub signature: String,
}

/// One line of an export: what a sink appends and `faultline audit verify --file` reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum AuditLine {
    /// A record.
    Record(AuditRecord),
    /// A checkpoint.
    Checkpoint(AuditCheckpoint),
}

pub(crate) fn number(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend_from_slice(&number.to_be_bytes());
}

pub(crate) fn text(bytes: &mut Vec<u8>, text: &str) {
    number(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

pub(crate) fn instant(bytes: &mut Vec<u8>, at: Timestamp) {
    bytes.extend_from_slice(&at.as_nanosecond().to_be_bytes());
}

/// The hash that belongs into a record, from everything else in it.
pub fn digest(record: &AuditRecord) -> String {
    let mut bytes = b"faultline-audit-record-v1".to_vec();
    number(&mut bytes, record.seq);
    text(&mut bytes, &record.previous);
    text(&mut bytes, &record.replica);
    instant(&mut bytes, record.at);
    for field in [&record.by, &record.action, &record.subject, &record.result] {
        text(&mut bytes, field);
    }
    sha256_hex(&bytes)
}

/// What a checkpoint's signature is over.
pub fn statement(replica: &str, seq: u64, hash: &str, at: Timestamp, kind: CheckpointKind) -> Vec<u8> {
    let mut bytes = b"faultline-audit-checkpoint-v1".to_vec();
    text(&mut bytes, replica);
    number(&mut bytes, seq);
    text(&mut bytes, hash);
    instant(&mut bytes, at);
    let kind = match kind {
        CheckpointKind::Progress => "Progress",
        CheckpointKind::Pruned => "Pruned",
    };
    text(&mut bytes, kind);
    bytes
}

impl AuditCheckpoint {
    /// What its signature must be over.
    pub fn statement(&self) -> Vec<u8> {
        statement(&self.replica, self.seq, &self.hash, self.at, self.kind)
    }
}

#[cfg(test)]
mod tests;
