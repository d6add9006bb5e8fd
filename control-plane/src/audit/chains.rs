//! Reading chains from the store: which there are, records after a number, checkpoints. The only
//! reader beside the API's pages.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::audit::AuditCheckpoint;
use proto::rest::AuditRecord;

use super::Error;
use crate::store::keys::{Key, Prefix};
use crate::store::{Entry, PageRequest, Revision, Store};

/// Records read at a time.
pub(crate) const PAGE: usize = 200;

/// The audit as the store has it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Chains {
    store: Arc<dyn Store>,
}

/// A number of a chain, and the record that stands there; `None`: bytes that are none of ours.
pub(crate) type Numbered = (u64, Option<AuditRecord>);

/// What is none of ours is told, once each time that it is met.
fn read<T: serde::de::DeserializeOwned>(entry: &Entry) -> Option<T> {
    let read = serde_json::from_slice(&entry.value);
    read.inspect_err(
        |error| tracing::error!(key = entry.key, %error, "what stands in the audit cannot be read"),
    )
    .ok()
}

impl Chains {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// The name of every chain that has a record or a checkpoint: one short read each.
    pub(crate) async fn names(&self) -> Result<BTreeSet<String>, Error> {
        let mut names = BTreeSet::new();
        for family in [Prefix::Audit, Prefix::AuditCheckpoints] {
            let prefix = family.path()?;
            let mut after = None;
            loop {
                let request = PageRequest { after, limit: 1, revision: None };
                let page = self.store.list(&prefix, request).await?;
                let Some(entry) = page.entries.first() else { break };
                let rest = entry.key.strip_prefix(&prefix).unwrap_or_default();
                let Some((name, _)) = rest.split_once('/') else { break };
                names.insert(name.to_owned());
                // Numbers are digits: this is after all of them.
                after = Some(format!("{prefix}{name}/~"));
            }
        }
        Ok(names)
    }

    /// The replicas that live.
    pub(crate) async fn live(&self) -> Result<BTreeSet<String>, Error> {
        let prefix = Prefix::Replicas.path()?;
        let entries = self.all(&prefix).await?;
        let name = |entry: Entry| entry.key.strip_prefix(&prefix).map(str::to_owned);
        Ok(entries.into_iter().filter_map(name).collect())
    }

    /// At most [`PAGE`] records after this number, in order.
    pub(crate) async fn records(&self, replica: &str, after: u64) -> Result<Vec<Numbered>, Error> {
        let prefix = Prefix::AuditOf { replica }.path()?;
        let after = Some(Key::Audit { replica, seq: after }.path()?);
        let page = self.store.list(&prefix, PageRequest { after, limit: PAGE, revision: None }).await?;
        let numbered = |entry: &Entry| match Key::parse(&entry.key) {
            Ok(Key::Audit { seq, .. }) => Some((seq, read(entry))),
            _ => None,
        };
        Ok(page.entries.iter().filter_map(numbered).collect())
    }

    /// Every checkpoint after this number, in order, with its revision.
    pub(crate) async fn checkpoints(
        &self,
        replica: &str,
        after: u64,
    ) -> Result<Vec<(AuditCheckpoint, Revision)>, Error> {
        let prefix = Prefix::AuditCheckpointsOf { replica }.path()?;
        let mut request = PageRequest::first(PAGE);
        request.after = Some(Key::AuditCheckpoint { replica, seq: after }.path()?);
        let mut found = Vec::new();
        loop {
            let page = self.store.list(&prefix, request.clone()).await?;
            found.extend(page.entries.iter().filter_map(|entry| Some((read(entry)?, entry.mod_revision))));
            match request.next(&page) {
                Some(next) => request = next,
                None => return Ok(found),
            }
        }
    }

    /// Every entry of a prefix.
    pub(crate) async fn all(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        let mut request = PageRequest::first(PAGE);
        let mut found = Vec::new();
        loop {
            let page = self.store.list(prefix, request.clone()).await?;
            let next = request.next(&page);
            found.extend(page.entries);
            match next {
                Some(next) => request = next,
                None => return Ok(found),
            }
        }
    }
}
