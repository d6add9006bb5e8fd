//! Taking a finished run out of the store. Called by the engine after the time to live, and by
//! the service when somebody deletes a finished run.

use proto::ids::RunId;
use proto::status::RunPhase;

use super::Commit;
use super::object::{Object, ObjectKey, RunEntry};

/// Clusters whose keys leave in one transaction.
const CHUNK: usize = 25;

/// Whether nothing waits for it any more.
pub fn removable(entry: &RunEntry) -> bool {
    entry.summary.as_ref().is_some_and(|summary| summary.value.phase == RunPhase::Finished)
}

/// Deletes it; with many clusters in several rounds, the record last.
pub fn remove(id: &RunId, entry: &RunEntry) -> Commit {
    let mut commit = Commit { run: Some(id.clone()), ..Commit::default() };
    let revision = entry.summary.as_ref().map_or(0, |summary| summary.revision);
    commit.compare.push((ObjectKey::Summary(id.clone()), revision));
    let mut clusters: Vec<_> =
        entry.desired.keys().chain(entry.observed.keys()).chain(entry.plans.keys()).cloned().collect();
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
