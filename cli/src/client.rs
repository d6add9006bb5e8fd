//! The REST client: one request, one typed answer, errors with every problem.

mod stream;

use anyhow::{Context as _, bail};
use certs::{Connector, Protocol};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;
use proto::problem::ProblemDetails;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;

/// Answers are at most this large, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Talks to one control plane as one operator.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: Http<Connector, Full<Bytes>>,
    authority: String,
    token: String,
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
            http: Http::builder(TokioExecutor::new()).build(Connector::new(config)),
            authority: authority.to_owned(),
            token: context.token.trim().to_owned(),
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<http::Response<Incoming>> {
        // The connector makes the TLS; an https URI would make hyper refuse it.
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.authority))
            .header(http::header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(http::header::USER_AGENT, concat!("faultline/", env!("CARGO_PKG_VERSION")));
        if body.is_some() {
            request = request.header(http::header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body.unwrap_or_default().into()))?;
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

    async fn typed<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<T> {
        let response = self.send(method, path, body).await?;
        let body = collect(response.into_body()).await?;
        serde_json::from_slice(&body).context("read the control plane's answer")
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.typed(Method::GET, path, None).await
    }

    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> anyhow::Result<T> {
        self.typed(Method::POST, path, Some(serde_json::to_vec(body)?)).await
    }

    pub(crate) async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> anyhow::Result<T> {
        self.typed(Method::PUT, path, Some(serde_json::to_vec(body)?)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.send(Method::DELETE, path, None).await.map(drop)
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

async fn collect(body: Incoming) -> anyhow::Result<Bytes> {
    let collected = Limited::new(body, MAX_ANSWER).collect().await;
    Ok(collected.map_err(|e| anyhow::anyhow!("read the control plane's answer: {e}"))?.to_bytes())
}

fn refusal(status: StatusCode, body: &[u8]) -> Refused {
    Refused(serde_json::from_slice(body).unwrap_or_else(|_| {
        let code = proto::problem::ErrorCode::Internal;
        let mut details = ProblemDetails::new(code, String::from_utf8_lossy(&body[..body.len().min(500)]));
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
