//! `/v1/endpoints`: read, set over what was read, and every mistake at once.

use http::Method;
use http::header::{ETAG, IF_MATCH};
use serde_json::json;

use super::fixture::{ADMIN, Lab, request};

#[tokio::test]
async fn the_list_is_set_over_what_was_read() {
    let lab = Lab::new().await;
    let put = async |tag: &http::HeaderValue, link: &str| {
        let body = json!({ "linkEndpoints": [link], "enrolEndpoints": ["hub:2"] });
        let mut request = request(Method::PUT, "/v1/endpoints", ADMIN, Some(&body));
        request.headers_mut().insert(IF_MATCH, tag.clone());
        lab.send(request).await
    };
    let none = lab.get("/v1/endpoints").await.ok(200);
    assert_eq!(
        (&none.json()["sequence"], &none.json()["enrolEndpoints"]),
        (&json!(0), &json!(["localhost:7445"]))
    );
    let first = put(&none.headers[ETAG], "hub:1").await.ok(200);
    assert_eq!(first.json()["by"], "operator:admin");
    let read = lab.get("/v1/endpoints").await.ok(200);
    assert_eq!((read.json(), &read.headers[ETAG]), (first.json(), &first.headers[ETAG]));
    put(&none.headers[ETAG], "hub-2:1").await.problem(412);
    assert_eq!(lab.get("/v1/endpoints").await.json(), first.json());
    let second = put(&first.headers[ETAG], "hub-2:1").await.ok(200);
    assert!(second.json()["sequence"].as_u64() > first.json()["sequence"].as_u64());
}

#[tokio::test]
async fn every_mistake_of_a_list_is_named() {
    let lab = Lab::new().await;
    let many: Vec<String> = (0..17).map(|n| format!("hub-{n}:1")).collect();
    for (body, paths) in [
        (
            json!({ "linkEndpoints": ["hub"], "enrolEndpoints": [] }),
            vec!["linkEndpoints[0]", "enrolEndpoints"],
        ),
        (
            json!({ "linkEndpoints": many, "enrolEndpoints": ["hub:1", "hub:1"] }),
            vec!["linkEndpoints", "enrolEndpoints[1]"],
        ),
        (
            json!({ "linkEndpoints": "hub:1", "enrolEndpoint": [] }),
            vec!["linkEndpoints", "enrolEndpoint", "enrolEndpoints"],
        ),
        (
            json!({ "linkEndpoints": [format!("{}:1", "a".repeat(300))], "enrolEndpoints": ["h:99999"] }),
            vec!["linkEndpoints[0]", "enrolEndpoints[0]"],
        ),
    ] {
        let details = lab.put_json("/v1/endpoints", &body).await.problem(422);
        let mut found: Vec<&str> = details.problems.iter().map(|problem| problem.path.as_str()).collect();
        let mut wanted = paths.clone();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{details:?}");
    }
    assert_eq!(lab.get("/v1/endpoints").await.json()["sequence"], 0);
}
