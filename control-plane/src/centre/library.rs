//! The centre's library of Experiments, and Grants.

use proto::grant::GrantSpec;
use proto::ids::Name;
use proto::problem::{Problem, Problems};
use proto::rest::{ExperimentView, GrantView};
use serde_json::Value;

use super::{Caller, Centre, Error, Role};
use crate::driver::codec;
use crate::engine::object::{CENTRAL, ExperimentKey, Object, ObjectKey, StoredExperiment};
use crate::store::{Compare, Txn};

fn name_of(text: &str) -> Result<Name, Error> {
    text.parse().map_err(|error| Problems(vec![Problem::new("metadata.name", format!("{error}"))]).into())
}

fn library_key(name: &str) -> ExperimentKey {
    (CENTRAL.to_owned(), CENTRAL.to_owned(), name.to_owned())
}

fn view_of(key: &ExperimentKey, stored: &StoredExperiment) -> ExperimentView {
    ExperimentView {
        name: key.2.clone(),
        origin: key.0.clone(),
        namespace: key.1.clone(),
        spec: stored.spec.clone(),
        hash: stored.hash.clone(),
    }
}

impl Centre {
    /// Stores an Experiment in the library; runs nothing. With `if_match` only over the spec of
    /// that hash (`*`: over any). Needs author.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every mistake; [`Error::Conflict`] when `if_match` does not hold.
    pub async fn put_experiment(
        &self,
        caller: &Caller,
        name: &str,
        spec: Value,
        if_match: Option<&str>,
    ) -> Result<ExperimentView, Error> {
        let result = self.put_experiment_inner(caller, name, spec, if_match).await;
        self.note(caller, "experiment.put", name, &result);
        result
    }

    async fn put_experiment_inner(
        &self,
        caller: &Caller,
        name: &str,
        spec: Value,
        if_match: Option<&str>,
    ) -> Result<ExperimentView, Error> {
        caller.require(Role::Author)?;
        let name = name_of(name)?;
        proto::validate::experiment(&spec)?;
        let hash = proto::hash::of_json(&spec).map_err(|error| Error::Internal(error.to_string()))?;
        let key = library_key(name.as_str());
        let path = codec::path(&ObjectKey::Experiment(key.clone()))?;
        let old = self.inner.store.get(&path).await?;
        let old_record: Option<StoredExperiment> =
            old.as_ref().and_then(|entry| serde_json::from_slice(&entry.value).ok());
        check_match(if_match, old_record.as_ref().map(|old| old.hash.as_str()))?;
        let stored = match old_record {
            Some(old) if old.hash == hash => return Ok(view_of(&key, &old)),
            old => StoredExperiment {
                spec,
                hash,
                generation: old.map_or(1, |old| old.generation + 1),
                uid: String::new(),
                author: caller.name.clone(),
                stored_at: self.inner.clock.now(),
            },
        };
        let view = view_of(&key, &stored);
        let value = codec::encode(&Object::Experiment(key, stored))?;
        let revision = old.map_or(0, |entry| entry.mod_revision);
        let txn = Txn::new().when(Compare::ModRevision(path.clone(), revision)).put(path, value);
        let revision = self.inner.store.txn(txn).await?.committed()?;
        self.inner.cache.seen(revision).await;
        Ok(view)
    }

    /// An Experiment: of the library by name, of a member as `origin/namespace/name`. Needs viewer.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn experiment(&self, caller: &Caller, name: &str) -> Result<ExperimentView, Error> {
        caller.require(Role::Viewer)?;
        let key = match name.split('/').collect::<Vec<_>>().as_slice() {
            [origin, namespace, name] => ((*origin).to_owned(), (*namespace).to_owned(), (*name).to_owned()),
            _ => library_key(name),
        };
        self.inner
            .cache
            .read(|state| state.experiments.get(&key).map(|stored| view_of(&key, &stored.value)))
            .ok_or_else(|| Error::not_found("experiment", name))
    }

    /// Every Experiment: the library's and the members'. Needs viewer.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn experiments(&self, caller: &Caller) -> Result<Vec<ExperimentView>, Error> {
        caller.require(Role::Viewer)?;
        Ok(self.inner.cache.read(|state| {
            state.experiments.iter().map(|(key, stored)| view_of(key, &stored.value)).collect()
        }))
    }

    /// Deletes an Experiment of the library; runs made from it are not touched. Needs author.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_experiment(&self, caller: &Caller, name: &str) -> Result<(), Error> {
        let result = async {
            caller.require(Role::Author)?;
            self.delete("experiment", name, &ObjectKey::Experiment(library_key(name))).await
        }
        .await;
        self.note(caller, "experiment.delete", name, &result);
        result
    }

    /// Stores a Grant. Needs admin.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every mistake.
    pub async fn put_grant(&self, caller: &Caller, name: &str, spec: Value) -> Result<GrantView, Error> {
        let result = self.put_grant_inner(caller, name, &spec).await;
        self.note(caller, "grant.put", name, &result);
        result
    }

    async fn put_grant_inner(&self, caller: &Caller, name: &str, spec: &Value) -> Result<GrantView, Error> {
        caller.require(Role::Admin)?;
        let name = name_of(name)?;
        let spec: GrantSpec = proto::validate::grant(spec)?;
        let object = Object::Grant(name.to_string(), spec.clone());
        let txn = Txn::new().put(codec::path(&object.key())?, codec::encode(&object)?);
        let revision = self.inner.store.txn(txn).await?.committed()?;
        self.inner.cache.seen(revision).await;
        Ok(GrantView { name: name.to_string(), spec })
    }

    /// A Grant. Needs viewer.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn grant(&self, caller: &Caller, name: &str) -> Result<GrantView, Error> {
        let grants = self.grants(caller)?;
        grants.into_iter().find(|grant| grant.name == name).ok_or_else(|| Error::not_found("grant", name))
    }

    /// Every Grant. Needs viewer.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn grants(&self, caller: &Caller) -> Result<Vec<GrantView>, Error> {
        caller.require(Role::Viewer)?;
        Ok(self.inner.cache.read(|state| {
            let view = |(name, grant): (&String, &crate::engine::object::Versioned<GrantSpec>)| GrantView {
                name: name.clone(),
                spec: grant.value.clone(),
            };
            state.grants.iter().map(view).collect()
        }))
    }

    /// Deletes a Grant; what runs already goes on. Needs admin.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete_grant(&self, caller: &Caller, name: &str) -> Result<(), Error> {
        let result = async {
            caller.require(Role::Admin)?;
            self.delete("grant", name, &ObjectKey::Grant(name.to_owned())).await
        }
        .await;
        self.note(caller, "grant.delete", name, &result);
        result
    }

    pub(super) async fn delete(&self, what: &'static str, name: &str, key: &ObjectKey) -> Result<(), Error> {
        let path = codec::path(key).map_err(|_| Error::not_found(what, name))?;
        let txn = Txn::new().exists(&path).delete(&path);
        match self.inner.store.txn(txn).await? {
            crate::store::Outcome::Committed { revision } => {
                self.inner.cache.seen(revision).await;
                Ok(())
            }
            crate::store::Outcome::Conflict { .. } => Err(Error::not_found(what, name)),
        }
    }
}

fn check_match(if_match: Option<&str>, current: Option<&str>) -> Result<(), Error> {
    match (if_match, current) {
        (None, _) | (Some("*"), Some(_)) => Ok(()),
        (Some(wanted), Some(current)) if wanted.trim_matches('"') == current => Ok(()),
        _ => Err(Error::Conflict("the experiment was changed meanwhile: read it again".to_owned())),
    }
}
