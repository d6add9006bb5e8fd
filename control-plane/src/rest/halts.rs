//! `/v1/halts`: the latched stop.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use proto::problem::ProblemDetails;
use proto::rest::{HaltView, Page, SetHalt};

use super::Rest;
use super::auth::Known;
use super::body::Strict;
use super::page::Wanted;
use super::problem::Refused;
use super::segment::Segment;

/// Every halt in force, with each cluster's acknowledgement.
#[utoipa::path(get, path = "/v1/halts", params(Wanted), tag = "halts",
    responses((status = 200, body = Page<HaltView>), (status = "default", body = ProblemDetails)))]
pub(crate) async fn list_halts(
    State(rest): State<Rest>,
    Known(caller): Known,
    wanted: Wanted,
) -> Result<Json<Page<HaltView>>, Refused> {
    Ok(Json(wanted.page(rest.centre.halts(&caller)?, |view| view.halt.id.to_string())))
}

/// Sets a halt. Taken also while the store is down.
#[utoipa::path(post, path = "/v1/halts", request_body = SetHalt, tag = "halts",
    responses((status = 201, body = HaltView), (status = "default", body = ProblemDetails)))]
pub(crate) async fn set_halt(
    State(rest): State<Rest>,
    Known(caller): Known,
    Strict(request): Strict<SetHalt>,
) -> Result<(StatusCode, Json<HaltView>), Refused> {
    let view = rest.centre.set_halt(&caller, request).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// Lifts the halt of this id, for ever.
#[utoipa::path(delete, path = "/v1/halts/{id}", params(("id" = String, Path)), tag = "halts",
    responses((status = 204), (status = "default", body = ProblemDetails)))]
pub(crate) async fn resume_halt(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(id): Segment,
) -> Result<StatusCode, Refused> {
    rest.centre.resume_halt(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
