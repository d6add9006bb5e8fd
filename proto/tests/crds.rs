//! The CRDs in the chart are what the types say, and are structural. Run with
//! UPDATE=1 to write them anew.

use std::path::PathBuf;

use serde_json::Value;

/// The Ceiling's is where Helm installs CRDs from before it looks any kind up, so that the Ceiling can be an object
/// of the release; Helm never upgrades it there. The others are upgraded with the chart.
fn folder(name: &str) -> PathBuf {
    let folder = if name == "ceilings" { "crds" } else { "files/crds" };
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../helm/member").join(folder)
}

#[test]
fn the_charts_crds_are_current() {
    for (name, crd) in proto::crd::all().expect("present") {
        let path = folder(name).join(format!("{name}.yaml"));
        let text = format!(
            "# Generated from the Rust types by `make generate`; do not edit.\n{}",
            proto::crd::document(&crd)
        );
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(folder(name)).expect("present");
            std::fs::write(&path, &text).expect("present");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == text, "{} has drifted: run `make generate`", path.display());
    }
}

#[test]
fn crds_are_structural() {
    for (name, crd) in proto::crd::all().expect("present") {
        let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").expect("present");
        assert_structural(name, schema, "");
    }
}

/// Every level has a type or says that it takes anything; no references.
fn assert_structural(name: &str, schema: &Value, path: &str) {
    let map = schema.as_object().expect("a schema at every level");
    assert!(!map.contains_key("$ref"), "{name}{path}");
    let any = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    assert!(map.contains_key("type") || any, "{name}{path}: no type");
    for (key, property) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
        assert_structural(name, property, &format!("{path}.{key}"));
    }
    if let Some(items) = map.get("items") {
        assert_structural(name, items, &format!("{path}[]"));
    }
}

#[test]
fn every_kind_of_the_catalogue_is_in_the_experiment_crd() {
    let crds = proto::crd::all().expect("present");
    let experiment = &crds.iter().find(|(name, _)| *name == "experiments").expect("present").1;
    let fault = experiment
        .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/faults/items/properties")
        .expect("present");
    for entry in proto::catalogue::ENTRIES {
        let (group, kind) = entry.kind.split_once('.').expect("present");
        let kind = &fault[group]["properties"][kind];
        for parameter in entry.parameters {
            assert!(kind["properties"][parameter.name].is_object(), "{}: {}", entry.kind, parameter.name);
        }
    }
}

/// kubectl and helm read YAML 1.1, where these bare keys are not text.
#[test]
fn no_field_name_is_a_boolean_of_yaml_1_1() {
    fn names(schema: &Value, into: &mut Vec<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            into.push(name.to_lowercase());
            names(property, into);
        }
        if schema["items"].is_object() {
            names(&schema["items"], into);
        }
    }
    for (crd, body) in proto::crd::all().expect("crds") {
        let mut found = Vec::new();
        names(&body["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut found);
        assert!(found.len() > 2, "{crd}: no names were looked at");
        for name in ["y", "n", "yes", "no", "on", "off", "true", "false"] {
            assert!(!found.iter().any(|f| f == name), "{crd}: {name}");
        }
    }
}
