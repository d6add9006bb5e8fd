//! `/v1/grants`: the centre's half of the authority.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use proto::hash::sha256_hex;
use proto::problem::ProblemDetails;
use proto::rest::{GrantView, Page};

use super::Rest;
use super::auth::Known;
use super::body::{PutSpec, Strict};
use super::etag::{Expected, tagged};
use super::page::Wanted;
use super::problem::Refused;
use super::segment::Segment;
use crate::centre::Caller;

fn tag_of(grant: &GrantView) -> String {
    sha256_hex(&serde_json::to_vec(&grant.spec).unwrap_or_default())
}

/// Every Grant.
#[utoipa::path(get, path = "/v1/grants", params(Wanted), tag = "grants",
    responses((status = 200, body = Page<GrantView>), (status = "default", body = ProblemDetails)))]
pub(crate) async fn list_grants(
    State(rest): State<Rest>,
    Known(caller): Known,
    wanted: Wanted,
) -> Result<Json<Page<GrantView>>, Refused> {
    Ok(Json(wanted.page(rest.centre.grants(&caller)?, |grant| grant.name.clone())))
}

/// One Grant.
#[utoipa::path(get, path = "/v1/grants/{name}", params(("name" = String, Path)), tag = "grants",
    responses((status = 200, body = GrantView, headers(("ETag" = String))),
        (status = 304, description = "It is as If-None-Match says"), (status = "default", body = ProblemDetails)))]
pub(crate) async fn get_grant(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(name): Segment,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let grant = rest.centre.grant(&caller, &name)?;
    Ok(tagged(&headers, &tag_of(&grant), grant))
}

/// Stores a Grant.
#[utoipa::path(put, path = "/v1/grants/{name}", request_body = PutSpec, tag = "grants",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header, description = "Only over this ETag")),
    responses((status = 200, body = GrantView, headers(("ETag" = String))),
        (status = "default", body = ProblemDetails)))]
pub(crate) async fn put_grant(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(name): Segment,
    headers: HeaderMap,
    Strict(body): Strict<PutSpec>,
) -> Result<Response, Refused> {
    check(&rest, &caller, &name, &headers)?;
    let grant = rest.centre.put_grant(&caller, &name, body.spec).await?;
    Ok(tagged(&HeaderMap::new(), &tag_of(&grant), grant))
}

/// Deletes a Grant. What runs already goes on.
#[utoipa::path(delete, path = "/v1/grants/{name}", tag = "grants",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header, description = "Only this ETag")),
    responses((status = 204), (status = "default", body = ProblemDetails)))]
pub(crate) async fn delete_grant(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(name): Segment,
    headers: HeaderMap,
) -> Result<StatusCode, Refused> {
    check(&rest, &caller, &name, &headers)?;
    rest.centre.delete_grant(&caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn check(rest: &Rest, caller: &Caller, name: &str, headers: &HeaderMap) -> Result<(), Refused> {
    let expected = Expected::of(headers);
    if expected.is_conditional() {
        let current = rest.centre.grant(caller, name).ok();
        expected.check(current.as_ref().map(tag_of).as_deref())?;
    }
    Ok(())
}
