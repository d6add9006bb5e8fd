//! The meaning of an Experiment: names, references between its parts, limits.

use super::{Report, fault, overrides, probe, target};
use crate::experiment::{ExperimentSpec, Limits, defaults as d};
use crate::quantity::Span;

const DAY_MS: u64 = 24 * 3600 * 1000;

pub(super) fn check(spec: &ExperimentSpec, p: &mut Report) {
    p.unique("spec.targets", spec.targets.iter().map(|t| t.name.as_str()));
    p.unique("spec.steadyState", spec.steady_state.iter().map(|s| s.name.as_str()));
    p.unique("spec.faults", spec.faults.iter().map(|f| f.name.as_str()));
    if spec.clusters.is_empty() && spec.targets.iter().any(|t| t.clusters.is_none()) {
        p.add("spec.clusters", "name clusters or give a label selector");
    }
    target::check_clusters(&spec.clusters, "spec.clusters", p);
    for (index, t) in spec.targets.iter().enumerate() {
        target::check(t, &format!("spec.targets[{index}]"), p);
    }
    let deadline = check_limits(&spec.limits, p);
    for (index, f) in spec.faults.iter().enumerate() {
        fault::check(spec, f, deadline, &format!("spec.faults[{index}]"), p);
    }
    for (index, s) in spec.steady_state.iter().enumerate() {
        probe::check(s, &format!("spec.steadyState[{index}]"), p);
    }
    overrides::check_settable(spec, p);
}

/// The cluster deadline in milliseconds, where it is one.
fn check_limits(limits: &Limits, p: &mut Report) -> Option<u64> {
    let mut span = |name: &str, span: Option<&Span>, default: u64| match span {
        Some(span) => p.span(&format!("spec.limits.{name}"), span, 1000, 7 * DAY_MS),
        None => Some(default),
    };
    let cluster = span("clusterDeadline", limits.cluster_deadline.as_ref(), d::CLUSTER_DEADLINE_MS);
    let run = span("runDeadline", limits.run_deadline.as_ref(), d::RUN_DEADLINE_MS);
    span("startWithin", limits.start_within.as_ref(), d::START_WITHIN_MS);
    let after = limits.on_link_loss.as_ref().and_then(|l| l.after.as_ref());
    span("onLinkLoss.after", after, d::LINK_LOSS_AFTER_MS);
    if let (Some(cluster), Some(run)) = (cluster, run)
        && cluster > run
    {
        let (run, cluster) = (Span::from_ms(run), Span::from_ms(cluster));
        p.add("spec.limits.runDeadline", format!("is {run}, shorter than the cluster deadline of {cluster}"));
    }
    cluster
}
