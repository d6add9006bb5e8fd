//! FaultRecord objects in the agent's own namespace: one per run, under the run's id, and two of our own under
//! names kept for them. A write replaces exactly the version that was last seen; a list is complete or an error.
//! Called by the driver, by way of [`Records`], and by `leadership` for the epoch.

use async_trait::async_trait;
use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use proto::ids::RunId;
use proto::record::{FaultRecord, FaultRecordSpec};

use super::answer::{Failure, RACES, call};
use super::{Kube, MANAGED_BY, lock};
use crate::cluster::{Error, LatchedHalts, RecordState, Records, RunRecordHeld};

/// Holds the halts latched here.
const LATCHED: &str = "latched-halts";
/// Holds the highest epoch of any leader, should the Lease be deleted.
const EPOCH: &str = "agent-epoch";
const PAGE: u32 = 200;

#[async_trait]
impl Records for Kube {
    async fn put(&self, record: &RunRecordHeld) -> Result<(), Error> {
        let name = record.run().as_str();
        let what = format!("put record {name}");
        if name == LATCHED || name == EPOCH {
            return Err(Error::Refused { what, why: "the name is kept for another record".to_owned() });
        }
        let state = match record.state {
            RecordState::Started => "Started",
            RecordState::Stopped => "Stopped",
            RecordState::Finished => "Finished",
        };
        let spec = FaultRecordSpec {
            run: name.to_owned(),
            generation: i64::try_from(record.desired.generation).unwrap_or(i64::MAX),
            state: state.to_owned(),
            deadline: record.deadline.map(|deadline| deadline.to_string()),
            document: document(record, &what)?,
        };
        self.replace(name, &spec, &what).await
    }

    async fn list(&self) -> Result<Vec<RunRecordHeld>, Error> {
        let mut records = Vec::new();
        for object in self.list_all().await? {
            let name = object.metadata.name.unwrap_or_default();
            if name == LATCHED || name == EPOCH {
                continue;
            }
            match readable(&name, &object.spec) {
                Ok(record) => {
                    lock(&self.0.record_versions).extend(object.metadata.resource_version.map(|v| (name, v)));
                    records.push(record);
                }
                // It is not forgotten: `put` refuses to write over it, so that run never starts here.
                Err(why) => {
                    tracing::error!(record = name, why, "left out: delete it when its faults are gone");
                }
            }
        }
        records.sort_by(|a, b| a.run().cmp(b.run()));
        Ok(records)
    }

    async fn delete(&self, run: &RunId) -> Result<(), Error> {
        let name = run.as_str();
        match call(self.records().delete(name, &DeleteParams::default())).await {
            Ok(_) => {}
            Err(failure) if failure.is_missing(name) => {}
            Err(failure) => return Err(failure.into_error(format!("delete record {name}"))),
        }
        lock(&self.0.record_versions).remove(name);
        Ok(())
    }

    async fn latched(&self) -> Result<LatchedHalts, Error> {
        let what = "read the latched halts";
        let Some(object) = self.read(LATCHED, what).await? else {
            return Ok(LatchedHalts::default());
        };
        let unreadable = |e: serde_json::Error| Error::Refused { what: what.to_owned(), why: e.to_string() };
        serde_json::from_str(&object.spec.document).map_err(unreadable)
    }

    async fn put_latched(&self, halts: &LatchedHalts) -> Result<(), Error> {
        let what = "put the latched halts";
        let state = if halts.halts.is_empty() { "Clear" } else { "Halted" };
        let document = document(halts, what)?;
        let spec = FaultRecordSpec { state: state.to_owned(), document, ..FaultRecordSpec::default() };
        self.replace(LATCHED, &spec, what).await
    }
}

fn document<T: serde::Serialize>(value: &T, what: &str) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| Error::Refused { what: what.to_owned(), why: e.to_string() })
}

/// The record in an object, which must be about the run that the object is named after.
fn readable(name: &str, spec: &FaultRecordSpec) -> Result<RunRecordHeld, String> {
    let record: RunRecordHeld = serde_json::from_str(&spec.document).map_err(|e| e.to_string())?;
    if record.run().as_str() != name {
        return Err(format!("it is about run {}", record.run()));
    }
    Ok(record)
}

impl Kube {
    fn records(&self) -> Api<FaultRecord> {
        Api::namespaced(self.client(), &self.settings().namespace)
    }

    /// The highest epoch any leader had; 0 at first.
    pub(super) async fn epoch_floor(&self) -> Result<u64, Error> {
        let object = self.read(EPOCH, "read the epoch").await?;
        Ok(object.map_or(0, |object| u64::try_from(object.spec.generation).unwrap_or(0)))
    }

    /// Keeps an epoch that is higher than the one kept.
    pub(super) async fn raise_epoch_floor(&self, epoch: u64) -> Result<(), Error> {
        let spec = FaultRecordSpec {
            generation: i64::try_from(epoch).unwrap_or(i64::MAX),
            state: "Epoch".to_owned(),
            ..FaultRecordSpec::default()
        };
        self.replace(EPOCH, &spec, "put the epoch").await
    }

    async fn read(&self, name: &str, what: &str) -> Result<Option<FaultRecord>, Error> {
        match call(self.records().get(name)).await {
            Ok(object) => {
                let version = object.metadata.resource_version.clone();
                lock(&self.0.record_versions).extend(version.map(|version| (name.to_owned(), version)));
                Ok(Some(object))
            }
            Err(failure) if failure.is_missing(name) => {
                lock(&self.0.record_versions).remove(name);
                Ok(None)
            }
            Err(failure) => Err(failure.into_error(what)),
        }
    }

    async fn list_all(&self) -> Result<Vec<FaultRecord>, Error> {
        let api = self.records();
        let mut params = ListParams::default().limit(PAGE);
        let mut all = Vec::new();
        loop {
            let page = call(api.list(&params)).await.map_err(|failure| failure.into_error("list records"))?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(all),
            }
        }
    }

    /// Creates the object, or replaces the version last seen. After a lost race: what is there now is read, and
    /// replaced unless it is a record that nobody here can read, or of a higher epoch.
    async fn replace(&self, name: &str, spec: &FaultRecordSpec, what: &str) -> Result<(), Error> {
        let api = self.records();
        let mut lost = None;
        for _ in 0..RACES {
            let version = lock(&self.0.record_versions).get(name).cloned();
            let metadata = ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
                resource_version: version.clone(),
                ..ObjectMeta::default()
            };
            let object = FaultRecord { metadata, spec: spec.clone() };
            let params = PostParams::default();
            let answer = match version {
                Some(_) => call(api.replace(name, &params, &object)).await,
                None => call(api.create(&params, &object)).await,
            };
            match answer {
                Ok(stored) => {
                    let version = stored.metadata.resource_version;
                    lock(&self.0.record_versions).extend(version.map(|version| (name.to_owned(), version)));
                    return Ok(());
                }
                Err(failure) if failure.is_conflict() || failure.is_missing(name) => {
                    if let Some(other) = self.read(name, what).await? {
                        may_replace(name, &other.spec, spec)
                            .map_err(|why| Error::Refused { what: what.to_owned(), why })?;
                    }
                    lost = Some(failure);
                }
                Err(failure) => return Err(failure.into_error(what)),
            }
        }
        Err(lost.unwrap_or(Failure::Silent("no try was made".to_owned())).into_error(what))
    }
}

fn may_replace(name: &str, there: &FaultRecordSpec, wanted: &FaultRecordSpec) -> Result<(), String> {
    match name {
        EPOCH if there.generation > wanted.generation => Err(format!("epoch {} is higher", there.generation)),
        EPOCH | LATCHED => Ok(()),
        run => readable(run, there)
            .map(drop)
            .map_err(|why| format!("a record of this name is not readable: {why}")),
    }
}
