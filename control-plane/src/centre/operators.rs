//! Operators: bearer tokens, of which only the hash is stored, and what each role may.

use std::fmt;

use jiff::Timestamp;
use proto::hash::sha256_hex;
use serde::{Deserialize, Serialize};

use super::{Centre, Error};
use crate::driver::codec;
use crate::store::{PageRequest, Txn};

/// The name of the operator whose token comes from the bootstrap file.
pub(crate) const BOOTSTRAP_ADMIN: &str = "admin";

/// What an operator may. Each includes the ones before; all within Grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Stores experiments, runs them, stops and halts.
    Author,
    /// Resumes halts, stops and deletes anybody's runs.
    Operator,
    /// Approves plans.
    Approver,
    /// Members, grants, operators.
    Admin,
}

impl Role {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Author => "author",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The value of `operators/<token hash>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OperatorRecord {
    /// Who.
    pub name: String,
    /// What they may.
    pub role: Role,
    /// When it was made.
    pub created_at: Timestamp,
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The operator's name.
    pub name: String,
    /// What they may.
    pub role: Role,
}

impl Caller {
    /// Refuses who has less than `role`.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn require(&self, role: Role) -> Result<(), Error> {
        if self.role >= role { Ok(()) } else { Err(Error::Forbidden { needs: role, has: self.role }) }
    }
}

impl Centre {
    /// Who holds this bearer token. Works from memory for tokens seen before, so that a stop is
    /// taken while the store is down.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`], or [`Error::Store`] for a token not seen before.
    pub async fn authenticate(&self, bearer: &str) -> Result<Caller, Error> {
        let bearer = bearer.trim();
        if bearer.is_empty() || bearer.len() > 1024 {
            return Err(Error::Unauthenticated);
        }
        let hash = sha256_hex(bearer.as_bytes());
        let entry = match self.inner.store.get(&codec::operator_path(&hash)).await {
            Ok(entry) => entry,
            Err(error) if error.retryable() => {
                return self.inner.latch.remembered(&hash).ok_or(Error::Store(error));
            }
            Err(error) => return Err(error.into()),
        };
        let record: OperatorRecord = entry
            .and_then(|entry| serde_json::from_slice(&entry.value).ok())
            .ok_or(Error::Unauthenticated)?;
        let caller = Caller { name: record.name, role: record.role };
        self.inner.latch.remember(hash, &caller);
        Ok(caller)
    }

    /// Makes sure that the bootstrap token opens the door as admin.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn ensure_admin(&self, token: &str) -> Result<(), Error> {
        let token = token.trim();
        if token.len() < 16 {
            return Err(Error::BadRequest("the admin token has fewer than 16 characters".to_owned()));
        }
        let record = OperatorRecord {
            name: BOOTSTRAP_ADMIN.to_owned(),
            role: Role::Admin,
            created_at: self.inner.clock.now(),
        };
        let path = codec::operator_path(&sha256_hex(token.as_bytes()));
        let value = serde_json::to_vec(&record).map_err(|error| Error::Internal(error.to_string()))?;
        // A conflict means that it is there already.
        let _ = self.inner.store.txn(Txn::new().absent(&path).put(&path, value)).await?;
        // The token of an earlier file opens nothing any more.
        let page = self.inner.store.list(codec::OPERATORS, PageRequest::first(1000)).await?;
        for entry in page.entries.iter().filter(|entry| entry.key != path) {
            let old: Option<OperatorRecord> = serde_json::from_slice(&entry.value).ok();
            if old.is_some_and(|old| old.name == BOOTSTRAP_ADMIN) {
                let _ = self.inner.store.txn(Txn::new().delete(&entry.key)).await?;
            }
        }
        Ok(())
    }
}
