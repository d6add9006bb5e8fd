//! Which faults on one target cannot stand together. What is not named here composes: each fault has
//! things of its own on the node, and its undo touches nothing else.

use proto::fault::Direction;
use proto::injection::{Action, Injection, PeerMatch};

use super::Plan;
use crate::journal::Record;
use crate::step::Step;
use crate::system::nft::Verdict;

/// Why the new one cannot be made beside the other, or `None`.
pub(super) fn between(new: &Injection, plan: &Plan, other: &Record) -> Option<&'static str> {
    if same_container(plan, other) {
        match (&new.action, &other.injection.action) {
            (Action::ContainerPause, Action::ContainerPause) => {
                return Some("the container is paused already");
            }
            (Action::ContainerPause, Action::CpuStress { .. })
            | (Action::CpuStress { .. }, Action::ContainerPause) => {
                return Some("a paused container cannot be stressed");
            }
            _ => {}
        }
    }
    if plan.identity.netns.cookie != other.identity.netns.cookie {
        return None;
    }
    if same_kind_overlaps(&new.action, &other.injection.action) {
        return Some("the same fault acts on the same traffic of this pod");
    }
    let shares = |step: &Step| other.steps.iter().any(|theirs| shared(step, theirs));
    plan.steps.iter().any(shares).then_some("both need the same queue or root qdisc of this pod")
}

fn same_container(plan: &Plan, other: &Record) -> bool {
    match (&plan.identity.container, &other.identity.container) {
        (Some(a), Some(b)) => a.process == b.process,
        _ => false,
    }
}

fn same_kind_overlaps(a: &Action, b: &Action) -> bool {
    match (a, b) {
        (
            Action::NetworkPartition { direction: da, peers: pa, .. },
            Action::NetworkPartition { direction: db, peers: pb, .. },
        )
        | (
            Action::NetworkDelay { direction: da, peers: pa, .. },
            Action::NetworkDelay { direction: db, peers: pb, .. },
        ) => directions_overlap(*da, *db) && peers_overlap(pa, pb),
        _ => false,
    }
}

fn directions_overlap(a: Direction, b: Direction) -> bool {
    a == b || a == Direction::Both || b == Direction::Both
}

/// No peers means everyone, no ports every port.
fn peers_overlap(a: &[PeerMatch], b: &[PeerMatch]) -> bool {
    let nets = |a: &PeerMatch, b: &PeerMatch| {
        a.nets.iter().any(|one| b.nets.iter().any(|two| one.contains(two) || two.contains(one)))
    };
    let ports = |a: &PeerMatch, b: &PeerMatch| {
        a.ports.is_empty() || b.ports.is_empty() || a.ports.iter().any(|port| b.ports.contains(port))
    };
    a.is_empty() || b.is_empty() || a.iter().any(|one| b.iter().any(|two| nets(one, two) && ports(one, two)))
}

fn shared(a: &Step, b: &Step) -> bool {
    match (a, b) {
        (Step::NetemTree { netem: a, .. }, Step::NetemTree { netem: b, .. }) => a.device == b.device,
        (Step::NftTable { table: a, .. }, Step::NftTable { table: b, .. }) => {
            let queues = |table: &crate::system::nft::TableSpec| -> Vec<u16> {
                let number = |verdict| match verdict {
                    Verdict::Queue { number } => Some(number),
                    _ => None,
                };
                table.rules.iter().filter_map(|rule| number(rule.verdict)).collect()
            };
            let theirs = queues(b);
            a.name == b.name || queues(a).iter().any(|queue| theirs.contains(queue))
        }
        _ => false,
    }
}
