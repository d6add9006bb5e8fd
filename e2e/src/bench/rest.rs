//! The smallest REST client that can be measured with: one request, one JSON
//! answer, and a run's stream of views.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use certs::client::{Expect, Trust};
use certs::{Connector, Protocol, Reloadable, ReloadableIdentity, TrustBundle};
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client as Http;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::{Instant, timeout};

/// Bound of any single answer or event.
const ANSWER: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(50);

/// One operator of one control plane.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: Http<Connector, Full<Bytes>>,
    authority: String,
    token: String,
}

impl Client {
    /// For the control plane at `authority` (host:port), trusting `bundle_pem`.
    pub(super) fn new(authority: String, bundle_pem: &str, token: String) -> Result<Self> {
        let trust = Trust::Bundle(Reloadable::new(TrustBundle::from_pem(bundle_pem)?));
        let config =
            certs::client::config(&ReloadableIdentity::empty(), trust, Expect::Name, Protocol::Http)?;
        let http = Http::builder(TokioExecutor::new()).build(Connector::new(config));
        Ok(Self { http, authority, token })
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Response<Incoming>> {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let request = Request::builder()
            .method(method)
            // The connector makes the TLS.
            .uri(format!("http://{}{path}", self.authority))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.into()))?;
        let response = timeout(ANSWER, self.http.request(request)).await??;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = timeout(ANSWER, response.into_body().collect()).await??.to_bytes();
        anyhow::bail!("{path}: {status} {}", String::from_utf8_lossy(&body))
    }

    /// One request and its JSON answer.
    pub(super) async fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let response = self.send(method, path, body).await?;
        let body = timeout(ANSWER, response.into_body().collect()).await??.to_bytes();
        if body.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(&body)?) }
    }

    /// GETs until `ready` holds.
    pub(super) async fn until(&self, path: &str, ready: impl Fn(&Value) -> bool) -> Result<()> {
        let end = Instant::now() + ANSWER;
        loop {
            let seen = self.call(Method::GET, path, &Value::Null).await?;
            if ready(&seen) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{path} never came to it: {seen}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A run as it changes.
    pub(super) async fn watch(&self, run: &str) -> Result<Views> {
        let response = self.send(Method::GET, &format!("/v1/runs/{run}/watch"), &Value::Null).await?;
        Ok(Views { body: response.into_body(), buffer: Vec::new() })
    }
}

/// Server-sent events, each a view of the run.
#[derive(Debug)]
pub(super) struct Views {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Views {
    /// The next view for which `ready` holds.
    pub(super) async fn until(&mut self, ready: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        loop {
            while let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let text = std::str::from_utf8(&event)?;
                let lines = text.lines().filter_map(|line| line.strip_prefix("data:"));
                let data: String = lines.collect::<Vec<_>>().join("\n");
                if data.is_empty() {
                    continue;
                }
                last = serde_json::from_str(data.trim())?;
                if ready(&last) {
                    return Ok(last);
                }
            }
            let frame = timeout(ANSWER, self.body.frame()).await;
            let frame = frame.with_context(|| format!("nothing new of the run; last: {last}"))?;
            let frame = frame.with_context(|| format!("the watch ended; last: {last}"))??;
            if let Ok(bytes) = frame.into_data() {
                self.buffer.extend_from_slice(&bytes);
            }
        }
    }
}
