//! The REST client: one request, one typed answer, errors with every problem.

mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use certs::{Connector, Protocol};
use http::{HeaderMap, HeaderName, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;
use proto::problem::{ErrorCode, ProblemDetails};
use proto::trace::TraceContext;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::exit::Misuse;

/// Answers are at most this large, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// How often something is asked while nobody answers; the pauses between double.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// One request, as often as it is sent.
#[derive(Debug)]
struct Asked<'a> {
    method: Method,
    path: &'a str,
    body: Option<Bytes>,
    if_match: Option<&'a str>,
    key: Option<String>,
    last_event: Option<&'a str>,
}

impl<'a> Asked<'a> {
    fn new(method: Method, path: &'a str) -> Self {
        Self { method, path, body: None, if_match: None, key: None, last_event: None }
    }

    fn with(mut self, body: &impl Serialize) -> anyhow::Result<Self> {
        self.body = Some(serde_json::to_vec(body)?.into());
        Ok(self)
    }

    /// Whether asking again may help and cannot do anything twice.
    fn is_safe_again(&self, error: &anyhow::Error) -> bool {
        if let Some(Refused(details)) = error.downcast_ref::<Refused>() {
            return details.code == ErrorCode::Unavailable;
        }
        let was_sent = !error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<hyper_util::client::legacy::Error>())
            .any(hyper_util::client::legacy::Error::is_connect);
        let same_again = self.method == Method::GET
            || self.key.is_some()
            || (self.method == Method::PUT && self.if_match.is_none());
        same_again || !was_sent
    }
}

/// Talks to one control plane as one operator.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: Http<Connector, Full<Bytes>>,
    authority: String,
    token: String,
    /// Of this invocation; each thing that is made has the next key.
    keys: Arc<Keys>,
}

#[derive(Debug)]
struct Keys {
    invocation: String,
    next: AtomicU32,
}

/// A name as one segment of a path, or one value of a query: whatever a user
/// typed stays one.
pub(crate) fn segment(name: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(name.len());
    for &byte in name.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || (byte == b'.' && name.len() > 2) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

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

impl Client {
    /// For the named context, or the current one.
    pub(crate) fn of(name: Option<&str>) -> anyhow::Result<Self> {
        Self::new(&crate::context::choose(name)?)
    }

    pub(crate) fn new(context: &Context) -> anyhow::Result<Self> {
        let authority = context.server.strip_prefix("https://").map(|a| a.trim_end_matches('/'));
        let authority =
            authority.with_context(|| format!("{:?} is not https://host:port", context.server))?;
        let trust = match (&context.pin, &context.ca_pem) {
            (Some(pin), _) => certs::client::Trust::Pin(pin.parse().context("read the pin")?),
            (None, Some(pem)) => certs::client::Trust::Bundle(certs::Reloadable::new(
                certs::TrustBundle::from_pem(pem).context("read the CA bundle")?,
            )),
            (None, None) => bail!("the context has neither pin nor CA bundle: log in again"),
        };
        let anonymous = certs::ReloadableIdentity::empty();
        let config = certs::client::config(&anonymous, trust, certs::client::Expect::Name, Protocol::Http)?;
        Ok(Self {
            http: Http::builder(TokioExecutor::new()).build(Connector::new(config).with_proxy(proxy()?)),
            authority: authority.to_owned(),
            token: context.token.trim().to_owned(),
            keys: Arc::new(Keys { invocation: invocation(), next: AtomicU32::new(1) }),
        })
    }

    fn next_key(&self) -> String {
        format!("{}-{}", self.keys.invocation, self.keys.next.fetch_add(1, Ordering::Relaxed))
    }

    /// One attempt. With `if_match` only over the thing as it had that tag; with a key its effect is made once,
    /// however often it is sent.
    async fn send(&self, asked: &Asked<'_>) -> anyhow::Result<http::Response<Incoming>> {
        // The connector makes the TLS; an https URI would make hyper refuse it.
        let mut request = Request::builder()
            .method(asked.method.clone())
            .uri(format!("http://{}{}", self.authority, asked.path))
            .header(http::header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(http::header::USER_AGENT, concat!("faultline/", env!("CARGO_PKG_VERSION")));
        let trace = TraceContext::parse(&std::env::var("TRACEPARENT").unwrap_or_default());
        let optional = [
            (http::header::CONTENT_TYPE, asked.body.is_some().then_some("application/json")),
            (http::header::IF_MATCH, asked.if_match),
            (IDEMPOTENCY_KEY, asked.key.as_deref()),
            (LAST_EVENT_ID, asked.last_event),
            // What a pipeline's tracer sets for the commands that it runs.
            (TRACEPARENT, Some(trace.as_str()).filter(|text| !text.is_empty())),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let request = request.body(Full::new(asked.body.clone().unwrap_or_default()))?;
        let response = self.http.request(request).await;
        let response =
            response.with_context(|| format!("reach the control plane at https://{}", self.authority))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = collect(response.into_body()).await?;
        Err(refusal(status, &body).into())
    }

    /// Asks, and asks again while the connection or the replica goes away, where that is safe.
    async fn exchange(&self, asked: Asked<'_>) -> anyhow::Result<(HeaderMap, Bytes)> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            match self.attempt(&asked).await {
                Err(error) if asked.is_safe_again(&error) => tokio::time::sleep(pause).await,
                result => return result,
            }
            pause *= 2;
        }
        self.attempt(&asked).await
    }

    async fn attempt(&self, asked: &Asked<'_>) -> anyhow::Result<(HeaderMap, Bytes)> {
        let (parts, body) = self.send(asked).await?.into_parts();
        Ok((parts.headers, collect(body).await?))
    }

    async fn typed<T: DeserializeOwned>(&self, asked: Asked<'_>) -> anyhow::Result<T> {
        let (_, body) = self.exchange(asked).await?;
        serde_json::from_slice(&body).context("read the control plane's answer")
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.typed(Asked::new(Method::GET, path)).await
    }

    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> anyhow::Result<T> {
        let key = Some(self.next_key());
        self.typed(Asked { key, ..Asked::new(Method::POST, path).with(body)? }).await
    }

    pub(crate) async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> anyhow::Result<T> {
        self.typed(Asked::new(Method::PUT, path).with(body)?).await
    }

    /// A thing and its tag, where there is one of this name.
    pub(crate) async fn tagged<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> anyhow::Result<Option<(T, String)>> {
        let (headers, body) = match self.exchange(Asked::new(Method::GET, path)).await {
            Ok(answer) => answer,
            Err(error) => match error.downcast_ref::<Refused>() {
                Some(Refused(details)) if details.status == 404 => return Ok(None),
                _ => return Err(error),
            },
        };
        let tag = headers.get(http::header::ETAG).and_then(|tag| tag.to_str().ok());
        let tag = tag.context("the control plane's answer has no ETag")?.to_owned();
        Ok(Some((serde_json::from_slice(&body).context("read the control plane's answer")?, tag)))
    }

    /// Stores over the thing as it had this tag; without one, whatever is there.
    pub(crate) async fn put_if<B: Serialize>(
        &self,
        path: &str,
        body: &B,
        tag: Option<&str>,
    ) -> anyhow::Result<()> {
        let asked = Asked { if_match: tag, ..Asked::new(Method::PUT, path).with(body)? };
        self.exchange(asked).await.map(drop)
    }

    /// Deletes the thing if it still has this tag.
    pub(crate) async fn delete_if(&self, path: &str, tag: &str) -> anyhow::Result<()> {
        let asked = Asked { if_match: Some(tag), ..Asked::new(Method::DELETE, path) };
        self.exchange(asked).await.map(drop)
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.exchange(Asked::new(Method::DELETE, path)).await.map(drop)
    }

    /// Every item of a paged list.
    pub(crate) async fn list<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Vec<T>> {
        let mut items = Vec::new();
        let mut after = String::new();
        loop {
            let page: proto::rest::Page<T> = self.get(&format!("{path}?limit=200{after}")).await?;
            items.extend(page.items);
            match page.next {
                Some(next) => after = format!("&after={}", segment(&next)),
                None => return Ok(items),
            }
        }
    }
}

/// Names this invocation, as nothing else is named.
#[expect(clippy::disallowed_methods, reason = "a command makes its own ids")]
fn invocation() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// The forward proxy of this process's environment.
pub(crate) fn proxy() -> anyhow::Result<Option<certs::Proxy>> {
    certs::Proxy::from_env(|name| std::env::var(name).ok()).map_err(|error| Misuse(error.to_string()).into())
}

async fn collect(body: Incoming) -> anyhow::Result<Bytes> {
    let collected = Limited::new(body, MAX_ANSWER).collect().await;
    Ok(collected.map_err(|e| anyhow::anyhow!("read the control plane's answer: {e}"))?.to_bytes())
}

fn refusal(status: StatusCode, body: &[u8]) -> Refused {
    Refused(serde_json::from_slice(body).unwrap_or_else(|_| {
        let mut details =
            ProblemDetails::new(ErrorCode::Internal, String::from_utf8_lossy(&body[..body.len().min(500)]));
        details.title = format!("the control plane answered {status}");
        details
    }))
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn a_name_stays_one_segment() {
        for (name, path) in [
            ("slow-payments", "slow-payments"),
            ("0199.x", "0199.x"),
            ("east/shop/slow", "east%2Fshop%2Fslow"),
            ("..", "%2E%2E"),
            ("a b?c#d%", "a%20b%3Fc%23d%25"),
            ("ä", "%C3%A4"),
        ] {
            assert_eq!(segment(name), path, "{name}");
        }
    }
}
