//! May this happen here: the Ceiling, halts, stop-only and probe hosts while planning and at start; at start also
//! the planned envelope, and then the injections themselves.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use proto::assignment::{Desired, Origin};
use proto::ceiling::CeilingSpec;
use proto::experiment::ExperimentSpec;
use proto::fault::{Direction, Kind, Peer};
use proto::grant::{covers_namespace, kind_matches, name_matches};
use proto::ids::{ClusterId, InjectionId, Name};
use proto::injection::{Action, Injection, InjectionPhase, InjectionStatus, PeerMatch};
use proto::plan::{Refusal, TargetEnvelope, refusal};

use super::hosts::{self, Allowed};
use super::resolve::{Hit, Resolution, ResolvedFault, ResolvedTarget, refuse, resolve, target_ref};
use super::state::{RunState, Tracked};
use super::{State, halts};
use crate::cluster::{CeilingSeen, Inventory, RecordedInjection};

/// What stands in the way beside the targets themselves.
pub fn judge(
    state: &State,
    inventory: &Inventory,
    desired: &Desired,
    spec: &ExperimentSpec,
    found: &Resolution<'_>,
) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if !state.accepts_starts || state.outranked || state.halts.objects.is_none() {
        let message = if state.outranked {
            "the agent is stop-only: a node has heard of a later leader"
        } else {
            "the agent is stop-only: its apiserver is not reachable, or not read yet"
        };
        refusals.push(refuse(refusal::STOP_ONLY, message, "cluster owner", "see the agent's log"));
    }
    let namespaces = victim_namespaces(found);
    let nodes: BTreeSet<&str> =
        found.faults.iter().flat_map(|f| &f.hits).map(|h| h.pod.node.as_str()).collect();
    if let Some(halt) = halts::in_force(state, Some(&namespaces), &nodes) {
        let message = format!("halt {halt} is in force here");
        refusals.push(refuse(refusal::HALTED, message, "centre", format!("faultline halt release {halt}")));
    }
    match &state.ceiling {
        CeilingSeen::Present(ceiling) => below(ceiling, &desired.origin, spec, found, &mut refusals),
        CeilingSeen::Absent => refusals.push(no_ceiling("this cluster has no Ceiling: nothing is allowed")),
        CeilingSeen::Unknown => {
            refusals.push(no_ceiling("this cluster's Ceiling could not be read: nothing is allowed"));
        }
    }
    probe_hosts(state, inventory, spec, found, &mut refusals);
    refusals
}

fn no_ceiling(message: &str) -> Refusal {
    refuse(
        refusal::NO_CEILING,
        message,
        "cluster owner",
        "kubectl apply a Ceiling named default in that cluster",
    )
}

fn victim_namespaces<'a>(found: &Resolution<'a>) -> BTreeSet<&'a str> {
    let victims = found.targets.values().filter(|t| !t.target.is_peer_only());
    victims.flat_map(|t| t.target.pods.namespaces.iter().map(String::as_str)).collect()
}

fn from_allowed(ceiling: &CeilingSpec, origin: &Origin) -> bool {
    ceiling.from.iter().any(|from| match &origin.cluster {
        None => from.central == Some(true),
        Some(cluster) => {
            from.clusters.as_ref().is_some_and(|s| s.matches(cluster, &origin.labels))
                && origin.namespace.as_ref().is_some_and(|ns| name_matches(&from.namespaces, ns))
        }
    })
}

fn below(
    ceiling: &CeilingSpec,
    origin: &Origin,
    spec: &ExperimentSpec,
    found: &Resolution<'_>,
    refusals: &mut Vec<Refusal>,
) {
    let mut above = |message: String, field: &str| {
        let cure = format!("kubectl edit ceiling default: {field}");
        refusals.push(refuse(refusal::ABOVE_CEILING, message, "cluster owner", cure));
    };
    if !found.targets.is_empty() && !from_allowed(ceiling, origin) {
        let who = match (&origin.cluster, &origin.namespace) {
            (Some(cluster), Some(namespace)) => format!("namespace {namespace} of cluster {cluster}"),
            (Some(cluster), None) => format!("cluster {cluster}"),
            (None, _) => "the centre".to_owned(),
        };
        above(format!("the Ceiling lets nothing in from {who}"), "spec.from");
    }
    // Of peers only addresses are read; but reading is something, too, and probes may ask what is a target.
    let namespaces = found.targets.values().flat_map(|t| t.target.pods.namespaces.iter());
    for namespace in namespaces.collect::<BTreeSet<_>>() {
        if !covers_namespace(&ceiling.namespaces, namespace) {
            above(format!("the Ceiling does not cover namespace {namespace}"), "spec.namespaces");
        }
    }
    let kinds: BTreeSet<&str> = found.faults.iter().map(|f| f.entry.kind).collect();
    for kind in kinds {
        if !ceiling.kinds.iter().any(|pattern| kind_matches(pattern, kind)) {
            above(format!("the Ceiling does not cover {kind}"), "spec.kinds");
        }
    }
    let pods: BTreeSet<&str> =
        found.faults.iter().flat_map(|f| &f.hits).map(|h| h.pod.uid.as_str()).collect();
    if pods.len() > ceiling.max_targets() as usize {
        let message =
            format!("{} pods would be hit, the Ceiling allows {}", pods.len(), ceiling.max_targets());
        above(message, "spec.maxTargets");
    }
    for fault in &spec.faults {
        let lasts = fault.lasts.as_ref().and_then(|l| l.ms().ok()).unwrap_or(0);
        let here = found.faults.iter().any(|f| f.fault.name == fault.name);
        if here && lasts > ceiling.max_duration_ms() {
            let most = proto::quantity::Span::from_ms(ceiling.max_duration_ms());
            above(format!("fault {} lasts longer than the Ceiling's {most}", fault.name), "spec.maxDuration");
        }
    }
}

fn probe_hosts(
    state: &State,
    inventory: &Inventory,
    spec: &ExperimentSpec,
    found: &Resolution<'_>,
    refusals: &mut Vec<Refusal>,
) {
    if found.faults.is_empty() {
        return; // only peers here: nothing is measured from this cluster
    }
    let none = Vec::new();
    let allowed = allowed(&state.ceiling, inventory, spec, found, &none);
    for probe in &spec.steady_state {
        if let Err(why) = hosts::destination(probe).and_then(|to| allowed.check(&to)) {
            let message = format!("probe {}: {why}", probe.name);
            let cure =
                "ask a Service of a target namespace, or add the host to the Ceiling's spec.probeHosts";
            refusals.push(refuse(refusal::PROBE_HOST, message, "cluster owner", cure));
        }
    }
}

fn allowed<'a>(
    ceiling: &'a CeilingSeen,
    inventory: &'a Inventory,
    spec: &'a ExperimentSpec,
    found: &Resolution<'a>,
    none: &'a [String],
) -> Allowed<'a> {
    let namespaces: BTreeSet<&str> =
        spec.targets.iter().flat_map(|t| t.pods.namespaces.iter().map(String::as_str)).collect();
    let ips = found.targets.values().flat_map(|t| &t.matching).flat_map(|pod| pod.ips.iter().copied());
    Allowed {
        namespaces: namespaces.into_iter().collect(),
        pod_ips: ips.collect(),
        hosts: match ceiling {
            CeilingSeen::Present(ceiling) => &ceiling.probe_hosts,
            _ => none,
        },
        api: &inventory.api_addresses,
    }
}

/// Resolves again inside the planned envelope. Either every injection, or every reason why not.
pub fn start(
    state: &State,
    inventory: &Inventory,
    run: &RunState,
    spec: &ExperimentSpec,
) -> Result<Vec<Tracked>, Vec<Refusal>> {
    let desired = &run.desired;
    let mut found = resolve(state, inventory, desired, spec);
    let mut refusals = std::mem::take(&mut found.refusals);
    refusals.extend(judge(state, inventory, desired, spec, &found));
    let envelope = desired.envelope.clone().unwrap_or_default();
    for (name, target) in &found.targets {
        let planned = envelope.targets.get(*name).cloned().unwrap_or_default();
        refusals.extend(left(&planned, target, spec.limits.binds_pods()));
    }
    let mut tracked = Vec::new();
    for fault in found.faults.iter().filter(|fault| !fault.hits.is_empty()) {
        match inject(&state.settings.cluster, desired, spec, &found, fault) {
            Ok(injections) => tracked.extend(injections),
            Err(refusal) => refusals.push(refusal),
        }
    }
    if refusals.is_empty() { Ok(tracked) } else { Err(refusals) }
}

fn left(planned: &TargetEnvelope, target: &ResolvedTarget<'_>, exact: bool) -> Option<Refusal> {
    if target.target.is_peer_only() {
        return None;
    }
    let name = &target.target.name;
    let strange = target.picked.iter().find(|pod| !planned.owners.contains(&pod.owner));
    let other = target.picked.iter().find(|pod| exact && !planned.pods.contains(&pod.uid));
    let message = if let Some(pod) = strange {
        format!("target {name}: {}/{} belongs to a workload that was not planned", pod.namespace, pod.name)
    } else if target.picked.len() > planned.max_count as usize {
        format!("target {name}: {} pods now, {} were planned", target.picked.len(), planned.max_count)
    } else if let Some(pod) = other {
        format!("target {name}: {}/{} was not planned, and planBinding is Exact", pod.namespace, pod.name)
    } else {
        return None;
    };
    Some(refuse(refusal::LEFT_ENVELOPE, message, "author", "plan again: create another Run"))
}

fn inject(
    cluster: &ClusterId,
    desired: &Desired,
    spec: &ExperimentSpec,
    found: &Resolution<'_>,
    fault: &ResolvedFault<'_>,
) -> Result<Vec<Tracked>, Refusal> {
    let name = &fault.fault.name;
    let invalid = |what: String| refuse(refusal::INVALID, what, "author", format!("correct faults[{name}]"));
    let fault_name: Name = name.parse().map_err(|e: proto::ids::InvalidName| invalid(e.to_string()))?;
    let peers = peers(desired, found, fault)?;
    let action = action(&fault.kind, &peers).map_err(|e| invalid(format!("fault {name}: {e}")))?;
    let (link_loss_after_ms, link_loss) = spec.limits.link_loss();
    let mut tracked = Vec::new();
    for (index, hit) in fault.hits.iter().enumerate() {
        let id =
            InjectionId::of(&desired.run, cluster, &fault_name, index).map_err(|e| invalid(e.to_string()))?;
        let made = action.as_ref().map(|action| Injection {
            id: id.clone(),
            run: desired.run.clone(),
            target: target_ref(hit.pod),
            container: hit.container.clone(),
            action: action.clone(),
            backend: hit.backend.name.to_owned(),
            link_loss_after_ms,
            link_loss,
            trace: desired.trace.clone(),
        });
        tracked.push(track(&id, desired, fault, hit, made));
    }
    Ok(tracked)
}

fn track(
    id: &InjectionId,
    desired: &Desired,
    fault: &ResolvedFault<'_>,
    hit: &Hit<'_>,
    injection: Option<Injection>,
) -> Tracked {
    let grace_s = match fault.kind {
        Kind::PodKill(kill) => kill.grace.as_ref().and_then(|g| g.ms().ok()).map(|ms| ms / 1000),
        _ => None,
    };
    let recorded = RecordedInjection {
        id: id.clone(),
        fault: fault.fault.name.clone(),
        target: target_ref(hit.pod),
        by_agent: injection.is_none(),
        at_ms: fault.fault.at.ms().unwrap_or(0),
        for_ms: fault.fault.lasts.as_ref().and_then(|l| l.ms().ok()).unwrap_or(0),
    };
    Tracked {
        status: status(id, &desired.run, hit.backend.name),
        at_ms: recorded.at_ms,
        for_ms: recorded.for_ms,
        recorded,
        injection,
        grace_s,
        sent: false,
        revert_sent: false,
        heard: false,
    }
}

/// The first word on an injection that nobody has heard of.
pub fn status(id: &InjectionId, run: &proto::ids::RunId, backend: &str) -> InjectionStatus {
    InjectionStatus {
        id: id.clone(),
        run: run.clone(),
        phase: InjectionPhase::Accepted,
        reason: None,
        message: String::new(),
        effect: None,
        backend: backend.to_owned(),
        injected_at_unix_ms: None,
        reverted_at_unix_ms: None,
        resolves_at_unix_ms: None,
    }
}

fn peers(
    desired: &Desired,
    found: &Resolution<'_>,
    fault: &ResolvedFault<'_>,
) -> Result<Vec<PeerMatch>, Refusal> {
    let one = |peer: &Peer| -> Result<PeerMatch, Refusal> {
        let name = &fault.fault.name;
        let invalid = |what: String| {
            refuse(
                refusal::INVALID,
                format!("fault {name}: {what}"),
                "author",
                format!("correct faults[{name}]"),
            )
        };
        let ports = peer.ports.iter().map(|p| u16::try_from(*p)).collect::<Result<Vec<_>, _>>();
        let ports = ports.map_err(|_| invalid("a port is not in 1 to 65535".to_owned()))?;
        if let Some(cidr) = &peer.cidr {
            let net: IpNet = cidr.parse().map_err(|_| invalid(format!("{cidr:?} is no address range")))?;
            return Ok(PeerMatch { nets: vec![net.trunc()], ports });
        }
        let target = peer.target.as_deref().unwrap_or_default();
        let here =
            found.targets.get(target).into_iter().flat_map(|t| &t.matching).flat_map(|pod| pod.ips.iter());
        let there = desired.peers.get(target).into_iter().flatten();
        let ips: BTreeSet<IpAddr> = here.chain(there).copied().collect();
        if ips.is_empty() {
            let message = format!("fault {name}: peer target {target} has no address");
            return Err(refuse(refusal::NO_TARGETS, message, "author", format!("check targets[{target}]")));
        }
        Ok(PeerMatch { nets: ips.into_iter().map(IpNet::from).collect(), ports })
    };
    fault.kind.peers().iter().map(one).collect()
}

fn action(kind: &Kind<'_>, peers: &[PeerMatch]) -> Result<Option<Action>, String> {
    let peers = peers.to_vec();
    let number = |n: i64, what: &str| u32::try_from(n).map_err(|_| format!("{what} is out of range"));
    let percent = |n: Option<i64>, default: u8, what: &str| {
        let n = n.map_or(Ok(default), |n| u8::try_from(n).map_err(|_| format!("{what} is out of range")))?;
        if n > 100 { Err(format!("{what} is above 100")) } else { Ok(n) }
    };
    Ok(match kind {
        Kind::PodKill(_) => None,
        Kind::ContainerPause(_) => Some(Action::ContainerPause),
        Kind::NetworkPartition(p) => Some(Action::NetworkPartition {
            direction: p.direction.unwrap_or(Direction::Both),
            peers,
            how: p.how.unwrap_or_default(),
        }),
        Kind::NetworkDelay(d) => Some(Action::NetworkDelay {
            direction: d.direction.unwrap_or(Direction::Egress),
            peers,
            latency_ms: d.latency.ms().map_err(|e| e.to_string())?,
            jitter_ms: d
                .jitter
                .as_ref()
                .map_or(Ok(0), proto::quantity::Span::ms)
                .map_err(|e| e.to_string())?,
            correlation_percent: percent(d.correlation, 0, "correlation")?,
        }),
        Kind::CpuStress(c) => Some(Action::CpuStress {
            workers: number(c.workers, "workers")?,
            load_percent: percent(c.load, 100, "load")?,
        }),
    })
}
