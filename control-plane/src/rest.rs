//! The REST API: for the command line, people and their tools. Checks the request, asks the
//! [`Centre`], says what it said; it decides nothing. Also the health page. Called by `run`.

mod about;
mod auth;
mod body;
mod census;
mod clusters;
mod etag;
mod experiments;
mod grants;
mod halts;
pub mod health;
mod meter;
mod page;
mod problem;
mod runs;
mod segment;

use std::sync::Arc;
use std::time::Duration;

use axum::{Router, middleware};
use certs::{Acceptor, ConnInfo, ServerConfig};
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use meter::Meter;

use crate::centre::Centre;

/// The longest body, in bytes. A spec has at most 16 KiB.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// The longest a request may take, but for those that follow a run.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Runs followed at the same time on one replica.
const MAX_WATCHES: usize = 512;
/// How long requests under way have once the process is told to end.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

/// What the routes stand on. Cheap to clone.
#[derive(Debug, Clone)]
struct Rest {
    centre: Centre,
    watches: Arc<Semaphore>,
    closing: CancellationToken,
}

/// The API over a centre. Streams end when `closing` is cancelled.
pub fn router(centre: Centre, meter: Meter, closing: CancellationToken) -> Router {
    let rest = Rest { centre, watches: Arc::new(Semaphore::new(MAX_WATCHES)), closing };
    let timeout = TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, ANSWER_WITHIN);
    let known = middleware::from_fn_with_state(rest.clone(), auth::authenticate);
    let api: Router<Rest> = answers().layer(timeout).merge(streams()).route_layer(known).merge(open()).into();
    let header = |name, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    api.with_state(rest)
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES))
        .layer(middleware::map_response(problem::normalise))
        .layer(header(CACHE_CONTROL, "no-store"))
        .layer(header(X_CONTENT_TYPE_OPTIONS, "nosniff"))
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
    let service = router(centre, meter, shutdown.clone()).into_make_service_with_connect_info::<ConnInfo>();
    let server = axum::serve(Acceptor::new(listener, tls), service)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let too_long = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN_WITHIN).await;
    };
    tokio::select! {
        served = server => served,
        () = too_long => {
            tracing::warn!(drain_ms = DRAIN_WITHIN.as_millis(), "requests were cut off");
            Ok(())
        }
    }
}

/// The description of the API, generated from its routes.
pub fn openapi() -> OpenApi {
    let about = InfoBuilder::new()
        .title("Faultline")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Every error is an application/problem+json with all mistakes of the document."));
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    let mut openapi = OpenApiBuilder::new().info(about.build()).build();
    openapi.merge(answers().merge(streams()).merge(open()).into_openapi());
    openapi.components.get_or_insert_default().add_security_scheme("bearer", bearer);
    openapi.security = Some(vec![SecurityRequirement::new("bearer", Vec::<String>::new())]);
    openapi
}

/// Routes with one answer, for known callers.
fn answers() -> OpenApiRouter<Rest> {
    OpenApiRouter::default()
        .routes(routes!(about::whoami))
        .routes(routes!(about::list_faults))
        .routes(routes!(about::list_audit))
        .routes(routes!(experiments::list_experiments))
        .routes(routes!(
            experiments::get_experiment,
            experiments::put_experiment,
            experiments::delete_experiment
        ))
        .routes(routes!(grants::list_grants))
        .routes(routes!(grants::get_grant, grants::put_grant, grants::delete_grant))
        .routes(routes!(runs::list_runs, runs::create_run))
        .routes(routes!(runs::get_run, runs::delete_run))
        .routes(routes!(runs::stop_run))
        .routes(routes!(halts::list_halts, halts::set_halt))
        .routes(routes!(halts::resume_halt))
        .routes(routes!(clusters::list_clusters, clusters::invite_cluster))
        .routes(routes!(clusters::get_cluster, clusters::remove_cluster))
        .routes(routes!(clusters::accept_cluster))
        .routes(routes!(clusters::revoke_cluster))
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
