//! Telling who is concerned that something changed: marks in the lanes of sessions, ids to
//! watchers. Nothing here waits.

use proto::grant::Principal;
use proto::ids::{ClusterId, RunId};
use proto::run::RunRecord;

use super::{Driver, deny_list, is_of_deny_list};
use crate::engine::object::{Object, ObjectKey, Revision};
use proto::assignment::Intent;

/// What of an object matters for telling, kept while the object moves into the world.
#[derive(Debug)]
pub(super) struct Note {
    key: ObjectKey,
    /// A desired state that stops.
    stops: bool,
    /// The session's id.
    session: Option<String>,
}

impl Note {
    pub(super) fn of(object: &Object) -> Self {
        let stops = matches!(object, Object::Desired(_, desired) if desired.intent == Intent::Stop);
        let session = match object {
            Object::Session(_, record) => Some(record.session.clone()),
            _ => None,
        };
        Self { key: object.key(), stops, session }
    }
}

/// An object was put.
pub(super) fn stored(driver: &Driver, note: &Note, revision: Revision) {
    let cache = &driver.cache;
    match &note.key {
        ObjectKey::Desired(cluster, run) => {
            if let Some(lane) = cache.lane(cluster) {
                if note.stops {
                    lane.stop(run);
                } else {
                    lane.desired(run);
                }
            }
        }
        ObjectKey::Halt(_) | ObjectKey::Resumed(_) => halts(driver),
        ObjectKey::Endpoints => endpoints(driver),
        ObjectKey::Session(cluster) => {
            let lane = cache.lane(cluster).filter(|lane| lane.revision() < revision);
            if let Some(lane) = lane.filter(|lane| Some(lane.session()) != note.session.as_deref()) {
                lane.close("Superseded");
            }
        }
        ObjectKey::ClusterSpec(cluster) => member(driver, cluster),
        _ => {}
    }
    changed(driver, &note.key);
    // After the deny list was changed: the agent's next handshake meets it.
    if let ObjectKey::Revoked(cluster, _) = &note.key
        && let Some(lane) = cluster.parse().ok().and_then(|cluster: ClusterId| driver.cache.lane(&cluster))
    {
        lane.close("Revoked");
    }
}

/// An object was deleted.
pub(super) fn deleted(driver: &Driver, key: &ObjectKey) {
    match key {
        ObjectKey::Desired(cluster, _) => {
            if let Some(lane) = driver.cache.lane(cluster) {
                lane.desired_list();
            }
        }
        ObjectKey::Halt(_) => halts(driver),
        ObjectKey::Session(cluster) => {
            if let Some(lane) = driver.cache.lane(cluster) {
                lane.reassert.notify_one();
            }
        }
        ObjectKey::ClusterSpec(cluster) => {
            if let Some(lane) = driver.cache.lane(cluster) {
                lane.close("Removed");
            }
        }
        _ => {}
    }
    changed(driver, key);
}

fn halts(driver: &Driver) {
    for (_, lane) in driver.cache.all_lanes() {
        lane.halts();
    }
}

fn endpoints(driver: &Driver) {
    for (_, lane) in driver.cache.all_lanes() {
        lane.endpoints();
    }
    driver.cache.announce_endpoints();
}

/// A revoked member's session ends; an accepted one comes back and says everything again.
fn member(driver: &Driver, cluster: &ClusterId) {
    let Some(lane) = driver.cache.lane(cluster) else {
        return;
    };
    let Some((accepted, revoked)) =
        driver.cache.read(|state| state.spec_of(cluster).map(|spec| (spec.accepted, spec.revoked)))
    else {
        return;
    };
    if revoked {
        lane.close("Revoked");
    } else if accepted != lane.accepted() {
        lane.close("Accepted");
    }
}

fn changed(driver: &Driver, key: &ObjectKey) {
    // Made once at the end of the first listing, then with every change.
    if is_of_deny_list(key) && driver.cache.read(|state| state.complete) {
        driver.revocations.replace(driver.cache.read(deny_list));
    }
    match key {
        ObjectKey::Run(run) | ObjectKey::Summary(run) => {
            driver.cache.announce_run(run);
            mirror(driver, run);
        }
        ObjectKey::Plan(run, _) | ObjectKey::Desired(_, run) | ObjectKey::Observed(_, run) => {
            driver.cache.announce_run(run);
        }
        _ => {}
    }
}

/// The authored object's cluster is told its status.
fn mirror(driver: &Driver, run: &RunId) {
    let origin = |record: &RunRecord| match &record.principal {
        Principal::Namespace { cluster, .. } => Some(cluster.clone()),
        Principal::Operator { .. } => None,
    };
    let origin = driver.cache.read(|state| origin(&state.runs.get(run)?.record.as_ref()?.value));
    if let Some(lane) = origin.and_then(|cluster| driver.cache.lane(&cluster)) {
        lane.mirror_run(run);
    }
}
