//! The centre's half of the authority: what a principal may aim at. A pure table over Grants; the
//! member's own Ceiling is the other half and is judged there. Called by the engine while planning.

use std::collections::{BTreeMap, BTreeSet};

use proto::cluster::ClusterSpec;
use proto::experiment::ExperimentSpec;
use proto::grant::{
    GrantFrom, GrantSpec, PROTECTED_NAMESPACES, Principal, covers_namespace, kind_matches, name_matches,
};
use proto::ids::ClusterId;
use proto::plan::{Refusal, refusal};

/// Targets an author may hit in its own cluster and namespace without any Grant.
pub const OWN_NAMESPACE_MAX_TARGETS: u32 = 10;

/// What a run aims at in one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aim {
    /// Namespaces whose pods are hit, with the kinds.
    pub victims: BTreeMap<String, BTreeSet<&'static str>>,
    /// Namespaces whose pods' addresses are read.
    pub peers: BTreeSet<String>,
    /// Pods hit at most.
    pub targets: u32,
}

impl Aim {
    /// What the spec aims at in a cluster of this name and these labels.
    pub fn of(spec: &ExperimentSpec, name: &str, labels: &BTreeMap<String, String>) -> Self {
        let mut aim = Self::default();
        for target in spec.targets.iter().filter(|target| spec.clusters_of(target).matches(name, labels)) {
            if target.is_peer_only() {
                aim.peers.extend(target.pods.namespaces.iter().cloned());
                continue;
            }
            let on_it = spec.faults.iter().filter(|fault| fault.target == target.name);
            let kinds: BTreeSet<_> = on_it.filter_map(|fault| Some(fault.kind()?.dotted())).collect();
            let at_most = target.at_most.as_ref().map_or(0, |at_most| at_most.per_cluster);
            aim.targets = aim.targets.saturating_add(u32::try_from(at_most).unwrap_or(u32::MAX));
            for namespace in &target.pods.namespaces {
                aim.victims.entry(namespace.clone()).or_default().extend(&kinds);
            }
        }
        aim
    }

    /// Namespaces in which something is hit.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> + Clone {
        self.victims.keys().map(String::as_str)
    }
}

/// The members, for selectors of who asks.
pub type Members<'a> = &'a dyn Fn(&ClusterId) -> Option<&'a ClusterSpec>;

/// The names of the Grants that cover an aim at a cluster.
///
/// # Errors
/// One [`Refusal`] for what no Grant covers, with the command that gives it.
pub fn check<'a>(
    principal: &Principal,
    members: Members<'a>,
    grants: impl Iterator<Item = (&'a String, &'a GrantSpec)> + Clone,
    cluster: &ClusterSpec,
    aim: &Aim,
) -> Result<BTreeSet<String>, Refusal> {
    let here = |(_, grant): &(&String, &GrantSpec)| {
        is_from(&grant.from, principal, members) && grant.to.clusters.matches(&cluster.name, &cluster.labels)
    };
    let here: Vec<_> = grants.filter(here).collect();
    let mut used = BTreeSet::new();
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (namespace, kinds) in &aim.victims {
        if is_own(principal, cluster, namespace) && aim.targets <= OWN_NAMESPACE_MAX_TARGETS {
            continue;
        }
        for kind in kinds {
            let covers = |(_, grant): &&(&String, &GrantSpec)| {
                covers_namespace(&grant.to.namespaces, namespace)
                    && grant.to.kinds.iter().any(|pattern| kind_matches(pattern, kind))
                    && aim.targets <= grant.to.max_targets
            };
            match here.iter().find(covers) {
                Some((name, _)) => drop(used.insert((*name).clone())),
                None => drop(missing.entry(namespace).or_default().insert(kind)),
            }
        }
    }
    for namespace in &aim.peers {
        // Reading addresses needs no kind: any Grant to that namespace will do.
        match here.iter().find(|(_, grant)| covers_namespace(&grant.to.namespaces, namespace)) {
            _ if is_own(principal, cluster, namespace) => {}
            Some((name, _)) => drop(used.insert((*name).clone())),
            None => drop(missing.entry(namespace).or_default()),
        }
    }
    if missing.is_empty() {
        Ok(used)
    } else {
        Err(refuse(principal, members, cluster, &missing, aim.targets))
    }
}

/// Equal namespace names in two clusters mean nothing: own is own only in the own cluster.
fn is_own(principal: &Principal, cluster: &ClusterSpec, namespace: &str) -> bool {
    matches!(principal, Principal::Namespace { cluster: c, namespace: n } if *c == cluster.id && n == namespace)
        && !PROTECTED_NAMESPACES.contains(&namespace)
}

fn is_from(from: &GrantFrom, principal: &Principal, members: Members<'_>) -> bool {
    match principal {
        Principal::Operator { name } => name_matches(&from.operators, name),
        Principal::Namespace { cluster, namespace } => {
            let selector = from.clusters.as_ref();
            let member = members(cluster);
            member
                .zip(selector)
                .is_some_and(|(member, selector)| selector.matches(&member.name, &member.labels))
                && name_matches(&from.namespaces, namespace)
        }
    }
}

fn refuse(
    principal: &Principal,
    members: Members<'_>,
    cluster: &ClusterSpec,
    missing: &BTreeMap<&str, BTreeSet<&str>>,
    targets: u32,
) -> Refusal {
    let join = |words: &mut dyn Iterator<Item = &str>| words.collect::<Vec<_>>().join(",");
    let namespaces = join(&mut missing.keys().copied());
    let kinds: BTreeSet<&str> = missing.values().flatten().copied().collect();
    let kinds = if kinds.is_empty() { "*".to_owned() } else { join(&mut kinds.into_iter()) };
    let max = targets.max(1);
    let (from, who) = match principal {
        Principal::Operator { name } => (format!("--from-operator {name}"), format!("operator {name}")),
        Principal::Namespace { cluster, namespace } => {
            let name = members(cluster).map_or_else(|| cluster.to_string(), |member| member.name.clone());
            let flags = format!("--from-cluster {name} --from-namespace {namespace}");
            (flags, format!("namespace {namespace} of cluster {name}"))
        }
    };
    let to = &cluster.name;
    Refusal {
        code: refusal::NO_GRANT.to_owned(),
        message: format!(
            "no Grant lets {who} use {kinds} on up to {max} targets in namespace {namespaces} of cluster {to}"
        ),
        whose: "centre".to_owned(),
        cure: format!(
            "faultline grant {to}-{} {from} --to-cluster {to} --to-namespace {namespaces} --kind '{kinds}' --max-targets {max}",
            namespaces.replace(',', "-")
        ),
    }
}

#[cfg(test)]
mod tests;
