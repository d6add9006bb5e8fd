//! What people ask of the centre: the service behind the REST API. Each call checks the caller's
//! role, validates, writes the store by compare-and-swap and is audited; reads come from the
//! replica's cache. It decides nothing: that is the engine's part. Called by `rest` and by tests.

mod audit;
mod clusters;
mod endpoints;
mod error;
mod expected;
mod halts;
mod latch;
mod library;
mod once;
mod operators;
mod replace;
mod runs;
mod watch;

use std::sync::Arc;

pub use audit::AuditFilter;
pub(crate) use endpoints::listed;
pub use error::Error;
pub use expected::Expected;
pub(crate) use expected::tag_of;
pub use latch::Latch;
pub(crate) use latch::persist_halt;
pub use library::Definition;
pub(crate) use once::{Answer, Claim, Claimed, answer_is_over};
pub(crate) use operators::OperatorRecord;
pub use operators::{Caller, Role};
use proto::rest::WhoAmI;
pub(crate) use watch::is_over;

use crate::audit::Auditor;
use crate::cache::Cache;
use crate::driver::clock::Clock;
use crate::enrolment::Signer;
use crate::health::Health;
use crate::store::Store;

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Centre {
    pub(crate) inner: Arc<Parts>,
}

/// What the service stands on.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) clock: Clock,
    pub(crate) audit: Auditor,
    pub(crate) signer: Arc<Signer>,
    pub(crate) health: Arc<Health>,
    pub(crate) latch: Arc<Latch>,
    /// `host:port` that goes into join tokens, unless somebody said otherwise.
    pub(crate) enrol_advertise: String,
    /// `host:port` that agents dial, unless somebody said otherwise; may be empty.
    pub(crate) link_advertise: String,
}

impl Centre {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { inner: Arc::new(parts) }
    }

    /// State for `/readyz` and the metrics.
    pub fn health(&self) -> Arc<Health> {
        self.inner.health.clone()
    }

    /// Who the caller is.
    pub fn whoami(&self, caller: &Caller) -> WhoAmI {
        WhoAmI { name: caller.name.clone(), role: caller.role }
    }

    /// Notes in the audit what the caller did, or tried.
    pub(crate) fn note<T>(&self, caller: &Caller, action: &str, subject: &str, result: &Result<T, Error>) {
        let result = match result {
            Ok(_) => "ok".to_owned(),
            Err(error) => serde_json::to_value(error.code())
                .ok()
                .and_then(|code| code.as_str().map(str::to_owned))
                .unwrap_or_default(),
        };
        self.inner.audit.note(&format!("operator:{}", caller.name), action, subject, &result);
    }
}
