//! What goes over the links, as checked types. Conversion to the generated
//! types never fails; conversion from them refuses junk and names the field.
//! The gRPC shells call it on the first and last line and nowhere else.

mod down;
mod node;
mod peer;
mod up;

pub use down::{Down, Halts, Mirror, Welcome};
pub use node::{Inject, NodeDown, NodeHaltState, NodeHello, NodeUp};
pub use peer::{Latched, MAX_LATCHED};
pub use up::{Authored, AuthoredKind, AuthoredRef, HaltState, Held, Hello, Up};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The link protocol this build speaks best.
pub const PROTOCOL: u32 = 1;
/// The oldest that it still speaks: that of two minor versions ago at least.
pub const PROTOCOL_MIN: u32 = 1;

/// The highest protocol that both sides speak, the other one from `min` to `max`. What the other side could not take
/// in an older one is not sent under it.
pub fn common_protocol(min: u32, max: u32) -> Option<u32> {
    let highest = max.min(PROTOCOL);
    (highest >= min.max(PROTOCOL_MIN)).then_some(highest)
}

/// A message's documents are at most this large, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 256 * 1024;

/// Why a message was refused. The session goes on; the sender is told by Nack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message field {field}: {why}")]
pub struct WireError {
    /// Which field.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

/// What a side could not take: that run at that generation, nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nack {
    /// The run, or empty for a message about no run.
    pub run: String,
    /// Its generation.
    pub generation: u64,
    /// Code.
    pub code: String,
    /// At most 1 KB.
    pub detail: String,
}

fn bad(field: &'static str, why: impl std::fmt::Display) -> WireError {
    WireError { field, why: why.to_string() }
}

fn parse<T: std::str::FromStr>(field: &'static str, text: &str) -> Result<T, WireError>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e| bad(field, e))
}

fn document<T: DeserializeOwned>(field: &'static str, bytes: &[u8]) -> Result<T, WireError> {
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(bad(field, format!("{} bytes, at most {MAX_DOCUMENT_BYTES}", bytes.len())));
    }
    serde_json::from_slice(bytes).map_err(|e| bad(field, e))
}

/// Our own types always have a JSON form; an empty document would be refused
/// by the receiver, so nothing is silently lost.
fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn missing(field: &'static str) -> WireError {
    bad(field, "missing, or of a kind this version does not know")
}
