//! `Idempotency-Key` on routes that make something: the same key and request have one effect and
//! one answer, for a day, on every replica. What was begun is carried on when its caller is gone.
//! A layer of [`super::router`] around such routes.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use proto::hash::sha256_hex;
use proto::problem::ErrorCode;
use tracing::Instrument;

use super::problem::Refused;
use super::{Rest, body, traced};
use crate::centre::{Answer, Caller, Claim, Claimed};

const KEY: &str = "idempotency-key";
/// In an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const MAX_KEY_BYTES: usize = 255;
/// Between two looks at a request that somebody else is at.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Whoever is at it has ended by then, or is dead.
const WAIT_FOR_ANOTHER: Duration = Duration::from_secs(12);
/// No answer of these routes is larger.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// How long a halt waits for the record of its key: it is taken without, too.
const ASK_WITHIN: Duration = Duration::from_millis(500);

/// The header, for the description of such routes.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it is only described; the layer reads the header")]
pub(crate) struct OnceKey {
    /// One effect and one answer per key, for a day.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    key: Option<String>,
}

/// What a request is known by to what it makes, where it has a key.
#[derive(Debug, Clone)]
pub(crate) struct Seed(pub(crate) Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for Seed {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or(Self(None)))
    }
}

/// The layer.
pub(crate) async fn once(
    State(rest): State<Rest>,
    request: Request,
    next: Next,
) -> Result<Response, Refused> {
    // Another method of the same path makes nothing.
    if request.method() != Method::POST {
        return Ok(next.run(request).await);
    }
    let Some(key) = key_of(request.headers())? else {
        return Ok(next.run(request).await);
    };
    let caller = request.extensions().get::<Caller>().cloned();
    let caller = caller.ok_or(crate::centre::Error::Unauthenticated)?;
    let (parts, body) = request.into_parts();
    let bytes = body::bytes(body).await?;
    let fingerprint = format!("{} {}\n{}", parts.method, parts.uri, sha256_hex(&bytes));
    let work = Work {
        rest: rest.clone(),
        caller,
        key,
        fingerprint: sha256_hex(fingerprint.as_bytes()),
        // A halt needs no store: its id follows from the key, so that it stays one halt.
        needs_store: parts.uri.path() != "/v1/halts",
    };
    let doing = work.run(Request::from_parts(parts, Body::from(bytes)), next);
    // In a task of its own: whoever lost the connection asks again and finds the answer.
    let task = rest.at_work.spawn(traced::under(traced::of_request(), doing).in_current_span());
    task.await.map_err(|_| Refused::new(ErrorCode::Internal, "the request broke off"))?
}

fn key_of(headers: &HeaderMap) -> Result<Option<String>, Refused> {
    let mut lines = headers.get_all(KEY).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let text = line.to_str().unwrap_or_default().trim();
    let key = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let fit = (1..=MAX_KEY_BYTES).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if fit && lines.next().is_none() {
        return Ok(Some(key.to_owned()));
    }
    Err(Refused::at("header.Idempotency-Key", "give one key of 1 to 255 visible ASCII characters"))
}

struct Work {
    rest: Rest,
    caller: Caller,
    key: String,
    fingerprint: String,
    needs_store: bool,
}

impl Work {
    async fn run(self, mut request: Request, next: Next) -> Result<Response, Refused> {
        let claim = match self.claim().await? {
            Begun::Ours(claim) => claim,
            Begun::Answered(answer) => return Ok(replay(answer)),
            Begun::WithoutStore => {
                let seed = sha256_hex(format!("{}\n{}", self.caller.name, self.key).as_bytes());
                request.extensions_mut().insert(Seed(Some(seed)));
                return Ok(next.run(request).await);
            }
        };
        request.extensions_mut().insert(Seed(Some(claim.seed().to_owned())));
        let response = next.run(request).await;
        self.settle(&claim, response).await
    }

    async fn claim(&self) -> Result<Begun, Refused> {
        let centre = &self.rest.centre;
        let asking = async {
            loop {
                match centre.claim(&self.caller, &self.key, &self.fingerprint).await? {
                    Claimed::Ours(claim) => return Ok(Begun::Ours(claim)),
                    Claimed::Answered(answer) => return Ok(Begun::Answered(answer)),
                    Claimed::Another => {
                        let message = "this key was used for another request: make a new one";
                        return Err(Refused::at("header.Idempotency-Key", message));
                    }
                    Claimed::Busy => tokio::time::sleep(AGAIN_AFTER).await,
                }
            }
        };
        let within = if self.needs_store { WAIT_FOR_ANOTHER } else { ASK_WITHIN };
        match tokio::time::timeout(within, asking).await {
            Ok(Err(refused)) if !self.needs_store && refused.is_unavailable() => Ok(Begun::WithoutStore),
            Ok(result) => result,
            Err(_) if !self.needs_store => Ok(Begun::WithoutStore),
            Err(_) => Err(Refused::new(
                ErrorCode::Unavailable,
                "the first request with this key has not ended: ask again",
            )),
        }
    }

    /// Keeps what is final; frees the key of what was refused.
    async fn settle(&self, claim: &Claim, response: Response) -> Result<Response, Refused> {
        let status = response.status();
        let centre = &self.rest.centre;
        let (settled, response) = if status.is_success() {
            let (parts, body) = response.into_parts();
            let bytes = to_bytes(body, MAX_ANSWER_BYTES).await;
            let bytes = bytes.map_err(|_| Refused::new(ErrorCode::Internal, "the answer broke off"))?;
            let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            let answer = Answer {
                status: status.as_u16(),
                content_type: kind.unwrap_or_default().to_owned(),
                body: String::from_utf8_lossy(&bytes).into_owned(),
            };
            let kept = centre.keep_answer(claim, &answer).await;
            (kept, Response::from_parts(parts, Body::from(bytes)))
        } else if status.is_client_error() {
            (centre.free_claim(claim).await, response)
        } else {
            (centre.reopen_claim(claim).await, response)
        };
        if let Err(error) = settled {
            // The effect is there; who asks again begins under the same seed and finds it.
            tracing::warn!(error = &error as &dyn std::error::Error, "keep the answer of an idempotency key");
        }
        Ok(response)
    }
}

enum Begun {
    Ours(Claim),
    Answered(Answer),
    WithoutStore,
}

fn replay(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = (status, answer.body).into_response();
    if let Ok(kind) = HeaderValue::from_str(&answer.content_type) {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}
