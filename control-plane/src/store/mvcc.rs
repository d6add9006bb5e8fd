//! The semantics of etcd as a pure data structure: keys with their history, leases, compaction.
//! [`super::local`] is the only caller; it adds locking, time and (for redb) the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Compare, Entry, Error, Event, LeaseId, Op, Page, PageRequest, Revision, Txn};

/// One state of a key: from this revision on it is `entry`, or deleted.
#[derive(Debug)]
struct Version {
    revision: Revision,
    entry: Option<Entry>,
}

#[derive(Debug)]
struct LeaseState {
    ttl: Duration,
    deadline: Instant,
    keys: BTreeSet<String>,
}

/// All keys with their versions since the last compaction.
#[derive(Debug)]
pub(super) struct Mvcc {
    revision: Revision,
    compacted: Revision,
    keys: BTreeMap<String, Vec<Version>>,
    log: BTreeMap<Revision, Vec<Event>>,
    leases: BTreeMap<LeaseId, LeaseState>,
}

/// A transaction's result, worked out and not yet in force.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) revision: Revision,
    pub(super) events: Vec<Event>,
}

/// What a watcher finds after its last revision.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) events: Vec<Event>,
    /// Everything up to here has been looked at.
    pub(super) revision: Revision,
}

impl Mvcc {
    /// A store that stands at `revision` with these entries and no history before it.
    pub(super) fn restored(revision: Revision, entries: Vec<Entry>) -> Self {
        let keys = entries
            .into_iter()
            .map(|entry| {
                (entry.key.clone(), vec![Version { revision: entry.mod_revision, entry: Some(entry) }])
            })
            .collect();
        Self { revision, compacted: revision, keys, log: BTreeMap::new(), leases: BTreeMap::new() }
    }

    /// An empty store.
    pub(super) fn empty() -> Self {
        Self { compacted: 0, ..Self::restored(1, Vec::new()) }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn history_len(&self) -> usize {
        self.log.len()
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.keys.get(key)?.last()?.entry.as_ref()
    }

    pub(super) fn list(&self, prefix: &str, page: &PageRequest) -> Result<Page, Error> {
        let revision = page.revision.unwrap_or(self.revision);
        if revision > self.revision {
            return Err(Error::Rewound { seen: revision, current: self.revision });
        }
        if revision < self.compacted {
            return Err(Error::Compacted { compact_revision: self.compacted });
        }
        let limit = page.limit.max(1);
        let mut entries: Vec<Entry> = Vec::new();
        let mut more = false;
        for (key, versions) in prefix_range(&self.keys, prefix, page.after.as_deref()) {
            debug_assert!(key.starts_with(prefix));
            let at = versions.partition_point(|version| version.revision <= revision);
            let current = at.checked_sub(1).and_then(|last| versions.get(last));
            if let Some(entry) = current.and_then(|version| version.entry.as_ref()) {
                if entries.len() == limit {
                    more = true;
                    break;
                }
                entries.push(entry.clone());
            }
        }
        Ok(Page { entries, revision, more })
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::ModRevision(key, revision) => {
                self.get(key).map_or(0, |entry| entry.mod_revision) == *revision
            }
            Compare::CreateRevision(key, revision) => {
                self.get(key).map_or(0, |entry| entry.create_revision) == *revision
            }
            Compare::Absent(key) => self.get(key).is_none(),
            Compare::Exists(key) => self.get(key).is_some(),
        }
    }

    /// Works out a transaction that passed [`super::Limits`]; `None` is a conflict.
    pub(super) fn prepare(&self, txn: &Txn) -> Result<Option<Prepared>, Error> {
        if !txn.compare.iter().all(|compare| self.holds(compare)) {
            return Ok(None);
        }
        let revision = self.revision + 1;
        let mut events = Vec::new();
        let mut deleted = BTreeSet::new();
        for op in &txn.ops {
            match op {
                Op::Put(key, value, lease) => {
                    if let Some(id) = lease.filter(|id| !self.leases.contains_key(id)) {
                        return Err(Error::LeaseNotFound(id));
                    }
                    events.push(Event::Put(self.next_entry(key, value, *lease, revision)));
                }
                Op::Delete(key) => {
                    if self.get(key).is_some() && deleted.insert(key.clone()) {
                        events.push(Event::Delete { key: key.clone(), revision });
                    }
                }
                Op::DeletePrefix(prefix) => {
                    for (key, _) in prefix_range(&self.keys, prefix, None) {
                        if self.get(key).is_some() && deleted.insert(key.clone()) {
                            events.push(Event::Delete { key: key.clone(), revision });
                        }
                    }
                }
            }
        }
        let revision = if events.is_empty() { self.revision } else { revision };
        Ok(Some(Prepared { revision, events }))
    }

    fn next_entry(&self, key: &str, value: &Bytes, lease: Option<LeaseId>, revision: Revision) -> Entry {
        let (create_revision, version) =
            self.get(key).map_or((revision, 1), |old| (old.create_revision, old.version + 1));
        Entry {
            key: key.to_owned(),
            value: value.clone(),
            create_revision,
            mod_revision: revision,
            version,
            lease,
        }
    }

    /// Puts a prepared transaction in force. Nothing may have been applied since it was prepared.
    pub(super) fn apply(&mut self, prepared: Prepared) {
        if prepared.events.is_empty() {
            return;
        }
        debug_assert_eq!(prepared.revision, self.revision + 1);
        self.revision = prepared.revision;
        for event in &prepared.events {
            self.detach(event.key());
            let entry = match event {
                Event::Put(entry) => Some(entry.clone()),
                Event::Delete { .. } => None,
            };
            if let Some(lease) = entry.as_ref().and_then(|entry| entry.lease)
                && let Some(state) = self.leases.get_mut(&lease)
            {
                state.keys.insert(event.key().to_owned());
            }
            let version = Version { revision: prepared.revision, entry };
            self.keys.entry(event.key().to_owned()).or_default().push(version);
        }
        self.log.insert(prepared.revision, prepared.events);
    }

    fn detach(&mut self, key: &str) {
        if let Some(old) = self.get(key).and_then(|entry| entry.lease)
            && let Some(state) = self.leases.get_mut(&old)
        {
            state.keys.remove(key);
        }
    }

    /// Whether a watch from `from` would miss nothing. A deletion at the compacted revision is
    /// forgotten, hence `<=`; no change is at revision 1.
    pub(super) fn check_watch(&self, from: Revision) -> Result<(), Error> {
        if from.max(2) <= self.compacted {
            return Err(Error::Compacted { compact_revision: self.compacted });
        }
        if from > self.revision + 1 {
            return Err(Error::Rewound { seen: from - 1, current: self.revision });
        }
        Ok(())
    }

    /// The changes of `prefix` from `from` on: whole revisions, at most about `limit` events.
    pub(super) fn changes(&self, prefix: &str, from: Revision, limit: usize) -> Result<Changes, Error> {
        self.check_watch(from)?;
        let mut events: Vec<Event> = Vec::new();
        for (revision, batch) in self.log.range(from..) {
            events.extend(batch.iter().filter(|event| event.key().starts_with(prefix)).cloned());
            if events.len() >= limit {
                return Ok(Changes { events, revision: *revision });
            }
        }
        Ok(Changes { events, revision: self.revision })
    }

    pub(super) fn compact(&mut self, revision: Revision) -> Result<(), Error> {
        if revision > self.revision {
            return Err(Error::Rewound { seen: revision, current: self.revision });
        }
        if revision <= self.compacted {
            return Ok(());
        }
        self.compacted = revision;
        self.log = self.log.split_off(&(revision + 1));
        self.keys.retain(|_, versions| {
            let at = versions.partition_point(|version| version.revision <= revision);
            let keep_from = match at.checked_sub(1).and_then(|last| versions.get(last)) {
                Some(version) if version.entry.is_some() => at - 1,
                _ => at,
            };
            versions.drain(..keep_from);
            !versions.is_empty()
        });
        Ok(())
    }

    /// The revision to compact at so that about `keep` revisions of history stay.
    pub(super) fn compaction_point(&self, keep: usize) -> Option<Revision> {
        let excess = self.log.len().checked_sub(keep)?;
        self.log.keys().nth(excess.checked_sub(1)?).copied()
    }

    /// Takes a lease into force; its keys, if any exist already, are attached.
    pub(super) fn grant(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        let keys = self
            .keys
            .keys()
            .filter(|key| self.get(key).is_some_and(|entry| entry.lease == Some(id)))
            .cloned()
            .collect();
        self.leases.insert(id, LeaseState { ttl, deadline: now + ttl, keys });
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = LeaseId> + '_ {
        self.leases.keys().copied()
    }

    pub(super) fn keep_alive(&mut self, id: LeaseId, now: Instant) -> Result<Duration, Error> {
        let state =
            self.leases.get_mut(&id).filter(|state| state.deadline > now).ok_or(Error::LeaseNotFound(id))?;
        state.deadline = now + state.ttl;
        Ok(state.ttl)
    }

    /// The transaction that deletes a lease's keys; `None` when there is no such lease.
    pub(super) fn prepare_revoke(&self, id: LeaseId) -> Option<Prepared> {
        let state = self.leases.get(&id)?;
        let revision = self.revision + u64::from(!state.keys.is_empty());
        let events = state.keys.iter().map(|key| Event::Delete { key: key.clone(), revision }).collect();
        Some(Prepared { revision, events })
    }

    /// Forgets a lease whose keys were deleted.
    pub(super) fn forget_lease(&mut self, id: LeaseId) {
        self.leases.remove(&id);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.leases.values().map(|state| state.deadline).min()
    }

    pub(super) fn expired(&self, now: Instant) -> Vec<LeaseId> {
        self.leases.iter().filter(|(_, state)| state.deadline <= now).map(|(id, _)| *id).collect()
    }
}

fn prefix_range<'a>(
    keys: &'a BTreeMap<String, Vec<Version>>,
    prefix: &'a str,
    after: Option<&'a str>,
) -> impl Iterator<Item = (&'a String, &'a Vec<Version>)> {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let start = match after {
        Some(after) if after >= prefix => Excluded(after),
        _ => Included(prefix),
    };
    keys.range::<str, _>((start, Unbounded)).take_while(move |(key, _)| key.starts_with(prefix))
}
