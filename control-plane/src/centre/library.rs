//! The centre's library of Experiments, and Grants.

use proto::grant::GrantSpec;
use proto::ids::Name;
use proto::problem::{Problem, Problems};
use proto::rest::{ExperimentView, GrantView};
use serde_json::Value;

use super::expected::{Change, Expected, tag_of};
use super::{Caller, Centre, Error, Role};
use crate::driver::codec;
use crate::engine::object::{
    CENTRAL, ExperimentKey, Object, ObjectKey, StoredExperiment, StoredGrant, Versioned,
};
use crate::store::Entry;

/// What is to be stored: a spec, and whose declarations it is part of.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// As written.
    pub spec: Value,
    /// The owner from now on; without one, what is known stays.
    pub owner: Option<String>,
}

impl From<Value> for Definition {
    fn from(spec: Value) -> Self {
        Self { spec, owner: None }
    }
}

/// The owner after a put: a thing that is another's is never taken.
fn owner_after(
    what: &str,
    name: &Name,
    old: Option<String>,
    wanted: Option<String>,
) -> Result<Option<String>, Error> {
    let Some(wanted) = wanted else { return Ok(old) };
    if let Err(error) = wanted.parse::<Name>() {
        return Err(Problems(vec![Problem::new("owner", format!("{error}"))]).into());
    }
    match old {
        Some(old) if old != wanted => Err(Error::Conflict(format!(
            "{what} {name} is owned by {old}: {wanted} may not change it; delete it first to hand it over"
        ))),
        _ => Ok(Some(wanted)),
    }
}

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
        owner: stored.owner.clone(),
    }
}

impl Centre {
    /// Stores an Experiment in the library where it is as expected; runs nothing. Its tag is that
    /// of its view. Needs author.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every mistake; [`Error::Precondition`].
    pub async fn put_experiment(
        &self,
        caller: &Caller,
        name: &str,
        definition: impl Into<Definition>,
        expected: &Expected,
    ) -> Result<ExperimentView, Error> {
        let result = self.put_experiment_inner(caller, name, definition.into(), expected).await;
        self.note(caller, "experiment.put", name, &result);
        result
    }

    async fn put_experiment_inner(
        &self,
        caller: &Caller,
        name: &str,
        Definition { spec, owner }: Definition,
        expected: &Expected,
    ) -> Result<ExperimentView, Error> {
        caller.require(Role::Author)?;
        let name = name_of(name)?;
        proto::validate::experiment(&spec)?;
        let hash = proto::hash::of_json(&spec).map_err(|error| Error::Internal(error.to_string()))?;
        let key = library_key(name.as_str());
        let path = codec::path(&ObjectKey::Experiment(key.clone()))?;
        let now = self.inner.clock.now();
        self.change_key(&path, |entry| {
            let old = entry.and_then(stored_experiment);
            expected.check(old.as_ref().map(|old| tag_of(&view_of(&key, old))).as_deref())?;
            let known = old.as_ref().and_then(|old| old.owner.clone());
            let owner = owner_after("experiment", &name, known, owner.clone())?;
            let stored = match old {
                Some(old) if old.hash == hash && old.owner == owner => {
                    return Ok((Change::Keep, view_of(&key, &old)));
                }
                old => StoredExperiment {
                    spec: spec.clone(),
                    hash: hash.clone(),
                    generation: old.map_or(1, |old| old.generation + 1),
                    uid: String::new(),
                    author: caller.name.clone(),
                    stored_at: now,
                    owner,
                },
            };
            let view = view_of(&key, &stored);
            Ok((Change::Put(codec::encode(&Object::Experiment(key.clone(), stored))?), view))
        })
        .await
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

    /// Deletes an Experiment of the library where it is as expected; runs made from it are not
    /// touched. Needs author.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Precondition`].
    pub async fn delete_experiment(
        &self,
        caller: &Caller,
        name: &str,
        expected: &Expected,
    ) -> Result<(), Error> {
        let result = async {
            caller.require(Role::Author)?;
            let key = library_key(name);
            let tag = |entry: &Entry| Some(tag_of(&view_of(&key, &stored_experiment(entry)?)));
            self.delete("experiment", name, &ObjectKey::Experiment(key.clone()), expected, tag).await
        }
        .await;
        self.note(caller, "experiment.delete", name, &result);
        result
    }

    /// Stores a Grant where it is as expected. Its tag is that of its view. Needs admin.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every mistake; [`Error::Precondition`].
    pub async fn put_grant(
        &self,
        caller: &Caller,
        name: &str,
        definition: impl Into<Definition>,
        expected: &Expected,
    ) -> Result<GrantView, Error> {
        let result = self.put_grant_inner(caller, name, definition.into(), expected).await;
        self.note(caller, "grant.put", name, &result);
        result
    }

    async fn put_grant_inner(
        &self,
        caller: &Caller,
        name: &str,
        definition: Definition,
        expected: &Expected,
    ) -> Result<GrantView, Error> {
        caller.require(Role::Admin)?;
        let name = name_of(name)?;
        let spec: GrantSpec = proto::validate::grant(&definition.spec)?;
        let path = codec::path(&ObjectKey::Grant(name.to_string()))?;
        self.change_key(&path, |entry| {
            expected.check(entry.and_then(|entry| grant_tag(name.as_str(), entry)).as_deref())?;
            let known = entry.and_then(stored_grant).and_then(|known| known.owner);
            let owner = owner_after("grant", &name, known, definition.owner.clone())?;
            let stored = StoredGrant { spec: spec.clone(), owner };
            let view = grant_view(name.as_str(), &stored);
            let object = Object::Grant(name.to_string(), stored);
            let value = codec::encode(&object)?;
            let same = entry.is_some_and(|entry| entry.value == value);
            Ok((if same { Change::Keep } else { Change::Put(value) }, view))
        })
        .await
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
            let view = |(name, grant): (&String, &Versioned<StoredGrant>)| grant_view(name, &grant.value);
            state.grants.iter().map(view).collect()
        }))
    }

    /// Deletes a Grant where it is as expected; what runs already goes on. Needs admin.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Precondition`].
    pub async fn delete_grant(&self, caller: &Caller, name: &str, expected: &Expected) -> Result<(), Error> {
        let result = async {
            caller.require(Role::Admin)?;
            let tag = |entry: &Entry| grant_tag(name, entry);
            self.delete("grant", name, &ObjectKey::Grant(name.to_owned()), expected, tag).await
        }
        .await;
        self.note(caller, "grant.delete", name, &result);
        result
    }

    async fn delete(
        &self,
        what: &'static str,
        name: &str,
        key: &ObjectKey,
        expected: &Expected,
        tag: impl Fn(&Entry) -> Option<String>,
    ) -> Result<(), Error> {
        let path = codec::path(key).map_err(|_| Error::not_found(what, name))?;
        self.change_key(&path, |entry| {
            expected.check(entry.and_then(&tag).as_deref())?;
            entry.map(|_| (Change::Delete, ())).ok_or_else(|| Error::not_found(what, name))
        })
        .await
    }
}

fn stored_experiment(entry: &Entry) -> Option<StoredExperiment> {
    serde_json::from_slice(&entry.value).ok()
}

fn stored_grant(entry: &Entry) -> Option<StoredGrant> {
    serde_json::from_slice(&entry.value).ok()
}

fn grant_view(name: &str, stored: &StoredGrant) -> GrantView {
    GrantView { name: name.to_owned(), spec: stored.spec.clone(), owner: stored.owner.clone() }
}

fn grant_tag(name: &str, entry: &Entry) -> Option<String> {
    Some(tag_of(&grant_view(name, &stored_grant(entry)?)))
}
