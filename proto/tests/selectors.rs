//! What a selector matches: a wrong answer is a fault in the wrong pod or cluster.

use std::collections::BTreeMap;

use proto::selector::{ClusterSelector, LabelSelector};
use serde_json::json;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn selector(value: serde_json::Value) -> LabelSelector {
    serde_json::from_value(value).expect("a selector")
}

#[test]
fn every_label_and_every_expression_must_match() {
    let pod = labels(&[("app", "web"), ("tier", "front"), ("empty", "")]);
    let expression = |operator: &str, key: &str, values: &[&str]| {
        selector(json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] }))
    };
    for (given, matches) in [
        (selector(json!({})), true),
        (selector(json!({ "matchLabels": { "app": "web" } })), true),
        (selector(json!({ "matchLabels": { "app": "web", "tier": "back" } })), false),
        (selector(json!({ "matchLabels": { "absent": "" } })), false),
        (expression("In", "app", &["db", "web"]), true),
        (expression("In", "app", &["db"]), false),
        (expression("In", "absent", &[""]), false),
        (expression("NotIn", "app", &["db"]), true),
        (expression("NotIn", "app", &["web", "db"]), false),
        (expression("NotIn", "absent", &["web"]), true),
        (expression("Exists", "empty", &[]), true),
        (expression("Exists", "absent", &[]), false),
        (expression("DoesNotExist", "absent", &[]), true),
        (expression("DoesNotExist", "empty", &[]), false),
        (
            selector(json!({ "matchLabels": { "app": "web" },
                "matchExpressions": [{ "key": "tier", "operator": "NotIn", "values": ["front"] }] })),
            false,
        ),
    ] {
        assert_eq!(given.matches(&pod), matches, "{given:?}");
    }
}

#[test]
fn a_cluster_is_selected_by_name_and_labels_and_never_by_nothing() {
    let test = labels(&[("env", "test")]);
    for (given, matches) in [
        (json!({}), false),
        (json!({ "labelSelector": {} }), false),
        (json!({ "names": ["west"] }), true),
        (json!({ "names": ["wes", "west2"] }), false),
        (json!({ "labelSelector": { "matchLabels": { "env": "test" } } }), true),
        (json!({ "names": ["west"], "labelSelector": { "matchLabels": { "env": "prod" } } }), false),
        (json!({ "names": ["east"], "labelSelector": { "matchLabels": { "env": "test" } } }), false),
    ] {
        let selector: ClusterSelector = serde_json::from_value(given).expect("a selector");
        assert_eq!(selector.matches("west", &test), matches, "{selector:?}");
    }
}
