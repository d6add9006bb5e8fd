//! `/v1/grants`: the centre's half of the authority.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use proto::problem::ProblemDetails;
use proto::rest::{GrantView, Page};

use super::Rest;
use super::auth::Known;
use super::body::{PutSpec, Strict};
use super::etag::{IfMatch, tagged};
use super::page::Wanted;
use super::problem::Refused;
use super::segment::Segment;
use crate::centre::tag_of;

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
    responses((status = 200, body = GrantView), (status = "default", body = ProblemDetails)))]
pub(crate) async fn get_grant(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(name): Segment,
) -> Result<Json<GrantView>, Refused> {
    Ok(Json(rest.centre.grant(&caller, &name)?))
}

/// Stores a Grant.
#[utoipa::path(put, path = "/v1/grants/{name}", request_body = PutSpec, tag = "grants",
    params(("name" = String, Path),
        ("If-Match" = Option<String>, Header, description = "Only over one of these ETags, or over anything: *"),
        ("If-None-Match" = Option<String>, Header, description = "*: only where there is none")),
    responses((status = 200, body = GrantView, headers(("ETag" = String))),
        (status = "default", body = ProblemDetails)))]
pub(crate) async fn put_grant(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(name): Segment,
    IfMatch(expected): IfMatch,
    Strict(body): Strict<PutSpec>,
) -> Result<Response, Refused> {
    let grant = rest.centre.put_grant(&caller, &name, body, &expected).await?;
    tagged(&tag_of(&grant), grant)
}

/// Deletes a Grant. What runs already goes on.
#[utoipa::path(delete, path = "/v1/grants/{name}", tag = "grants",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header, description = "Only this ETag")),
    responses((status = 204), (status = "default", body = ProblemDetails)))]
pub(crate) async fn delete_grant(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(name): Segment,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Refused> {
    rest.centre.delete_grant(&caller, &name, &expected).await?;
    Ok(StatusCode::NO_CONTENT)
}
