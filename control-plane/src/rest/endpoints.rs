//! `/v1/endpoints`: where agents find the centre.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use proto::endpoints::{EndpointsView, PutEndpoints};
use proto::problem::ProblemDetails;

use super::Rest;
use super::auth::Known;
use super::body::Strict;
use super::etag::{IfMatch, tagged};
use super::problem::Refused;
use crate::centre::tag_of;

/// The addresses at which agents find the centre.
#[utoipa::path(get, path = "/v1/endpoints", tag = "endpoints",
    responses((status = 200, body = EndpointsView), (status = "default", body = ProblemDetails)))]
pub(crate) async fn get_endpoints(
    State(rest): State<Rest>,
    Known(caller): Known,
) -> Result<Json<EndpointsView>, Refused> {
    Ok(Json(rest.centre.endpoints(&caller)?))
}

/// Tells every agent where the centre is from now on. Agents keep the list, dial it first, and go back to what worked
/// before until it works.
#[utoipa::path(put, path = "/v1/endpoints", request_body = PutEndpoints, tag = "endpoints",
    params(("If-Match" = Option<String>, Header, description = "Only over one of these ETags, or over anything: *")),
    responses((status = 200, body = EndpointsView, headers(("ETag" = String))),
        (status = "default", body = ProblemDetails)))]
pub(crate) async fn put_endpoints(
    State(rest): State<Rest>,
    Known(caller): Known,
    IfMatch(expected): IfMatch,
    Strict(body): Strict<PutEndpoints>,
) -> Result<Response, Refused> {
    let view = rest.centre.put_endpoints(&caller, body, &expected).await?;
    tagged(&tag_of(&view), view)
}
