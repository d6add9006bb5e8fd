//! What the control plane refused, or what stands in its place and answers otherwise. Called by the client.

use http::StatusCode;
use http::response::Parts;
use proto::problem::{ErrorCode, ProblemDetails};

/// So much of an answer that is not ours is shown, in bytes.
const SHOWN: usize = 500;

/// What the control plane refused.
#[derive(Debug, thiserror::Error)]
pub(crate) struct Refused(pub(crate) ProblemDetails);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.title)?;
        if !self.0.detail.is_empty() {
            write!(f, ": {}", self.0.detail)?;
        }
        for problem in &self.0.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl Refused {
    /// The refusal of an answer without success.
    pub(super) fn of(authority: &str, head: &Parts, body: &[u8]) -> Self {
        Self(serde_json::from_slice(body).unwrap_or_else(|_| foreign(authority, head, body)))
    }
}

/// An answer that no control plane gives: most often of what stands in front of it.
fn foreign(authority: &str, head: &Parts, body: &[u8]) -> ProblemDetails {
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]);
    let detail = if head.status.is_redirection() {
        let to = head.headers.get(http::header::LOCATION).and_then(|to| to.to_str().ok());
        let to = to.map_or_else(String::new, |to| format!(" to {}", &to[..to.len().min(SHOWN)]));
        format!("redirects{to} are not followed, so that the token goes nowhere else: log in where it is")
    } else if text.trim_start().starts_with('<') {
        "with a page, so something in front of it did: check the address and HTTPS_PROXY".to_owned()
    } else {
        text.into_owned()
    };
    // A load balancer says so when no replica is there.
    let gone = [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
    let code = if gone.contains(&head.status) { ErrorCode::Unavailable } else { ErrorCode::Internal };
    let mut details = ProblemDetails::new(code, detail);
    details.status = head.status.as_u16();
    details.title = format!("https://{authority} answered {}", head.status);
    details
}
