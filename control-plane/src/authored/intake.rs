//! What authors in a member cluster wrote, as its agent forwards it: validated, stored under the
//! cluster's own origin, answered with a status. The agent can speak for any namespace of its own
//! cluster and for nothing else: the origin comes from its certificate.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use proto::assignment::{Origin, StopReason};
use proto::cluster::ClusterSpec;
use proto::experiment::MAX_SPEC_BYTES;
use proto::grant::Principal;
use proto::ids::{ClusterId, RunId};
use proto::problem::Problems;
use proto::run::{RunRecord, RunSpec, StopRequest};
use proto::status::{AuthoredStatus, RunPhase, RunSummary};
use proto::wire::{Authored, AuthoredKind, AuthoredRef};
use serde_json::Value;

use super::{
    Created, NewRun, Recorded, Tombstone, experiment_status, record_run, record_stop, refused_status,
};
use crate::audit::Auditor;
use crate::cache::Cache;
use crate::centre::Error;
use crate::driver::clock::Clock;
use crate::driver::codec;
use crate::engine::object::{ExperimentKey, Object, ObjectKey, RunEntry, StoredExperiment};
use crate::engine::planning::experiment_of;
use crate::engine::state::State;
use crate::store::{Compare, Store, Txn};

/// What one cluster may have at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Experiments stored.
    pub experiments: usize,
    /// Runs not finished.
    pub live_runs: usize,
}

impl Default for Quota {
    fn default() -> Self {
        Self { experiments: 500, live_runs: 50 }
    }
}

/// What to tell the author.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// This status, on the object.
    Status(Box<AuthoredStatus>),
    /// The status of this run.
    Run(RunId),
    /// Nothing: the object is gone.
    Nothing,
}

/// The way in for one cluster.
#[derive(Debug, Clone)]
pub struct Intake {
    /// Where it is stored.
    pub store: Arc<dyn Store>,
    /// What is known.
    pub cache: Arc<Cache>,
    /// Time and ids.
    pub clock: Clock,
    /// Who is told.
    pub audit: Auditor,
    /// Bounds.
    pub quota: Quota,
    /// Whose objects these are.
    pub cluster: ClusterId,
}

impl Intake {
    /// Takes one object, or that it is gone.
    ///
    /// # Errors
    /// [`Error::Store`]: to be tried again. Mistakes of the author are an [`Answer`].
    pub async fn take(&self, authored: &Authored) -> Result<Answer, Error> {
        let object = &authored.object;
        if authored.body.is_empty() {
            self.gone(object).await?;
            return Ok(Answer::Nothing);
        }
        let now = self.clock.now();
        let refuse = |reason: &str, message: &str| {
            Ok(Answer::Status(Box::new(refused_status(authored.generation, reason, message, now))))
        };
        let Ok(spec) = serde_json::from_slice::<Value>(&authored.body) else {
            self.withdraw(authored).await?;
            return refuse("Invalid", "the spec is no JSON document");
        };
        let Some(member) = self.cache.read(|state| state.spec_of(&self.cluster).cloned()) else {
            return Ok(Answer::Nothing);
        };
        match object.kind {
            AuthoredKind::Experiment => match proto::validate::experiment(&spec) {
                Ok(_) if self.over_experiments(object) => {
                    refuse("QuotaExceeded", "this cluster stores too many Experiments")
                }
                Ok(_) => self.store_experiment(authored, spec, now).await,
                Err(problems) => {
                    self.withdraw(authored).await?;
                    refuse("Invalid", &text(&problems))
                }
            },
            AuthoredKind::Run => match proto::validate::run(&spec) {
                Ok(_) if self.over_runs(object) => {
                    refuse("QuotaExceeded", "too many runs of this cluster are not finished")
                }
                Ok(spec) => self.create_run(authored, spec, &member, now).await,
                Err(problems) => refuse("Invalid", &text(&problems)),
            },
        }
    }

    fn key(&self, object: &AuthoredRef) -> ExperimentKey {
        (self.cluster.to_string(), object.namespace.to_string(), object.name.to_string())
    }

    fn over_experiments(&self, object: &AuthoredRef) -> bool {
        let (key, origin) = (self.key(object), self.cluster.to_string());
        self.cache.read(|state| {
            let of_cluster = state.experiments.keys().filter(|key| key.0 == origin).count();
            of_cluster >= self.quota.experiments && !state.experiments.contains_key(&key)
        })
    }

    fn over_runs(&self, object: &AuthoredRef) -> bool {
        self.cache.read(|state| {
            let known = live_runs(state, &self.cluster).any(|(_, record)| record.uid == object.uid);
            !known && live_runs(state, &self.cluster).count() >= self.quota.live_runs
        })
    }

    async fn store_experiment(
        &self,
        authored: &Authored,
        spec: Value,
        now: Timestamp,
    ) -> Result<Answer, Error> {
        let key = self.key(&authored.object);
        let path = codec::path(&ObjectKey::Experiment(key.clone()))?;
        let hash = proto::hash::of_json(&spec).map_err(|error| Error::Internal(error.to_string()))?;
        let old = self.store.get(&path).await?;
        let known: Option<StoredExperiment> =
            old.as_ref().and_then(|entry| serde_json::from_slice(&entry.value).ok());
        let same = known.filter(|known| known.hash == hash && known.uid == authored.object.uid);
        if let Some(known) = same {
            let status = experiment_status(authored.generation, known.stored_at);
            return Ok(Answer::Status(Box::new(status)));
        }
        let stored = StoredExperiment {
            spec,
            hash,
            generation: authored.generation,
            uid: authored.object.uid.clone(),
            author: authored.author.clone(),
            stored_at: now,
            owner: None,
        };
        let value = codec::encode(&Object::Experiment(key, stored))?;
        let revision = old.map_or(0, |entry| entry.mod_revision);
        let txn = Txn::new().when(Compare::ModRevision(path.clone(), revision)).put(&path, value);
        match self.store.txn(txn).await {
            Ok(outcome) => drop(outcome.committed()?),
            Err(
                error @ (crate::store::Error::ValueTooLarge { .. } | crate::store::Error::TxnTooLarge { .. }),
            ) => {
                self.withdraw(authored).await?;
                let status = refused_status(authored.generation, "TooLarge", &error.to_string(), now);
                return Ok(Answer::Status(Box::new(status)));
            }
            Err(error) => return Err(error.into()),
        }
        self.note("experiment.put", &authored.object);
        Ok(Answer::Status(Box::new(experiment_status(authored.generation, now))))
    }

    async fn create_run(
        &self,
        authored: &Authored,
        spec: RunSpec,
        member: &ClusterSpec,
        now: Timestamp,
    ) -> Result<Answer, Error> {
        let object = &authored.object;
        let namespace = object.namespace.to_string();
        let record = RunRecord {
            id: self.clock.new_run(),
            namespace: namespace.clone(),
            name: object.name.to_string(),
            uid: object.uid.clone(),
            principal: Principal::Namespace { cluster: self.cluster.clone(), namespace: namespace.clone() },
            author: Some(authored.author.clone()).filter(|author| !author.is_empty()),
            origin: Origin {
                cluster: Some(member.name.clone()),
                labels: member.labels.clone(),
                namespace: Some(namespace),
            },
            spec,
            spec_hash: String::new(),
            plan_only: false,
            created_at: now,
            stop: None,
            trace: self.clock.trace_or_new(authored.trace.clone()),
        };
        let effective = self.effective(&record).await?;
        let new = NewRun { record, origin: self.cluster.to_string(), effective };
        match record_run(self.store.as_ref(), new).await? {
            Created::New(id) | Created::AlreadyRan { recorded: Some(id) } => {
                self.note("run.create", object);
                Ok(Answer::Run(id))
            }
            Created::Known(id) => Ok(Answer::Run(id)),
            Created::AlreadyRan { recorded: None } => Ok(Answer::Nothing),
        }
    }

    /// What the run is to do, where its Experiment is in the store already and everything is well with it: then it is
    /// recorded with the run, in one write. Otherwise the engine waits for it, or says what is wrong.
    async fn effective(&self, record: &RunRecord) -> Result<Option<Value>, Error> {
        let path = codec::path(&ObjectKey::Experiment(experiment_of(record)))?;
        let entry = self.store.get(&path).await?;
        let stored: Option<StoredExperiment> = entry.and_then(|e| serde_json::from_slice(&e.value).ok());
        let effective = stored
            .and_then(|s| proto::validate::with_overrides(&s.spec, &record.spec.set).ok())
            .map(|(value, _)| value);
        Ok(effective.filter(|value| value.to_string().len() <= MAX_SPEC_BYTES))
    }

    /// What an edit made invalid is not to run in its old form. A Run is immutable: its old form is its only one.
    async fn withdraw(&self, authored: &Authored) -> Result<(), Error> {
        match authored.object.kind {
            AuthoredKind::Experiment => {
                self.remove(&authored.object, |known| known.generation <= authored.generation).await
            }
            AuthoredKind::Run => Ok(()),
        }
    }

    /// Takes an Experiment out of the store, where it is the one that is meant and not changed meanwhile.
    async fn remove(
        &self,
        object: &AuthoredRef,
        is_meant: impl Fn(&StoredExperiment) -> bool,
    ) -> Result<(), Error> {
        let path = codec::path(&ObjectKey::Experiment(self.key(object)))?;
        let Some(entry) = self.store.get(&path).await? else {
            return Ok(());
        };
        let known: Option<StoredExperiment> = serde_json::from_slice(&entry.value).ok();
        // What cannot be read is nobody's in particular.
        if known.is_some_and(|known| known.uid != object.uid || !is_meant(&known)) {
            return Ok(());
        }
        let txn = Txn::new().unchanged(&path, entry.mod_revision).delete(path);
        self.store.txn(txn).await?.committed()?;
        Ok(())
    }

    /// The object is gone: an Experiment leaves the store, a Run is stopped.
    async fn gone(&self, object: &AuthoredRef) -> Result<(), Error> {
        match object.kind {
            AuthoredKind::Experiment => self.remove(object, |_| true).await,
            AuthoredKind::Run => self.stop_run_of(object).await,
        }
    }

    /// Stops the run of this object unless it is over. Asked of the store: what was recorded a moment ago may not have
    /// come back to this replica.
    async fn stop_run_of(&self, object: &AuthoredRef) -> Result<(), Error> {
        let (origin, namespace) = (self.cluster.to_string(), object.namespace.to_string());
        let by_uid = codec::tombstone_path(&origin, &namespace, object.name.as_str(), Some(&object.uid))?;
        let Some(entry) = self.store.get(&by_uid).await? else {
            return Ok(());
        };
        let tombstone: Tombstone =
            serde_json::from_slice(&entry.value).map_err(|error| Error::Internal(error.to_string()))?;
        let summary = codec::path(&ObjectKey::Summary(tombstone.run.clone()))?;
        let summary = self.store.get(&summary).await?;
        let summary: Option<RunSummary> = summary.and_then(|entry| serde_json::from_slice(&entry.value).ok());
        if summary.is_some_and(|summary| summary.phase == RunPhase::Finished) {
            return Ok(());
        }
        self.stop(&tombstone.run).await
    }

    async fn stop(&self, id: &RunId) -> Result<(), Error> {
        let by = format!("cluster:{}", self.cluster);
        let stop = StopRequest { reason: StopReason::Deleted, by: by.clone(), at: self.clock.now() };
        if record_stop(self.store.as_ref(), id, &stop).await? != Recorded::NoRun {
            self.audit.note(&by, "run.stop", id.as_str(), "ok");
        }
        Ok(())
    }

    /// After a complete list: what is not named does not exist any more.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn reconcile(&self, refs: &[AuthoredRef]) -> Result<(), Error> {
        let uids: BTreeSet<&str> = refs.iter().map(|object| object.uid.as_str()).collect();
        let named: BTreeSet<(ExperimentKey, &str)> = refs
            .iter()
            .filter(|object| object.kind == AuthoredKind::Experiment)
            .map(|object| (self.key(object), object.uid.as_str()))
            .collect();
        let origin = self.cluster.to_string();
        let (runs, experiments) = self.cache.read(|state| {
            let runs: Vec<RunId> = live_runs(state, &self.cluster)
                .filter(|(_, record)| !uids.contains(record.uid.as_str()))
                .map(|(id, _)| id.clone())
                .collect();
            let of_cluster = state.experiments.iter().filter(|(key, _)| key.0 == origin);
            let absent = of_cluster
                .filter(|(key, stored)| !named.contains(&((*key).clone(), stored.value.uid.as_str())));
            let experiments: Vec<_> = absent.map(|(key, stored)| (key.clone(), stored.revision)).collect();
            (runs, experiments)
        });
        for id in &runs {
            self.stop(id).await?;
        }
        for (key, revision) in experiments {
            let path = codec::path(&ObjectKey::Experiment(key))?;
            // Changed meanwhile: tried again when this replica has read it.
            self.store.txn(Txn::new().unchanged(&path, revision).delete(path)).await?.committed()?;
        }
        Ok(())
    }

    fn note(&self, action: &str, object: &AuthoredRef) {
        let by =
            Principal::Namespace { cluster: self.cluster.clone(), namespace: object.namespace.to_string() };
        self.audit.note(&by.to_string(), action, object.name.as_str(), "ok");
    }
}

/// Runs that were authored in this cluster and are not finished.
fn live_runs<'a>(
    state: &'a State,
    cluster: &'a ClusterId,
) -> impl Iterator<Item = (&'a RunId, &'a RunRecord)> {
    let live = |entry: &RunEntry| {
        entry.summary.as_ref().is_none_or(|summary| summary.value.phase != RunPhase::Finished)
    };
    state
        .runs
        .iter()
        .filter(move |(_, entry)| live(entry))
        .filter_map(|(id, entry)| Some((id, &entry.record.as_ref()?.value)))
        .filter(move |(_, record)| {
            matches!(&record.principal, Principal::Namespace { cluster: origin, .. } if origin == cluster)
        })
}

fn text(problems: &Problems) -> String {
    problems.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
