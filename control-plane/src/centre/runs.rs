//! Runs as people see them: create, plan only, list, look at, stop, delete.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::assignment::{Origin, StopReason};
use proto::grant::Principal;
use proto::ids::{Name, RunId};
use proto::problem::{Problem, Problems};
use proto::rest::{CreateRun, Page, RunCluster, RunView, Taken};
use proto::run::{ExperimentScope, RunRecord, StopRequest};
use proto::status::RunPhase;

use super::expected::{Expected, tag_of};
use super::latch::Item;
use super::{Caller, Centre, Error, Role};
use crate::authored::{self, Created, NewRun};
use crate::driver::codec;
use crate::engine::object::{CENTRAL, ObjectKey, RunEntry};
use crate::engine::prune;
use crate::engine::state::State;
use crate::rest::traced;
use crate::store::Outcome;

/// Most transactions in which one run is removed, those that are lost included.
const REMOVAL_ROUNDS: usize = 400;
/// How long a change that is known to the store is waited for before it is looked again.
const LAG: Duration = Duration::from_millis(100);

impl Centre {
    /// Records a run of an Experiment of the centre's library; planning begins at once. Needs
    /// operator; only to plan, author. Under an id that is given, it is made once. The plan, refusals and outcome appear in the run's view.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every mistake of the run and of its overrides, [`Error::NotFound`]
    /// for the Experiment, [`Error::Conflict`] when the name was used before.
    pub async fn create_run(
        &self,
        caller: &Caller,
        request: CreateRun,
        id: Option<RunId>,
    ) -> Result<RunView, Error> {
        let subject = request.name.clone();
        let id = id.unwrap_or_else(|| self.inner.clock.new_run());
        let result = self.create_run_inner(caller, request, id).await;
        self.note(caller, "run.create", &subject, &result);
        result
    }

    async fn create_run_inner(
        &self,
        caller: &Caller,
        request: CreateRun,
        id: RunId,
    ) -> Result<RunView, Error> {
        // Stop and halt need less than this.
        caller.require(if request.plan_only { Role::Author } else { Role::Operator })?;
        let name: Name =
            request.name.parse().map_err(|error| Problems(vec![Problem::new("name", format!("{error}"))]))?;
        let spec_json =
            serde_json::to_value(&request.spec).map_err(|error| Error::Internal(error.to_string()))?;
        let spec = proto::validate::run(&spec_json)?;
        if spec.experiment_ref.scope == Some(ExperimentScope::Namespace) {
            let problem = Problem::new(
                "spec.experimentRef.scope",
                "a run made at the centre uses its library: leave scope out, or write Central",
            );
            return Err(Problems(vec![problem]).into());
        }
        let stored = match request.experiment {
            Some(given) => {
                proto::validate::experiment(&given)?;
                given
            }
            None => self.library_spec(&spec.experiment_ref.name)?,
        };
        let (effective, _) = proto::validate::with_overrides(&stored, &spec.set)?;
        let record = RunRecord {
            id: id.clone(),
            namespace: CENTRAL.to_owned(),
            name: name.to_string(),
            uid: id.to_string(),
            principal: Principal::Operator { name: caller.name.clone() },
            author: None,
            origin: Origin { cluster: None, labels: BTreeMap::new(), namespace: None },
            spec,
            spec_hash: String::new(),
            plan_only: request.plan_only,
            created_at: self.inner.clock.now(),
            stop: None,
            trace: self.inner.clock.trace_or_new(traced::of_request()),
        };
        let new = NewRun { record, origin: CENTRAL.to_owned(), effective: Some(effective) };
        match authored::record_run(self.inner.store.as_ref(), new).await? {
            Created::New(id) | Created::Known(id) => self.run_when_seen(&id).await,
            Created::AlreadyRan { .. } => {
                Err(Error::Conflict(format!("the name {name} was used for a run before: choose another")))
            }
        }
    }

    fn library_spec(&self, name: &str) -> Result<serde_json::Value, Error> {
        let key = (CENTRAL.to_owned(), CENTRAL.to_owned(), name.to_owned());
        self.inner
            .cache
            .read(|state| state.experiments.get(&key).map(|stored| stored.value.spec.clone()))
            .ok_or_else(|| Error::not_found("experiment", name))
    }

    /// The run as soon as this replica's cache has it, so that a caller reads its own write.
    async fn run_when_seen(&self, id: &RunId) -> Result<RunView, Error> {
        let mut changes = self.inner.cache.run_changes();
        let wait = async {
            loop {
                if let Some(view) = self.inner.cache.read(|state| view(state, id, true)) {
                    return view;
                }
                // Lagging behind only means that there is something new to look at.
                let _ = changes.recv().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), wait).await.map_err(|_| {
            Error::Internal(format!("run {id} is recorded, but this replica has not seen it yet"))
        })
    }

    /// One run with its clusters. Needs viewer.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn run(&self, caller: &Caller, id: &str) -> Result<RunView, Error> {
        caller.require(Role::Viewer)?;
        let id = self.resolve(id)?;
        self.inner.cache.read(|state| view(state, &id, true)).ok_or_else(|| Error::not_found("run", id))
    }

    /// A run by its id, or by its name where exactly one run at the centre has it (the latest
    /// otherwise).
    pub(crate) fn resolve(&self, id: &str) -> Result<RunId, Error> {
        self.inner
            .cache
            .read(|state| {
                if let Some((id, _)) = id.parse().ok().and_then(|id: RunId| state.runs.get_key_value(&id)) {
                    return Some(id.clone());
                }
                let named =
                    |entry: &RunEntry| entry.record.as_ref().is_some_and(|record| record.value.name == id);
                // Ids are made in the order of time.
                state.runs.iter().rev().find(|(_, entry)| named(entry)).map(|(id, _)| id.clone())
            })
            .ok_or_else(|| Error::not_found("run", id))
    }

    /// Runs, the latest first; `after` is the id of the last one seen, `limit` is cut to 500.
    /// Needs viewer.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn runs(&self, caller: &Caller, after: Option<&str>, limit: usize) -> Result<Page<RunView>, Error> {
        caller.require(Role::Viewer)?;
        let limit = limit.clamp(1, 500);
        Ok(self.inner.cache.read(|state| {
            let mut items: Vec<RunView> = state
                .runs
                .keys()
                .rev()
                .filter(|id| after.is_none_or(|after| id.as_str() < after))
                .filter_map(|id| view(state, id, false))
                .take(limit + 1)
                .collect();
            let more = items.len() > limit;
            items.truncate(limit);
            let next = items.last().filter(|_| more).map(|run| run.record.id.to_string());
            Page { items, next }
        }))
    }

    /// Stops a run, for ever. Taken also while the store is down: the sessions of every replica are
    /// told from memory. Needs author.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn stop_run(&self, caller: &Caller, id: &str) -> Result<Taken<RunView>, Error> {
        let result = self.take_stop(caller, id, StopReason::Requested);
        // Noted before anything is waited for: the caller may be gone by then.
        self.note(caller, "run.stop", id, &result);
        self.stopped(result?).await
    }

    /// Takes a stop into memory, unless nothing is left to stop.
    fn take_stop(&self, caller: &Caller, id: &str, reason: StopReason) -> Result<RunId, Error> {
        caller.require(Role::Author)?;
        let id = self.resolve(id)?;
        let current = self.inner.cache.read(|state| view(state, &id, false));
        if current.is_none_or(|view| view.summary.phase != RunPhase::Finished) {
            let stop =
                StopRequest { reason, by: format!("operator:{}", caller.name), at: self.inner.clock.now() };
            self.inner.latch.stop(&id, stop, None)?;
        }
        Ok(id)
    }

    /// Waits, for a bounded time, until a stop is settled.
    async fn stopped(&self, id: RunId) -> Result<Taken<RunView>, Error> {
        let view = || self.inner.cache.read(|state| view(state, &id, true));
        let Taken { view, persisted, replicas } =
            self.inner.latch.settled(&Item::Stop(id.clone()), view).await;
        let view = view.ok_or_else(|| Error::not_found("run", id))?;
        Ok(Taken { view, persisted, replicas })
    }

    /// Deletes a run: one that is not finished is stopped, a finished one is removed from the
    /// store where it is as expected (its name stays used). A stop depends on nothing. Needs author to stop, operator
    /// to remove. `None` when it is gone, else how far the stop came.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Precondition`], [`Error::Store`].
    pub async fn delete_run(
        &self,
        caller: &Caller,
        id: &str,
        expected: &Expected,
    ) -> Result<Option<Taken<RunView>>, Error> {
        let result = self.delete_inner(caller, id, expected).await;
        self.note(caller, "run.delete", id, &result);
        match result? {
            Some(stopped) => self.stopped(stopped).await.map(Some),
            None => Ok(None),
        }
    }

    /// The run, where it is stopped only.
    async fn delete_inner(
        &self,
        caller: &Caller,
        id: &str,
        expected: &Expected,
    ) -> Result<Option<RunId>, Error> {
        caller.require(Role::Author)?;
        let run = self.resolve(id)?;
        let removable = |state: &State| state.runs.get(&run).is_some_and(prune::removable);
        if !self.inner.cache.read(removable) {
            return self.take_stop(caller, id, StopReason::Deleted).map(Some);
        }
        caller.require(Role::Operator)?;
        self.remove(&run, expected).await.map(|()| None)
    }

    /// Removes a finished run with all of its clusters, some of them at a time, the record last.
    async fn remove(&self, run: &RunId, expected: &Expected) -> Result<(), Error> {
        let mut begun = false;
        for _ in 0..REMOVAL_ROUNDS {
            let mut changes = self.inner.cache.run_changes();
            let next = self.inner.cache.read(|state| {
                let entry = state.runs.get(run).filter(|entry| prune::removable(entry))?;
                let tag = view(state, run, true).map(|view| tag_of(&view));
                Some((tag, prune::remove(state, run, entry)))
            });
            let Some((tag, commit)) = next else {
                // Somebody else removed the rest.
                return Ok(());
            };
            if !begun {
                expected.check(tag.as_deref())?;
            }
            let last = commit.delete.contains(&ObjectKey::Run(run.clone()));
            match self.inner.cache.write_through(&*self.inner.store, codec::txn(&commit)?).await? {
                Outcome::Committed { .. } => {
                    begun = true;
                    if last {
                        return Ok(());
                    }
                }
                // What it lost to is on its way to this replica.
                Outcome::Conflict { .. } => drop(tokio::time::timeout(LAG, changes.recv()).await),
            }
        }
        Err(Error::Conflict(format!("run {run} keeps changing")))
    }
}

/// A run as the API shows it; with its clusters where asked for.
pub(crate) fn view(state: &State, id: &RunId, with_clusters: bool) -> Option<RunView> {
    let entry = state.runs.get(id)?;
    let record = entry.record.as_ref()?.value.clone();
    let summary = entry.summary.as_ref()?.value.clone();
    let clusters = if with_clusters { clusters(state, entry) } else { Vec::new() };
    Some(RunView { record, summary, clusters })
}

fn clusters(state: &State, entry: &RunEntry) -> Vec<RunCluster> {
    entry
        .desired
        .iter()
        .map(|(cluster, desired)| RunCluster {
            cluster: cluster.clone(),
            name: state.cluster_name(cluster),
            intent: desired.value.intent,
            generation: desired.value.generation,
            connected: state.is_connected(cluster),
            plan: entry.plans.get(cluster).map(|plan| plan.value.clone()),
            observed: entry.observed.get(cluster).map(|observed| observed.value.observed.clone()),
        })
        .collect()
}
