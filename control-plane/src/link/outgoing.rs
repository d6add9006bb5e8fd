//! What is due, made into a message at the moment it is sent: the latest state, and the time that
//! is left now.

use jiff::Timestamp;
use proto::assignment::{Intent, StopReason};
use proto::grant::Principal;
use proto::ids::{ClusterId, RunId};
use proto::wire::{AuthoredKind, AuthoredRef, Down, Halts, Mirror};

use super::hub::Hub;
use super::lane::{Due, Lane};
use crate::authored::run_status;
use crate::engine::state::{State, applies_to};
use crate::engine::stopping::{stop_of, was_started};

/// How soon a closed session may come back, milliseconds.
fn reconnect_in_ms(reason: &str) -> u64 {
    match reason {
        "Accepted" => 0,
        "Draining" => 500,
        "Revoked" | "Removed" | "OtherCluster" | "OldStore" => 60_000,
        _ => 2_000,
    }
}

/// The message that ends a session.
pub(super) fn go_away(reason: &str) -> Down {
    Down::GoAway { reason: reason.to_owned(), reconnect_in_ms: reconnect_in_ms(reason) }
}

/// The message for what is due; `None` when there is nothing to say after all.
pub(super) fn message(hub: &Hub, cluster: &ClusterId, lane: &Lane, due: Due) -> Option<Down> {
    let now = hub.clock.now();
    Some(match due {
        Due::Close(reason) => go_away(reason),
        Due::Halts => Down::Halts(halts(hub, cluster)),
        Due::Stop(run) | Due::Desired(run) => return desired(hub, cluster, &run, now),
        Due::Clock(id) => Down::ClockReply { id, at: now },
        Due::Heartbeat(seq) => Down::HeartbeatAck { at: now, seq, accepted: lane.accepted() },
        Due::Ack(run, epoch, seq) => Down::ObservedAck { run, epoch, seq },
        Due::DesiredList => Down::DesiredList(
            hub.cache.read(|state| state.runs_on(cluster).map(|(id, _)| id.clone()).collect()),
        ),
        Due::Spec(hash) => {
            let body = hub.cache.read(|state| state.specs.get(&hash).map(|known| known.json.clone()));
            Down::Spec { hash, body: body.unwrap_or_default().into_bytes() }
        }
        Due::Endpoints => {
            let stored = hub.cache.read(|state| state.endpoints.clone());
            return stored.map(|stored| Down::Endpoints(Box::new(stored.signed)));
        }
        Due::Renewed(chain_pem, bundle_pem) => Down::Renewed { chain_pem, bundle_pem },
        Due::Nack(nack) => Down::Nack(nack),
        Due::MirrorRun(run) => return hub.cache.read(|state| mirror(state, cluster, &run)),
        Due::Mirror(object, status) => Down::Mirror(Mirror { object, status }),
    })
}

/// Every halt that is about this cluster, from the store and from memory. One that the cluster set
/// itself is not sent back.
fn halts(hub: &Hub, cluster: &ClusterId) -> Halts {
    let latched = hub.latch.halts();
    hub.cache.read(|state| {
        let Some(member) = state.spec_of(cluster) else {
            return Halts::default();
        };
        let mut halts: Vec<_> = state.halts.values().map(|halt| halt.value.clone()).collect();
        halts.extend(latched.into_iter().filter(|halt| !state.halts.contains_key(&halt.id)));
        halts.retain(|halt| {
            halt.origin.is_none() && applies_to(halt, member) && !state.resumed.contains(&halt.id)
        });
        Halts { halts, resumed: state.resumed.iter().cloned().collect() }
    })
}

/// Why a run is stopped, in memory or on record: whoever leads may not have written what follows
/// from it yet, and until then nobody is told to start.
pub(super) fn stop_reason(hub: &Hub, run: &RunId) -> Option<StopReason> {
    hub.latch.stop_reason(run).or_else(|| {
        let record = |state: &State| Some(state.runs.get(run)?.record.as_ref()?.value.stop.as_ref()?.reason);
        hub.cache.read(record)
    })
}

fn desired(hub: &Hub, cluster: &ClusterId, run: &RunId, now: Timestamp) -> Option<Down> {
    let stopped = stop_reason(hub, run);
    let mut desired = hub
        .cache
        .read(|state| state.runs.get(run)?.desired.get(cluster).map(|desired| desired.value.clone()))?;
    // What never started needs no Stop: the decision that ends it takes this generation.
    if let Some(reason) = stopped
        && was_started(&desired)
        && !matches!(desired.intent, Intent::Stop | Intent::Forget)
    {
        desired = stop_of(&desired, reason);
    }
    let left = desired.start_before.filter(|_| desired.intent == Intent::Start);
    let start_within_ms = left.map_or(0, |at| u64::try_from(at.duration_since(now).as_millis()).unwrap_or(0));
    Some(Down::Desired { desired: Box::new(desired), start_within_ms })
}

/// The status of a run for its authored object in this cluster.
fn mirror(state: &State, cluster: &ClusterId, run: &RunId) -> Option<Down> {
    let entry = state.runs.get(run)?;
    let (record, summary) = (&entry.record.as_ref()?.value, &entry.summary.as_ref()?.value);
    let Principal::Namespace { cluster: origin, .. } = &record.principal else {
        return None;
    };
    if origin != cluster {
        return None;
    }
    let object = AuthoredRef {
        kind: AuthoredKind::Run,
        namespace: record.namespace.parse().ok()?,
        name: record.name.parse().ok()?,
        uid: record.uid.clone(),
    };
    let status = serde_json::to_vec(&run_status(record, summary)).ok()?;
    Some(Down::Mirror(Mirror { object, status }))
}
