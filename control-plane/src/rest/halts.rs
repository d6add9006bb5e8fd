//! `/v1/halts`: the latched stop.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use proto::problem::ProblemDetails;
use proto::rest::{HaltView, Page, SetHalt, Taken};

use super::Rest;
use super::auth::Known;
use super::body::Strict;
use super::etag::IfMatch;
use super::once::{OnceKey, Seed};
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
    params(OnceKey),
    responses((status = 201, body = Taken<HaltView>),
        (status = 202, body = Taken<HaltView>, description = "Taken; the store does not have it yet"),
        (status = "default", body = ProblemDetails)))]
pub(crate) async fn set_halt(
    State(rest): State<Rest>,
    Known(caller): Known,
    Seed(seed): Seed,
    Strict(mut request): Strict<SetHalt>,
) -> Result<(StatusCode, Json<Taken<HaltView>>), Refused> {
    if let Some(seed) = seed {
        // The end of it: the beginning is the time.
        let tail = seed.get(seed.len().saturating_sub(10)..).unwrap_or_default();
        request.id.get_or_insert_with(|| format!("halt-{tail}"));
    }
    let taken = rest.centre.set_halt(&caller, request).await?;
    let status = if taken.persisted { StatusCode::CREATED } else { StatusCode::ACCEPTED };
    Ok((status, Json(taken)))
}

/// One halt in force, with each cluster's acknowledgement.
#[utoipa::path(get, path = "/v1/halts/{id}", params(("id" = String, Path)), tag = "halts",
    responses((status = 200, body = HaltView), (status = "default", body = ProblemDetails)))]
pub(crate) async fn get_halt(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(id): Segment,
) -> Result<Json<HaltView>, Refused> {
    Ok(Json(rest.centre.halt(&caller, &id)?))
}

/// Lifts the halt of this id, for ever.
#[utoipa::path(delete, path = "/v1/halts/{id}", tag = "halts",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "Only this ETag")),
    responses((status = 204), (status = "default", body = ProblemDetails)))]
pub(crate) async fn resume_halt(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(id): Segment,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Refused> {
    rest.centre.resume_halt(&caller, &id, &expected).await?;
    Ok(StatusCode::NO_CONTENT)
}
