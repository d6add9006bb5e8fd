//! Strong entity tags and the preconditions on them (RFC 9110, 13.1). The one place that reads and
//! writes these headers; the centre compares, in the transaction that writes.
//!
//! Every answer to a GET is tagged, in a layer around the routes: the tag is the hash of the bytes,
//! so it changes with everything that is shown, what is observed included, and is the same on every
//! replica that shows the same. Strong, because that is what `If-Match` compares.

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use proto::hash::sha256_hex;
use proto::problem::ErrorCode;
use serde::Serialize;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Required, Response as Described};

use super::problem::Refused;
use crate::centre::Expected;

/// The layer: tags what a GET or HEAD is answered, unless the route has a tag for it, and says 304 to who has it.
pub(crate) async fn tag(mut request: Request, next: Next) -> Result<Response, Refused> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(next.run(request).await);
    }
    // The router cuts the body of a HEAD off, outside of here: its tag is that of the whole.
    *request.method_mut() = Method::GET;
    let asked: HeaderMap =
        request.headers().get_all(IF_NONE_MATCH).iter().map(|line| (IF_NONE_MATCH, line.clone())).collect();
    let response = next.run(request).await;
    if response.status() != StatusCode::OK {
        return Ok(response);
    }
    let (mut head, body) = response.into_parts();
    // Ours, and in memory already.
    let body = to_bytes(body, usize::MAX).await;
    let body = body.map_err(|_| Refused::new(ErrorCode::Internal, "the answer broke off"))?;
    let tag = match head.headers.get(ETAG) {
        Some(tag) => tag.clone(),
        None => quoted(&sha256_hex(&body))?,
    };
    head.headers.insert(ETAG, tag.clone());
    if is_known(&asked, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    Ok(Response::from_parts(head, Body::from(body)))
}

fn is_known(asked: &HeaderMap, tag: &HeaderValue) -> bool {
    let same = |asked: &&str| {
        *asked == "*" || asked.strip_prefix("W/").unwrap_or(asked).as_bytes() == tag.as_bytes()
    };
    tags(asked, &IF_NONE_MATCH).is_some_and(|tags| tags.iter().any(same))
}

fn quoted(tag: &str) -> Result<HeaderValue, Refused> {
    HeaderValue::from_str(&format!("\"{tag}\""))
        .map_err(|_| Refused::new(ErrorCode::Internal, "a tag that is none"))
}

/// Says in the description of a GET what the layer does.
pub(crate) fn describe(operation: &mut Operation) {
    let text = || ObjectBuilder::new().schema_type(Type::String).build();
    if let Some(RefOr::T(fine)) = operation.responses.responses.get_mut("200") {
        fine.headers.insert("ETag".to_owned(), RefOr::T(Header::new(text())));
    }
    let unchanged = Described::new("It is as If-None-Match says");
    operation.responses.responses.insert("304".to_owned(), RefOr::T(unchanged));
    let asked = ParameterBuilder::new()
        .name("If-None-Match")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("Not while it has one of these ETags"))
        .schema(Some(text()));
    operation.parameters.get_or_insert_default().push(RefOr::T(asked.build()));
}

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
pub(crate) fn tagged<T: Serialize>(tag: &str, thing: T) -> Result<Response, Refused> {
    Ok(([(ETAG, quoted(tag)?)], Json(thing)).into_response())
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
