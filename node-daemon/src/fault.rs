//! From a fault's typed parameters and a target to the steps that make it; nothing is done here. One file
//! per kind. Called by the driver once the target is known.

use proto::catalogue::{self, RevertClass};
use proto::fault::Direction;
use proto::ids::InjectionId;
use proto::injection::{Action, Injection, PeerMatch};
use sha2::{Digest, Sha256};

use crate::engine::{Plan, Unfit};
use crate::resolve::{ContainerIdentity, Found};
use crate::step::Step;
use crate::system::nft::{Hook, Peer, RuleSpec, Side, TableSpec, Verdict};
use crate::system::target::Roots;

mod container_pause;
mod cpu_stress;
mod network_delay;
mod network_partition;

/// The steps of an injection, in the order to make them.
pub fn plan(injection: &Injection, found: Found, roots: &Roots) -> Result<Plan, Unfit> {
    let steps = steps(injection, &found, roots).map_err(Unfit::Refused)?;
    Ok(Plan { identity: found.identity, steps })
}

fn steps(injection: &Injection, found: &Found, roots: &Roots) -> Result<Vec<Step>, String> {
    check_backend(injection)?;
    let id = &injection.id;
    match &injection.action {
        Action::ContainerPause => Ok(container_pause::steps(container(injection, found)?)),
        Action::CpuStress { workers, load_percent } => {
            cpu_stress::steps(id, container(injection, found)?, *workers, *load_percent, roots)
        }
        Action::NetworkPartition { direction, peers, how } => {
            check_namespace(found)?;
            Ok(network_partition::steps(id, found, *direction, peers, *how))
        }
        Action::NetworkDelay { direction, peers, latency_ms, jitter_ms, correlation_percent } => {
            check_namespace(found)?;
            let delay = network_delay::Delay {
                direction: *direction,
                peers,
                latency_ms: *latency_ms,
                jitter_ms: *jitter_ms,
                correlation_percent: *correlation_percent,
            };
            network_delay::steps(id, found, &delay, injection.backend == "netem")
        }
    }
}

/// What ends this injection when nobody is alive; the strictest where the backend is unknown.
pub fn revert_class(injection: &Injection) -> RevertClass {
    let entry = catalogue::entry(injection.action.kind());
    let backend =
        entry.and_then(|entry| entry.backends.iter().find(|backend| backend.name == injection.backend));
    backend.map_or(RevertClass::Keeper, |backend| backend.revert)
}

fn check_backend(injection: &Injection) -> Result<(), String> {
    let kind = injection.action.kind();
    let known = catalogue::entry(kind)
        .is_some_and(|entry| entry.backends.iter().any(|backend| backend.name == injection.backend));
    if known { Ok(()) } else { Err(format!("{kind} has no backend {:?} here", injection.backend)) }
}

fn check_namespace(found: &Found) -> Result<(), String> {
    if !found.is_host_network {
        return Ok(());
    }
    Err("the target uses the node's own network, where a fault would hit the whole node".to_owned())
}

fn container<'a>(injection: &Injection, found: &'a Found) -> Result<&'a ContainerIdentity, String> {
    found.identity.container.as_ref().ok_or_else(|| match &injection.container {
        Some(name) => format!("no running container {name}"),
        None => "no running container".to_owned(),
    })
}

/// The rules that match an injection's traffic, seen from the target: what it sends is looked at where
/// it leaves, what it receives where it arrives. The ports are always the other end's.
fn rules(direction: Direction, peers: &[PeerMatch], verdict: Verdict) -> Vec<RuleSpec> {
    let peers = peers_of(peers);
    let rule = |hook, side| RuleSpec {
        hook,
        peer: side,
        port: side,
        peers: peers.clone(),
        verdict,
        spare_loopback: true,
    };
    let egress = || rule(Hook::Output, Side::Destination);
    let ingress = || rule(Hook::Input, Side::Source);
    match direction {
        Direction::Egress => vec![egress()],
        Direction::Ingress => vec![ingress()],
        Direction::Both => vec![egress(), ingress()],
    }
}

/// Everyone where none is named.
fn peers_of(peers: &[PeerMatch]) -> Vec<Peer> {
    if peers.is_empty() {
        let everyone = [ipnet::Ipv4Net::default().into(), ipnet::Ipv6Net::default().into()];
        return everyone.map(|cidr| Peer { cidr, ports: Vec::new() }).into();
    }
    let of = |peer: &PeerMatch| {
        let ports = peer.ports.clone();
        peer.nets.iter().map(move |cidr| Peer { cidr: *cidr, ports: ports.clone() }).collect::<Vec<_>>()
    };
    peers.iter().flat_map(of).collect()
}

/// A table's name is short and ids are long, and long ids of one run differ in a few letters only: the
/// digest keeps them apart.
fn table_name(id: &InjectionId) -> String {
    TableSpec::name_for(&format!("{:016x}", number_of(id.as_str())))
}

/// A worker's id must fit its bounds whatever the injection's length.
fn worker_id(id: &InjectionId) -> String {
    format!("{:016x}", number_of(id.as_str()))
}

/// A number that is the same for the same id.
fn number_of(id: &str) -> u64 {
    let digest = Sha256::digest(id.as_bytes());
    digest.iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests;
