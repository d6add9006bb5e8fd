//! The meaning of faults and their parameters.

use super::Report;
use crate::experiment::ExperimentSpec;
use crate::fault::{Fault, Kind, NetworkDelay, Peer};
use crate::quantity::Span;

const HOUR_MS: u64 = 3_600_000;

pub(super) fn check(
    spec: &ExperimentSpec,
    fault: &Fault,
    deadline_ms: Option<u64>,
    path: &str,
    p: &mut Report,
) {
    match spec.target(&fault.target) {
        None => {
            let known: Vec<_> = spec.targets.iter().map(|t| t.name.as_str()).collect();
            let near = crate::strict::nearest(&fault.target, known.iter().copied());
            let hint =
                near.map_or_else(|| format!("known: {}", known.join(", ")), |n| format!("did you mean {n}?"));
            p.add(format!("{path}.target"), format!("no target is named {:?}; {hint}", fault.target));
        }
        Some(target) if target.is_peer_only() => {
            p.add(
                format!("{path}.target"),
                format!("target {:?} is PeerOnly: faults cannot act on it", fault.target),
            );
        }
        Some(_) => {}
    }
    let kinds = fault.kinds();
    if kinds.len() != 1 {
        let known: Vec<_> = crate::catalogue::ENTRIES.iter().map(|e| e.kind).collect();
        let found = if kinds.is_empty() {
            "names no fault kind".to_owned()
        } else {
            format!("names {}", kinds.iter().map(Kind::dotted).collect::<Vec<_>>().join(" and "))
        };
        p.add(path, format!("{found}; name exactly one of {}", known.join(", ")));
    }
    check_time(fault, kinds.first(), deadline_ms, path, p);
    for kind in &kinds {
        check_kind(spec, kind, path, p);
    }
}

fn check_time(fault: &Fault, kind: Option<&Kind<'_>>, deadline_ms: Option<u64>, path: &str, p: &mut Report) {
    let at = p.span(&format!("{path}.at"), &fault.at, 0, 24 * HOUR_MS);
    let irreversible = matches!(kind, Some(Kind::PodKill(_)));
    let lasts = match (&fault.lasts, irreversible) {
        (None, true) => Some(0),
        (None, false) => {
            p.add(format!("{path}.for"), "missing: say how long it lasts, as in 60s");
            None
        }
        (Some(_), true) => {
            p.add(format!("{path}.for"), "pod.kill is irreversible and takes no duration: leave it out");
            None
        }
        (Some(lasts), false) => p.span(&format!("{path}.for"), lasts, 1000, 24 * HOUR_MS),
    };
    if let (Some(at), Some(lasts), Some(deadline)) = (at, lasts, deadline_ms)
        && at + lasts > deadline
    {
        let (end, deadline) = (Span::from_ms(at + lasts), Span::from_ms(deadline));
        let why = format!(
            "ends {end} after the start, past the cluster deadline of {deadline}: shorten it or raise spec.limits.clusterDeadline"
        );
        p.add(format!("{path}.for"), why);
    }
}

fn check_kind(spec: &ExperimentSpec, kind: &Kind<'_>, path: &str, p: &mut Report) {
    match kind {
        Kind::PodKill(kill) => {
            if let Some(grace) = &kill.grace
                && let Some(ms) = p.span(&format!("{path}.pod.kill.grace"), grace, 0, HOUR_MS)
                && ms % 1000 != 0
            {
                p.add(format!("{path}.pod.kill.grace"), "must be whole seconds");
            }
        }
        Kind::ContainerPause(_) | Kind::CpuStress(_) => {}
        Kind::NetworkPartition(partition) => {
            check_peers(spec, &partition.peers, &format!("{path}.network.partition"), p);
        }
        Kind::NetworkDelay(delay) => check_delay(spec, delay, &format!("{path}.network.delay"), p),
    }
}

fn check_delay(spec: &ExperimentSpec, delay: &NetworkDelay, path: &str, p: &mut Report) {
    let latency = p.span(&format!("{path}.latency"), &delay.latency, 1, 60_000);
    if let Some(jitter) = &delay.jitter
        && let Some(jitter) = p.span(&format!("{path}.jitter"), jitter, 0, 60_000)
        && latency.is_some_and(|latency| jitter > latency)
    {
        p.add(format!("{path}.jitter"), "is larger than the latency");
    }
    check_peers(spec, &delay.peers, path, p);
}

fn check_peers(spec: &ExperimentSpec, peers: &[Peer], path: &str, p: &mut Report) {
    for (index, peer) in peers.iter().enumerate() {
        let path = format!("{path}.peers[{index}]");
        match (&peer.target, &peer.cidr) {
            (Some(target), None) => {
                if spec.target(target).is_none() {
                    p.add(format!("{path}.target"), format!("no target is named {target:?}"));
                }
            }
            (None, Some(cidr)) => {
                if cidr.parse::<ipnet::IpNet>().is_err() {
                    p.add(
                        format!("{path}.cidr"),
                        format!("{cidr:?} is not a range: write 10.0.0.0/8 or 2001:db8::/32"),
                    );
                }
                if peer.via.is_some() {
                    p.add(format!("{path}.via"), "only a target has addresses to look up: leave it out");
                }
            }
            _ => p.add(path, "name exactly one of target, cidr"),
        }
    }
}
