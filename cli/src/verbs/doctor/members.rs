//! One member, from what the centre knows of it. No I/O.

use jiff::{SignedDuration, Timestamp};
use proto::cluster::ClusterState;
use proto::rest::ClusterView;

use super::node::cure;
use super::{Report, State};

/// A certificate lives a day and is renewed at half of it: with less than this left, renewing does not work.
const RENEWED_BY: SignedDuration = SignedDuration::from_hours(6);

pub(super) fn look(report: &mut Report, cluster: &ClusterView, now: Timestamp) {
    let name = cluster.spec.name.as_str();
    let mut add = |id: &str, state: State, message: String, cure: String| {
        report.about(id, name, state, message, cure);
    };
    link(cluster, &mut add);
    if matches!(cluster.state, ClusterState::Revoked) || cluster.status.version.is_empty() {
        return;
    }
    certificate(cluster, now, &mut add);
    version(cluster, &mut add);
    if cluster.state != ClusterState::Connected {
        return;
    }
    inventory(cluster, &mut add);
}

fn link(cluster: &ClusterView, add: &mut impl FnMut(&str, State, String, String)) {
    let name = &cluster.spec.name;
    let (state, message, cure) = match cluster.state {
        ClusterState::Connected => (State::Ok, "connected".to_owned(), String::new()),
        ClusterState::Pending if cluster.status.version.is_empty() => {
            let cure =
                "install the member chart with the join token; then look there: faultline doctor agent";
            (State::Warning, "invited, never seen".to_owned(), cure.to_owned())
        }
        ClusterState::Pending => {
            (State::Warning, "enrolled, not accepted".to_owned(), format!("faultline clusters accept {name}"))
        }
        ClusterState::Accepted => {
            let cure = "look from its agent's place: faultline doctor agent";
            (State::Warning, "accepted, never connected".to_owned(), cure.to_owned())
        }
        ClusterState::Unknown => {
            let since = cluster.status.disconnected_at.map_or_else(String::new, |at| format!(" since {at}"));
            let cure = "look from its agent's place: faultline doctor agent";
            (State::Failed, format!("not connected{since}"), cure.to_owned())
        }
        ClusterState::Revoked => {
            (State::Warning, "revoked".to_owned(), format!("faultline clusters remove {name}"))
        }
    };
    add("cluster.link", state, message, cure);
}

fn certificate(cluster: &ClusterView, now: Timestamp, add: &mut impl FnMut(&str, State, String, String)) {
    let name = &cluster.spec.name;
    if let Some(at) = cluster.status.clone_suspected_at {
        let message = format!("a second holder of its identity showed up at {at}: nobody recovers with it");
        let cure = format!(
            "find out who has a copy of its identity Secret, then: faultline clusters replace {name}"
        );
        add("cluster.identity", State::Failed, message, cure);
    }
    let Some(not_after) = cluster.status.certificate_not_after else { return };
    let left = not_after.duration_since(now);
    if left.is_negative() {
        let cure = format!(
            "its agent recovers by itself when it is back, within 30 days unless configured; else: faultline clusters \
             replace {name}, and give its agent the new token"
        );
        add("cluster.certificate", State::Failed, format!("expired at {not_after}"), cure);
    } else if left < RENEWED_BY {
        let cure = "it is renewed over the link at half its life: see cluster.link".to_owned();
        add("cluster.certificate", State::Warning, format!("ends at {not_after}"), cure);
    } else {
        add("cluster.certificate", State::Ok, format!("valid until {not_after}"), String::new());
    }
}

/// Agents are two minor versions behind at most: the centre is upgraded first.
fn version(cluster: &ClusterView, add: &mut impl FnMut(&str, State, String, String)) {
    let ours = env!("CARGO_PKG_VERSION");
    let theirs = cluster.status.version.as_str();
    let behind = minor(ours).zip(minor(theirs)).map(|(ours, theirs)| ours - theirs);
    let (state, cure) = match behind {
        Some(0 | 1) => (State::Ok, ""),
        Some(2) => (State::Warning, "upgrade it: a control plane takes none that is older"),
        Some(-1) => (State::Warning, "upgrade the control plane and this program first, members after"),
        _ => (State::Failed, "upgrade it: helm upgrade of the member chart, one minor version at a time"),
    };
    add("cluster.version", state, format!("{theirs}, this program is {ours}"), cure.to_owned());
}

/// Major and minor as one number.
fn minor(version: &str) -> Option<i64> {
    let mut parts = version.split('.');
    let mut next = || parts.next()?.parse::<i64>().ok();
    Some(next()? * 1000 + next()?)
}

fn inventory(cluster: &ClusterView, add: &mut impl FnMut(&str, State, String, String)) {
    let inventory = &cluster.status.inventory;
    if inventory.has_ceiling {
        add("cluster.ceiling", State::Ok, "there is a Ceiling".to_owned(), String::new());
    } else {
        let cure = "the cluster's owner sets `ceiling` in the member chart's values";
        add("cluster.ceiling", State::Warning, "no Ceiling: nothing is allowed".to_owned(), cure.to_owned());
    }
    if !inventory.accepts_starts {
        let cure = "see the agent's log: it cannot renew its Lease or reach its apiserver";
        add("cluster.starts", State::Failed, "stop-only: refuses to start".to_owned(), cure.to_owned());
    }
    // Nodes on which no daemon can work are no fault.
    let skipped = inventory.nodes.iter().filter(|node| !node.skipped.is_empty()).count();
    let (daemons, nodes) = (inventory.daemons, inventory.node_count.saturating_sub(skipped as u32));
    if inventory.api_faults_only {
        add("cluster.daemons", State::Ok, "installed without node daemons".to_owned(), String::new());
    } else if daemons < nodes {
        let without = inventory.nodes.iter().filter(|node| !node.daemon && node.skipped.is_empty());
        let without = without.map(|node| node.name.as_str());
        let names: Vec<&str> = without.take(10).collect();
        let cure = "on the node: faultline doctor node; or its DaemonSet does not tolerate the node's taints";
        let message = format!("{daemons} of {nodes} nodes have a daemon; not: {}", names.join(", "));
        add("cluster.daemons", State::Warning, message, cure.to_owned());
    } else {
        add("cluster.daemons", State::Ok, format!("{daemons} of {nodes} nodes"), String::new());
    }
    let mut missing = std::collections::BTreeMap::<&str, Vec<&str>>::new();
    for node in &inventory.nodes {
        for name in &node.missing {
            missing.entry(name).or_default().push(&node.name);
        }
    }
    for (name, nodes) in missing {
        let shown = nodes.iter().take(10).copied().collect::<Vec<_>>().join(", ");
        let message = format!("missing on {} node(s): {shown}", nodes.len());
        add(&format!("capability.{name}"), State::Warning, message, cure(name).to_owned());
    }
}

#[cfg(test)]
mod tests {
    use proto::cluster::{ClusterSpec, ClusterStatus, InventorySummary, NodeSummary, capability};

    use super::*;

    fn cluster(state: ClusterState, version: &str) -> ClusterView {
        let now = Timestamp::UNIX_EPOCH;
        let spec = ClusterSpec {
            id: "c-1".parse().unwrap(),
            name: "west".to_owned(),
            labels: std::collections::BTreeMap::default(),
            accepted: true,
            revoked: false,
            created_at: now,
        };
        let inventory = InventorySummary {
            nodes: vec![
                NodeSummary {
                    name: "n1".to_owned(),
                    daemon: true,
                    missing: vec![capability::NETEM.to_owned()],
                    ..NodeSummary::default()
                },
                NodeSummary { name: "n2".to_owned(), ..NodeSummary::default() },
            ],
            node_count: 2,
            daemons: 1,
            has_ceiling: true,
            accepts_starts: true,
            ..InventorySummary::default()
        };
        let status = ClusterStatus {
            version: version.to_owned(),
            certificate_not_after: Some(now + SignedDuration::from_hours(20)),
            inventory,
            ..ClusterStatus::default()
        };
        ClusterView { spec, state, status }
    }

    fn found(view: &ClusterView, hours: i64) -> Vec<(String, State)> {
        let mut report = Report::default();
        look(&mut report, view, Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours));
        for check in &report.checks {
            assert_eq!(check.subject, "west");
            assert_eq!(check.cure.is_empty(), check.state == State::Ok, "{check:?}");
        }
        report.checks.into_iter().map(|check| (check.id, check.state)).collect()
    }

    #[test]
    fn what_a_connected_member_lacks_is_named_with_its_cure() {
        let found = found(&cluster(ClusterState::Connected, env!("CARGO_PKG_VERSION")), 0);
        let wanted = [
            ("cluster.link", State::Ok),
            ("cluster.certificate", State::Ok),
            ("cluster.version", State::Ok),
            ("cluster.ceiling", State::Ok),
            ("cluster.daemons", State::Warning),
            ("capability.sch_netem", State::Warning),
        ];
        assert_eq!(found, wanted.map(|(id, state)| (id.to_owned(), state)));
    }

    #[test]
    fn a_second_holder_of_an_identity_is_told() {
        let mut view = cluster(ClusterState::Connected, env!("CARGO_PKG_VERSION"));
        view.status.clone_suspected_at = Some(Timestamp::UNIX_EPOCH);
        assert!(found(&view, 0).contains(&("cluster.identity".to_owned(), State::Failed)));
    }

    #[test]
    fn states_of_the_link_and_of_the_certificate() {
        let ours = env!("CARGO_PKG_VERSION");
        for (state, version, hours, wanted) in [
            (ClusterState::Pending, "", 0, vec![State::Warning]),
            (ClusterState::Revoked, ours, 0, vec![State::Warning]),
            (ClusterState::Accepted, ours, 0, vec![State::Warning, State::Ok, State::Ok]),
            (ClusterState::Unknown, ours, 15, vec![State::Failed, State::Warning, State::Ok]),
            (ClusterState::Unknown, ours, 21, vec![State::Failed, State::Failed, State::Ok]),
            (ClusterState::Unknown, "9.9.0", 0, vec![State::Failed, State::Ok, State::Failed]),
            (ClusterState::Unknown, "odd", 0, vec![State::Failed, State::Ok, State::Failed]),
        ] {
            let states: Vec<State> =
                found(&cluster(state, version), hours).into_iter().map(|f| f.1).collect();
            assert_eq!(states, wanted, "{state:?} {version} {hours}");
        }
    }
}
