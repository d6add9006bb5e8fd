//! The page of probes and of Prometheus: plain HTTP on a listener of its own, without
//! authentication and without anything worth one. Called by `run`.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use proto::exposition;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::census::Census;
use super::meter::Meter;
use crate::centre::Centre;

#[derive(Debug, Clone)]
struct Page {
    centre: Centre,
    meter: Meter,
    census: std::sync::Arc<Registry>,
}

/// The page's routes.
pub fn router(centre: Centre, meter: Meter) -> Router {
    let mut census = Registry::with_prefix("faultline");
    census.register_collector(Box::new(Census(centre.clone())));
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Page { centre, meter, census: census.into() })
}

/// Serves the page until `shutdown`. Keep it open while the rest drains: `/readyz` tells so.
///
/// # Errors
/// None known; what the listener cannot accept is tried again.
pub async fn serve(
    listener: TcpListener,
    centre: Centre,
    meter: Meter,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    certs::serving::serve_health(listener, router(centre, meter), shutdown).await;
    Ok(())
}

async fn ready(State(page): State<Page>) -> (StatusCode, String) {
    let health = page.centre.health();
    match health.not_ready() {
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        None if health.store_ok() && health.sink.is_late() => {
            (StatusCode::OK, "ready, but the audit's sink is behind: see the log\n".to_owned())
        }
        None if health.store_ok() => (StatusCode::OK, "ready\n".to_owned()),
        None => (StatusCode::OK, "ready, but the store is out of reach: stops and halts only\n".to_owned()),
    }
}

async fn metrics(State(page): State<Page>, headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    match encode(&page).map(|text| exposition::answer(accept, text)) {
        Ok((kind, text)) => ([(CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn encode(page: &Page) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    text::encode_registry(&mut text, &page.centre.health().registry)?;
    text::encode_registry(&mut text, &page.census)?;
    page.meter.encode(&mut text)?;
    text::encode_eof(&mut text)?;
    Ok(text)
}
