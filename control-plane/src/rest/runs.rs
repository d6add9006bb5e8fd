//! `/v1/runs`: ask for a run or a plan, look at it, follow it, stop it.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use proto::problem::{ErrorCode, ProblemDetails};
use proto::rest::{CreateRun, Page, RunView, Taken};

use super::Rest;
use super::auth::Known;
use super::body::Strict;
use super::etag::IfMatch;
use super::once::{OnceKey, Seed};
use super::page::Wanted;
use super::problem::Refused;
use super::segment::Segment;
use crate::centre::{is_over, tag_of};

const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Records a run; planning begins at once.
#[utoipa::path(post, path = "/v1/runs", request_body = CreateRun, tag = "runs",
    params(OnceKey),
    responses((status = 201, body = RunView), (status = "default", body = ProblemDetails)))]
pub(crate) async fn create_run(
    State(rest): State<Rest>,
    Known(caller): Known,
    Seed(seed): Seed,
    Strict(request): Strict<CreateRun>,
) -> Result<(StatusCode, Json<RunView>), Refused> {
    let id = seed.and_then(|seed| seed.parse().ok());
    let view = rest.centre.create_run(&caller, request, id).await?;
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

/// Stops a run that is not finished; removes one that is. Its name stays used. Only a removal heeds `If-Match`: a
/// stop depends on no tag.
#[utoipa::path(delete, path = "/v1/runs/{run}", tag = "runs",
    params(("run" = String, Path), ("If-Match" = Option<String>, Header, description = "Removes only this ETag")),
    responses((status = 204),
        (status = 202, body = Taken<RunView>, description = "Its stop is taken; the store does not have it yet"),
        (status = "default", body = ProblemDetails)))]
pub(crate) async fn delete_run(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(run): Segment,
    IfMatch(expected): IfMatch,
) -> Result<Response, Refused> {
    Ok(match rest.centre.delete_run(&caller, &run, &expected).await? {
        Some(taken) if !taken.persisted => (StatusCode::ACCEPTED, Json(taken)).into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Stops a run, for ever.
#[utoipa::path(post, path = "/v1/runs/{run}/stop", params(("run" = String, Path)), tag = "runs",
    responses((status = 200, body = Taken<RunView>),
        (status = 202, body = Taken<RunView>, description = "Taken; the store does not have it yet"),
        (status = "default", body = ProblemDetails)))]
pub(crate) async fn stop_run(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(run): Segment,
) -> Result<(StatusCode, Json<Taken<RunView>>), Refused> {
    let taken = rest.centre.stop_run(&caller, &run).await?;
    let status = if taken.persisted { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(taken)))
}

/// One event of the stream, for its description.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "it is only described; the stream writes its lines")]
pub(crate) struct RunEvent {
    /// What is in it, the same on every replica: for `Last-Event-ID`.
    id: String,
    /// A RunView, as JSON.
    data: String,
}

/// The run as it is and as it changes, until it is finished: server-sent events, a RunView each. The id of an event
/// says what is in it, the same on every replica: with `Last-Event-ID` what is known is not sent again.
#[utoipa::path(get, path = "/v1/runs/{run}/watch", tag = "runs",
    params(("run" = String, Path),
        ("Last-Event-ID" = Option<String>, Header, description = "The last event that was received")),
    responses((status = 200, body = RunEvent, content_type = "text/event-stream"),
        (status = 204, description = "Finished, and nothing is new since Last-Event-ID: do not ask again"),
        (status = "default", body = ProblemDetails)))]
pub(crate) async fn watch_run(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(run): Segment,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let mut known = headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let now = rest.centre.run(&caller, &run)?;
    if is_over(&now) && known == Some(event_id(&now)) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let Some(place) = rest.watches.enter(&caller.name) else {
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
        let id = event_id(&view);
        let is_new = known.take().is_none_or(|known| known != id);
        let event = is_new.then(|| Event::default().id(id).json_data(&view).ok()).flatten();
        std::future::ready(event.map(Ok::<_, Infallible>))
    });
    let stream = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("keep alive"));
    Ok(stream.into_response())
}

fn event_id(view: &RunView) -> String {
    let mut id = tag_of(view);
    id.truncate(32);
    id
}
