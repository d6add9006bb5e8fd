//! What a request expects of the thing it changes, and the one way to change a thing: read it,
//! compare, write in a transaction that holds only over what was read. Used by the parts of the
//! service that store, and by `rest`, which reads [`Expected`] from the request.

use bytes::Bytes;
use proto::hash::sha256_hex;
use serde::Serialize;

use super::{Centre, Error};
use crate::store::{Entry, Txn};

/// How often a lost race is run again.
const ATTEMPTS: usize = 8;

/// What a request expects of the thing it changes. Tags are without their quotes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    #[default]
    Anything,
    /// That it exists.
    Exists,
    /// That it does not.
    Absent,
    /// That it has one of these tags.
    OneOf(Vec<String>),
    /// That it has none of these tags.
    NoneOf(Vec<String>),
}

impl Expected {
    /// Refuses unless the thing, with this tag where it exists, is as expected.
    ///
    /// # Errors
    /// [`Error::Precondition`].
    pub fn check(&self, current: Option<&str>) -> Result<(), Error> {
        let among = |tags: &[String], current: &str| tags.iter().any(|tag| tag == current);
        let holds = match (self, current) {
            (Self::Anything, _) | (Self::Exists, Some(_)) | (Self::Absent | Self::NoneOf(_), None) => true,
            (Self::OneOf(tags), Some(current)) => among(tags, current),
            (Self::NoneOf(tags), Some(current)) => !among(tags, current),
            (Self::Exists | Self::OneOf(_), None) | (Self::Absent, Some(_)) => false,
        };
        if holds { Ok(()) } else { Err(Error::Precondition) }
    }
}

/// The strong tag of a view: the hash of its JSON, as it is answered.
pub(crate) fn tag_of(value: &impl Serialize) -> String {
    sha256_hex(&serde_json::to_vec(value).unwrap_or_default())
}

/// What becomes of a key.
pub(super) enum Change {
    /// It is right already.
    Keep,
    /// It gets this value.
    Put(Bytes),
    /// It goes.
    Delete,
}

impl Centre {
    /// Decides on a key as it stands and writes that over nothing else; decides anew when somebody
    /// was faster. Returns when this replica's cache shows it.
    ///
    /// # Errors
    /// Those of `decide`; [`Error::Conflict`] when it keeps changing; [`Error::Store`].
    pub(super) async fn change_key<T>(
        &self,
        path: &str,
        decide: impl Fn(Option<&Entry>) -> Result<(Change, T), Error>,
    ) -> Result<T, Error> {
        for _ in 0..ATTEMPTS {
            let entry = self.inner.store.get(path).await?;
            let (change, result) = decide(entry.as_ref())?;
            let revision = entry.map_or(0, |entry| entry.mod_revision);
            let txn = Txn::new().unchanged(path, revision);
            let txn = match change {
                Change::Keep => {
                    self.inner.cache.seen(revision, &[path]).await;
                    return Ok(result);
                }
                Change::Put(value) => txn.put(path, value),
                Change::Delete => txn.delete(path),
            };
            if !self.inner.cache.write_through(&*self.inner.store, txn).await?.is_conflict() {
                return Ok(result);
            }
        }
        Err(Error::Conflict("it keeps changing: try again".to_owned()))
    }
}
