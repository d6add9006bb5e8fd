//! What gives way when a report is larger than a value of the store may be.

use proto::assignment::Observed;
use proto::plan::ClusterPlan;

/// What of a value fits into the store with some room.
pub(super) const MAX_VALUE_BYTES: usize = 15 * 1024;

fn size<T: serde::Serialize>(value: &T) -> usize {
    serde_json::to_vec(value).map_or(0, |json| json.len())
}

/// Drops the oldest of the timeline, then detail, until it fits the store.
pub(super) fn fit(observed: &mut Observed) {
    observed.injections.truncate(20);
    let surplus = observed.timeline.len().saturating_sub(40);
    observed.timeline.drain(..surplus);
    while size(observed) > MAX_VALUE_BYTES {
        if !observed.timeline.is_empty() {
            let half = observed.timeline.len().div_ceil(2);
            observed.timeline.drain(..half);
        } else if !observed.injections.is_empty() {
            observed.injections.truncate(observed.injections.len() / 2);
        } else if observed.probes.pop().is_none() && observed.refusals.pop().is_none() {
            observed.message = observed.message.chars().take(1024).collect();
            observed.reason = observed.reason.chars().take(128).collect();
            return;
        }
    }
}

/// The sample is for people: it gives way.
pub(super) fn fit_plan(plan: &ClusterPlan) -> ClusterPlan {
    let mut plan = plan.clone();
    for keep in [50, 20, 5, 0] {
        for pods in plan.sample.values_mut() {
            pods.truncate(keep);
        }
        if size(&plan) <= MAX_VALUE_BYTES {
            break;
        }
    }
    plan
}
