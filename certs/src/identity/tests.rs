//! Tables and properties of the SPIFFE id type.

use proptest::prelude::*;

use super::{Error, Identity, Role, TrustDomain};

fn parse(text: &str) -> Result<Identity, Error> {
    text.parse()
}

#[test]
fn reads_the_six_forms() {
    let cases = [
        ("spiffe://td.x/cluster/c1/agent", Role::agent("c1")),
        ("spiffe://td.x/cluster/c1/node/worker-1.local", Role::node("c1", "worker-1.local")),
        ("spiffe://td.x/control-plane/0", Role::control_plane("0")),
        ("spiffe://td.x/control-plane/0/audit", Role::audit("0")),
        ("spiffe://td.x/control-plane/0/endpoints", Role::endpoints("0")),
        ("spiffe://td.x/operator/Ann_B", Role::operator("Ann_B")),
    ];
    for (text, role) in cases {
        let identity = parse(text).unwrap();
        assert_eq!(identity.role(), &role);
        assert_eq!(identity.trust_domain().as_str(), "td.x");
        assert_eq!(identity.to_string(), text);
    }
    assert_eq!(parse("spiffe://t/cluster/c1/node/n").unwrap().cluster(), Some("c1"));
    assert_eq!(parse("spiffe://t/operator/c1").unwrap().cluster(), None);
}

#[test]
fn refuses_everything_near_them() {
    let wrong = [
        "",
        "spiffe://",
        "spiffe://td",
        "spiffe://td/",
        "SPIFFE://td/operator/a",
        "https://td/operator/a",
        "spiffe://TD/operator/a",
        "spiffe://td:1/operator/a",
        "spiffe://u@td/operator/a",
        "spiffe:///operator/a",
        "spiffe://td//operator/a",
        "spiffe://td/operator/",
        "spiffe://td/operator/a/",
        "spiffe://td/operator/a?b",
        "spiffe://td/operator/a#b",
        "spiffe://td/operator/%61",
        "spiffe://td/operator/..",
        "spiffe://td/operator/.",
        "spiffe://td/operator/a b",
        "spiffe://td/operator/\u{e9}",
        "spiffe://td/cluster/c1",
        "spiffe://td/cluster//agent",
        "spiffe://td/cluster/c1/agent/x",
        "spiffe://td/cluster/c1/node",
        "spiffe://td/control-plane/0/Audit",
        "spiffe://td/control-plane/0/audit/x",
        "spiffe://td/cluster/c1/Agent",
        " spiffe://td/operator/a",
        "spiffe://td/operator/a\n",
        "spiffe://td/operator/a\0",
    ];
    for text in wrong {
        assert!(parse(text).is_err(), "accepted {text:?}");
    }
    assert_eq!(parse(&format!("spiffe://td/operator/{}", "a".repeat(3000))), Err(Error::TooLong));
    assert!(matches!(parse(&format!("spiffe://td/operator/{}", "a".repeat(254))), Err(Error::Segment(_))));
}

#[test]
fn a_name_cannot_smuggle_a_path() {
    let td = TrustDomain::new("td").unwrap();
    assert!(Identity::new(td.clone(), Role::agent("c1/agent/../c2")).is_err());
    assert!(Identity::new(td, Role::node("c1", "")).is_err());
}

#[test]
fn serde_is_the_text_and_is_checked() {
    let identity = parse("spiffe://td/cluster/c1/agent").unwrap();
    let json = serde_json::to_string(&identity).unwrap();
    assert_eq!(json, r#""spiffe://td/cluster/c1/agent""#);
    assert_eq!(serde_json::from_str::<Identity>(&json).unwrap(), identity);
    assert!(serde_json::from_str::<Identity>(r#""spiffe://td/x""#).is_err());
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_-][A-Za-z0-9._-]{0,40}"
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![
        name().prop_map(Role::agent),
        (name(), name()).prop_map(|(c, n)| Role::node(c, n)),
        name().prop_map(Role::control_plane),
        name().prop_map(Role::operator),
    ]
}

proptest! {
    #[test]
    fn text_round_trips(domain in "[a-z0-9._-]{1,40}", role in role()) {
        let identity = Identity::new(TrustDomain::new(domain).unwrap(), role).unwrap();
        prop_assert_eq!(parse(&identity.to_string()), Ok(identity));
    }

    #[test]
    fn junk_never_panics_and_what_parses_is_canonical(
        text in prop_oneof![".{0,80}", "spiffe://[a-z/.%]{0,40}", "spiffe://td/(cluster|node|operator|agent|/|\\.){0,8}"],
    ) {
        if let Ok(identity) = parse(&text) {
            prop_assert_eq!(identity.to_string(), text);
        }
    }
}
