//! Strong entity tags of Experiments and Grants, made of their content. Used by their routes.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proto::problem::ErrorCode;
use serde::Serialize;

use super::problem::Refused;

/// What a request expects of the thing it changes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Nothing.
    Anything,
    /// That it exists.
    Exists,
    /// One of these tags, without their quotes.
    OneOf(Vec<String>),
}

impl Expected {
    /// From `If-Match`. Weak tags never match, so they are not taken up.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        match tags(headers, &IF_MATCH) {
            None => Self::Anything,
            Some(tags) if tags == ["*"] => Self::Exists,
            Some(tags) => Self::OneOf(
                tags.iter()
                    .filter_map(|tag| tag.strip_prefix('"')?.strip_suffix('"'))
                    .map(str::to_owned)
                    .collect(),
            ),
        }
    }

    pub(crate) fn is_conditional(&self) -> bool {
        *self != Self::Anything
    }

    /// Refuses unless the thing, with this tag where it exists, is as expected.
    pub(crate) fn check(&self, current: Option<&str>) -> Result<(), Refused> {
        let holds = match (self, current) {
            (Self::Anything, _) | (Self::Exists, Some(_)) => true,
            (Self::OneOf(tags), Some(current)) => tags.iter().any(|tag| tag == current),
            (Self::Exists | Self::OneOf(_), None) => false,
        };
        let message = "it is not what If-Match says: read it again";
        if holds { Ok(()) } else { Err(Refused::new(ErrorCode::PreconditionFailed, message)) }
    }
}

fn tags<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Vec<&'a str>> {
    let lines: Vec<_> = headers.get_all(name).iter().collect();
    let split = |line: &&'a HeaderValue| line.to_str().unwrap_or_default().split(',').map(str::trim);
    (!lines.is_empty()).then(|| lines.iter().flat_map(split).filter(|tag| !tag.is_empty()).collect())
}

/// The thing with its tag, or 304 where the caller has it.
pub(crate) fn tagged<T: Serialize>(headers: &HeaderMap, tag: &str, thing: T) -> Response {
    let quoted = format!("\"{tag}\"");
    let had = tags(headers, &IF_NONE_MATCH).is_some_and(|tags| {
        tags.iter().any(|tag| *tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == quoted)
    });
    let mut response =
        if had { StatusCode::NOT_MODIFIED.into_response() } else { Json(thing).into_response() };
    if let Ok(value) = HeaderValue::from_str(&quoted) {
        response.headers_mut().insert(ETAG, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_match_as_the_rfc_has_it() {
        for (written, current, holds) in [
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
            let mut headers = HeaderMap::new();
            if let Some(written) = written {
                headers.insert(IF_MATCH, HeaderValue::from_static(written));
            }
            assert_eq!(Expected::of(&headers).check(current).is_ok(), holds, "{written:?} {current:?}");
        }
    }
}
