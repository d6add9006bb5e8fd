//! An experiment against the live inventory: which pods, which faults on which of them, and everything that stands
//! in the way, all of it at once. Planning and starting both go through here, so that they cannot differ.

use std::collections::{BTreeMap, BTreeSet};

use proto::assignment::Desired;
use proto::catalogue::{self, Backend, Entry};
use proto::experiment::{ExperimentSpec, Target};
use proto::fault::{Fault, Kind};
use proto::injection::TargetRef;
use proto::plan::{Refusal, refusal};

use super::{State, pick};
use crate::cluster::{DECLARED, Inventory, PodSeen};

/// Namespaces that are never hit.
const PROTECTED_NAMESPACES: &[&str] = &["kube-system"];
/// Our own pods carry this label.
const OWN_LABEL: (&str, &str) = ("app.kubernetes.io/name", "faultline");

/// What an experiment comes down to here.
#[derive(Debug, Default)]
pub struct Resolution<'a> {
    /// Per target name.
    pub targets: BTreeMap<&'a str, ResolvedTarget<'a>>,
    /// In the order of the spec.
    pub faults: Vec<ResolvedFault<'a>>,
    /// What stands in the way.
    pub refusals: Vec<Refusal>,
}

/// A target here.
#[derive(Debug)]
pub struct ResolvedTarget<'a> {
    /// As written.
    pub target: &'a Target,
    /// Every pod that matches and runs.
    pub matching: Vec<&'a PodSeen>,
    /// Pods that match, and that no daemon can reach into, with the reason: left out where one would have to.
    pub skipped: Vec<(&'a PodSeen, &'a str)>,
    /// The pods that are hit; for PeerOnly every matching one.
    pub picked: Vec<&'a PodSeen>,
    /// Seed of the choice.
    pub seed: u64,
}

/// A fault here.
#[derive(Debug)]
pub struct ResolvedFault<'a> {
    /// As written.
    pub fault: &'a Fault,
    /// Its one kind.
    pub kind: Kind<'a>,
    /// Its line of the catalogue.
    pub entry: &'static Entry,
    /// What is hit, with the backend of its node.
    pub hits: Vec<Hit<'a>>,
}

/// One injection to be.
#[derive(Debug)]
pub struct Hit<'a> {
    /// The pod.
    pub pod: &'a PodSeen,
    /// The container, for kinds that act on one.
    pub container: Option<String>,
    /// How it is made on that node.
    pub backend: &'static Backend,
}

/// A refusal in four words.
pub fn refuse(code: &str, message: impl Into<String>, whose: &str, cure: impl Into<String>) -> Refusal {
    Refusal { code: code.to_owned(), message: message.into(), whose: whose.to_owned(), cure: cure.into() }
}

/// A pod as a target.
pub fn target_ref(pod: &PodSeen) -> TargetRef {
    TargetRef {
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
        node: pod.node.clone(),
        ips: pod.ips.clone(),
    }
}

/// Resolves the targets that this cluster is asked for: those named in the assignment's envelope, or all.
pub fn resolve<'a>(
    state: &'a State,
    inventory: &'a Inventory,
    desired: &'a Desired,
    spec: &'a ExperimentSpec,
) -> Resolution<'a> {
    let mut found = Resolution::default();
    for target in &spec.targets {
        let asked = desired.envelope.as_ref().is_none_or(|e| e.targets.contains_key(&target.name));
        if !asked {
            continue;
        }
        let by_daemon = |fault: &Fault| {
            let entry = fault.kind().and_then(|kind| catalogue::entry(kind.dotted()));
            fault.target == target.name && entry.is_some_and(|entry| entry.made_by != "agent")
        };
        let by_daemon = spec.faults.iter().any(by_daemon);
        let resolved = pods(state, inventory, desired, (target, by_daemon), &mut found.refusals);
        found.targets.insert(&target.name, resolved);
    }
    for fault in &spec.faults {
        let Some(on) = found.targets.get(fault.target.as_str()) else {
            continue;
        };
        let resolved = hits(state, fault, on, &mut found.refusals);
        found.faults.extend(resolved);
    }
    found
}

fn pods<'a>(
    state: &State,
    inventory: &'a Inventory,
    desired: &Desired,
    (target, by_daemon): (&'a Target, bool),
    refusals: &mut Vec<Refusal>,
) -> ResolvedTarget<'a> {
    let name = &target.name;
    let seed = pick::seed(target.pick.as_ref(), &desired.run, &state.settings.cluster, name);
    let mut resolved =
        ResolvedTarget { target, matching: Vec::new(), skipped: Vec::new(), picked: Vec::new(), seed };
    if target.pods.is_empty() || target.pods.namespaces.is_empty() {
        let message = format!(
            "target {name} selects everything: namespaces and labels, names or a workload are needed"
        );
        refusals.push(refuse(refusal::INVALID, message, "author", format!("narrow targets[{name}].pods")));
        return resolved;
    }
    resolved.matching = inventory.pods.values().filter(|pod| matches(target, pod)).collect();
    resolved.matching.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
    if by_daemon {
        let why = |pod: &PodSeen| inventory.skipped_pods.get(&pod.uid).map(String::as_str);
        resolved.skipped = resolved.matching.iter().filter_map(|pod| Some((*pod, why(pod)?))).collect();
        resolved.matching.retain(|pod| why(pod).is_none());
    }
    // An assignment that does not name its targets leaves open whether one with clusters of its own is meant.
    let elsewhere = desired.envelope.is_none() && target.clusters.is_some();
    let may_be_empty = elsewhere || (target.allows_empty() && resolved.skipped.is_empty());
    if resolved.matching.is_empty() && may_be_empty {
        return resolved;
    }
    if resolved.matching.is_empty() {
        refusals.push(nothing_matches(&resolved));
        return resolved;
    }
    if target.is_peer_only() {
        resolved.picked.clone_from(&resolved.matching);
        return resolved;
    }
    match pick::count(target.pick.as_ref(), resolved.matching.len()) {
        Ok(count) => resolved.picked = pick::choose(resolved.matching.clone(), count, seed),
        Err(why) => refusals.push(refuse(
            refusal::NO_TARGETS,
            format!("target {name}: {why}"),
            "author",
            format!("lower targets[{name}].pick.count"),
        )),
    }
    bounded(target, &resolved, refusals);
    protected(inventory, target, &resolved, refusals);
    resolved
}

fn nothing_matches(resolved: &ResolvedTarget<'_>) -> Refusal {
    let (target, name) = (resolved.target, &resolved.target.name);
    let message = match resolved.skipped.as_slice() {
        [] => {
            let namespaces = target.pods.namespaces.join(", ");
            format!("no running pod matches target {name} in namespaces {namespaces}")
        }
        [(pod, why), more @ ..] => format!(
            "target {name} matches only pods that no daemon can reach into: {}/{} {why}; and {} more",
            pod.namespace,
            pod.name,
            more.len()
        ),
    };
    let cure = format!("check targets[{name}].pods against `kubectl get pods --show-labels`");
    refuse(refusal::NO_TARGETS, message, "author", cure)
}

fn matches(target: &Target, pod: &PodSeen) -> bool {
    let select = &target.pods;
    let by_workload = |w: &proto::selector::WorkloadRef| w.kind == pod.owner.kind && w.name == pod.owner.name;
    pod.running
        && !pod.terminating
        && select.namespaces.contains(&pod.namespace)
        && select.label_selector.as_ref().is_none_or(|s| s.matches(&pod.labels))
        && (select.names.is_empty() || select.names.contains(&pod.name))
        && select.workload.as_ref().is_none_or(by_workload)
        && (select.nodes.is_empty() || select.nodes.contains(&pod.node))
}

fn bounded(target: &Target, resolved: &ResolvedTarget<'_>, refusals: &mut Vec<Refusal>) {
    let (name, hit) = (&target.name, resolved.picked.len());
    let most = target.at_most.as_ref().map_or(0, |m| usize::try_from(m.per_cluster).unwrap_or(0));
    if hit > most {
        let message = format!("target {name} would hit {hit} pods, atMost.perCluster is {most}");
        let cure = format!("narrow targets[{name}] or raise its atMost.perCluster");
        refusals.push(refuse(refusal::TOO_MANY_TARGETS, message, "author", cure));
    }
}

fn protected(
    inventory: &Inventory,
    target: &Target,
    resolved: &ResolvedTarget<'_>,
    refusals: &mut Vec<Refusal>,
) {
    let ours = |pod: &&&PodSeen| {
        PROTECTED_NAMESPACES.contains(&pod.namespace.as_str())
            || (!inventory.own_namespace.is_empty() && pod.namespace == inventory.own_namespace)
            || pod.labels.get(OWN_LABEL.0).is_some_and(|v| v == OWN_LABEL.1)
    };
    if let Some(pod) = resolved.picked.iter().find(ours) {
        let message =
            format!("target {} would hit {}/{}, which is protected", target.name, pod.namespace, pod.name);
        let cure = format!("select other pods in targets[{}]", target.name);
        refusals.push(refuse(refusal::PROTECTED, message, "author", cure));
    }
}

fn hits<'a>(
    state: &State,
    fault: &'a Fault,
    on: &ResolvedTarget<'a>,
    refusals: &mut Vec<Refusal>,
) -> Option<ResolvedFault<'a>> {
    let name = &fault.name;
    let invalid =
        |message: String| refuse(refusal::INVALID, message, "author", format!("correct faults[{name}]"));
    if on.target.is_peer_only() {
        refusals.push(invalid(format!("fault {name} acts on {}, which is PeerOnly", on.target.name)));
        return None;
    }
    let Some(kind) = fault.kind() else {
        refusals.push(invalid(format!("fault {name} names no kind, or several")));
        return None;
    };
    let Some(entry) = catalogue::entry(kind.dotted()) else {
        refusals.push(invalid(format!("fault {name}: this agent does not know {}", kind.dotted())));
        return None;
    };
    let mut resolved = ResolvedFault { fault, kind, entry, hits: Vec::new() };
    let mut problems = BTreeSet::new();
    for pod in &on.picked {
        if pod.host_network && kind.dotted().starts_with("network.") {
            problems.insert((
                refusal::HOST_NETWORK,
                format!("{}/{} shares its node's network", pod.namespace, pod.name),
            ));
            continue;
        }
        match (backend(state, entry, pod), containers(entry, on.target, pod)) {
            (Ok(backend), Ok(containers)) => {
                resolved.hits.extend(containers.into_iter().map(|container| Hit { pod, container, backend }));
            }
            (backend, containers) => problems.extend(backend.err().into_iter().chain(containers.err())),
        }
    }
    refusals.extend(problems.into_iter().take(10).map(|(code, what)| {
        let (whose, cure) = cure(code, name, api_faults_only(state));
        refuse(code, format!("fault {name}: {what}"), whose, cure)
    }));
    Some(resolved)
}

fn cure(code: &str, fault: &str, api_only: bool) -> (&'static str, String) {
    match code {
        refusal::NO_DAEMON if api_only => {
            ("cluster owner", "install the member chart with nodes.enabled=true".to_owned())
        }
        refusal::NO_DAEMON => ("cluster owner", "see why the node daemon does not run there".to_owned()),
        refusal::DRAINING => ("cluster owner", "wait until the daemon of that node was replaced".to_owned()),
        refusal::MISSING_CAPABILITY => {
            ("cluster owner", "see `faultline faults` for what the kind needs of a node".to_owned())
        }
        _ => ("author", format!("select other pods or containers for faults[{fault}]")),
    }
}

fn api_faults_only(state: &State) -> bool {
    state.inventory.as_ref().is_some_and(|inventory| inventory.api_faults_only)
}

fn backend(
    state: &State,
    entry: &'static Entry,
    pod: &PodSeen,
) -> Result<&'static Backend, (&'static str, String)> {
    let none = |_: &str| false;
    if entry.made_by == "agent" {
        if pod.owner.kind == DECLARED {
            let message = format!("{}/{} is a declared workload, not a pod", pod.namespace, pod.name);
            return Err((refusal::MISSING_CAPABILITY, message));
        }
        return entry.choose(none).map_err(|lacking| (refusal::MISSING_CAPABILITY, lacking.join(", ")));
    }
    if api_faults_only(state) {
        let message = format!("{} needs node daemons, and this cluster runs none", entry.kind);
        return Err((refusal::NO_DAEMON, message));
    }
    let Some(node) = state.nodes.get(&pod.node).filter(|n| n.connected) else {
        return Err((refusal::NO_DAEMON, format!("node {} has no connected daemon", pod.node)));
    };
    if node.draining {
        let message = format!("the daemon of node {} is about to end and takes no new start", pod.node);
        return Err((refusal::DRAINING, message));
    }
    let present = |name: &str| node.capabilities.capabilities.get(name).is_some_and(|c| c.present);
    entry.choose(present).map_err(|lacking| {
        (refusal::MISSING_CAPABILITY, format!("node {} lacks {}", pod.node, lacking.join(", ")))
    })
}

fn containers(
    entry: &Entry,
    target: &Target,
    pod: &PodSeen,
) -> Result<Vec<Option<String>>, (&'static str, String)> {
    if entry.acts_on != "container" {
        return Ok(vec![None]);
    }
    if target.containers.is_empty() {
        return Ok(vec![pod.containers.first().cloned()]);
    }
    if let Some(absent) = target.containers.iter().find(|c| !pod.containers.contains(c)) {
        return Err((
            refusal::NO_TARGETS,
            format!("{}/{} has no container {absent}", pod.namespace, pod.name),
        ));
    }
    Ok(target.containers.iter().cloned().map(Some).collect())
}
