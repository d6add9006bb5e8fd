//! Problems: every mistake of a document at once, and RFC 9457 errors.

use serde::{Deserialize, Serialize};

/// One mistake: where, what, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// Path in the document, for example `spec.faults[0].network.delay.latency`.
    pub path: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl Problem {
    /// A mistake at a path.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// All mistakes of a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} problem(s): {}", .0.len(), .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Problems(pub Vec<Problem>);

/// Closed set of error codes of the REST API; mapped once to HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The document or request is wrong.
    Invalid,
    /// No or bad credentials.
    Unauthenticated,
    /// Not with this role.
    Forbidden,
    /// No such thing.
    NotFound,
    /// It exists, or was changed meanwhile.
    Conflict,
    /// If-Match did not match.
    PreconditionFailed,
    /// Too large.
    TooLarge,
    /// Not now: store or leader unavailable.
    Unavailable,
    /// A defect of ours.
    Internal,
}

impl ErrorCode {
    /// HTTP status.
    pub fn http_status(self) -> u16 {
        match self {
            ErrorCode::Invalid => 422,
            ErrorCode::Unauthenticated => 401,
            ErrorCode::Forbidden => 403,
            ErrorCode::NotFound => 404,
            ErrorCode::Conflict => 409,
            ErrorCode::PreconditionFailed => 412,
            ErrorCode::TooLarge => 413,
            ErrorCode::Unavailable => 503,
            ErrorCode::Internal => 500,
        }
    }

    /// Title.
    pub fn title(self) -> &'static str {
        match self {
            ErrorCode::Invalid => "the request is not valid",
            ErrorCode::Unauthenticated => "not authenticated",
            ErrorCode::Forbidden => "not allowed",
            ErrorCode::NotFound => "not found",
            ErrorCode::Conflict => "conflict",
            ErrorCode::PreconditionFailed => "changed meanwhile",
            ErrorCode::TooLarge => "too large",
            ErrorCode::Unavailable => "not available now",
            ErrorCode::Internal => "internal error",
        }
    }
}

/// `application/problem+json` (RFC 9457), with all problems of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProblemDetails {
    /// `urn:faultline:error:<code>`
    #[serde(rename = "type")]
    pub kind: String,
    /// Short, fixed per code.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// This occurrence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The code.
    pub code: ErrorCode,
    /// All mistakes of the document.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl ProblemDetails {
    /// An error of this code.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        let kind =
            serde_json::to_value(code).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        Self {
            kind: format!("urn:faultline:error:{kind}"),
            title: code.title().to_owned(),
            status: code.http_status(),
            detail: detail.into(),
            code,
            problems: Vec::new(),
        }
    }

    /// With all mistakes of a document.
    #[must_use]
    pub fn with_problems(mut self, problems: Vec<Problem>) -> Self {
        self.problems = problems;
        self
    }
}
