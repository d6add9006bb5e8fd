//! One effect for one idempotency key: the record of a request that makes something, from before
//! it is begun until its answer has been kept for a day. Kept in the store, so that another replica
//! answers alike; answers hold tokens, so they are encrypted. Used by `rest::once`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proto::hash::sha256_hex;
use serde::{Deserialize, Serialize};

use super::{Caller, Centre, Error};
use crate::driver::codec;
use crate::store::{LeaseId, Outcome, Revision, Txn};

/// How long an answer is kept.
const KEEP: SignedDuration = SignedDuration::from_hours(24);
/// The store forgets a record by itself some time after that.
const LEASE: Duration = Duration::from_hours(25);
/// Longer than any request takes: after this, who began it is dead.
const BUSY: SignedDuration = SignedDuration::from_secs(20);
const PURPOSE: &str = "answer to a request with an idempotency key";

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Media type of the body.
    pub content_type: String,
    /// JSON.
    pub body: String,
}

/// The value of `once/<hash of caller and key>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    /// SHA-256 of method, path and body.
    request: String,
    /// When it was first made.
    at: Timestamp,
    /// What the request is known by to what it makes.
    seed: String,
    /// Until then somebody is at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    busy_until: Option<Timestamp>,
    /// Encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
}

impl Record {
    fn is_over(&self, now: Timestamp) -> bool {
        now.duration_since(self.at) > KEEP
    }
}

/// Whether a record is of no use any more: its key stands for nothing.
pub(crate) fn answer_is_over(value: &[u8], now: Timestamp) -> bool {
    serde_json::from_slice::<Record>(value).is_ok_and(|record| record.is_over(now))
}

/// The right to do a request now.
#[derive(Debug)]
pub(crate) struct Claim {
    path: String,
    record: Record,
    revision: Revision,
    /// The record hangs on it.
    lease: LeaseId,
}

impl Claim {
    /// The same however often the request is begun anew; no other request has it. It sorts by time
    /// and is fit for every kind of id.
    pub(crate) fn seed(&self) -> &str {
        &self.record.seed
    }
}

/// What became of asking for that right.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// Do it.
    Ours(Claim),
    /// It was done: this was answered.
    Answered(Answer),
    /// Somebody is at it.
    Busy,
    /// The key stands for another request.
    Another,
}

impl Centre {
    /// Asks to do the request of this key, once.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) async fn claim(&self, caller: &Caller, key: &str, request: &str) -> Result<Claimed, Error> {
        // The lengths keep one caller's key from reading like another's.
        let name = format!("{} {} {key}", caller.name.len(), caller.name);
        let path = codec::once_path(&sha256_hex(name.as_bytes()));
        let now = self.inner.clock.now();
        let busy_until = now.checked_add(BUSY).ok();
        let fresh = || Record {
            request: request.to_owned(),
            at: now,
            seed: self.inner.clock.new_run().to_string(),
            busy_until,
            answer: None,
        };
        let entry = self.inner.store.get(&path).await?;
        let known: Option<Record> =
            entry.as_ref().and_then(|entry| serde_json::from_slice(&entry.value).ok());
        let record = match known.filter(|record| !record.is_over(now)) {
            None => fresh(),
            Some(record) if record.request != request => return Ok(Claimed::Another),
            Some(Record { answer: Some(sealed), .. }) => {
                let plain = self.inner.signer.decrypt(PURPOSE, &sealed)?;
                let answer = serde_json::from_slice(&plain).map_err(|e| Error::Internal(e.to_string()))?;
                return Ok(Claimed::Answered(answer));
            }
            Some(record) if record.busy_until.is_some_and(|until| now < until) => return Ok(Claimed::Busy),
            // Who began it is gone: the same is begun again, under the same seed.
            Some(record) => Record { busy_until, ..record },
        };
        let revision = entry.map_or(0, |entry| entry.mod_revision);
        let lease = self.inner.store.lease_grant(LEASE).await?.id;
        match self.write_record(&path, &record, revision, lease).await? {
            Outcome::Committed { revision } => Ok(Claimed::Ours(Claim { path, record, revision, lease })),
            Outcome::Conflict { .. } => {
                self.inner.store.lease_revoke(lease).await?;
                Ok(Claimed::Busy)
            }
        }
    }

    /// Keeps the answer for whoever asks again.
    ///
    /// # Errors
    /// [`Error::Store`]; then the request may be begun again, under the same seed.
    pub(crate) async fn keep_answer(&self, claim: &Claim, answer: &Answer) -> Result<(), Error> {
        let plain = serde_json::to_vec(answer).map_err(|error| Error::Internal(error.to_string()))?;
        let sealed = self.inner.signer.encrypt(PURPOSE, &plain)?;
        let record = Record { answer: Some(sealed), busy_until: None, ..claim.record.clone() };
        self.write_record(&claim.path, &record, claim.revision, claim.lease).await?.committed()?;
        Ok(())
    }

    /// The request was refused and left nothing: the key is free again.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) async fn free_claim(&self, claim: &Claim) -> Result<(), Error> {
        let txn = Txn::new().unchanged(&claim.path, claim.revision).delete(&claim.path);
        self.inner.store.txn(txn).await?.committed()?;
        Ok(self.inner.store.lease_revoke(claim.lease).await?)
    }

    /// It is not known how far the request came: it may be begun again at once, under the same seed.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(crate) async fn reopen_claim(&self, claim: &Claim) -> Result<(), Error> {
        let record = Record { busy_until: None, ..claim.record.clone() };
        self.write_record(&claim.path, &record, claim.revision, claim.lease).await?.committed()?;
        Ok(())
    }

    async fn write_record(
        &self,
        path: &str,
        record: &Record,
        revision: Revision,
        lease: LeaseId,
    ) -> Result<Outcome, Error> {
        let value = serde_json::to_vec(record).map_err(|error| Error::Internal(error.to_string()))?;
        let txn = Txn::new().unchanged(path, revision).put_leased(path, value, lease);
        Ok(self.inner.store.txn(txn).await?)
    }
}
