//! The description of the API: complete, and the committed one is this one.

use std::path::Path;

use http::Method;
use serde_json::Value;

use super::fixture::{ADMIN, Lab};
use crate::rest::openapi;

/// Compares with a committed page, or writes it where `UPDATE` is set.
fn same_as_committed(page: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder");
        std::fs::write(&path, text).expect("write the page");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "docs/{page} is not what the code says: run the tests with UPDATE=1");
}

#[test]
fn the_committed_description_is_current() {
    same_as_committed("openapi.json", &format!("{}\n", openapi().to_pretty_json().expect("JSON")));
}

#[tokio::test]
async fn every_route_of_the_contract_is_served_and_described() {
    let lab = Lab::new().await;
    let description: Value = lab.call(Method::GET, "/openapi.json", "", None).await.ok(200).json();
    assert!(description["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    assert_eq!(description["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    let expected = [
        ("/openapi.json", "get"),
        ("/v1/audit", "get"),
        ("/v1/audit/checkpoints", "get"),
        ("/v1/ca", "get"),
        ("/v1/clusters", "get post"),
        ("/v1/clusters/{cluster}", "get delete"),
        ("/v1/clusters/{cluster}/accept", "post"),
        ("/v1/clusters/{cluster}/replace", "post"),
        ("/v1/clusters/{cluster}/revoke", "post"),
        ("/v1/endpoints", "get put"),
        ("/v1/experiments", "get"),
        ("/v1/experiments/{name}", "get put delete"),
        ("/v1/faults", "get"),
        ("/v1/grants", "get"),
        ("/v1/grants/{name}", "get put delete"),
        ("/v1/halts", "get post"),
        ("/v1/halts/{id}", "get delete"),
        ("/v1/operators", "get post"),
        ("/v1/operators/{name}", "get delete"),
        ("/v1/operators/{name}/rotate", "post"),
        ("/v1/runs", "get post"),
        ("/v1/runs/{run}", "get delete"),
        ("/v1/runs/{run}/stop", "post"),
        ("/v1/runs/{run}/watch", "get"),
        ("/v1/whoami", "get"),
    ];
    let paths = description["paths"].as_object().expect("paths");
    assert_eq!(paths.len(), expected.len(), "{:?}", paths.keys());
    for (path, methods) in expected {
        let mut described: Vec<&str> =
            paths[path].as_object().expect(path).keys().map(String::as_str).collect();
        let mut methods: Vec<&str> = methods.split(' ').collect();
        described.sort_unstable();
        methods.sort_unstable();
        assert_eq!(described, methods, "{path}");
        // What is served under the path is what is described: the rest is 405, with the list.
        let real = path.replace(['{', '}'], "");
        let answer = lab.call(Method::OPTIONS, &real, ADMIN, None).await;
        assert_eq!(answer.status.as_u16(), 405, "{path}");
        let allow = answer.headers["allow"].to_str().expect("text").to_lowercase();
        let mut served: Vec<&str> = allow.split(',').filter(|method| *method != "head").collect();
        served.sort_unstable();
        assert_eq!(served, methods, "{path}");
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let description = serde_json::to_value(openapi()).expect("JSON");
    let mut found = Vec::new();
    references(&description, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("a local reference");
        assert!(description.pointer(pointer).is_some(), "{reference}");
    }
}
