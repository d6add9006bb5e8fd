//! The REST client: one request, one typed answer, errors with every problem.

mod asked;
mod refused;
mod stream;
mod verbs;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use certs::{Connector, Protocol};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;
use proto::quantity::Span;
use proto::trace::TraceContext;
pub(crate) use refused::Refused;
use serde::de::DeserializeOwned;

use self::asked::Asked;
use crate::args::Global;
use crate::context::Context;
use crate::exit::Misuse;

/// Answers are at most this large, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// How long a request may take unless told otherwise.
const WITHIN: Duration = Duration::from_mins(1);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// How often something is asked while nobody answers; the pauses between double.
const ATTEMPTS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Talks to one control plane as one operator.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: Http<Connector, Full<Bytes>>,
    authority: String,
    authorization: HeaderValue,
    /// How long one request may take, all attempts together.
    within: Duration,
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

/// `host:port` of `https://host:port`, and nothing else: no user, no path.
pub(crate) fn authority(server: &str) -> anyhow::Result<String> {
    let parse = || {
        let text = server.strip_prefix("https://")?.trim_end_matches('/');
        let parsed: http::uri::Authority = text.parse().ok()?;
        let rest = text.strip_prefix(parsed.host()).filter(|_| !parsed.host().is_empty())?;
        (rest.is_empty() || parsed.port_u16().is_some_and(|port| port > 0)).then(|| text.to_owned())
    };
    parse().with_context(|| format!("{server:?} is not https://host:port"))
}

/// The header of a token; none where it can be no token. Never shown.
pub(crate) fn authorization(token: &str) -> Option<HeaderValue> {
    let is_token = !token.is_empty() && token.len() <= 4096 && token.bytes().all(|b| b.is_ascii_graphic());
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok().filter(|_| is_token)?;
    value.set_sensitive(true);
    Some(value)
}

impl Client {
    /// For the context that the options name, or the current one.
    pub(crate) fn of(global: &Global) -> anyhow::Result<Self> {
        let context = crate::context::choose(global.context.as_deref())?;
        Ok(Self::new(&context)?.within(global.request_timeout))
    }

    /// How long somebody who follows a run looks again and again without an answer.
    pub(crate) fn patience(&self) -> Duration {
        self.within.saturating_mul(10)
    }

    /// With another bound of a request.
    pub(crate) fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }

    pub(crate) fn new(context: &Context) -> anyhow::Result<Self> {
        let authority = authority(&context.server)?;
        let authorization = authorization(context.token.trim())
            .context("the token of the context cannot be one: log in again")?;
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
            authority,
            authorization,
            within: WITHIN,
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
            .header(http::header::AUTHORIZATION, self.authorization.clone())
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
        let (parts, body) = response.into_parts();
        let body = collect(body).await?;
        Err(Refused::of(&self.authority, &parts, &body).into())
    }

    /// An answer, or why there is none in time.
    async fn timely<T>(&self, answer: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::time::timeout(self.within, answer).await.unwrap_or_else(|_| {
            let within = Span::from_ms(self.within.as_millis() as u64);
            bail!("https://{} did not answer within {within} (--request-timeout)", self.authority)
        })
    }

    /// Asks, and asks again while the connection or the replica goes away, where that is safe.
    async fn exchange(&self, asked: Asked<'_>) -> anyhow::Result<(HeaderMap, Bytes)> {
        self.timely(self.persistently(asked)).await
    }

    async fn persistently(&self, asked: Asked<'_>) -> anyhow::Result<(HeaderMap, Bytes)> {
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
        self.read(&body)
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> anyhow::Result<T> {
        serde_json::from_slice(body).map_err(|error| {
            let why = not_understood(&self.authority, &error, body);
            anyhow::Error::from(error).context(why)
        })
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
    match Limited::new(body, MAX_ANSWER).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            bail!("the control plane's answer is larger than {} MiB", MAX_ANSWER >> 20)
        }
        Err(error) => Err(anyhow::anyhow!("read the control plane's answer: {error}")),
    }
}

/// Why an answer cannot be read. One that is JSON may well be of a control plane, but of a later version.
fn not_understood(authority: &str, error: &serde_json::Error, body: &[u8]) -> String {
    let other = format!("https://{authority} does not answer as a control plane does");
    let is_object = body.trim_ascii_start().starts_with(b"{");
    if error.is_data() && is_object {
        return format!(
            "{other} of this program's version ({}): use the program of its version",
            env!("CARGO_PKG_VERSION")
        );
    }
    other
}

#[cfg(test)]
mod tests {
    use super::{authority, authorization, not_understood, segment};

    /// As a control plane of a later version may answer: more fields, and words that this program does not know.
    #[test]
    fn answers_of_a_later_version_are_read_as_far_as_they_are_known() {
        let read = |body: &str| {
            let read = serde_json::from_str::<proto::rest::WhoAmI>(body);
            read.map(|who| who.name).map_err(|error| not_understood("hub", &error, body.as_bytes()))
        };
        let more = r#"{"name":"ann","role":"admin","fromTheFuture":{"a":[1]}}"#;
        assert_eq!(read(more), Ok("ann".to_owned()));
        let later = read(r#"{"name":"ann","role":"auditor"}"#).expect_err("not understood");
        assert!(later.ends_with("use the program of its version"), "{later}");
        for other in ["<html>", "[]", "7", r#"{"name":"#] {
            let why = read(other).expect_err("not understood");
            assert!(why.ends_with("does not answer as a control plane does"), "{other}: {why}");
        }
    }

    #[test]
    fn a_server_is_https_with_a_host_and_nothing_else() {
        for good in ["https://hub", "https://hub:7443", "https://10.0.0.1:7443/", "https://[::1]:7443"] {
            assert!(authority(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "hub",
            "hub:7443",
            "http://hub",
            "https://",
            "https://:1",
            "https://a b",
            "https://hub:0",
            "https://hub:99999",
            "https://hub:x",
            "https://me:secret@hub",
            "https://hub/v1",
            "https://hub?a",
            "https://hub\u{1b}[31m",
            "https://hub#a",
        ] {
            assert!(authority(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_is_one_word_and_is_never_shown() {
        let header = authorization("flo.abc").expect("a token");
        assert!(!format!("{header:?}").contains("abc"));
        for bad in ["", "a b", "a\nb", "\u{1b}", "ä", &"a".repeat(4097)] {
            assert!(authorization(bad).is_none(), "{bad}");
        }
    }

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
