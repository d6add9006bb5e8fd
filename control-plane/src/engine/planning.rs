//! Planning: find the definition, ask every selected cluster what would be hit, collect what
//! stands in the way, and go on to the dispatch only when every plan is there.

use jiff::Timestamp;
use proto::assignment::{ClusterPhase, Desired, Intent, Outcome};
use proto::experiment::{ExperimentSpec, Target};
use proto::grant::Principal;
use proto::ids::ClusterId;
use proto::plan::{Envelope, PLAN_TTL_MS, Plan, Refusal, TargetEnvelope, refusal};
use proto::run::{ExperimentScope, RunRecord};
use proto::status::{RunPhase, RunSummary};

use super::object::{CENTRAL, ExperimentKey, Object, ObjectKey, SpecBody};
use super::selection::{Selection, select};
use super::{CHUNK, Commit, Decision, View, dispatch, earlier, later, summary};

/// How long a run waits for its Experiment.
pub(super) const EXPERIMENT_WITHIN_MS: i64 = 30_000;
/// How long a cluster has to answer what would be hit.
pub(super) const PLAN_WITHIN_MS: i64 = 20_000;
/// Refusals kept in a summary.
const MAX_REFUSALS: usize = 20;

pub(super) fn decide(view: View<'_>, now: Timestamp) -> Decision {
    if let Some(refusal) = too_late(view, now) {
        return deny(view, vec![refusal], now);
    }
    if view.record.spec_hash.is_empty() {
        return find_spec(view, now);
    }
    let Some(spec) = view.state.specs.get(&view.record.spec_hash) else {
        // Its own transaction brought it: it is on its way to this replica.
        return Decision::wait(later(now, 1000));
    };
    let Some(spec) = &spec.spec else {
        return deny(view, vec![invalid("the effective spec cannot be read")], now);
    };
    let selection = select(view, spec, now);
    if let Some(ask) = ask(view, spec, &selection, now) {
        return Decision::commit(ask);
    }
    collect(view, spec, &selection, now)
}

fn too_late(view: View<'_>, now: Timestamp) -> Option<Refusal> {
    let not_after = dispatch::not_after(view.record)?;
    (now >= not_after).then(|| Refusal {
        code: refusal::TOO_LATE.to_owned(),
        message: format!("notAfter {not_after} has passed"),
        whose: "author".to_owned(),
        cure: "create another run with a later notAfter".to_owned(),
    })
}

fn invalid(message: &str) -> Refusal {
    Refusal {
        code: refusal::INVALID.to_owned(),
        message: message.to_owned(),
        whose: "author".to_owned(),
        cure: "faultline validate -f FILE".to_owned(),
    }
}

/// The Experiment that a run is of.
pub fn experiment_of(record: &RunRecord) -> ExperimentKey {
    let reference = &record.spec.experiment_ref;
    let (origin, namespace) = match (&record.principal, reference.scope) {
        (Principal::Namespace { cluster, namespace }, None | Some(ExperimentScope::Namespace)) => {
            (cluster.to_string(), namespace.clone())
        }
        _ => (CENTRAL.to_owned(), CENTRAL.to_owned()),
    };
    (origin, namespace, reference.name.clone())
}

/// Makes the effective spec of the Experiment as it stands now; what runs later is this and no edit.
fn find_spec(view: View<'_>, now: Timestamp) -> Decision {
    let Some(stored) = view.state.experiments.get(&experiment_of(view.record)) else {
        let until = later(view.record.created_at, EXPERIMENT_WITHIN_MS);
        if until.is_some_and(|until| until > now) {
            return Decision::wait(until);
        }
        let refusal = Refusal {
            code: refusal::NO_EXPERIMENT.to_owned(),
            message: format!("there is no experiment {}", view.record.spec.experiment_ref.name),
            whose: "author".to_owned(),
            cure: "apply the Experiment, then a Run under another name".to_owned(),
        };
        return deny(view, vec![refusal], now);
    };
    let effective = proto::validate::with_overrides(&stored.value.spec, &view.record.spec.set);
    let json = match effective.map(|(value, _)| serde_json::to_string(&value)) {
        Ok(Ok(json)) => json,
        Ok(Err(error)) => return deny(view, vec![invalid(&error.to_string())], now),
        Err(problems) => return deny(view, vec![invalid(&problems.to_string())], now),
    };
    let hash = proto::hash::sha256_hex(json.as_bytes());
    let mut record = view.record.clone();
    record.spec_hash.clone_from(&hash);
    let mut commit = view.commit(view.summary.clone());
    let revision = view.entry.record.as_ref().map_or(0, |record| record.revision);
    commit.compare.push((ObjectKey::Run(view.id.clone()), revision));
    commit.put.push(Object::Run(Box::new(record)));
    commit.put.push(Object::Spec(SpecBody { hash, json }));
    Decision::commit(commit)
}

/// Asks the next selected clusters that were not asked yet.
fn ask(view: View<'_>, spec: &ExperimentSpec, selection: &Selection, now: Timestamp) -> Option<Commit> {
    let unreadable: Vec<&ClusterId> = view.state.unreadable_of(view.id).collect();
    let asked = |id: &ClusterId| view.entry.desired.contains_key(id) || unreadable.contains(&id);
    let unasked: Vec<&ClusterId> = selection.clusters.keys().filter(|id| !asked(id)).take(CHUNK).collect();
    if unasked.is_empty() {
        return None;
    }
    let mut summary = view.summary.clone();
    // The clock for answers starts with the last question.
    summary.planned_at = Some(now);
    summary.clusters.total = i32::try_from(selection.clusters.len()).unwrap_or(i32::MAX) + selection.skipped;
    summary.clusters.skipped = selection.skipped;
    let mut commit = view.commit(summary);
    commit.note = Some(("run.plan", "ok".to_owned()));
    for cluster in unasked {
        let question = question(view, spec, cluster, now);
        commit.compare.push((ObjectKey::Desired(cluster.clone(), view.id.clone()), 0));
        commit.put.push(Object::Desired(cluster.clone(), Box::new(question)));
    }
    Some(commit)
}

/// What a cluster is asked: the targets meant for it, named in an envelope that is still open.
fn question(view: View<'_>, spec: &ExperimentSpec, cluster: &ClusterId, now: Timestamp) -> Desired {
    let member = view.state.clusters.get(cluster).and_then(|entry| entry.spec.as_ref());
    let meant = |target: &&Target| {
        member.is_some_and(|m| spec.clusters_of(target).matches(&m.value.name, &m.value.labels))
    };
    let targets =
        spec.targets.iter().filter(meant).map(|t| (t.name.clone(), TargetEnvelope::default())).collect();
    Desired {
        run: view.id.clone(),
        generation: 1,
        intent: Intent::Plan,
        spec_hash: view.record.spec_hash.clone(),
        principal: view.record.principal.clone(),
        origin: view.record.origin.clone(),
        plan_hash: None,
        plan_expires: later(now, PLAN_TTL_MS),
        envelope: Some(Envelope { targets }),
        peers: std::collections::BTreeMap::new(),
        start_before: None,
        run_deadline: None,
        stop_reason: None,
        trace: view.record.trace.clone(),
    }
}

/// Waits for the answers; then denies, ends a plan, or dispatches.
fn collect(view: View<'_>, spec: &ExperimentSpec, selection: &Selection, now: Timestamp) -> Decision {
    let asked_at = view.summary.planned_at.unwrap_or(view.record.created_at);
    let patience = later(asked_at, PLAN_WITHIN_MS).filter(|until| *until > now);
    let mut refusals = selection.refusals.clone();
    let mut waiting = false;
    for cluster in view.entry.desired.keys() {
        match answer(view, cluster) {
            Answer::Plan(found) => refusals.extend(found.iter().cloned()),
            Answer::Refused(found) => refusals.extend(found),
            Answer::None if patience.is_some() => waiting = true,
            Answer::None => refusals.push(Refusal {
                code: refusal::CLUSTER_UNAVAILABLE.to_owned(),
                message: format!("cluster {} did not answer in time", view.state.cluster_name(cluster)),
                whose: "cluster owner".to_owned(),
                cure: "faultline clusters list".to_owned(),
            }),
        }
    }
    // No answer can come to a question that nobody can read, and it is not asked again over it.
    refusals.extend(view.state.unreadable_of(view.id).map(|cluster| Refusal {
        code: refusal::CLUSTER_UNAVAILABLE.to_owned(),
        message: format!("what cluster {} was asked cannot be read", view.state.cluster_name(cluster)),
        whose: "centre".to_owned(),
        cure: "create the Run under a new name".to_owned(),
    }));
    if waiting || selection.undecided_until.is_some() {
        let answers = if waiting { patience } else { None };
        return Decision::wait(earlier(answers, selection.undecided_until));
    }
    refusals.extend(over_total(view, spec));
    if view.entry.desired.is_empty() && refusals.is_empty() {
        refusals.push(Refusal {
            code: refusal::NO_CLUSTERS.to_owned(),
            message: "no selected cluster is left".to_owned(),
            whose: "author".to_owned(),
            cure: "faultline clusters list".to_owned(),
        });
    }
    if !refusals.is_empty() {
        return deny(view, refusals, now);
    }
    let Ok(hash) = plan_of(view).hash() else {
        return deny(view, vec![invalid("the plan has no JSON form")], now);
    };
    let expires = dispatch::expires(view);
    if expires.is_some_and(|at| at <= now) {
        return expired(view, now);
    }
    if view.record.plan_only {
        let mut summary = finish(view, Outcome::Completed, "PlanOnly", now);
        summary.plan_hash = Some(hash);
        summary.plan_expires = expires;
        summary.planned_at = Some(now);
        return Decision::commit(view.commit(summary));
    }
    dispatch::first(view, spec, selection, hash, now)
}

/// The plan became too old before anything was started, for example because no leader was there to go on. What people
/// looked at then may not be what is there now: it is never dispatched, and not made anew behind their backs either.
fn expired(view: View<'_>, now: Timestamp) -> Decision {
    let mut summary = finish(view, Outcome::Missed, refusal::PLAN_EXPIRED, now);
    "the plan expired before it could be dispatched; create another run".clone_into(&mut summary.message);
    let mut commit = view.commit(summary);
    commit.note = Some(("run.miss", refusal::PLAN_EXPIRED.to_owned()));
    Decision::commit(commit)
}

enum Answer<'a> {
    None,
    Plan(&'a [Refusal]),
    Refused(Vec<Refusal>),
}

fn answer<'a>(view: View<'a>, cluster: &ClusterId) -> Answer<'a> {
    let plan = view.entry.plans.get(cluster).filter(|plan| plan.value.spec_hash == view.record.spec_hash);
    if let Some(plan) = plan {
        return Answer::Plan(&plan.value.refusals);
    }
    let Some(observed) = view.entry.observed.get(cluster).map(|observed| &observed.value.observed) else {
        return Answer::None;
    };
    if observed.phase != ClusterPhase::Finished {
        return Answer::None;
    }
    let mut refusals = observed.refusals.clone();
    if refusals.is_empty() {
        let code = if observed.reason.is_empty() { refusal::CLUSTER_UNAVAILABLE } else { &observed.reason };
        refusals.push(Refusal {
            code: code.to_owned(),
            message: format!("cluster {}: {}", view.state.cluster_name(cluster), observed.message),
            whose: "cluster owner".to_owned(),
            cure: String::new(),
        });
    }
    Answer::Refused(refusals)
}

/// The plan as it is hashed.
fn plan_of(view: View<'_>) -> Plan {
    let envelope = |(id, plan): (&ClusterId, &super::object::Versioned<proto::plan::ClusterPlan>)| {
        (id.clone(), plan.value.envelope.clone())
    };
    Plan {
        spec_hash: view.record.spec_hash.clone(),
        clusters: view.entry.plans.iter().map(envelope).collect(),
    }
}

/// `atMost.total` is over all clusters: only the centre can judge it.
fn over_total(view: View<'_>, spec: &ExperimentSpec) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for target in &spec.targets {
        let Some(total) = target.at_most.as_ref().and_then(|at_most| at_most.total) else {
            continue;
        };
        let envelopes =
            view.entry.plans.values().filter_map(|plan| plan.value.envelope.targets.get(&target.name));
        let planned: i64 = envelopes.map(|envelope| i64::from(envelope.max_count)).sum();
        if planned > total {
            refusals.push(Refusal {
                code: refusal::TOO_MANY_TARGETS.to_owned(),
                message: format!(
                    "target {} would hit {planned} pods in all, atMost.total is {total}",
                    target.name
                ),
                whose: "author".to_owned(),
                cure: "raise atMost.total or narrow the selection".to_owned(),
            });
        }
    }
    refusals
}

/// Ends the run before anything started.
pub(super) fn deny(view: View<'_>, mut refusals: Vec<Refusal>, now: Timestamp) -> Decision {
    refusals.truncate(MAX_REFUSALS);
    let (code, message) =
        refusals.first().map(|first| (first.code.clone(), first.message.clone())).unwrap_or_default();
    let mut summary = finish(view, Outcome::Denied, &code, now);
    summary.message = message;
    summary.refusals = refusals;
    let mut commit = view.commit(summary);
    commit.note = Some(("run.deny", code));
    Decision::commit(commit)
}

/// A summary of a run that ends without having started.
pub(super) fn finish(view: View<'_>, outcome: Outcome, reason: &str, now: Timestamp) -> RunSummary {
    let mut summary = summary::summarise(view.state, view.id, view.entry, view.summary, now);
    summary.phase = RunPhase::Finished;
    summary.outcome = Some(outcome);
    reason.clone_into(&mut summary.reason);
    summary.finished_at = Some(now);
    summary
}
