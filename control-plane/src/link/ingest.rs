//! Storing what an agent said, one thing at a time, and answering only what is committed. An
//! outage of the store makes this wait and nobody else.

mod fit;
mod renewal;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proto::assignment::{ClusterPhase, Intent, Observed, Outcome};
use proto::grant::Principal;
use proto::ids::ClusterId;
use proto::status::RunPhase;
use proto::wire::{Authored, Hello, Nack};

use self::fit::{fit, fit_plan};
use super::hub::Hub;
use super::inbox::{Inbox, Item};
use super::lane::Lane;
use super::session::End;
use crate::authored::Intake;
use crate::centre::Error;
use crate::driver::codec;
use crate::engine::object::{Object, ObjectKey, ObservedRecord};
use crate::engine::state::State;
use crate::store::{Compare, Outcome as TxnOutcome, PageRequest, Txn};

const RETRY: Duration = Duration::from_millis(300);
/// How long this replica may lag behind the store before it is looked at again.
const LAG: Duration = Duration::from_millis(20);

/// The writing part of a session.
#[derive(Debug)]
pub(super) struct Ingest {
    pub(super) hub: Arc<Hub>,
    pub(super) cluster: ClusterId,
    pub(super) inbox: Arc<Inbox>,
    pub(super) lane: Arc<Lane>,
}

impl Ingest {
    /// What is due at the beginning: the difference between what the agent holds and what is
    /// desired, all halts, and the status of everything it authored.
    pub(super) fn greet(&self, hello: &Hello, accepted: bool) {
        if let Some(kept) = hello.endpoints_sequence {
            self.lane.set_takes_endpoints();
            if self.hub.cache.read(in_force).is_some_and(|sequence| sequence > kept) {
                self.lane.endpoints();
            }
        }
        if !accepted {
            return;
        }
        let held: BTreeMap<_, _> =
            hello.held.iter().map(|held| (&held.run, (held.generation, held.intent))).collect();
        self.lane.halts();
        self.hub.cache.read(|state| {
            for (id, entry) in state.runs_on(&self.cluster) {
                let Some(desired) = entry.desired.get(&self.cluster).map(|desired| &desired.value) else { continue };
                let same = held.get(id) == Some(&(desired.generation, desired.intent));
                let on_record = entry.record.as_ref().is_some_and(|record| record.value.stop.is_some());
                let to_start = matches!(desired.intent, Intent::Plan | Intent::Start);
                let stopped = self.hub.latch.stop_reason(id).is_some() || (on_record && to_start);
                // A stop that the store forgot is given back; what came before it is not said again.
                let stops = |(generation, intent): &(u64, Intent)| {
                    *intent == Intent::Stop && *generation > desired.generation
                };
                let forgotten = held.get(id).is_some_and(stops);
                match desired.intent {
                    Intent::Forget if !held.contains_key(id) => {}
                    _ if stopped => self.lane.stop(id),
                    _ if same || forgotten => {}
                    Intent::Stop => self.lane.stop(id),
                    _ => self.lane.desired(id),
                }
            }
            for (id, entry) in &state.runs {
                let authored = entry.record.as_ref().is_some_and(|record| {
                    matches!(&record.value.principal, Principal::Namespace { cluster, .. } if *cluster == self.cluster)
                });
                if authored {
                    self.lane.mirror_run(id);
                }
            }
        });
    }

    /// Tells the agent every run with a desired state, once this replica knows all that the store
    /// has: what is not named there is stopped.
    async fn list_desired(&self) -> Result<(), Error> {
        let prefix = format!("desired/{}/", self.cluster);
        let mut request = PageRequest::first(500);
        let mut wanted = BTreeSet::new();
        loop {
            let page = self.hub.store.list(&prefix, request.clone()).await?;
            wanted.extend(page.entries.iter().filter_map(|entry| codec::parse(&entry.key)));
            match request.next(&page) {
                Some(next) => request = next,
                None => break,
            }
        }
        loop {
            let known = self.hub.cache.read(|state| {
                state
                    .runs_on(&self.cluster)
                    .map(|(run, _)| ObjectKey::Desired(self.cluster.clone(), run.clone()))
                    .collect()
            });
            if wanted.is_subset(&known) {
                self.lane.desired_list();
                return Ok(());
            }
            tokio::time::sleep(LAG).await;
            // What left the store meanwhile is not waited for, nor what nobody here can read: it never comes.
            for key in wanted.difference(&known).cloned().collect::<Vec<_>>() {
                let entry = self.hub.store.get(&codec::path(&key)?).await?;
                let object = entry.and_then(|entry| codec::decode(&key, &entry.value).ok());
                if object.is_none_or(|object| object.key() != key) {
                    wanted.remove(&key);
                }
            }
        }
    }

    /// Stores until the session ends.
    pub(super) async fn run(self, hello: Hello) -> End {
        let now = self.hub.clock.now();
        while let Err(error) = self.connected(&hello, now).await {
            tracing::warn!(cluster = %self.cluster, %error, "store the connection");
            tokio::time::sleep(RETRY).await;
        }
        loop {
            let item = self.inbox.next().await;
            if let Err(error) = self.store(item.clone()).await {
                let retry = match &error {
                    Error::Store(error) => {
                        error.retryable() || matches!(error, crate::store::Error::Conflict)
                    }
                    Error::Conflict(_) => true,
                    _ => false,
                };
                tracing::warn!(cluster = %self.cluster, %error, retry, "store what the agent said");
                if retry {
                    self.inbox.put_back(item);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn connected(&self, hello: &Hello, now: jiff::Timestamp) -> Result<(), Error> {
        self.hub
            .update_status(&self.cluster, |status| {
                status.version.clone_from(&hello.version);
                if status.kube_system_uid.is_empty() {
                    status.kube_system_uid.clone_from(&hello.kube_system_uid);
                }
                status.connected_at = Some(now);
                status.disconnected_at = None;
                status.endpoints_sequence = hello.endpoints_sequence;
            })
            .await?;
        if self.lane.accepted() {
            self.list_desired().await?;
            self.given_back(hello).await?;
        }
        Ok(())
    }

    async fn store(&self, item: Item) -> Result<(), Error> {
        match item {
            Item::HaltState(state) => self.halt_state(state).await,
            Item::Observed(observed, epoch, seq) => self.observed(*observed, epoch, seq).await,
            Item::Nack(nack) => self.nacked(&nack).await,
            Item::Renew(csr_pem, identity_csr_pem) => self.renew(&csr_pem, &identity_csr_pem).await,
            Item::Inventory(inventory) => {
                let mut inventory = *inventory;
                inventory.nodes.truncate(100);
                self.hub
                    .update_status(&self.cluster, |status| {
                        status.inventory.clone_from(&inventory);
                        // Said only by an agent that took our Welcome: a Hello alone would clear it at every attempt.
                        status.refused_as_old_at = None;
                    })
                    .await
            }
            Item::Authored(authored) => self.authored(&authored).await,
            Item::AuthoredList(refs) => self.intake().reconcile(&refs).await,
            Item::EndpointsKept(sequence) => {
                let kept = Some(sequence);
                // Any other number is old news by now, or none of ours: not worth a write.
                if self.hub.cache.read(in_force) != kept {
                    return Ok(());
                }
                self.hub.update_status(&self.cluster, |status| status.endpoints_sequence = kept).await
            }
            Item::RefusedAsOld => {
                let now = Some(self.hub.clock.now());
                self.hub.update_status(&self.cluster, |status| status.refused_as_old_at = now).await?;
                self.lane.close("OldStore");
                Ok(())
            }
        }
    }

    fn intake(&self) -> Intake {
        self.hub.intake(&self.cluster)
    }

    async fn authored(&self, authored: &Authored) -> Result<(), Error> {
        use crate::authored::Answer;
        match self.intake().take(authored).await? {
            Answer::Status(status) => {
                let status =
                    serde_json::to_vec(&status).map_err(|error| Error::Internal(error.to_string()))?;
                self.lane.mirror(authored.object.clone(), status);
            }
            Answer::Run(id) => self.lane.mirror_run(&id),
            Answer::Nothing => {}
        }
        Ok(())
    }

    /// Stores the latest of a run if it is newer than what is stored, then says so.
    async fn observed(&self, observed: Observed, epoch: u64, seq: u64) -> Result<(), Error> {
        let newer = |known: (u64, u64)| known < (epoch, seq);
        self.put_observed(observed, (epoch, seq), newer).await
    }

    async fn put_observed(
        &self,
        mut observed: Observed,
        (epoch, seq): (u64, u64),
        newer: impl Fn((u64, u64)) -> bool,
    ) -> Result<(), Error> {
        let run = observed.run.clone();
        let key = ObjectKey::Observed(self.cluster.clone(), run.clone());
        let path = codec::path(&key)?;
        let wanted = codec::path(&ObjectKey::Desired(self.cluster.clone(), run.clone()))?;
        let plan = observed.plan.take();
        fit(&mut observed);
        for _ in 0..8 {
            let entry = self.hub.store.get(&path).await?;
            let known: Option<ObservedRecord> =
                entry.as_ref().and_then(|entry| serde_json::from_slice(&entry.value).ok());
            if known.is_some_and(|known| !newer((known.agent_epoch, known.seq))) {
                self.lane.ack(&run, epoch, seq);
                return Ok(());
            }
            let record = ObservedRecord { agent_epoch: epoch, seq, observed: observed.clone() };
            let value = codec::encode(&Object::Observed(self.cluster.clone(), Box::new(record)))?;
            // Only what is desired here is listened to: no cluster writes about another's runs.
            let mut txn = Txn::new()
                .when(Compare::Exists(wanted.clone()))
                .when(Compare::ModRevision(path.clone(), entry.map_or(0, |entry| entry.mod_revision)))
                .put(&path, value);
            if let Some(plan) = plan.as_ref().filter(|_| self.is_planning(&run)) {
                let object = Object::Plan(run.clone(), self.cluster.clone(), Box::new(fit_plan(plan)));
                txn = txn.put(codec::path(&object.key())?, codec::encode(&object)?);
            }
            if let TxnOutcome::Committed { .. } = self.hub.store.txn(txn).await? {
                self.hub.health.observations.inc();
                self.lane.ack(&run, epoch, seq);
                return Ok(());
            }
            if self.hub.store.get(&wanted).await?.is_none() {
                // Pruned, or never ours: the agent need not say it again.
                self.lane.ack(&run, epoch, seq);
                self.lane.desired_list();
                return Ok(());
            }
        }
        Err(Error::Conflict(format!("observed state of run {run} keeps changing")))
    }

    fn is_planning(&self, run: &proto::ids::RunId) -> bool {
        self.hub.cache.read(|state| {
            let summary = state.runs.get(run).and_then(|entry| entry.summary.as_ref());
            summary.is_some_and(|summary| summary.value.phase == RunPhase::Planning)
        })
    }

    /// An agent could not take an assignment: that target is rejected at that generation, and
    /// nothing else happens.
    async fn nacked(&self, nack: &Nack) -> Result<(), Error> {
        self.hub.health.nacks.inc();
        tracing::warn!(cluster = %self.cluster, run = nack.run, code = nack.code, detail = nack.detail, "nack");
        let Ok(run) = nack.run.parse() else { return Ok(()) };
        let known = self.hub.cache.read(|state| {
            let entry = state.runs.get(&run)?;
            let desired = entry.desired.get(&self.cluster)?;
            let record = entry.observed.get(&self.cluster).map(|observed| observed.value.clone());
            Some((desired.value.generation, desired.value.intent, record))
        });
        let Some((generation, intent, record)) = known else {
            return Ok(());
        };
        let started = record.as_ref().is_some_and(|record| record.observed.phase >= ClusterPhase::Accepted);
        if generation != nack.generation || started || !matches!(intent, Intent::Plan | Intent::Start) {
            return Ok(());
        }
        // Our own word in the agent's name: its next one is newer than this, whatever it is.
        let known = record.map_or((0, 0), |record| (record.agent_epoch, record.seq));
        let mut observed = Observed::new(run, generation, ClusterPhase::Finished);
        observed.outcome = Some(Outcome::Denied);
        "Rejected".clone_into(&mut observed.reason);
        observed.message = format!("{}: {}", nack.code, nack.detail);
        observed.finished_at = Some(self.hub.clock.now());
        self.put_observed(observed, known, |stored| stored <= known).await
    }
}

/// Sequence of the list that agents are told.
fn in_force(state: &State) -> Option<u64> {
    state.endpoints.as_ref().map(|stored| stored.signed.list.sequence)
}
