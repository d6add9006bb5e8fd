//! The audit as people read it: pages of records and checkpoints, and the certificate that the
//! checkpoints' signatures lead to.

use jiff::Timestamp;
use proto::audit::AuditCheckpoint;
use proto::rest::{AuditRecord, CaView, Page};
use serde::de::DeserializeOwned;

use super::{Caller, Centre, Error, Role};
use crate::store::keys::Prefix;
use crate::store::{Entry, PageRequest};

/// Records read for one answer at most: whoever looks for something rare asks again.
const READ: usize = 5000;

/// Which records are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Noted then or later.
    pub since: Option<Timestamp>,
    /// By them; `operator:*` is everybody who begins so.
    pub by: Option<String>,
    /// This was done; `run.*` is everything that begins so.
    pub action: Option<String>,
}

impl AuditFilter {
    fn takes(&self, record: &AuditRecord) -> bool {
        let fits = |pattern: &Option<String>, text: &str| {
            pattern.as_ref().is_none_or(|pattern| match pattern.strip_suffix('*') {
                Some(start) => text.starts_with(start),
                None => pattern == text,
            })
        };
        self.since.is_none_or(|since| record.at >= since)
            && fits(&self.by, &record.by)
            && fits(&self.action, &record.action)
    }
}

fn read<T: DeserializeOwned>(entry: &Entry) -> Option<T> {
    serde_json::from_slice(&entry.value).ok()
}

impl Centre {
    /// A page of the audit, by replica and number. Needs viewer. `limit` is cut to 500.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn audit_page(
        &self,
        caller: &Caller,
        after: Option<String>,
        limit: usize,
    ) -> Result<Page<AuditRecord>, Error> {
        self.audit_where(caller, after, limit, &AuditFilter::default()).await
    }

    /// A page of the records that the filter takes; it may be shorter than `limit`, or empty, and
    /// still have a next one. Needs viewer.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn audit_where(
        &self,
        caller: &Caller,
        after: Option<String>,
        limit: usize,
        filter: &AuditFilter,
    ) -> Result<Page<AuditRecord>, Error> {
        caller.require(Role::Viewer)?;
        let (limit, prefix) = (limit.clamp(1, 500), Prefix::Audit.path()?);
        let (mut items, mut next, mut seen) = (Vec::new(), after, 0);
        loop {
            let request = PageRequest { after: next.take(), limit: 500, revision: None };
            let page = self.inner.store.list(&prefix, request).await?;
            let last = page.entries.last().map(|entry| entry.key.clone());
            for entry in &page.entries {
                if items.len() == limit {
                    return Ok(Page { items, next });
                }
                items.extend(read(entry).filter(|record| filter.takes(record)));
                next = Some(entry.key.clone());
            }
            seen += page.entries.len();
            if !page.more {
                return Ok(Page { items, next: None });
            }
            if seen >= READ || items.len() == limit {
                return Ok(Page { items, next: last });
            }
        }
    }

    /// A page of the checkpoints, by replica and number. Needs viewer. `limit` is cut to 500.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn audit_checkpoints(
        &self,
        caller: &Caller,
        after: Option<String>,
        limit: usize,
    ) -> Result<Page<AuditCheckpoint>, Error> {
        caller.require(Role::Viewer)?;
        let request = PageRequest { after, limit: limit.clamp(1, 500), revision: None };
        let page = self.inner.store.list(&Prefix::AuditCheckpoints.path()?, request).await?;
        let next = page.entries.last().filter(|_| page.more).map(|entry| entry.key.clone());
        Ok(Page { items: page.entries.iter().filter_map(read).collect(), next })
    }

    /// The CA's root: what every certificate and signature of this control plane leads to. Needs
    /// viewer.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn ca(&self, caller: &Caller) -> Result<CaView, Error> {
        caller.require(Role::Viewer)?;
        let signer = &self.inner.signer;
        Ok(CaView { bundle_pem: signer.bundle_pem().to_owned(), pin: signer.pin().to_string() })
    }
}
