//! What the API counts: requests by route template, method and code, and how long they took.
//! Filled by a layer of [`super::router`], shown on the health page.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::Method;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Seconds.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: String,
    method: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
    method: &'static str,
}

/// The API's own metrics. Cheap to clone; the router and the health page share one.
#[derive(Debug, Clone)]
pub struct Meter {
    requests: Family<Answered, Counter>,
    durations: Family<Route, Histogram, fn() -> Histogram>,
    registry: Arc<Registry>,
}

impl Default for Meter {
    fn default() -> Self {
        let requests = Family::default();
        let durations: Family<Route, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let mut registry = Registry::with_prefix("faultline");
        registry.register("rest_requests", "requests answered by the REST API", requests.clone());
        registry.register_with_unit(
            "rest_request_duration",
            "time from a request's head to its answer's head",
            Unit::Seconds,
            durations.clone(),
        );
        Self { requests, durations, registry: Arc::new(registry) }
    }
}

impl Meter {
    /// Writes the metrics in the text format, without its end mark.
    pub(crate) fn encode(&self, text: &mut String) -> std::fmt::Result {
        text::encode_registry(text, &self.registry)
    }
}

/// The layer that counts.
pub(crate) async fn measure(State(meter): State<Meter>, request: Request, next: Next) -> Response {
    // The template, never the path: a label must not grow with what people write.
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let method = method(request.method());
    let begun = Instant::now();
    let response = next.run(request).await;
    meter
        .durations
        .get_or_create(&Route { route: route.clone(), method })
        .observe(begun.elapsed().as_secs_f64());
    let answered = Answered { route, method, code: response.status().as_u16() };
    meter.requests.get_or_create(&answered).inc();
    response
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}
