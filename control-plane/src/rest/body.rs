//! Bodies, read strictly: every unknown field (with the nearest known name), wrong type and
//! missing field at once. Used by the routes that take a document.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::response::IntoResponse;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use proto::endpoints::PutEndpoints;
use proto::operator::{CreateOperator, RotateOperator};
use proto::problem::{ErrorCode, Problem};
use proto::rest::{CreateRun, InviteCluster, ReplaceCluster, SetHalt};
use proto::selector::ClusterSelector;
use proto::strict;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::problem::Refused;
use crate::centre::Definition;

/// `PUT /v1/experiments/{name}` and `PUT /v1/grants/{name}`: the spec as in a manifest.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutSpec {
    /// Stored as written.
    #[schema(value_type = Object)]
    pub(crate) spec: Value,
    /// Whose declarations it is part of; one that is another's is refused. Without it, what is known stays.
    #[serde(default)]
    pub(crate) owner: Option<String>,
}

impl From<PutSpec> for Definition {
    fn from(put: PutSpec) -> Self {
        Self { spec: put.spec, owner: put.owner }
    }
}

/// A body with a known shape.
pub(crate) trait Document: DeserializeOwned {
    /// The JSON schema it is walked along.
    fn schema() -> Value;

    /// What the schema cannot say. The value was mended by the walk along it.
    fn check(_mended: &mut Value, _problems: &mut Vec<Problem>) {}
}

impl Document for PutSpec {
    fn schema() -> Value {
        let owner = json!({ "type": ["string", "null"] });
        json!({ "type": "object", "properties": { "spec": { "type": "object" }, "owner": owner }, "required": ["spec"] })
    }
}

impl Document for PutEndpoints {
    fn schema() -> Value {
        strict::schema_of::<Self>()
    }
}

impl Document for CreateRun {
    fn schema() -> Value {
        strict::schema_of::<Self>()
    }
}

impl Document for InviteCluster {
    fn schema() -> Value {
        strict::schema_of::<Self>()
    }
}

impl Document for ReplaceCluster {
    fn schema() -> Value {
        strict::schema_of::<Self>()
    }
}

impl Document for CreateOperator {
    fn schema() -> Value {
        strict::schema_of::<Self>()
    }
}

impl Document for RotateOperator {
    fn schema() -> Value {
        strict::schema_of::<Self>()
    }
}

impl Document for SetHalt {
    fn schema() -> Value {
        strict::schema_of::<Self>()
    }

    fn check(mended: &mut Value, problems: &mut Vec<Problem>) {
        let Some(scope) = mended.get_mut("scope").filter(|scope| !scope.is_null()) else {
            return;
        };
        let text = json!({ "type": "string" });
        let kind = scope.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let fields: &[(&str, Value)] = match kind.as_str() {
            "Fleet" => &[],
            "Clusters" => &[("selector", strict::schema_of::<ClusterSelector>())],
            "Cluster" => &[("cluster", text)],
            "Namespace" => &[("cluster", text.clone()), ("namespace", text)],
            _ => {
                let message = "write one of Fleet, Clusters, Cluster, Namespace";
                return problems.push(Problem::new("scope.type", message));
            }
        };
        let mut schema = json!({ "type": "object", "properties": { "type": { "type": "string" } } });
        for (name, field) in fields {
            schema["properties"][name] = field.clone();
        }
        schema["required"] = fields.iter().map(|(name, _)| *name).collect();
        strict::check(&schema, scope, "scope", problems);
    }
}

/// A body that has the shape of `T`.
#[derive(Debug)]
pub(crate) struct Strict<T>(pub(crate) T);

impl<T: Document, S: Send + Sync> FromRequest<S> for Strict<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refused> {
        if !is_json(&request) {
            return Err(Refused::not_json());
        }
        read(&bytes(request.into_body()).await?).map(Self).map_err(Refused::invalid)
    }
}

/// The whole body.
pub(crate) async fn bytes(body: Body) -> Result<Bytes, Refused> {
    let request = Request::new(body);
    Bytes::from_request(request, &()).await.map_err(|rejection| match rejection.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => Refused::new(ErrorCode::TooLarge, "a request has at most 64 KiB"),
        _ => Refused::at("", "the body broke off"),
    })
}

fn is_json(request: &Request) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn read<T: Document>(bytes: &[u8]) -> Result<T, Vec<Problem>> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| vec![Problem::new("", format!("this is not JSON: {error}"))])?;
    let (mut mended, mut problems) = (value.clone(), Vec::new());
    strict::check(&T::schema(), &mut mended, "", &mut problems);
    T::check(&mut mended, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    serde_json::from_value(value).map_err(|error| vec![Problem::new("", error.to_string())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths<T: Document>(body: &str) -> Vec<String> {
        let problems = read::<T>(body.as_bytes()).err().unwrap_or_default();
        problems.into_iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect()
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let found = paths::<InviteCluster>(r#"{"nmae": "c1", "labels": {"a": 1}, "autoAccept": "yes"}"#);
        assert_eq!(
            found,
            [
                "nmae: unknown field; did you mean name?",
                "labels[a]: expected text, found 1",
                "autoAccept: expected true or false, found \"yes\"",
                "name: missing",
            ]
        );
    }

    #[test]
    fn a_scope_is_read_as_strictly_as_the_rest() {
        for (body, expected) in [
            (r#"{"scope": {"type": "Fleet"}}"#, vec![]),
            (
                r#"{"scope": {"type": "Fleets"}}"#,
                vec!["scope.type: write one of Fleet, Clusters, Cluster, Namespace"],
            ),
            (r#"{"scope": 3}"#, vec!["scope.type: write one of Fleet, Clusters, Cluster, Namespace"]),
            (
                r#"{"scope": {"type": "Cluster", "cluser": "c1"}}"#,
                vec!["scope.cluser: unknown field; did you mean cluster?", "scope.cluster: missing"],
            ),
            (
                r#"{"scope": {"type": "Fleet", "cluster": "c1"}}"#,
                vec!["scope.cluster: unknown field; known here: type"],
            ),
        ] {
            assert_eq!(paths::<SetHalt>(body), expected, "{body}");
        }
    }
}
