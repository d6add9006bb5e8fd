//! Which clusters a run is about, and what the centre itself has against it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proto::cluster::ClusterSpec;
use proto::experiment::ExperimentSpec;
use proto::ids::ClusterId;
use proto::plan::{Refusal, refusal};
use proto::selector::OnUnavailable;

use super::{View, later};
use crate::authority::{self, Aim};

/// How long a run waits for a selected cluster whose session is just being opened again.
pub(super) const UNAVAILABLE_AFTER_MS: i64 = 5_000;

/// The clusters of a run.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// Selected and reachable: what is hit there (no victims: addresses are read only).
    pub(super) clusters: BTreeMap<ClusterId, Aim>,
    /// Left out as unavailable.
    pub(super) skipped: i32,
    /// What stands in the way.
    pub(super) refusals: Vec<Refusal>,
    /// Grants that were needed.
    pub(super) grants: BTreeSet<String>,
    /// Selected, not connected, but perhaps in a moment.
    pub(super) undecided_until: Option<Timestamp>,
}

fn refusal_of(code: &str, whose: &str, message: String, cure: String) -> Refusal {
    Refusal { code: code.to_owned(), message, whose: whose.to_owned(), cure }
}

/// Judges every member against the spec.
pub(super) fn select(view: View<'_>, spec: &ExperimentSpec, now: Timestamp) -> Selection {
    let mut selection = Selection::default();
    let members = || view.state.clusters.values().filter_map(|entry| Some(&entry.spec.as_ref()?.value));
    for member in members() {
        let aim = Aim::of(spec, &member.name, &member.labels);
        if aim == Aim::default() {
            continue;
        }
        selection.take(view, spec, member, aim, now);
    }
    for target in &spec.targets {
        let selector = spec.clusters_of(target);
        let absent = |name: &&String| !members().any(|member| member.name == **name);
        for name in selector.names.iter().filter(absent) {
            selection.refusals.push(refusal_of(
                refusal::NO_CLUSTERS,
                "author",
                format!("target {} names cluster {name}, which is no member", target.name),
                "faultline clusters list".to_owned(),
            ));
        }
        if selector.names.is_empty() && !members().any(|m| selector.matches(&m.name, &m.labels)) {
            selection.refusals.push(refusal_of(
                refusal::NO_CLUSTERS,
                "author",
                format!("no cluster matches the selector of target {}", target.name),
                "faultline clusters list".to_owned(),
            ));
        }
    }
    selection.check_networks(view, spec);
    selection.refusals.dedup();
    selection
}

impl Selection {
    fn take(
        &mut self,
        view: View<'_>,
        spec: &ExperimentSpec,
        member: &ClusterSpec,
        aim: Aim,
        now: Timestamp,
    ) {
        if !member.accepted || member.revoked {
            self.refusals.push(refusal_of(
                refusal::CLUSTER_PENDING,
                "centre",
                format!(
                    "cluster {} is {}",
                    member.name,
                    if member.revoked { "revoked" } else { "not accepted yet" }
                ),
                format!("faultline clusters accept {}", member.name),
            ));
            return;
        }
        let grants = view.state.grants.iter().map(|(name, grant)| (name, &grant.value.spec));
        let members = |id: &ClusterId| view.state.spec_of(id);
        match authority::check(&view.record.principal, &members, grants, member, &aim) {
            Ok(used) => self.grants.extend(used),
            Err(refusal) => self.refusals.push(refusal),
        }
        if let Some(halt) = view.state.halted(&member.id, aim.namespaces()) {
            self.refusals.push(refusal_of(
                refusal::HALTED,
                "centre",
                format!("halt {} is in force on cluster {}", halt.id, member.name),
                format!("faultline halt release {}", halt.id),
            ));
        }
        if view.state.is_connected(&member.id) || view.entry.desired.contains_key(&member.id) {
            self.clusters.insert(member.id.clone(), aim);
            return;
        }
        let patience = later(view.record.created_at, UNAVAILABLE_AFTER_MS);
        if patience.is_some_and(|until| until > now) {
            self.undecided_until = patience;
        } else if skips(spec, member) {
            self.skipped += 1;
        } else {
            self.refusals.push(refusal_of(
                refusal::CLUSTER_UNAVAILABLE,
                "cluster owner",
                format!("cluster {} is not connected", member.name),
                "start its agent, or write clusters.onUnavailable: Skip".to_owned(),
            ));
        }
    }

    /// Pod addresses mean something elsewhere only within one network.
    fn check_networks(&mut self, view: View<'_>, spec: &ExperimentSpec) {
        let network = |id: &ClusterId| view.state.spec_of(id).and_then(|member| member.labels.get("network"));
        let selected = |target: &proto::experiment::Target| {
            let of = spec.clusters_of(target).clone();
            self.clusters
                .keys()
                .filter(move |id| view.state.spec_of(id).is_some_and(|m| of.matches(&m.name, &m.labels)))
                .cloned()
                .collect::<Vec<_>>()
        };
        let mut found = Vec::new();
        for fault in &spec.faults {
            let Some((kind, victim)) = fault.kind().zip(spec.target(&fault.target)) else {
                continue;
            };
            let peers = kind.peers().iter().filter_map(|peer| spec.target(peer.target.as_deref()?));
            for peer in peers.filter(|peer| peer.name != victim.name) {
                let (theirs, ours) = (selected(peer), selected(victim));
                let apart = |a: &ClusterId, b: &ClusterId| {
                    a != b && (network(a).is_none() || network(a) != network(b))
                };
                let pair = ours.iter().flat_map(|a| theirs.iter().map(move |b| (a, b))).find(|(a, b)| {
                    // A peer that also exists here is resolved here.
                    apart(a, b) && !theirs.contains(a)
                });
                if let Some((a, b)) = pair {
                    let (a, b) = (view.state.cluster_name(a), view.state.cluster_name(b));
                    found.push(refusal_of(
                        refusal::NETWORK_LABEL,
                        "centre",
                        format!("fault {} needs pod addresses of cluster {b} in cluster {a}, which are not known to share a network", fault.name),
                        "give both clusters the same label `network` when inviting them, or use a cidr".to_owned(),
                    ));
                }
            }
        }
        self.refusals.extend(found);
    }
}

fn skips(spec: &ExperimentSpec, member: &ClusterSpec) -> bool {
    spec.targets
        .iter()
        .map(|target| spec.clusters_of(target))
        .filter(|selector| selector.matches(&member.name, &member.labels))
        .all(|selector| selector.on_unavailable == Some(OnUnavailable::Skip))
}
