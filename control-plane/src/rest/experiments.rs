//! `/v1/experiments`: the centre's library, and what members authored.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use proto::problem::ProblemDetails;
use proto::rest::{ExperimentView, Page};

use super::Rest;
use super::auth::Known;
use super::body::{PutSpec, Strict};
use super::etag::{IfMatch, tagged};
use super::page::Wanted;
use super::problem::Refused;
use super::segment::Segment;
use crate::centre::tag_of;

/// Every Experiment, the members' too.
#[utoipa::path(get, path = "/v1/experiments", params(Wanted), tag = "experiments",
    responses((status = 200, body = Page<ExperimentView>), (status = "default", body = ProblemDetails)))]
pub(crate) async fn list_experiments(
    State(rest): State<Rest>,
    Known(caller): Known,
    wanted: Wanted,
) -> Result<Json<Page<ExperimentView>>, Refused> {
    let experiments = rest.centre.experiments(&caller)?;
    let cursor = |view: &ExperimentView| format!("{}/{}/{}", view.origin, view.namespace, view.name);
    Ok(Json(wanted.page(experiments, cursor)))
}

/// One Experiment: of the library by name, of a member as `origin/namespace/name` (with `%2F`).
#[utoipa::path(get, path = "/v1/experiments/{name}", params(("name" = String, Path)), tag = "experiments",
    responses((status = 200, body = ExperimentView), (status = "default", body = ProblemDetails)))]
pub(crate) async fn get_experiment(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(name): Segment,
) -> Result<Json<ExperimentView>, Refused> {
    Ok(Json(rest.centre.experiment(&caller, &name)?))
}

/// Stores an Experiment in the library. Runs nothing.
#[utoipa::path(put, path = "/v1/experiments/{name}", request_body = PutSpec, tag = "experiments",
    params(("name" = String, Path),
        ("If-Match" = Option<String>, Header, description = "Only over one of these ETags, or over anything: *"),
        ("If-None-Match" = Option<String>, Header, description = "*: only where there is none")),
    responses((status = 200, body = ExperimentView, headers(("ETag" = String))),
        (status = "default", body = ProblemDetails)))]
pub(crate) async fn put_experiment(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(name): Segment,
    IfMatch(expected): IfMatch,
    Strict(body): Strict<PutSpec>,
) -> Result<Response, Refused> {
    let view = rest.centre.put_experiment(&caller, &name, body, &expected).await?;
    tagged(&tag_of(&view), view)
}

/// Deletes an Experiment of the library. Runs made from it go on.
#[utoipa::path(delete, path = "/v1/experiments/{name}", tag = "experiments",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header, description = "Only this ETag")),
    responses((status = 204), (status = "default", body = ProblemDetails)))]
pub(crate) async fn delete_experiment(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(name): Segment,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Refused> {
    rest.centre.delete_experiment(&caller, &name, &expected).await?;
    Ok(StatusCode::NO_CONTENT)
}
