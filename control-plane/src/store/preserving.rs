//! A store that loses nothing which this version does not know. Put around the real one by the replica, so that every
//! reader and writer goes through it: what was read with fields that this version would not write is remembered, and
//! put back when this replica writes that key again. Nothing is kept of values that this version knows completely,
//! and those are all, but while versions are mixed.

mod unknown;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use serde_json::Value;
use unknown::Unknown;

use super::{
    Compare, Entry, Error, Event, Health, Lease, LeaseId, Limits, Op, Outcome, Page, PageRequest, Revision,
    Store, Txn, WatchItem, WatchStream,
};

/// What this version writes for what it reads in a value of this key; `None` for one that it cannot read, or that it
/// never writes again.
pub type Rewrite = fn(&str, &[u8]) -> Option<Bytes>;

/// Keeps what this version does not know in the values of the store inside.
#[derive(Debug)]
pub struct Preserving {
    inner: Arc<dyn Store>,
    seen: Arc<Seen>,
}

/// What was read of keys with something unknown, and at which revision.
#[derive(Debug)]
struct Seen {
    rewrite: Rewrite,
    keys: Mutex<BTreeMap<String, (Revision, Unknown)>>,
}

impl Preserving {
    /// Around a store whose values this version reads and writes by `rewrite`.
    pub fn new(inner: Arc<dyn Store>, rewrite: Rewrite) -> Self {
        Self { inner, seen: Arc::new(Seen { rewrite, keys: Mutex::default() }) }
    }
}

impl Seen {
    fn keys(&self) -> MutexGuard<'_, BTreeMap<String, (Revision, Unknown)>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, entry: &Entry) {
        match self.unknown(&entry.key, &entry.value) {
            None => self.forget(&entry.key, entry.mod_revision),
            Some(unknown) => {
                let mut keys = self.keys();
                let later = keys.get(&entry.key).is_some_and(|(revision, _)| *revision > entry.mod_revision);
                if !later {
                    tracing::debug!(key = entry.key, "a value has fields that this version does not know");
                    keys.insert(entry.key.clone(), (entry.mod_revision, unknown));
                }
            }
        }
    }

    /// What of a value would be lost if this version read and wrote it.
    fn unknown(&self, key: &str, value: &Bytes) -> Option<Unknown> {
        let known = (self.rewrite)(key, value)?;
        if known == value {
            return None;
        }
        Unknown::of(&serde_json::from_slice(value).ok()?, &serde_json::from_slice(&known).ok()?)
    }

    fn forget(&self, key: &str, revision: Revision) {
        let mut keys = self.keys();
        if keys.get(key).is_some_and(|(seen, _)| *seen <= revision) {
            keys.remove(key);
        }
    }

    /// Puts back what the values had before; names the keys that it was done for.
    fn restore(&self, txn: &mut Txn) -> Vec<String> {
        let keys = self.keys();
        let mut restored = Vec::new();
        if keys.is_empty() {
            return restored;
        }
        let Txn { compare, ops } = txn;
        for op in ops {
            // What hangs on a lease is the word of the process that holds it, and of nobody before.
            let Op::Put(key, value, None) = op else { continue };
            let Some((revision, unknown)) = keys.get(key) else { continue };
            if !follows(compare, key, *revision) {
                continue;
            }
            if let Some(merged) = self.with(key, value, unknown) {
                *value = merged;
                restored.push(key.clone());
            } else {
                tracing::warn!(key, "fields that this version does not know do not fit any more");
            }
        }
        restored
    }

    /// The value with what is unknown, if it still says the same to this version and is not too large.
    fn with(&self, key: &str, value: &Bytes, unknown: &Unknown) -> Option<Bytes> {
        let mut merged: Value = serde_json::from_slice(value).ok()?;
        unknown.restore(&mut merged);
        let merged = Bytes::from(serde_json::to_vec(&merged).ok()?);
        let same = (self.rewrite)(key, &merged)? == (self.rewrite)(key, value)?;
        (same && merged.len() <= Limits::default().value_bytes).then_some(merged)
    }

    /// What was written is what is there now.
    fn committed(&self, txn: &Txn, restored: &[String], revision: Revision) {
        if self.keys().is_empty() {
            return;
        }
        for op in &txn.ops {
            match op {
                Op::Put(key, value, _) if restored.contains(key) => {
                    if let Some(unknown) = self.unknown(key, value) {
                        let mut keys = self.keys();
                        if keys.get(key).is_none_or(|(seen, _)| *seen < revision) {
                            keys.insert(key.clone(), (revision, unknown));
                        }
                    }
                }
                Op::Put(key, ..) | Op::Delete(key) => self.forget(key, revision),
                Op::DeletePrefix(prefix) => {
                    self.keys()
                        .retain(|key, (seen, _)| *seen > revision || !key.starts_with(prefix.as_str()));
                }
            }
        }
    }
}

/// Whether a write is made over what was seen: not over nothing, and not over anything else.
fn follows(compare: &[Compare], key: &str, seen: Revision) -> bool {
    compare.iter().filter(|compare| compare.key() == key).all(|compare| match compare {
        Compare::ModRevision(_, revision) => *revision == seen,
        Compare::CreateRevision(_, revision) => *revision != 0,
        Compare::Absent(_) => false,
        Compare::Exists(_) => true,
    })
}

#[async_trait]
impl Store for Preserving {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let entry = self.inner.get(key).await?;
        match &entry {
            Some(entry) => self.seen.read(entry),
            // Whatever is put there next is new.
            None => drop(self.seen.keys().remove(key)),
        }
        Ok(entry)
    }

    async fn list(&self, prefix: &str, page: PageRequest) -> Result<Page, Error> {
        let page = self.inner.list(prefix, page).await?;
        for entry in &page.entries {
            self.seen.read(entry);
        }
        Ok(page)
    }

    async fn txn(&self, mut txn: Txn) -> Result<Outcome, Error> {
        let restored = self.seen.restore(&mut txn);
        if restored.is_empty() && self.seen.keys().is_empty() {
            return self.inner.txn(txn).await;
        }
        let outcome = self.inner.txn(txn.clone()).await?;
        if let Outcome::Committed { revision } = outcome {
            self.seen.committed(&txn, &restored, revision);
        }
        Ok(outcome)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        let inner = self.inner.watch(prefix, from).await?;
        let seen = self.seen.clone();
        Ok(WatchStream::new(stream::unfold((inner, seen), |(mut inner, seen)| async move {
            let item = inner.next().await;
            if let Ok(WatchItem::Events { events, .. }) = &item {
                for event in events {
                    match event {
                        Event::Put(entry) => seen.read(entry),
                        Event::Delete { key, revision } => seen.forget(key, *revision),
                    }
                }
            }
            Some((item, (inner, seen)))
        })))
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, Error> {
        self.inner.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, Error> {
        self.inner.lease_keep_alive(id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.inner.lease_revoke(id).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }

    async fn health(&self) -> Result<Health, Error> {
        self.inner.health().await
    }
}

#[cfg(test)]
mod tests;
