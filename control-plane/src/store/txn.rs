//! Transactions: what callers of [`super::Store::txn`] write, and the checks made before sending.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{Error, LeaseId, Revision};

/// The longest key accepted, in bytes.
pub const MAX_KEY_BYTES: usize = 1536;

/// What must hold for a transaction to take place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key was last put at this revision; 0 means that it does not exist.
    ModRevision(String, Revision),
    /// The key was created at this revision (the fence of an election); 0 as above.
    CreateRevision(String, Revision),
    /// The key does not exist.
    Absent(String),
    /// The key exists.
    Exists(String),
}

impl Compare {
    /// The key that is looked at.
    pub fn key(&self) -> &str {
        match self {
            Self::ModRevision(key, _)
            | Self::CreateRevision(key, _)
            | Self::Absent(key)
            | Self::Exists(key) => key,
        }
    }
}

/// What a transaction does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets the key, detaching it from the lease it had.
    Put(String, Bytes, Option<LeaseId>),
    /// Deletes the key if it exists.
    Delete(String),
    /// Deletes every key that starts with this; not empty.
    DeletePrefix(String),
}

/// All of `ops`, if all of `compare` holds, at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Txn {
    /// The comparisons; none means always.
    pub compare: Vec<Compare>,
    /// The operations, in order.
    pub ops: Vec<Op>,
}

impl Txn {
    /// A transaction that does nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a comparison.
    pub fn when(mut self, compare: Compare) -> Self {
        self.compare.push(compare);
        self
    }

    /// Requires that the key was last put at `revision`.
    pub fn unchanged(self, key: impl Into<String>, revision: Revision) -> Self {
        self.when(Compare::ModRevision(key.into(), revision))
    }

    /// Requires that the key does not exist.
    pub fn absent(self, key: impl Into<String>) -> Self {
        self.when(Compare::Absent(key.into()))
    }

    /// Requires that the key exists.
    pub fn exists(self, key: impl Into<String>) -> Self {
        self.when(Compare::Exists(key.into()))
    }

    /// Sets a key.
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put(key.into(), value.into(), None));
        self
    }

    /// Sets a key that dies with a lease.
    pub fn put_leased(mut self, key: impl Into<String>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        self.ops.push(Op::Put(key.into(), value.into(), Some(lease)));
        self
    }

    /// Deletes a key.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete(key.into()));
        self
    }

    /// Deletes every key that starts with `prefix`.
    pub fn delete_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.ops.push(Op::DeletePrefix(prefix.into()));
        self
    }

    /// The keys that it certainly writes. A deletion may find nothing, but for a key that must be there.
    pub fn written(&self) -> Vec<String> {
        let is_there = |key: &String| {
            self.compare.iter().any(|compare| match compare {
                Compare::Exists(there) => there == key,
                Compare::ModRevision(there, at) | Compare::CreateRevision(there, at) => {
                    there == key && *at > 0
                }
                Compare::Absent(_) => false,
            })
        };
        let written = |op: &Op| match op {
            Op::Put(key, ..) => Some(key.clone()),
            Op::Delete(key) => is_there(key).then(|| key.clone()),
            Op::DeletePrefix(_) => None,
        };
        self.ops.iter().filter_map(written).collect()
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// All of it took place.
    Committed {
        /// The revision of its writes, or the current one if it changed nothing.
        revision: Revision,
    },
    /// A comparison did not hold; nothing took place.
    Conflict {
        /// The revision at which it did not hold.
        revision: Revision,
    },
}

impl Outcome {
    /// The revision of the commit.
    ///
    /// # Errors
    /// [`Error::Conflict`].
    pub fn committed(self) -> Result<Revision, Error> {
        match self {
            Self::Committed { revision } => Ok(revision),
            Self::Conflict { .. } => Err(Error::Conflict),
        }
    }

    /// Whether a comparison did not hold.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}

/// Bounds checked before anything is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most operations, and most comparisons, of one transaction. etcd's own bound is 128.
    pub ops: usize,
    /// Largest value, in bytes.
    pub value_bytes: usize,
    /// Most bytes of keys and values in one transaction. etcd's own bound is 1.5 MiB a request.
    pub txn_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { ops: 100, value_bytes: 16 << 10, txn_bytes: 1 << 20 }
    }
}

/// Checks a key as all stores do.
pub(crate) fn check_key(key: &str) -> Result<(), Error> {
    let reason = if key.is_empty() {
        "empty"
    } else if key.len() > MAX_KEY_BYTES {
        "too long"
    } else if key.chars().any(char::is_control) {
        "has control characters"
    } else {
        return Ok(());
    };
    Err(Error::InvalidKey { key: key.chars().take(80).collect(), reason })
}

impl Limits {
    /// Refuses what etcd would refuse, and what is larger than configured.
    pub(crate) fn check(&self, txn: &Txn) -> Result<(), Error> {
        let count = txn.ops.len().max(txn.compare.len());
        if count > self.ops {
            return Err(Error::TooManyOps { count, limit: self.ops });
        }
        let mut bytes = 0;
        for compare in &txn.compare {
            check_key(compare.key())?;
            bytes += compare.key().len();
        }
        for op in &txn.ops {
            bytes += self.check_op(op)?;
        }
        if bytes > self.txn_bytes {
            return Err(Error::TxnTooLarge { bytes, limit: self.txn_bytes });
        }
        check_written_once(&txn.ops)
    }

    fn check_op(&self, op: &Op) -> Result<usize, Error> {
        match op {
            Op::Put(key, value, _) => {
                check_key(key)?;
                if value.len() > self.value_bytes {
                    return Err(Error::ValueTooLarge {
                        key: key.clone(),
                        bytes: value.len(),
                        limit: self.value_bytes,
                    });
                }
                Ok(key.len() + value.len())
            }
            Op::Delete(key) => check_key(key).map(|()| key.len()),
            Op::DeletePrefix(prefix) if prefix.is_empty() => Err(Error::EmptyPrefix),
            Op::DeletePrefix(prefix) => check_key(prefix).map(|()| prefix.len()),
        }
    }
}

/// etcd refuses a put of a key that the same transaction puts or deletes elsewhere.
fn check_written_once(ops: &[Op]) -> Result<(), Error> {
    let mut puts = BTreeSet::new();
    for op in ops {
        if let Op::Put(key, ..) = op
            && !puts.insert(key.as_str())
        {
            return Err(Error::DuplicateKey { key: key.clone() });
        }
    }
    for op in ops {
        let overlap = match op {
            Op::Put(..) => None,
            Op::Delete(key) => puts.get(key.as_str()),
            Op::DeletePrefix(prefix) => {
                puts.range(prefix.as_str()..).next().filter(|key| key.starts_with(prefix.as_str()))
            }
        };
        if let Some(key) = overlap {
            return Err(Error::DuplicateKey { key: (*key).to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_certainly_written_is_waited_for() {
        let txn = Txn::new()
            .unchanged("there", 7)
            .unchanged("not-there", 0)
            .exists("somewhere")
            .absent("made")
            .put("made", "1")
            .delete("there")
            .delete("not-there")
            .delete("somewhere")
            .delete("anything")
            .delete_prefix("all/");
        assert_eq!(txn.written(), ["made", "there", "somewhere"]);
    }
}
