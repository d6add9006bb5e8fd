//! `/v1/runs`: ask for a run or a plan, look at it, follow it, stop it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::{Stream, StreamExt};
use http::StatusCode;
use proto::problem::{ErrorCode, ProblemDetails};
use proto::rest::{CreateRun, Page, RunView};

use super::Rest;
use super::auth::Known;
use super::body::Strict;
use super::page::Wanted;
use super::problem::Refused;
use super::segment::Segment;

const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Records a run; planning begins at once.
#[utoipa::path(post, path = "/v1/runs", request_body = CreateRun, tag = "runs",
    responses((status = 201, body = RunView), (status = "default", body = ProblemDetails)))]
pub(crate) async fn create_run(
    State(rest): State<Rest>,
    Known(caller): Known,
    Strict(request): Strict<CreateRun>,
) -> Result<(StatusCode, Json<RunView>), Refused> {
    let view = rest.centre.create_run(&caller, request).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// Runs, the latest first, without their clusters.
#[utoipa::path(get, path = "/v1/runs", params(Wanted), tag = "runs",
    responses((status = 200, body = Page<RunView>), (status = "default", body = ProblemDetails)))]
pub(crate) async fn list_runs(
    State(rest): State<Rest>,
    Known(caller): Known,
    wanted: Wanted,
) -> Result<Json<Page<RunView>>, Refused> {
    Ok(Json(rest.centre.runs(&caller, wanted.after.as_deref(), wanted.limit())?))
}

/// One run with its clusters, by id or by name.
#[utoipa::path(get, path = "/v1/runs/{run}", params(("run" = String, Path)), tag = "runs",
    responses((status = 200, body = RunView), (status = "default", body = ProblemDetails)))]
pub(crate) async fn get_run(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(run): Segment,
) -> Result<Json<RunView>, Refused> {
    Ok(Json(rest.centre.run(&caller, &run)?))
}

/// Stops a run that is not finished; removes one that is. Its name stays used.
#[utoipa::path(delete, path = "/v1/runs/{run}", params(("run" = String, Path)), tag = "runs",
    responses((status = 204), (status = "default", body = ProblemDetails)))]
pub(crate) async fn delete_run(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(run): Segment,
) -> Result<StatusCode, Refused> {
    rest.centre.delete_run(&caller, &run).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Stops a run, for ever.
#[utoipa::path(post, path = "/v1/runs/{run}/stop", params(("run" = String, Path)), tag = "runs",
    responses((status = 200, body = RunView), (status = "default", body = ProblemDetails)))]
pub(crate) async fn stop_run(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(run): Segment,
) -> Result<Json<RunView>, Refused> {
    Ok(Json(rest.centre.stop_run(&caller, &run).await?))
}

/// The run as it is and as it changes, until it is finished: server-sent events, a RunView each.
#[utoipa::path(get, path = "/v1/runs/{run}/watch", params(("run" = String, Path)), tag = "runs",
    responses((status = 200, body = RunView, content_type = "text/event-stream"),
        (status = "default", body = ProblemDetails)))]
pub(crate) async fn watch_run(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(run): Segment,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refused> {
    let Ok(place) = Arc::clone(&rest.watches).try_acquire_owned() else {
        return Err(Refused::new(
            ErrorCode::Unavailable,
            "too many runs are watched here: ask another replica",
        ));
    };
    let views = rest.centre.watch_run(&caller, &run)?;
    let closing = rest.closing.clone().cancelled_owned();
    let events = views.take_until(closing).filter_map(move |view| {
        // The place is given back when the stream is dropped.
        let _held = &place;
        let event = Event::default().json_data(&view).ok().map(Ok);
        std::future::ready(event)
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keep alive")))
}
