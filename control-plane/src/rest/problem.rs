//! Every error of the API as `application/problem+json` (RFC 9457), also those that no route of
//! ours made: unknown paths and methods, bodies too large, time-outs. Used by every route.

use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use proto::problem::{ErrorCode, Problem, ProblemDetails};

use crate::centre;

/// The media type of errors.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// A request that was not done, and why.
#[derive(Debug)]
pub(crate) struct Refused(Box<ProblemDetails>);

impl Refused {
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self(Box::new(ProblemDetails::new(code, detail)))
    }

    /// All mistakes of a document.
    pub(crate) fn invalid(problems: Vec<Problem>) -> Self {
        let details = ProblemDetails::new(ErrorCode::Invalid, "the document is not valid");
        Self(Box::new(details.with_problems(problems)))
    }

    /// One thing that makes no sense, at a place in the request.
    pub(crate) fn at(path: &str, message: impl Into<String>) -> Self {
        Self::invalid(vec![Problem::new(path, message)])
    }

    /// With another HTTP status than the code's own, where HTTP has a finer one.
    fn with_status(mut self, status: StatusCode) -> Self {
        self.0.status = status.as_u16();
        self
    }

    /// Whether it may go better later.
    pub(crate) fn is_unavailable(&self) -> bool {
        self.0.code == ErrorCode::Unavailable
    }

    /// A body that is not JSON, or does not say so.
    pub(crate) fn not_json() -> Self {
        Self::new(ErrorCode::Invalid, "send JSON with Content-Type: application/json")
            .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
    }

    fn of_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => (ErrorCode::NotFound, "there is no such path: see /openapi.json"),
            StatusCode::METHOD_NOT_ALLOWED => {
                (ErrorCode::Invalid, "this path does not know the method: see the Allow header")
            }
            StatusCode::PAYLOAD_TOO_LARGE => (ErrorCode::TooLarge, "a request has at most 64 KiB"),
            StatusCode::SERVICE_UNAVAILABLE => {
                (ErrorCode::Unavailable, "it took too long: read again before trying again")
            }
            status if status.is_client_error() => (ErrorCode::Invalid, "the request cannot be read"),
            _ => (ErrorCode::Internal, ""),
        };
        Self::new(code, detail).with_status(status)
    }
}

impl From<centre::Error> for Refused {
    fn from(error: centre::Error) -> Self {
        if error.code() == ErrorCode::Internal {
            tracing::error!(error = &error as &dyn std::error::Error, "request failed");
        }
        Self(Box::new(error.details()))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response = (status, [(CONTENT_TYPE, PROBLEM_JSON)], body).into_response();
        let advice = match self.0.code {
            ErrorCode::Unauthenticated => Some((WWW_AUTHENTICATE, "Bearer realm=\"faultline\"")),
            ErrorCode::Unavailable => Some((RETRY_AFTER, "1")),
            _ => None,
        };
        if let Some((name, value)) = advice {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// Turns any error that is not a problem yet into one; the outermost layer.
pub(crate) async fn normalise(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let told = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == PROBLEM_JSON);
    if !is_error || told {
        return response;
    }
    let mut problem = Refused::of_status(status).into_response();
    if let Some(allow) = response.headers().get(ALLOW) {
        problem.headers_mut().insert(ALLOW, allow.clone());
    }
    problem
}
