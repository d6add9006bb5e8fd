//! Every route with the least role that may use it. A route without a line here fails.

use std::collections::BTreeMap;

use http::Method;
use proto::operator::Role;
use serde_json::{Value, json};

use super::fixture::{Lab, experiment, grant};
use crate::rest::openapi;

/// Route, least role (`None`: everybody), a body that would be taken.
fn table() -> Vec<(&'static str, &'static str, Option<Role>, Option<Value>)> {
    use Role::{Admin, Author, Operator, Viewer};
    let fault = || experiment("c1");
    let run = |plan_only: bool| json!({ "name": "r", "spec": { "experimentRef": { "name": "x" } }, "experiment": fault(), "planOnly": plan_only });
    let list = json!({ "linkEndpoints": ["h:1"], "enrolEndpoints": ["h:2"] });
    vec![
        ("GET", "/openapi.json", None, None),
        ("GET", "/v1/whoami", Some(Viewer), None),
        ("GET", "/v1/faults", Some(Viewer), None),
        ("GET", "/v1/audit", Some(Viewer), None),
        ("GET", "/v1/audit/checkpoints", Some(Viewer), None),
        ("GET", "/v1/ca", Some(Viewer), None),
        ("GET", "/v1/endpoints", Some(Viewer), None),
        ("PUT", "/v1/endpoints", Some(Admin), Some(list)),
        ("GET", "/v1/experiments", Some(Viewer), None),
        ("GET", "/v1/experiments/{name}", Some(Viewer), None),
        ("PUT", "/v1/experiments/{name}", Some(Author), Some(json!({ "spec": fault() }))),
        ("DELETE", "/v1/experiments/{name}", Some(Author), None),
        ("GET", "/v1/grants", Some(Viewer), None),
        ("GET", "/v1/grants/{name}", Some(Viewer), None),
        ("PUT", "/v1/grants/{name}", Some(Admin), Some(json!({ "spec": grant("c1") }))),
        ("DELETE", "/v1/grants/{name}", Some(Admin), None),
        ("GET", "/v1/runs", Some(Viewer), None),
        // Watching needs least, stopping and halting less than starting.
        ("POST", "/v1/runs", Some(Operator), Some(run(false))),
        ("POST", "/v1/runs?plan", Some(Author), Some(run(true))),
        ("GET", "/v1/runs/{run}", Some(Viewer), None),
        ("GET", "/v1/runs/{run}/watch", Some(Viewer), None),
        ("POST", "/v1/runs/{run}/stop", Some(Author), None),
        ("DELETE", "/v1/runs/{run}", Some(Author), None),
        ("GET", "/v1/halts", Some(Viewer), None),
        ("POST", "/v1/halts", Some(Author), Some(json!({ "scope": { "type": "Fleet" } }))),
        ("GET", "/v1/halts/{id}", Some(Viewer), None),
        ("DELETE", "/v1/halts/{id}", Some(Operator), None),
        ("GET", "/v1/clusters", Some(Viewer), None),
        ("GET", "/v1/clusters/{cluster}", Some(Viewer), None),
        ("POST", "/v1/clusters", Some(Admin), Some(json!({ "name": "c9" }))),
        ("POST", "/v1/clusters/{cluster}/replace", Some(Admin), Some(json!({}))),
        ("POST", "/v1/clusters/{cluster}/accept", Some(Admin), None),
        ("POST", "/v1/clusters/{cluster}/revoke", Some(Admin), None),
        ("DELETE", "/v1/clusters/{cluster}", Some(Admin), None),
        ("GET", "/v1/operators", Some(Admin), None),
        ("POST", "/v1/operators", Some(Admin), Some(json!({ "name": "ann", "role": "viewer" }))),
        ("GET", "/v1/operators/{name}", Some(Admin), None),
        ("POST", "/v1/operators/{name}/rotate", Some(Admin), Some(json!({}))),
        ("DELETE", "/v1/operators/{name}", Some(Admin), None),
    ]
}

#[test]
fn every_route_has_a_line() {
    let description = serde_json::to_value(openapi()).expect("JSON");
    let mut described: Vec<String> = Vec::new();
    for (path, item) in description["paths"].as_object().expect("paths") {
        let methods = item.as_object().expect("operations").keys();
        described.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
    }
    let mut lines: Vec<String> = table()
        .iter()
        .filter(|(_, path, ..)| !path.contains('?'))
        .map(|(method, path, ..)| format!("{method} {path}"))
        .collect();
    described.sort();
    lines.sort();
    assert_eq!(lines, described);
}

#[tokio::test]
async fn each_role_may_what_its_line_says_and_nothing_more() {
    let lab = Lab::new().await;
    let mut tokens = BTreeMap::new();
    for role in Role::ALL {
        tokens.insert(role, lab.token(role.as_str()).await);
    }
    for (method, path, least, body) in table() {
        let method: Method = method.parse().expect("a method");
        // Names of nothing: who may, is told that it is not there.
        let path = path.replace("?plan", "").replace(['{', '}'], "");
        for (role, token) in &tokens {
            let answer = lab.call(method.clone(), &path, token, body.as_ref()).await;
            let refused = answer.status == 403;
            assert_eq!(
                refused,
                least.is_some_and(|least| *role < least),
                "{method} {path} {role}: {answer:?}"
            );
            let code = answer.status.as_u16();
            assert!(matches!(code, 200..=204 | 403 | 404 | 409), "{method} {path} {role}: {answer:?}");
            if refused {
                let details = answer.problem(403);
                assert!(details.detail.contains(role.as_str()), "{method} {path} {role}: {details:?}");
            }
        }
        let anonymous = lab.call(method.clone(), &path, "", body.as_ref()).await;
        assert_eq!(anonymous.status == 401, least.is_some(), "{method} {path}: {anonymous:?}");
    }
}
