//! The table of who may aim at what.

use std::collections::BTreeMap;

use proto::cluster::ClusterSpec;
use proto::grant::{GrantSpec, Principal};
use proto::ids::ClusterId;
use serde_json::{Value, json};

use super::{Aim, check};

fn member(name: &str) -> ClusterSpec {
    ClusterSpec {
        id: format!("c-{name}").parse().unwrap(),
        name: name.to_owned(),
        labels: BTreeMap::from([("env".to_owned(), name.to_owned())]),
        accepted: true,
        revoked: false,
        created_at: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn author(cluster: &str, namespace: &str) -> Principal {
    Principal::Namespace { cluster: format!("c-{cluster}").parse().unwrap(), namespace: namespace.to_owned() }
}

fn operator() -> Principal {
    Principal::Operator { name: "ann".to_owned() }
}

fn aim(namespace: &str, kind: &'static str, targets: u32) -> Aim {
    let victims = BTreeMap::from([(namespace.to_owned(), [kind].into())]);
    Aim { victims, targets, ..Aim::default() }
}

fn judge(principal: &Principal, grants: &[Value], target: &str, aim: &Aim) -> Result<Vec<String>, String> {
    let (east, west) = (member("east"), member("west"));
    let members = |id: &ClusterId| [&east, &west].into_iter().find(|member| member.id == *id);
    let grants: BTreeMap<String, GrantSpec> = grants
        .iter()
        .enumerate()
        .map(|(index, grant)| (format!("g{index}"), serde_json::from_value(grant.clone()).unwrap()))
        .collect();
    let target = member(target);
    check(principal, &members, grants.iter(), &target, aim)
        .map(|used| used.into_iter().collect())
        .map_err(|refusal| format!("{} {}", refusal.code, refusal.cure))
}

fn grant(from: &Value, namespaces: &[&str], kinds: &[&str], max: u32) -> Value {
    json!({ "from": from, "to": {
        "clusters": { "names": ["west"] }, "namespaces": namespaces, "kinds": kinds, "maxTargets": max } })
}

#[test]
fn an_author_has_its_own_namespace_and_nothing_else() {
    let own = author("west", "shop");
    assert_eq!(judge(&own, &[], "west", &aim("shop", "pod.kill", 10)), Ok(vec![]));
    assert!(judge(&own, &[], "west", &aim("shop", "pod.kill", 11)).is_err(), "more than ten");
    assert!(judge(&own, &[], "west", &aim("bank", "pod.kill", 1)).is_err(), "another namespace");
    assert!(
        judge(&own, &[], "east", &aim("shop", "pod.kill", 1)).is_err(),
        "the same name elsewhere means nothing"
    );
    assert!(judge(&author("west", "kube-system"), &[], "west", &aim("kube-system", "pod.kill", 1)).is_err());
}

#[test]
fn a_grant_covers_what_it_names() {
    let from = json!({ "clusters": { "names": ["east"] }, "namespaces": ["shop"] });
    let grants = [grant(&from, &["shop"], &["network.*"], 3)];
    let east = author("east", "shop");
    assert_eq!(judge(&east, &grants, "west", &aim("shop", "network.delay", 3)), Ok(vec!["g0".to_owned()]));
    for (principal, wrong) in [
        (&east, aim("shop", "network.delay", 4)),
        (&east, aim("shop", "pod.kill", 1)),
        (&east, aim("bank", "network.delay", 1)),
        (&author("east", "bank"), aim("shop", "network.delay", 1)),
        (&operator(), aim("shop", "network.delay", 1)),
    ] {
        assert!(judge(principal, &grants, "west", &wrong).is_err(), "{principal} {wrong:?}");
    }
}

#[test]
fn a_star_never_covers_what_is_protected() {
    let from = json!({ "operators": ["*"] });
    let star = [grant(&from, &["*"], &["*"], 100)];
    assert!(judge(&operator(), &star, "west", &aim("shop", "pod.kill", 1)).is_ok());
    assert!(judge(&operator(), &star, "west", &aim("kube-system", "pod.kill", 1)).is_err());
    let named = [grant(&from, &["kube-system"], &["*"], 100)];
    assert!(judge(&operator(), &named, "west", &aim("kube-system", "pod.kill", 1)).is_ok());
}

#[test]
fn reading_addresses_needs_a_grant_of_any_kind() {
    let peers = Aim { peers: ["db".to_owned()].into(), ..Aim::default() };
    assert!(judge(&operator(), &[], "west", &peers).is_err());
    let grants = [grant(&json!({ "operators": ["ann"] }), &["db"], &["cpu.stress"], 1)];
    assert!(judge(&operator(), &grants, "west", &peers).is_ok());
}

#[test]
fn the_cure_is_the_command() {
    let text = judge(&author("east", "shop"), &[], "west", &aim("bank", "network.delay", 2)).unwrap_err();
    assert_eq!(
        text,
        "NoGrant faultline grant west-bank --from-cluster east --from-namespace shop --to-cluster west \
         --to-namespace bank --kind 'network.delay' --max-targets 2"
    );
}
