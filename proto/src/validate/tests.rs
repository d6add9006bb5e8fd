//! What is refused, with which words, and that nothing valid is.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::run::SetPath;

/// The example of the design, and the smallest of its kind.
pub(crate) fn good() -> Value {
    json!({
        "hypothesis": "Checkout answers within 1 s while payments is 200 ms late.",
        "settable": ["faults[late].network.delay.latency"],
        "clusters": { "names": ["c2"] },
        "targets": [
            { "name": "payments",
              "pods": { "namespaces": ["shop"], "labelSelector": { "matchLabels": { "app": "payments" } } },
              "containers": ["app"], "pick": { "percent": 50 }, "atMost": { "perCluster": 5, "total": 50 } },
            { "name": "db", "role": "PeerOnly", "clusters": { "names": ["c1"] },
              "pods": { "namespaces": ["shop"], "labelSelector": { "matchLabels": { "app": "db" } } } }
        ],
        "steadyState": [
            { "name": "checkout-answers", "http": { "url": "http://checkout.shop:8080/health" },
              "expect": { "status": [200], "within": "1s" }, "every": "1s", "breachAfter": 3,
              "when": ["Before", "During", "After"], "from": "TargetClusters" }
        ],
        "faults": [
            { "name": "late", "target": "payments", "at": "0s", "for": "60s",
              "network": { "delay": { "latency": "200ms", "jitter": "20ms", "correlation": 25, "direction": "Egress",
                "peers": [ { "target": "db", "via": "PodIPs" }, { "cidr": "10.0.0.0/8", "ports": [5432] } ] } } }
        ],
        "limits": { "clusterDeadline": "5m", "runDeadline": "1h", "startWithin": "10m",
                    "onLinkLoss": { "after": "60s", "do": "Revert" } }
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut spec = good();
    *spec.pointer_mut(pointer).expect("pointer of the example") = value;
    spec
}

fn problems(spec: &Value) -> Vec<String> {
    experiment(spec).err().map(|p| p.0.iter().map(ToString::to_string).collect()).unwrap_or_default()
}

#[test]
fn the_example_is_valid() {
    assert_eq!(problems(&good()), Vec::<String>::new());
}

#[test]
fn how_a_plan_binds_and_what_may_be_empty_are_words_of_the_spec() {
    for (value, why) in [
        (json!("Workload"), None),
        (json!("Exact"), None),
        (json!("exact"), Some("Exact")),
        (json!("Exakt"), Some("Exact")),
        (json!(true), Some("planBinding")),
    ] {
        let mut spec = good();
        spec["limits"]["planBinding"] = value.clone();
        let found = problems(&spec).join("\n");
        assert_eq!(found.is_empty(), why.is_none(), "{value}: {found}");
        assert!(why.is_none_or(|why| found.contains(why)), "{value}: {found}");
        if why.is_none() {
            assert_eq!(experiment(&spec).unwrap().limits.binds_pods(), value == "Exact");
        }
    }
    let mut spec = good();
    spec["limits"]["planBindings"] = json!("Exact");
    spec["targets"][0]["alowEmpty"] = json!(true);
    let found = problems(&spec).join("\n");
    assert!(found.contains("planBinding?") && found.contains("allowEmpty?"), "{found}");

    let mut spec = good();
    spec["targets"][0]["allowEmpty"] = json!(true);
    assert_eq!(problems(&spec), Vec::<String>::new());
    assert!(experiment(&spec).unwrap().targets[0].allows_empty());
    spec["targets"][0]["allowEmpty"] = json!("yes");
    spec["targets"][1]["allowEmpty"] = json!(true);
    let found = problems(&spec).join("\n");
    assert!(
        found.contains("spec.targets[0].allowEmpty") && found.contains("spec.targets[1].allowEmpty"),
        "{found}"
    );
    assert!(found.contains("no other end"), "{found}");
    // It permits no match, never an empty selector.
    let mut spec = good();
    spec["targets"][0]["allowEmpty"] = json!(true);
    spec["targets"][0]["pods"] = json!({ "namespaces": ["shop"] });
    assert!(problems(&spec).join("\n").contains("an empty selection would hit everything"));
}

#[test]
fn ten_mistakes_give_ten_problems_with_paths() {
    let mut spec = good();
    spec["hypothesys"] = json!("x");
    spec["targets"][0]["pick"] = json!({ "percent": 50, "one": true });
    spec["targets"][0]["atMost"] = json!({ "perCluster": "five" });
    spec["targets"][1]["pods"]["labelSelector"] = json!({});
    spec["steadyState"][0]["http"]["url"] = json!("ftp://checkout");
    spec["steadyState"][0]["every"] = json!("1 second");
    spec["faults"][0]["target"] = json!("paiments");
    spec["faults"][0]["for"] = json!("10m");
    spec["faults"][0]["network"]["delay"]["latancy"] = json!("1s");
    spec["faults"][0]["network"]["delay"]["peers"][1]["cidr"] = json!("10.0.0.0/80");
    let found = experiment(&spec).expect_err("ten mistakes").0;
    let paths: Vec<&str> = found.iter().map(|p| p.path.as_str()).collect();
    for path in [
        "spec.hypothesys",
        "spec.targets[0].pick",
        "spec.targets[0].atMost.perCluster",
        "spec.targets[1].pods",
        "spec.steadyState[0].http.url",
        "spec.steadyState[0].every",
        "spec.faults[0].target",
        "spec.faults[0].for",
        "spec.faults[0].network.delay.latancy",
        "spec.faults[0].network.delay.peers[1].cidr",
    ] {
        assert_eq!(paths.iter().filter(|p| **p == path).count(), 1, "{path} in {found:#?}");
    }
    assert_eq!(found.len(), 10, "{found:#?}");
    let text = found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(text.contains("did you mean hypothesis?") && text.contains("did you mean payments?"), "{text}");
}

#[test]
fn single_mistakes_are_named() {
    let table: &[(&str, Value, &str)] = &[
        ("/clusters", json!({}), "spec.clusters: name clusters"),
        ("/targets/0/pods/namespaces", json!([]), "spec.targets[0].pods.namespaces: name at least one"),
        ("/targets/0/pods/namespaces", json!(["../x"]), "spec.targets[0].pods.namespaces[0]"),
        ("/targets/0/pick/percent", json!(0), "spec.targets[0].pick.percent: is 0, at least 1"),
        ("/targets/0/pick/percent", json!(12.5), "expected a whole number"),
        ("/targets/0/name", json!("db"), "is taken by"),
        ("/faults/0/at", json!("-1s"), "spec.faults[0].at"),
        ("/faults/0/for", json!("0s"), "must be between 1s"),
        ("/faults/0/network", json!({}), "names no fault kind"),
        ("/faults/0/network/delay/latency", json!("61s"), "must be between 1ms and 1m"),
        ("/faults/0/network/delay/jitter", json!("300ms"), "is larger than the latency"),
        ("/faults/0/network/delay/direction", json!("Egres"), "did you mean Egress?"),
        ("/faults/0/network/delay/peers/1/ports/0", json!(0), "at least 1"),
        ("/faults/0/network/delay/peers/0/target", json!("nobody"), "no target is named"),
        ("/faults/0/target", json!("db"), "PeerOnly"),
        ("/limits/runDeadline", json!("1m"), "shorter than the cluster deadline"),
        ("/settable/0", json!("faults[late].name"), "names no value that may be set"),
        ("/steadyState/0/expect/within", json!("31s"), "must be between 1ms and 30s"),
    ];
    for (pointer, value, expected) in table {
        let found = problems(&with(pointer, value.clone()));
        assert!(found.iter().any(|p| p.contains(expected)), "{pointer} = {value}: {found:?}");
    }
}

/// Every duration of a spec: none at all, and more than anybody means.
#[test]
fn zero_and_huge_durations_are_refused_by_path() {
    for (pointer, path, may_be_zero) in [
        ("/faults/0/at", "spec.faults[0].at", true),
        ("/faults/0/for", "spec.faults[0].for", false),
        ("/faults/0/network/delay/latency", "spec.faults[0].network.delay.latency", false),
        ("/faults/0/network/delay/jitter", "spec.faults[0].network.delay.jitter", true),
        ("/limits/clusterDeadline", "spec.limits.clusterDeadline", false),
        ("/limits/runDeadline", "spec.limits.runDeadline", false),
        ("/limits/startWithin", "spec.limits.startWithin", false),
        ("/limits/onLinkLoss/after", "spec.limits.onLinkLoss.after", false),
        ("/steadyState/0/every", "spec.steadyState[0].every", false),
        ("/steadyState/0/expect/within", "spec.steadyState[0].expect.within", false),
    ] {
        for huge in ["8000h", "9000h", "18446744073709551616ms", "99999999999999999999h", "-1s"] {
            let found = problems(&with(pointer, json!(huge)));
            assert!(found.iter().any(|p| p.starts_with(&format!("{path}: "))), "{path} {huge}: {found:?}");
        }
        for zero in ["0s", "0h0m0s"] {
            let found = problems(&with(pointer, json!(zero)));
            assert_eq!(found.is_empty(), may_be_zero, "{path} {zero}: {found:?}");
        }
        for none in [json!(0), json!(1.5), json!(true), json!([]), json!({})] {
            let found = problems(&with(pointer, none.clone()));
            assert!(found.iter().any(|p| p.starts_with(path)), "{path} {none}: {found:?}");
        }
    }
}

#[test]
fn an_oversized_spec_is_refused_at_once() {
    let found = problems(&with("/hypothesis", json!("x".repeat(20_000))));
    assert!(found[0].contains("at most 16384"), "{found:?}");
}

#[test]
fn overrides_touch_only_settable_paths_and_are_checked() {
    let set = |path: &str, value: Value| vec![SetPath { path: path.to_owned(), value }];
    let path = "faults[late].network.delay.latency";
    let (value, typed) = with_overrides(&good(), &set(path, json!("300ms"))).expect("settable");
    assert_eq!(value["faults"][0]["network"]["delay"]["latency"], "300ms");
    assert_eq!(typed.faults[0].network.as_ref().unwrap().delay.as_ref().unwrap().latency.as_str(), "300ms");
    let refused = with_overrides(&good(), &set("faults[late].for", json!("1s"))).expect_err("not settable");
    assert!(refused.to_string().contains("not settable"), "{refused}");
    let invalid = with_overrides(&good(), &set(path, json!("soon"))).expect_err("not a duration");
    assert!(invalid.to_string().contains("spec.faults[0].network.delay.latency"), "{invalid}");
}

#[test]
fn files_are_read_document_by_document() {
    let text = format!(
        "apiVersion: faultline.dev/v1alpha1\nkind: Experiment\nmetadata: {{name: late}}\nspec: {}\n---\n\
         apiVersion: faultline.dev/v1alpha1\nkind: Run\nmetadata: {{name: late-1, namespace: shop}}\nspec: {{experimentRef: {{name: late}}}}\n",
        good()
    );
    let read = manifests(&text).expect("two documents");
    assert_eq!((read[0].kind.as_str(), read[1].name.as_str()), ("Experiment", "late-1"));
    let wrong = "apiVersion: v1\nkind: Experimnt\nmetadata: {name: X}\nspec: {}\nextra: 1\n";
    let found = manifests(wrong).expect_err("four mistakes").0;
    assert_eq!(found.len(), 4, "{found:?}");
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|f| serde_json::Number::from_f64(f).map_or(Value::Null, Value::Number)),
        "[ -~]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        let key = prop_oneof![
            Just("name".to_owned()),
            Just("targets".to_owned()),
            Just("faults".to_owned()),
            Just("pods".to_owned()),
            Just("network".to_owned()),
            Just("delay".to_owned()),
            Just("for".to_owned()),
            "[a-z]{1,8}".prop_map(|s| s),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn junk_is_refused_without_panic_and_with_a_path(junk in json_value()) {
        let refused = experiment(&junk).expect_err("junk");
        prop_assert!(refused.0.iter().all(|p| p.path.starts_with("spec")));
        let _ = run(&junk);
        let _ = grant(&junk);
    }

    #[test]
    fn junk_in_place_of_any_field_never_panics(junk in json_value(), pick in 0usize..64) {
        let mut spec = good();
        let mut pointers = Vec::new();
        collect(&spec, String::new(), &mut pointers);
        let pointer = &pointers[pick % pointers.len()];
        *spec.pointer_mut(pointer).unwrap() = junk;
        let _ = experiment(&spec);
    }

    #[test]
    fn any_text_as_a_file_never_panics(text in "[ -~\\n]{0,200}") {
        let _ = manifests(&text);
    }
}

fn collect(value: &Value, at: String, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| collect(v, format!("{at}/{k}"), into)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| collect(v, format!("{at}/{i}"), into));
        }
        _ => {}
    }
    if !at.is_empty() {
        into.push(at);
    }
}
