//! Two Secrets under names the chart fixes but does not own, and the ConfigMap with the roots that node daemons
//! trust. A Secret is replaced only where it holds what was last seen in it, or what this agent tried to write since:
//! an agent that lost the lead does not undo what its successor wrote. Called by whoever enrols and renews, by way of
//! [`Secrets`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use sha2::{Digest, Sha256};
use tokio::time::{MissedTickBehavior, interval};

use super::answer::{Failure, RACES, call};
use super::{Kube, MANAGED_BY, lock};
use crate::cluster::{Error, Leadership, Secrets, secret};

/// The one key of our Secrets.
const DOCUMENT: &str = "document";
/// The key that node daemons mount.
const BUNDLE: &str = "ca.crt";
/// A lost or changed bundle is put back this soon.
const BUNDLE_EVERY: Duration = Duration::from_secs(30);

/// What a Secret held when it was last read or written.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    version: String,
    digest: Option<[u8; 32]>,
    /// Documents that left for this version, where no answer told what became of them: any of them may be there by
    /// now. Cleared with the next version that is read.
    tried: BTreeSet<[u8; 32]>,
}

impl Seen {
    fn of(object: &Secret) -> Self {
        let version = object.metadata.resource_version.clone().unwrap_or_default();
        Self { version, digest: value(object).map(digest), tried: BTreeSet::new() }
    }

    /// Whether nobody else's document is there.
    fn allows(&self, there: &Self) -> bool {
        self.digest == there.digest || there.digest.is_some_and(|digest| self.tried.contains(&digest))
    }
}

/// While the version stays, a write that got no answer may still arrive.
fn remember(known: &mut BTreeMap<String, Seen>, object_name: String, mut there: Seen) {
    if let Some(before) = known.remove(&object_name).filter(|before| before.version == there.version) {
        there.tried = before.tried;
    }
    known.insert(object_name, there);
}

fn digest(value: &[u8]) -> [u8; 32] {
    Sha256::digest(value).into()
}

fn value(object: &Secret) -> Option<&[u8]> {
    object.data.as_ref()?.get(DOCUMENT).map(|bytes| bytes.0.as_slice())
}

#[async_trait]
impl Secrets for Kube {
    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let object_name = self.secret_name(name)?;
        let object = self.read_secret(&object_name).await?;
        let mut seen = lock(&self.0.secrets);
        let Some(object) = object else {
            seen.remove(&object_name);
            return Ok(None);
        };
        remember(&mut seen, object_name, Seen::of(&object));
        Ok(value(&object).map(<[u8]>::to_vec))
    }

    async fn put(&self, name: &str, value: &[u8]) -> Result<(), Error> {
        let object_name = self.secret_name(name)?;
        let what = || format!("put secret {object_name}");
        let mut lost = None;
        for _ in 0..RACES {
            let seen = self.trying(&object_name, &digest(value));
            match self.write_secret(&object_name, value, seen.as_ref()).await {
                Ok(stored) => {
                    lock(&self.0.secrets).insert(object_name, Seen::of(&stored));
                    return Ok(());
                }
                Err(failure) if failure.is_conflict() || failure.is_missing(&object_name) => {
                    let there = self.read_secret(&object_name).await?.map(|object| Seen::of(&object));
                    self.settle(&object_name, seen.as_ref(), there)?;
                    lost = Some(failure);
                }
                Err(failure) => return Err(failure.into_error(what())),
            }
        }
        Err(lost.unwrap_or(Failure::Silent("no try was made".to_owned())).into_error(what()))
    }

    async fn publish_node_bundle(&self, bundle_pem: &str) -> Result<(), Error> {
        self.0.bundle.send_replace(Some(bundle_pem.to_owned()));
        self.write_bundle(bundle_pem).await
    }
}

impl Kube {
    fn secret_name(&self, name: &str) -> Result<String, Error> {
        match name {
            secret::IDENTITY => Ok(self.settings().identity_secret.clone()),
            secret::NODE_CA => Ok(self.settings().node_ca_secret.clone()),
            other => Err(Error::Refused {
                what: format!("use secret {other}"),
                why: "no such document".to_owned(),
            }),
        }
    }

    fn secret_api(&self) -> Api<Secret> {
        Api::namespaced(self.client(), &self.settings().namespace)
    }

    async fn read_secret(&self, object_name: &str) -> Result<Option<Secret>, Error> {
        match call(self.secret_api().get(object_name)).await {
            Ok(object) => Ok(Some(object)),
            Err(failure) if failure.is_missing(object_name) => Ok(None),
            Err(failure) => Err(failure.into_error(format!("get secret {object_name}"))),
        }
    }

    async fn write_secret(
        &self,
        object_name: &str,
        value: &[u8],
        seen: Option<&Seen>,
    ) -> Result<Secret, Failure> {
        let metadata = owned(object_name, seen.map(|seen| seen.version.clone()));
        let data = Some([(DOCUMENT.to_owned(), ByteString(value.to_vec()))].into());
        let object = Secret { metadata, data, type_: Some("Opaque".to_owned()), ..Secret::default() };
        let (api, params) = (self.secret_api(), PostParams::default());
        match seen {
            Some(_) => call(api.replace(object_name, &params, &object)).await,
            None => call(api.create(&params, &object)).await,
        }
    }

    /// What was last seen, noting that this document is about to leave: also where the write is given up half way.
    fn trying(&self, object_name: &str, document: &[u8; 32]) -> Option<Seen> {
        let mut known = lock(&self.0.secrets);
        let seen = known.get_mut(object_name)?;
        seen.tried.insert(*document);
        Some(seen.clone())
    }

    /// After a write that met another version: goes on with that one where its document is the one last seen
    /// (only a label has changed) or one that was tried since (an answer was lost), or where none was seen yet.
    fn settle(&self, object_name: &str, seen: Option<&Seen>, there: Option<Seen>) -> Result<(), Error> {
        let mut known = lock(&self.0.secrets);
        let Some(there) = there else {
            known.remove(object_name);
            return Ok(());
        };
        if !seen.is_none_or(|seen| seen.allows(&there)) {
            let why = "another agent has written it meanwhile; read it again".to_owned();
            return Err(Error::Refused { what: format!("put secret {object_name}"), why });
        }
        remember(&mut known, object_name.to_owned(), there);
        Ok(())
    }

    async fn write_bundle(&self, bundle_pem: &str) -> Result<(), Error> {
        let name = self.settings().node_bundle_configmap.as_str();
        let what = || format!("publish the node bundle {name}");
        let api: Api<ConfigMap> = Api::namespaced(self.client(), &self.settings().namespace);
        let mut lost = None;
        for _ in 0..RACES {
            let there = match call(api.get(name)).await {
                Ok(object) => Some(object),
                Err(failure) if failure.is_missing(name) => None,
                Err(failure) => return Err(failure.into_error(what())),
            };
            let held = there.as_ref().and_then(|object| object.data.as_ref()?.get(BUNDLE));
            if held.is_some_and(|held| held == bundle_pem) {
                return Ok(());
            }
            let version = there.and_then(|object| object.metadata.resource_version);
            let data = Some([(BUNDLE.to_owned(), bundle_pem.to_owned())].into());
            let object = ConfigMap { metadata: owned(name, version.clone()), data, ..ConfigMap::default() };
            let params = PostParams::default();
            let answer = match version {
                Some(_) => call(api.replace(name, &params, &object)).await,
                None => call(api.create(&params, &object)).await,
            };
            match answer {
                Ok(_) => return Ok(()),
                Err(failure) if failure.is_conflict() || failure.is_missing(name) => lost = Some(failure),
                Err(failure) => return Err(failure.into_error(what())),
            }
        }
        Err(lost.unwrap_or(Failure::Silent("no try was made".to_owned())).into_error(what()))
    }
}

fn owned(name: &str, resource_version: Option<String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
        resource_version,
        ..ObjectMeta::default()
    }
}

/// Puts the bundle back where somebody changed or deleted it, while this agent leads.
pub(super) async fn keep_bundle(door: &Kube) {
    let mut again = interval(BUNDLE_EVERY);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        again.tick().await;
        let leads = matches!(*door.0.leadership.borrow(), Leadership::Active { .. });
        let bundle = door.0.bundle.borrow().clone();
        if let Some(bundle) = bundle.filter(|_| leads)
            && let Err(error) = door.write_bundle(&bundle).await
        {
            tracing::warn!(%error, "the node bundle may be out of date");
        }
    }
}

#[cfg(test)]
mod tests;
