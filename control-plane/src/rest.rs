//! The REST API: for the command line, people and their tools. Checks the request, asks the
//! [`Centre`], says what it said; it decides nothing. Also the health page. Called by `run`.

mod about;
mod audit;
mod auth;
mod body;
mod census;
pub(crate) mod certificate;
mod clusters;
mod endpoints;
mod etag;
mod experiments;
mod grants;
mod halts;
pub mod health;
mod meter;
mod once;
mod operators;
mod page;
mod problem;
mod runs;
mod segment;
pub(crate) mod traced;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use axum::{Router, middleware};
pub use certs::serving::Patience;
use certs::{Acceptor, ServerConfig, serving};
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder, RefOr, Responses};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use meter::Meter;
use watches::Watches;

use crate::centre::Centre;

/// The longest body, in bytes. A spec has at most 16 KiB.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// The longest a request may take, but for those that follow a run.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// What the routes stand on. Cheap to clone.
#[derive(Debug, Clone)]
struct Rest {
    centre: Centre,
    watches: Arc<Watches>,
    closing: CancellationToken,
    /// Requests that are carried on though their caller is gone.
    at_work: TaskTracker,
}

/// The API over a centre. Streams end when `closing` is cancelled.
pub fn router(centre: Centre, meter: Meter, closing: CancellationToken) -> Router {
    with_work(centre, meter, closing, TaskTracker::new())
}

fn with_work(centre: Centre, meter: Meter, closing: CancellationToken, at_work: TaskTracker) -> Router {
    let rest = Rest { centre, watches: Arc::default(), closing, at_work };
    let once = middleware::from_fn_with_state(rest.clone(), once::once);
    let timeout = TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, ANSWER_WITHIN);
    let known = middleware::from_fn_with_state(rest.clone(), auth::authenticate);
    let answers =
        answers().merge(makers().route_layer(once)).layer(timeout).layer(middleware::from_fn(etag::tag));
    let open = open().layer(middleware::from_fn(etag::tag));
    let api: Router<Rest> = answers.merge(streams()).route_layer(known).merge(open).into();
    let header = |name, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    api.with_state(rest)
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES))
        .layer(middleware::map_response(problem::normalise))
        .layer(header(CACHE_CONTROL, "no-store"))
        .layer(header(X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(middleware::from_fn(traced::trace))
        .layer(middleware::from_fn_with_state(meter, meter::measure))
}

/// Serves the API over TLS until `shutdown`, then lets requests under way end, for a while.
///
/// # Errors
/// None known; what the listener cannot accept is tried again.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    centre: Centre,
    meter: Meter,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    serve_with(listener, tls, centre, meter, shutdown, Patience::default()).await
}

/// As [`serve`], with other bounds on what a client may take.
///
/// # Errors
/// As [`serve`].
pub async fn serve_with(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    centre: Centre,
    meter: Meter,
    shutdown: CancellationToken,
    patience: Patience,
) -> std::io::Result<()> {
    let at_work = TaskTracker::new();
    let told = centre.health().turned_away("rest");
    let router = with_work(centre, meter, shutdown.clone(), at_work.clone());
    let acceptor = Acceptor::with_limits(listener, tls, patience.limits()).telling(told);
    serving::serve(acceptor, router, patience, shutdown).await;
    at_work.close();
    // What is carried on without its caller has the same time.
    if tokio::time::timeout(patience.drain_within, at_work.wait()).await.is_err() {
        tracing::warn!(requests = at_work.len(), "requests were left at work");
    }
    Ok(())
}

/// The description of the API, generated from its routes.
pub fn openapi() -> OpenApi {
    let about = InfoBuilder::new()
        .title("Faultline")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Every error is an application/problem+json with all mistakes of the document."));
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let mut openapi = OpenApiBuilder::new().info(about.build()).build();
    openapi.merge(answers().merge(makers()).merge(streams()).merge(open()).into_openapi());
    openapi.components.get_or_insert_default().add_security_scheme("bearer", bearer);
    openapi.security = Some(vec![SecurityRequirement::new("bearer", Vec::<String>::new())]);
    let streamed = streams().into_openapi();
    for (path, item) in &mut openapi.paths.paths {
        if !streamed.paths.paths.contains_key(path) {
            item.get.as_mut().into_iter().for_each(etag::describe);
        }
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            errors_are_problems(&mut operation.responses);
        }
    }
    openapi
}

/// Every error has one media type, said in one place.
fn errors_are_problems(responses: &mut Responses) {
    if let Some(RefOr::T(error)) = responses.responses.get_mut("default")
        && let Some(content) = error.content.swap_remove("application/json")
    {
        error.content.insert(problem::PROBLEM_JSON.to_owned(), content);
    }
}

/// Routes with one answer, for known callers.
fn answers() -> OpenApiRouter<Rest> {
    OpenApiRouter::default()
        .routes(routes!(about::whoami))
        .routes(routes!(about::list_faults))
        .routes(routes!(audit::list_audit))
        .routes(routes!(audit::list_checkpoints))
        .routes(routes!(audit::get_ca))
        .routes(routes!(endpoints::get_endpoints, endpoints::put_endpoints))
        .routes(routes!(experiments::list_experiments))
        .routes(routes!(
            experiments::get_experiment,
            experiments::put_experiment,
            experiments::delete_experiment
        ))
        .routes(routes!(grants::list_grants))
        .routes(routes!(grants::get_grant, grants::put_grant, grants::delete_grant))
        .routes(routes!(runs::list_runs))
        .routes(routes!(runs::get_run, runs::delete_run))
        .routes(routes!(runs::stop_run))
        .routes(routes!(halts::list_halts))
        .routes(routes!(halts::get_halt, halts::resume_halt))
        .routes(routes!(operators::list_operators))
        .routes(routes!(operators::get_operator, operators::revoke_operator))
        .routes(routes!(clusters::list_clusters))
        .routes(routes!(clusters::get_cluster, clusters::remove_cluster))
        .routes(routes!(clusters::accept_cluster))
        .routes(routes!(clusters::revoke_cluster))
}

/// Routes that make something: once for each idempotency key.
fn makers() -> OpenApiRouter<Rest> {
    OpenApiRouter::default()
        .routes(routes!(runs::create_run))
        .routes(routes!(halts::set_halt))
        .routes(routes!(clusters::invite_cluster))
        .routes(routes!(clusters::replace_cluster))
        .routes(routes!(operators::create_operator))
        .routes(routes!(operators::rotate_operator))
}

/// Routes that go on answering, for known callers.
fn streams() -> OpenApiRouter<Rest> {
    OpenApiRouter::default().routes(routes!(runs::watch_run))
}

/// Routes for everybody.
fn open() -> OpenApiRouter<Rest> {
    OpenApiRouter::default().routes(routes!(about::describe))
}

#[cfg(test)]
mod tests;
