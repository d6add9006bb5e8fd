//! Strong entity tags and the preconditions on them (RFC 9110, 13.1). The one place that reads and
//! writes these headers; the centre compares, in the transaction that writes. Used by the routes
//! of things that people change.

use axum::Json;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

use super::problem::Refused;
use crate::centre::Expected;

/// What a request that changes a thing expects of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct IfMatch(pub(crate) Expected);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        expected(&parts.headers).map(Self)
    }
}

/// Weak tags never match, so `If-Match` does not take them up.
fn expected(headers: &HeaderMap) -> Result<Expected, Refused> {
    match (tags(headers, &IF_MATCH), tags(headers, &IF_NONE_MATCH)) {
        (None, None) => Ok(Expected::Anything),
        (Some(tags), None) if tags == ["*"] => Ok(Expected::Exists),
        (Some(tags), None) => Ok(Expected::OneOf(strong(&tags))),
        (None, Some(tags)) if tags == ["*"] => Ok(Expected::Absent),
        (None, Some(tags)) => Ok(Expected::NoneOf(strong(&tags))),
        (Some(_), Some(_)) => Err(Refused::at("header.If-None-Match", "give this or If-Match, not both")),
    }
}

fn strong(tags: &[&str]) -> Vec<String> {
    let unquoted = |tag: &&str| tag.strip_prefix('"')?.strip_suffix('"').map(str::to_owned);
    tags.iter().filter_map(unquoted).collect()
}

fn tags<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Vec<&'a str>> {
    let lines: Vec<_> = headers.get_all(name).iter().collect();
    let split = |line: &&'a HeaderValue| line.to_str().unwrap_or_default().split(',').map(str::trim);
    (!lines.is_empty()).then(|| lines.iter().flat_map(split).filter(|tag| !tag.is_empty()).collect())
}

/// The thing with its tag.
pub(crate) fn tagged<T: Serialize>(tag: &str, thing: T) -> Response {
    with_tag(tag, Json(thing).into_response())
}

/// The thing with its tag, or 304 where the caller has it.
pub(crate) fn unless_known<T: Serialize>(headers: &HeaderMap, tag: &str, thing: T) -> Response {
    let quoted = format!("\"{tag}\"");
    let is_known = tags(headers, &IF_NONE_MATCH).is_some_and(|tags| {
        tags.iter().any(|tag| *tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == quoted)
    });
    if is_known { with_tag(tag, StatusCode::NOT_MODIFIED.into_response()) } else { tagged(tag, thing) }
}

fn with_tag(tag: &str, mut response: Response) -> Response {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{tag}\"")) {
        response.headers_mut().insert(ETAG, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(name: HeaderName, written: Option<&'static str>, current: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(written) = written {
            headers.insert(name, HeaderValue::from_static(written));
        }
        expected(&headers).is_ok_and(|expected| expected.check(current).is_ok())
    }

    #[test]
    fn if_match_as_the_rfc_has_it() {
        for (written, current, fine) in [
            (None, None, true),
            (Some("*"), None, false),
            (Some("*"), Some("a"), true),
            (Some("\"a\""), Some("a"), true),
            (Some("\"b\", \"a\""), Some("a"), true),
            (Some("\"b\""), Some("a"), false),
            (Some("W/\"a\""), Some("a"), false),
            (Some("a"), Some("a"), false),
            (Some(""), Some("a"), false),
        ] {
            assert_eq!(holds(IF_MATCH, written, current), fine, "{written:?} {current:?}");
        }
    }

    #[test]
    fn if_none_match_makes_only_what_is_not_there() {
        for (written, current, fine) in [
            (Some("*"), None, true),
            (Some("*"), Some("a"), false),
            (Some("\"a\""), Some("a"), false),
            (Some("\"b\""), Some("a"), true),
            (Some("\"b\""), None, true),
        ] {
            assert_eq!(holds(IF_NONE_MATCH, written, current), fine, "{written:?} {current:?}");
        }
    }

    #[test]
    fn both_at_once_are_refused() {
        let headers =
            [(IF_MATCH, HeaderValue::from_static("*")), (IF_NONE_MATCH, HeaderValue::from_static("*"))];
        assert!(expected(&headers.into_iter().collect()).is_err());
    }
}
