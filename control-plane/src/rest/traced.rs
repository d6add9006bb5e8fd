//! One span a request, under the trace that the caller names in its `traceparent` header. What a request causes
//! belongs to [`of_request`]. The outermost layer of [`super::router`] but for the meter.

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use proto::trace::TraceContext;
use tracing::Instrument;
use tracing::field::Empty;

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// The trace of the request that is being answered; none where the caller named none and nobody exports spans, and
/// outside of requests.
pub(crate) fn of_request() -> TraceContext {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// Runs something of a request in another task, under its trace.
pub(crate) fn under<F: Future>(trace: TraceContext, work: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(trace, work)
}

/// The layer.
pub(crate) async fn trace(request: Request, next: Next) -> Response {
    // The template, never the path: names and counts of spans must not grow with what people write.
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let header = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    let given = header.map(TraceContext::parse).unwrap_or_default();
    let span = given.child(tracing::info_span!(
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = %method,
        http.route = route,
        http.response.status_code = Empty,
    ));
    let within = given.within(&span);
    let response = CURRENT.scope(within, next.run(request)).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    if response.status().is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    response
}
