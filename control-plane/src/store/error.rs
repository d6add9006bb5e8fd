//! What can go wrong at the store's door, the same for every kind of store.

use std::path::PathBuf;
use std::time::Duration;

use super::{LeaseId, Revision};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a store call failed. See [`Error::retryable`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// From [`super::Outcome::committed`]: a comparison did not hold.
    #[error("conflict: another writer came first")]
    Conflict,
    /// The key is empty, too long or has control characters.
    #[error("invalid key {key:?}: {reason}")]
    InvalidKey {
        /// The key, shortened.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Deleting everything is never meant.
    #[error("refused to delete by an empty prefix")]
    EmptyPrefix,
    /// A transaction has too many comparisons or operations.
    #[error("transaction has {count} operations or comparisons, at most {limit} are allowed")]
    TooManyOps {
        /// The larger of both counts.
        count: usize,
        /// The bound.
        limit: usize,
    },
    /// A value is larger than the store is configured for.
    #[error("value of {key} has {bytes} bytes, at most {limit} are allowed")]
    ValueTooLarge {
        /// The key it was meant for.
        key: String,
        /// Its size.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// All keys and values of a transaction together are too large.
    #[error("transaction has {bytes} bytes, at most {limit} are allowed")]
    TxnTooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// A transaction puts a key twice, or puts a key that it deletes too.
    #[error("transaction writes {key} more than once")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// The history asked for is forgotten: list, then watch from there.
    #[error("history up to revision {compact_revision} is compacted")]
    Compacted {
        /// Everything at or before this revision may be forgotten.
        compact_revision: Revision,
    },
    /// The store stands before a revision that was seen already: it was restored from a backup
    /// or is another store. Nothing read before may be trusted.
    #[error("store went back in time: revision {seen} was seen, it now stands at {current}")]
    Rewound {
        /// The revision seen or asked for.
        seen: Revision,
        /// Where the store stands.
        current: Revision,
    },
    /// The lease has expired, was revoked or never was.
    #[error("lease {0} not found")]
    LeaseNotFound(LeaseId),
    /// The watcher was too slow; what it missed can be watched again.
    #[error("watch ended: its consumer was too slow")]
    Lagged,
    /// The store ended the watch.
    #[error("watch canceled: {reason}")]
    WatchCanceled {
        /// The store's words.
        reason: String,
    },
    /// No answer in time. A write may or may not have taken place.
    #[error("{operation} gave no answer within {within:?}")]
    Timeout {
        /// The call.
        operation: &'static str,
        /// Its bound.
        within: Duration,
    },
    /// The store cannot be reached or cannot agree. A write may or may not have taken place.
    #[error("{operation} failed: store unavailable")]
    Unavailable {
        /// The call.
        operation: &'static str,
        /// The cause.
        source: Source,
    },
    /// The store understood and refused.
    #[error("{operation} was refused")]
    Refused {
        /// The call.
        operation: &'static str,
        /// The store's words.
        source: Source,
    },
    /// The store is out of space; an operator must compact, defragment or raise the quota.
    #[error("{operation} was refused: the store is out of space")]
    NoSpace {
        /// The call.
        operation: &'static str,
    },
    /// Another process has the file open.
    #[error("{} is in use by another process: the embedded store is for one replica", path.display())]
    Locked {
        /// The store's file.
        path: PathBuf,
    },
    /// The disk failed.
    #[error("{operation} failed on the store's file")]
    Disk {
        /// The call.
        operation: &'static str,
        /// The cause.
        source: Source,
    },
    /// What the store holds or answered makes no sense.
    #[error("corrupt data in the store: {0}")]
    Corrupt(String),
    /// The configuration cannot work.
    #[error("invalid store configuration: {0}")]
    Config(String),
    /// The stream or the store is over.
    #[error("closed")]
    Closed,
}

impl Error {
    /// Whether the same call may succeed later without anybody's doing. For a write, read first:
    /// it may have taken place.
    pub fn retryable(&self) -> bool {
        matches!(
            self,
            Self::Timeout { .. }
                | Self::Unavailable { .. }
                | Self::Lagged
                | Self::WatchCanceled { .. }
                | Self::NoSpace { .. }
        )
    }
}
