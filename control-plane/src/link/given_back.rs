//! What an agent holds that the centre may have forgotten, and what it halted by itself. A store
//! that was restored from an older copy knows fewer halts and stops than the agents do: they give
//! them back, and nothing is un-stopped. What one cluster says stops nobody else.

use std::collections::{BTreeMap, BTreeSet};

use proto::assignment::{Intent, StopReason};
use proto::halt::{Halt, HaltLevel, HaltScope};
use proto::ids::HaltId;
use proto::run::StopRequest;
use proto::status::RunPhase;
use proto::wire::{HaltState, Held, Hello};

use super::ingest::Ingest;
use crate::authored::{Recorded, record_stop};
use crate::centre::{Error, persist_halt};
use crate::driver::codec;
use crate::engine::object::{Object, ObjectKey};
use crate::engine::stopping::stop_of;
use crate::store::Txn;

/// Most halts kept of one cluster.
const MAX_LOCAL_HALTS: usize = 32;

impl Ingest {
    /// Takes back what the agent holds and the store does not know.
    pub(super) async fn given_back(&self, hello: &Hello) -> Result<(), Error> {
        for halt in hello.halts.iter().take(MAX_LOCAL_HALTS) {
            self.adopt_halt(halt).await?;
        }
        for held in hello.held.iter().filter(|held| held.intent == Intent::Stop) {
            self.adopt_stop(held).await?;
        }
        Ok(())
    }

    fn note(&self, action: &str, subject: &str) {
        let by = format!("cluster:{}", self.cluster);
        self.hub.audit.note(&by, action, subject, "ok");
    }

    /// A halt that the centre forgot. It comes back for this cluster only: what one cluster says
    /// stops nobody else.
    async fn adopt_halt(&self, halt: &Halt) -> Result<(), Error> {
        let known = self
            .hub
            .cache
            .read(|state| state.halts.contains_key(&halt.id) || state.resumed.contains(&halt.id));
        let latched = self.hub.latch.halts().iter().any(|latched| latched.id == halt.id);
        if known || latched || halt.origin.is_some() {
            return Ok(());
        }
        let adopted = Halt { scope: self.narrowed(&halt.scope), ..halt.clone() };
        tracing::warn!(cluster = %self.cluster, halt = %halt.id, "adopt a halt that the agent holds");
        self.note("halt.adopt", halt.id.as_str());
        persist_halt(self.hub.store.as_ref(), adopted).await.map(|_| ())
    }

    fn narrowed(&self, scope: &HaltScope) -> HaltScope {
        let cluster = self.cluster.clone();
        match scope {
            HaltScope::Namespace { namespace, .. } => {
                HaltScope::Namespace { cluster, namespace: namespace.clone() }
            }
            _ => HaltScope::Cluster { cluster },
        }
    }

    /// A stop of a later generation than any that the store knows. Before anything was dispatched
    /// the run is stopped; later this cluster's part of it, as the others give back theirs.
    async fn adopt_stop(&self, held: &Held) -> Result<(), Error> {
        let known = self.hub.cache.read(|state| {
            let entry = state.runs.get(&held.run)?;
            let desired = entry.desired.get(&self.cluster)?.clone();
            Some((desired, entry.summary.as_ref()?.value.phase))
        });
        let Some((desired, phase)) = known else {
            return Ok(());
        };
        let older = desired.value.generation < held.generation;
        if !older || !matches!(desired.value.intent, Intent::Plan | Intent::Start) {
            return Ok(());
        }
        tracing::warn!(cluster = %self.cluster, run = %held.run, "adopt a stop that the agent holds");
        let written = if matches!(phase, RunPhase::Planning | RunPhase::AwaitingApproval) {
            let by = format!("cluster:{}", self.cluster);
            let stop = StopRequest { reason: StopReason::Requested, by, at: self.hub.clock.now() };
            record_stop(self.hub.store.as_ref(), &held.run, &stop).await? == Recorded::Written
        } else {
            let mut stopped = stop_of(&desired.value, StopReason::Requested);
            stopped.generation = stopped.generation.max(held.generation);
            let object = Object::Desired(self.cluster.clone(), Box::new(stopped));
            let path = codec::path(&object.key())?;
            let txn = Txn::new().unchanged(&path, desired.revision).put(&path, codec::encode(&object)?);
            if self.hub.store.txn(txn).await?.is_conflict() {
                // Somebody decided meanwhile: look again.
                return Err(Error::Conflict(format!("what is desired of run {} changed", held.run)));
            }
            true
        };
        if written {
            self.note("run.stop.adopt", held.run.as_str());
        }
        Ok(())
    }

    pub(super) async fn halt_state(&self, state: HaltState) -> Result<(), Error> {
        let own: BTreeMap<HaltId, HaltId> =
            state.local.iter().map(|halt| (halt.id.clone(), self.local_id(&halt.id))).collect();
        let named = |id: &HaltId| own.get(id).unwrap_or(id).to_string();
        let mut levels: BTreeMap<String, HaltLevel> =
            state.latched.iter().map(|id| (named(id), HaltLevel::Latched)).collect();
        levels.extend(state.clean.iter().map(|id| (named(id), HaltLevel::Clean)));
        self.hub.update_status(&self.cluster, |status| status.halts.clone_from(&levels)).await?;
        let here = self.hub.cache.read(|world| {
            let ours = world.halts.values().filter(|halt| halt.value.origin.as_ref() == Some(&self.cluster));
            ours.map(|halt| halt.value.id.clone()).collect::<BTreeSet<_>>()
        });
        for halt in state.local.iter().take(MAX_LOCAL_HALTS) {
            let id = self.local_id(&halt.id);
            if !here.contains(&id) {
                let halt = Halt {
                    id,
                    scope: self.narrowed(&halt.scope),
                    origin: Some(self.cluster.clone()),
                    ..halt.clone()
                };
                persist_halt(self.hub.store.as_ref(), halt).await?;
            }
        }
        // Lifted where it was set: by deleting the object, or the file.
        for id in here.iter().filter(|id| !own.values().any(|local| local == *id)) {
            let mut txn = Txn::new().delete(codec::path(&ObjectKey::Halt(id.clone()))?);
            let revision = Object::HaltsRevision;
            txn = txn.put(codec::path(&revision.key())?, codec::encode(&revision)?);
            let _ = self.hub.store.txn(txn).await?;
        }
        Ok(())
    }

    /// Ids that a cluster chose are kept apart from everybody else's.
    fn local_id(&self, id: &HaltId) -> HaltId {
        let plain = format!("{}.{id}", self.cluster);
        let hashed = || format!("local-{}", &proto::hash::sha256_hex(plain.as_bytes())[..32]);
        plain.parse().or_else(|_| hashed().parse()).unwrap_or_else(|_| id.clone())
    }
}
