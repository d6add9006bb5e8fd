//! Runs and Experiments as they are recorded: the one way into the store for both the service and
//! the authors in member clusters. A run is recorded once for its name and uid, ever.

mod intake;
mod status;

pub use intake::{Answer, Intake, Quota};
use jiff::{SignedDuration, Timestamp};
use proto::assignment::Outcome;
use proto::ids::RunId;
use proto::plan::{Refusal, refusal};
use proto::run::{RunRecord, StopRequest};
use proto::status::RunPhase;
use serde::{Deserialize, Serialize};
use serde_json::Value;
pub use status::{experiment_status, refused_status, run_status};

use crate::centre::Error;
use crate::driver::codec;
use crate::engine::object::{CENTRAL, Object, ObjectKey, SpecBody};
use crate::engine::summary;
use crate::store::{Outcome as TxnOutcome, Store, Txn};

/// How often a tombstone notes that its object is still there.
const SEEN_EVERY: SignedDuration = SignedDuration::from_hours(24);
/// How often a lost race is run again.
const ATTEMPTS: usize = 8;

/// The value of a tombstone: it outlives the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tombstone {
    /// The run that it stands for.
    pub run: RunId,
    /// The uid of that run's object.
    pub uid: String,
    /// When the object was last heard of, to the day: what is still there is not forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<Timestamp>,
}

/// A run to be recorded.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Complete but for the spec's hash.
    pub record: RunRecord,
    /// `central`, or the cluster id.
    pub origin: String,
    /// The effective spec, where it is known already.
    pub effective: Option<Value>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// Recorded; planning begins.
    New(RunId),
    /// The same object was recorded before as this run.
    Known(RunId),
    /// Its name was used by another object before; from a member recorded as Denied.
    AlreadyRan {
        /// The denied run; none at the centre.
        recorded: Option<RunId>,
    },
}

/// Records a run, its tombstones and its effective spec in one transaction.
///
/// # Errors
/// [`Error::Store`]; [`Error::BadRequest`] for names that fit no key.
pub async fn record_run(store: &dyn Store, new: NewRun) -> Result<Created, Error> {
    let NewRun { mut record, origin, effective } = new;
    let by_uid = codec::tombstone_path(&origin, &record.namespace, &record.name, Some(&record.uid))?;
    let by_name = codec::tombstone_path(&origin, &record.namespace, &record.name, None)?;
    let now = record.created_at;
    let tombstone = Tombstone { run: record.id.clone(), uid: record.uid.clone(), seen_at: Some(now) };
    let tombstone = serde_json::to_vec(&tombstone).map_err(|error| Error::Internal(error.to_string()))?;
    let mut txn = Txn::new().absent(&by_uid).put(&by_uid, tombstone.clone());
    if !record.plan_only {
        // A plan runs nothing, so it uses no name up.
        txn = txn.absent(&by_name).put(&by_name, tombstone.clone());
    }
    if let Some(effective) = effective {
        let json = serde_json::to_string(&effective).map_err(|error| Error::Internal(error.to_string()))?;
        record.spec_hash = proto::hash::sha256_hex(json.as_bytes());
        txn = put(txn, &Object::Spec(SpecBody { hash: record.spec_hash.clone(), json }))?;
    }
    let summary = summary::initial(record.id.clone());
    txn = put(txn, &Object::Run(Box::new(record.clone())))?;
    txn = put(txn, &Object::Summary(Box::new(summary)))?;
    if let TxnOutcome::Committed { .. } = store.txn(txn).await? {
        return Ok(Created::New(record.id));
    }
    if let Some(known) = seen(store, &by_uid, now).await? {
        // The name is used for as long as the object is there.
        seen(store, &by_name, now).await?;
        return Ok(Created::Known(known.run));
    }
    if origin == CENTRAL {
        return Ok(Created::AlreadyRan { recorded: None });
    }
    record_denied(store, record, &by_uid, tombstone).await
}

/// The tombstone, where there is one; its object was heard of just now.
async fn seen(store: &dyn Store, path: &str, now: Timestamp) -> Result<Option<Tombstone>, Error> {
    let Some(entry) = store.get(path).await? else {
        return Ok(None);
    };
    let mut known: Tombstone =
        serde_json::from_slice(&entry.value).map_err(|error| Error::Internal(error.to_string()))?;
    if known.seen_at.is_none_or(|at| now.duration_since(at) >= SEEN_EVERY) {
        known.seen_at = Some(now);
        let value = serde_json::to_vec(&known).map_err(|error| Error::Internal(error.to_string()))?;
        // Whoever was faster saw it too.
        let _ = store.txn(Txn::new().unchanged(path, entry.mod_revision).put(path, value)).await?;
    }
    Ok(Some(known))
}

/// A second object under a used name: on record, so that its author is told, and never run.
async fn record_denied(
    store: &dyn Store,
    mut record: RunRecord,
    by_uid: &str,
    tombstone: Vec<u8>,
) -> Result<Created, Error> {
    // What it would have done is not stored with it.
    record.spec_hash.clear();
    let id = record.id.clone();
    let mut summary = summary::initial(id.clone());
    summary.phase = RunPhase::Finished;
    summary.outcome = Some(Outcome::Denied);
    refusal::ALREADY_RAN.clone_into(&mut summary.reason);
    summary.message =
        format!("a Run named {} ran before; it runs once for its name and uid, ever", record.name);
    summary.finished_at = Some(record.created_at);
    summary.refusals.push(Refusal {
        code: refusal::ALREADY_RAN.to_owned(),
        message: summary.message.clone(),
        whose: "author".to_owned(),
        cure: "create the Run under a new name".to_owned(),
    });
    let txn = Txn::new().absent(by_uid).put(by_uid, tombstone);
    let txn = put(put(txn, &Object::Run(Box::new(record)))?, &Object::Summary(Box::new(summary)))?;
    match store.txn(txn).await? {
        TxnOutcome::Committed { .. } => Ok(Created::AlreadyRan { recorded: Some(id) }),
        // The same object came over another session meanwhile.
        TxnOutcome::Conflict { .. } => Ok(Created::AlreadyRan { recorded: None }),
    }
}

fn put(txn: Txn, object: &Object) -> Result<Txn, Error> {
    Ok(txn.put(codec::path(&object.key())?, codec::encode(object)?))
}

/// What became of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It is on record now.
    Written,
    /// There was one already; that one stays.
    Known,
    /// There is no such run.
    NoRun,
}

/// Records a stop; the first one stays.
///
/// # Errors
/// [`Error::Store`].
pub async fn record_stop(store: &dyn Store, id: &RunId, stop: &StopRequest) -> Result<Recorded, Error> {
    let path = codec::path(&ObjectKey::Run(id.clone()))?;
    for _ in 0..ATTEMPTS {
        let Some(entry) = store.get(&path).await? else {
            return Ok(Recorded::NoRun);
        };
        let mut record: RunRecord =
            serde_json::from_slice(&entry.value).map_err(|error| Error::Internal(error.to_string()))?;
        if record.stop.is_some() {
            return Ok(Recorded::Known);
        }
        record.stop = Some(stop.clone());
        let value = codec::encode(&Object::Run(Box::new(record)))?;
        let txn = Txn::new().unchanged(&path, entry.mod_revision).put(&path, value);
        if !store.txn(txn).await?.is_conflict() {
            return Ok(Recorded::Written);
        }
    }
    Err(Error::Conflict(format!("run {id} keeps changing")))
}
