//! Whether this process acts for the cluster: one Lease, renewed by who holds it and watched by who does not.
//! Called by [`Kube::run`]; read by everybody through `Sight::leadership`.
//!
//! The lead is announced only after its epoch is kept outside of the Lease as well, so that no epoch comes twice
//! even where the Lease is deleted. A lead that cannot be renewed for the Lease's whole duration (counted from
//! before the last renewal was sent, so no successor can be earlier) becomes stop-only, until it was renewed or
//! is seen to be another's.

mod active;
mod judge;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::PostParams;
use tokio_util::sync::CancellationToken;

use self::judge::{Candidate, Held, Move};
use super::answer::call_within;
use super::{Kube, LeaseTiming};
use crate::cluster::{Error, Leadership};

/// The Service's label is looked at this often while leading.
const LABEL_EVERY: Duration = Duration::from_mins(1);
/// Between two tries to give the lead back; who shuts down bounds them all.
const RESIGN_AGAIN: Duration = Duration::from_millis(200);

/// Stands for the lead until `shutdown`, then gives it back.
pub(super) async fn campaign(door: &Kube, shutdown: CancellationToken) {
    let mut campaign = Campaign {
        door,
        timing: door.settings().lease,
        candidate: Candidate::new(door.settings().pod_name.clone()),
        valid_until: None,
        labelled: None,
    };
    loop {
        let pause = tokio::select! {
            pause = campaign.turn() => pause,
            () = shutdown.cancelled() => break,
        };
        campaign.label().await;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = expiry(door, campaign.valid_until) => {}
            () = shutdown.cancelled() => break,
        }
    }
    campaign.resign().await;
}

struct Campaign<'a> {
    door: &'a Kube,
    timing: LeaseTiming,
    candidate: Candidate,
    /// The lead holds until then without a renewal.
    valid_until: Option<Instant>,
    /// When the Service's label was last right.
    labelled: Option<Instant>,
}

/// Makes the lead stop-only when it expires, at once. Never ends where there is nothing to expire.
async fn expiry(door: &Kube, valid_until: Option<Instant>) {
    let active = matches!(*door.0.leadership.borrow(), Leadership::Active { .. });
    match valid_until.filter(|_| active) {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
    door.0.leadership.send_if_modified(|now| {
        let Leadership::Active { epoch } = *now else {
            return false;
        };
        tracing::warn!(epoch, "the lease cannot be renewed: nothing starts, stops go on");
        *now = Leadership::StopOnly { epoch };
        true
    });
}

impl Campaign<'_> {
    /// One look at the Lease and what follows from it; the pause until the next.
    async fn turn(&mut self) -> Duration {
        let (door, valid_until) = (self.door, self.valid_until);
        let round = {
            let mut round = std::pin::pin!(self.round());
            tokio::select! {
                round = &mut round => round,
                () = expiry(door, valid_until) => round.await,
            }
        };
        match round {
            Ok(()) => jittered(self.timing.renew),
            Err(error) => {
                tracing::warn!(%error, leads = self.candidate.leads(), "lease not read or written");
                jittered(self.timing.renew / 4)
            }
        }
    }

    async fn round(&mut self) -> Result<(), Error> {
        let lease = self.read().await?;
        let held = lease.as_ref().map(held);
        // A leader knows its epoch; the floor matters to who would take the lead.
        let floor = match self.candidate.leads() {
            Some(epoch) => epoch,
            None => self.door.epoch_floor().await?,
        };
        match self.candidate.judge(held.as_ref(), floor, Instant::now()) {
            Move::Wait => Ok(()),
            Move::Lost => {
                tracing::warn!(holder = held.map(|held| held.holder), "the lead is another's");
                self.candidate.set_leads(None);
                self.valid_until = None;
                self.show(Leadership::Standby);
                // Not in the way of the next leader, which takes the label away too.
                active::unlabel_own(self.door, self.timing.renew).await
            }
            Move::Renew { transitions } => {
                let sent = Instant::now();
                self.write(lease, transitions, false).await?;
                self.leads_since(sent, transitions.saturating_add(1));
                Ok(())
            }
            Move::Take { transitions } => {
                let epoch = transitions.saturating_add(1);
                let sent = Instant::now();
                self.write(lease, transitions, true).await?;
                self.door.raise_epoch_floor(epoch).await?;
                self.labelled = None;
                self.leads_since(sent, epoch);
                Ok(())
            }
        }
    }

    fn leads_since(&mut self, sent: Instant, epoch: u64) {
        self.candidate.set_leads(Some(epoch));
        let until = sent + self.timing.duration;
        self.valid_until = Some(until);
        // An answer that came after the lead was over is a renewal, and the next round decides.
        if Instant::now() < until {
            self.show(Leadership::Active { epoch });
        }
    }

    fn show(&self, leadership: Leadership) {
        self.door.0.leadership.send_if_modified(|now| {
            let changed = *now != leadership;
            if changed {
                tracing::info!(from = ?now, to = ?leadership, "leadership");
                *now = leadership;
            }
            changed
        });
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.door.client(), &self.door.settings().namespace)
    }

    async fn read(&self) -> Result<Option<Lease>, Error> {
        let name = &self.door.settings().lease_name;
        match call_within(self.timing.renew, self.api().get(name)).await {
            Ok(lease) => Ok(Some(lease)),
            Err(failure) if failure.is_missing(name) => Ok(None),
            Err(failure) => Err(failure.into_error(format!("read lease {name}"))),
        }
    }

    /// Writes the Lease as ours, onto the very version that was read.
    async fn write(&self, before: Option<Lease>, transitions: u64, take: bool) -> Result<(), Error> {
        let now = MicroTime(Timestamp::now());
        let acquired = before.as_ref().and_then(|lease| lease.spec.as_ref()?.acquire_time.clone());
        let spec = LeaseSpec {
            holder_identity: Some(self.door.settings().pod_name.clone()),
            lease_duration_seconds: Some(whole_seconds(self.timing.duration)),
            lease_transitions: Some(i32::try_from(transitions).unwrap_or(i32::MAX)),
            acquire_time: Some(acquired.filter(|_| !take).unwrap_or_else(|| now.clone())),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        self.put(before, spec).await
    }

    async fn put(&self, before: Option<Lease>, spec: LeaseSpec) -> Result<(), Error> {
        let name = &self.door.settings().lease_name;
        let (api, params, bound) = (self.api(), PostParams::default(), self.timing.renew);
        let answer = if let Some(lease) = before {
            let lease = Lease { spec: Some(spec), ..lease };
            call_within(bound, api.replace(name, &params, &lease)).await
        } else {
            let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
            call_within(bound, api.create(&params, &Lease { metadata, spec: Some(spec) })).await
        };
        answer.map(drop).map_err(|failure| failure.into_error(format!("write lease {name}")))
    }

    /// Leads node daemons here. Failing that is told and tried again; it is no reason to give the lead up. Never
    /// cut off by a shutdown: a patch in flight could land after [`Self::resign`] took the label away again.
    async fn label(&mut self) {
        let due = self.labelled.is_none_or(|at| at.elapsed() >= LABEL_EVERY);
        if self.candidate.leads().is_none() || !due {
            return;
        }
        // All of it within one renewal.
        let (door, bound, valid_until) = (self.door, self.timing.renew, self.valid_until);
        let labelled = {
            let mut label = std::pin::pin!(tokio::time::timeout(bound, active::label(door, bound)));
            tokio::select! {
                labelled = &mut label => labelled,
                () = expiry(door, valid_until) => label.await,
            }
        };
        let why = match labelled {
            Ok(Ok(())) => {
                self.labelled = Some(Instant::now());
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        self.labelled = None;
        tracing::warn!(error = why, "node daemons may not find this agent");
    }

    /// Gives the lead back, so that the next one need not wait.
    async fn resign(&mut self) {
        self.show(Leadership::Standby);
        let Some(epoch) = self.candidate.leads() else {
            return;
        };
        self.candidate.set_leads(None);
        while let Err(error) = self.give_back(epoch).await {
            tracing::warn!(%error, "the lease is not given back yet; it may have to expire");
            if !error.retryable() {
                return;
            }
            tokio::time::sleep(RESIGN_AGAIN).await;
        }
    }

    async fn give_back(&self, epoch: u64) -> Result<(), Error> {
        active::unlabel_own(self.door, self.timing.renew).await?;
        let Some(lease) = self.read().await? else {
            return Ok(());
        };
        let now = held(&lease);
        if now.holder != self.door.settings().pod_name || now.transitions.saturating_add(1) != epoch {
            return Ok(());
        }
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..lease.spec.clone().unwrap_or_default()
        };
        self.put(Some(lease), spec).await
    }
}

fn held(lease: &Lease) -> Held {
    let spec = lease.spec.as_ref();
    let number = |value: Option<i32>| value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0);
    Held {
        holder: spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default(),
        transitions: number(spec.and_then(|spec| spec.lease_transitions)),
        duration: Duration::from_secs(number(spec.and_then(|spec| spec.lease_duration_seconds))),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

/// The Lease says whole seconds; rounded up, so that nobody takes over early.
fn whole_seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs_f64().ceil() as i64).unwrap_or(i32::MAX).max(1)
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.9 + 0.2 * fastrand::f64())
}
