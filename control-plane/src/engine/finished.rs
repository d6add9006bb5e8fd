//! A finished run: what a cluster still says is summed up, agents may forget, and after its time
//! to live the run leaves the store (its tombstone stays), unless it is Dirty: that is listed until a person deletes
//! the run or its cluster reads back clean.

use jiff::Timestamp;
use proto::assignment::{ClusterPhase, Desired, Intent, Residue};

use super::object::{Object, ObjectKey};
use super::{CHUNK, Decision, View, after, earlier, prune, stopping, summary};

/// `ttlAfterFinished` where the run names none: 168h.
const TTL_MS: u64 = 168 * 3600 * 1000;

pub(super) fn decide(view: View<'_>, now: Timestamp) -> Decision {
    let mut next = summary::summarise(view.state, view.id, view.entry, view.summary, now);
    // What ended before anything started keeps its own words.
    if !view.entry.desired.values().any(|desired| stopping::was_started(&desired.value)) {
        next.outcome = view.summary.outcome;
    }
    let forget: Vec<_> =
        view.entry.desired.iter().filter(|(id, d)| may_forget(view, id, &d.value)).take(CHUNK).collect();
    if !forget.is_empty() || next != *view.summary {
        let mut commit = view.commit(next);
        for (cluster, desired) in forget {
            commit.compare.push((ObjectKey::Desired(cluster.clone(), view.id.clone()), desired.revision));
            let value = Desired {
                generation: desired.value.generation + 1,
                intent: Intent::Forget,
                ..desired.value.clone()
            };
            commit.put.push(Object::Desired(cluster.clone(), Box::new(value)));
        }
        return Decision::commit(commit);
    }
    let ttl = view.record.spec.ttl_after_finished.as_ref().and_then(|span| span.ms().ok()).unwrap_or(TTL_MS);
    let listed = view.summary.residue == Residue::Dirty;
    let expires_at = view.summary.finished_at.filter(|_| !listed).map(|at| after(at, ttl));
    if expires_at.is_some_and(|at| at <= now) && prune::removable(view.entry) {
        return Decision::commit(prune::remove(view.state, view.id, view.entry));
    }
    // What was heard after it was given up may be given up again.
    let next_bound = summary::next_bound(view.state, view.entry, now);
    Decision::wait(earlier(expires_at.filter(|at| *at > now), next_bound))
}

/// An agent may forget what never started, and what it reported as finished with nothing left: while something is
/// Unknown or Dirty it goes on looking, and says so when the node is back.
fn may_forget(view: View<'_>, cluster: &proto::ids::ClusterId, desired: &Desired) -> bool {
    let reported = view
        .entry
        .observed
        .get(cluster)
        .map(|record| &record.value.observed)
        .is_some_and(|said| said.phase == ClusterPhase::Finished && said.residue == Residue::Clean);
    desired.intent != Intent::Forget && (reported || !stopping::was_started(desired))
}
