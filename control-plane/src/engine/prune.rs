//! Taking a finished run out of the store, and what may be forgotten once it is old. Called by the
//! engine after the time to live, by the service when somebody deletes a finished run, and by the
//! leader's `retention`.

use proto::ids::{HaltId, RunId};
use proto::status::RunPhase;

use super::Commit;
use super::object::{Object, ObjectKey, RunEntry};
use super::state::State;

/// Clusters whose keys leave in one transaction.
const CHUNK: usize = 25;

/// Whether nothing waits for it any more.
pub fn removable(entry: &RunEntry) -> bool {
    entry.summary.as_ref().is_some_and(|summary| summary.value.phase == RunPhase::Finished)
}

/// Deletes it; with many clusters in several rounds, the record last.
pub fn remove(state: &State, id: &RunId, entry: &RunEntry) -> Commit {
    let mut commit = Commit { run: Some(id.clone()), ..Commit::default() };
    let revision = entry.summary.as_ref().map_or(0, |summary| summary.revision);
    commit.compare.push((ObjectKey::Summary(id.clone()), revision));
    let told = entry.desired.keys().chain(state.unreadable_of(id));
    let mut clusters: Vec<_> = told.chain(entry.observed.keys()).chain(entry.plans.keys()).cloned().collect();
    clusters.sort();
    clusters.dedup();
    for cluster in clusters.iter().take(CHUNK) {
        commit.delete.push(ObjectKey::Desired(cluster.clone(), id.clone()));
        commit.delete.push(ObjectKey::Observed(cluster.clone(), id.clone()));
        commit.delete.push(ObjectKey::Plan(id.clone(), cluster.clone()));
    }
    if clusters.len() <= CHUNK {
        commit.delete.push(ObjectKey::Run(id.clone()));
        commit.delete.push(ObjectKey::Summary(id.clone()));
        commit.note = Some(("run.prune", "ok".to_owned()));
    } else if let Some(summary) = &entry.summary {
        // Orders the rounds.
        commit.put.push(Object::Summary(Box::new(summary.value.clone())));
    }
    commit
}

/// Whether no run needs the effective spec of this hash.
pub fn spec_is_unused(state: &State, hash: &str) -> bool {
    let uses = |run: &RunEntry| run.record.as_ref().is_none_or(|record| record.value.spec_hash == hash);
    !state.runs.values().any(uses)
}

/// Whether the run that a tombstone stands for is gone: while it is there, its name is used.
pub fn tombstone_is_unused(state: &State, run: &RunId) -> bool {
    !state.runs.contains_key(run)
}

/// Whether no member was last heard of with this halt: one that comes back with it must be told
/// that it was lifted.
pub fn resumption_is_unused(state: &State, halt: &HaltId) -> bool {
    let has = |status: &proto::cluster::ClusterStatus| status.halts.contains_key(halt.as_str());
    let holds = |cluster: &super::state::ClusterEntry| {
        cluster.status.as_ref().is_some_and(|status| has(&status.value))
    };
    !state.clusters.values().any(holds)
}
