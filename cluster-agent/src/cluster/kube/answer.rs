//! One call of the apiserver, bounded in time, and what its failure means. Every call of this door goes through
//! [`call`].

use std::future::Future;
use std::time::Duration;

use kube::core::Status;

use crate::cluster::Error;

/// A call takes no longer than this.
pub(super) const CALL_BOUND: Duration = Duration::from_secs(10);
/// A write that lost a race is repeated on what is there now, so often.
pub(super) const RACES: usize = 5;

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The apiserver said so.
    Said(Box<Status>),
    /// Nothing came back, or nothing readable.
    Silent(String),
}

impl Failure {
    /// Somebody else wrote, or created it, meanwhile.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Said(status) if status.code == 409)
    }

    /// This very object does not exist. A missing kind (no CRD) or namespace is not that.
    pub(super) fn is_missing(&self, name: &str) -> bool {
        let Self::Said(status) = self else { return false };
        status.code == 404 && status.details.as_ref().is_some_and(|details| details.name == name)
    }

    /// As the door says it. What may pass by itself is worth a repeat; what was judged is not.
    pub(super) fn into_error(self, what: impl Into<String>) -> Error {
        let what = what.into();
        match self {
            Self::Silent(why) => Error::Unavailable { what, why },
            Self::Said(status) => {
                let why = format!("{} {}", status.code, status.message);
                let passing = matches!(status.code, 401 | 404 | 408 | 409 | 429) || status.code >= 500;
                if passing { Error::Unavailable { what, why } } else { Error::Refused { what, why } }
            }
        }
    }
}

/// Waits for an answer for [`CALL_BOUND`] at most.
pub(super) async fn call<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    call_within(CALL_BOUND, request).await
}

/// Waits for an answer for `bound` at most.
pub(super) async fn call_within<T>(
    bound: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(bound, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(Failure::Said(status)),
        Ok(Err(other)) => Err(Failure::Silent(chain(&other))),
        Err(_) => Err(Failure::Silent(format!("no answer within {} s", bound.as_secs_f32()))),
    }
}

/// An error with its causes: the outermost often only says "service error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use kube::core::response::StatusDetails;

    use super::*;

    fn said(code: u16, name: Option<&str>) -> Failure {
        let mut status = Status::failure("no", "Reason").with_code(code);
        status.details = name.map(|name| StatusDetails {
            name: name.to_owned(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
        });
        Failure::Said(status.boxed())
    }

    #[test]
    fn a_missing_kind_is_not_a_missing_object() {
        assert!(said(404, Some("r1")).is_missing("r1"));
        assert!(!said(404, Some("faultline")).is_missing("r1"), "the namespace is missing");
        assert!(!said(404, None).is_missing("r1"), "the kind is missing");
        assert!(!said(403, Some("r1")).is_missing("r1"));
        assert!(!Failure::Silent(String::new()).is_missing("r1"));
    }

    #[test]
    fn what_may_pass_by_itself_is_retryable() {
        for code in [401, 404, 409, 429, 500, 503] {
            assert!(said(code, None).into_error("x").retryable(), "{code}");
        }
        for code in [400, 403, 405, 413, 422] {
            assert!(!said(code, None).into_error("x").retryable(), "{code}");
        }
        assert!(Failure::Silent("reset".into()).into_error("x").retryable());
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_is_an_error_in_time() {
        let silence = call_within(Duration::from_secs(3), std::future::pending::<kube::Result<()>>()).await;
        assert!(matches!(silence, Err(Failure::Silent(why)) if why.contains("3 s")));
    }
}
