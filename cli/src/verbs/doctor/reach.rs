//! One way to a server, step by step: name, TCP (or the proxy), TLS, an answer, and the clock in it.

use std::sync::Arc;
use std::time::Duration;

use certs::{ClientConfig, Connector, Proxy};
use http::Request;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jiff::{SignedDuration, Timestamp};
use tokio::net::{TcpStream, lookup_host};

use super::{Report, State};

/// How long each step may take.
const WITHIN: Duration = Duration::from_secs(10);
/// A larger offset of the clocks is told; the answer's own has a resolution of one second.
const OFFSET_TOLD: SignedDuration = SignedDuration::from_secs(3);
/// A larger one fails: certificates and deadlines go by it.
const OFFSET_FAILS: SignedDuration = SignedDuration::from_mins(2);

/// A server to reach.
pub(super) struct Way<'a> {
    /// What the ids of its checks begin with.
    pub(super) id: &'a str,
    /// `host:port`
    pub(super) address: &'a str,
    pub(super) config: Arc<ClientConfig>,
    pub(super) server_name: Option<&'a str>,
    pub(super) proxy: Option<&'a Proxy>,
    /// A path that changes nothing.
    pub(super) path: &'a str,
}

impl Way<'_> {
    /// Every step until one fails; whether all went well.
    pub(super) async fn check(&self, report: &mut Report) -> bool {
        let (host, port) = self.address.rsplit_once(':').unwrap_or((self.address, ""));
        let proxy = self.proxy.filter(|proxy| proxy.is_for(host, port.parse().unwrap_or(443)));
        let (first, step) = match proxy {
            Some(proxy) => (proxy.address(), "proxy"),
            None => (self.address, "tcp"),
        };
        if !self.resolve(report, first).await || !self.connect(report, first, step).await {
            return false;
        }
        self.answer(report).await
    }

    fn id(&self, step: &str) -> String {
        format!("{}.{step}", self.id)
    }

    async fn resolve(&self, report: &mut Report, address: &str) -> bool {
        let found = tokio::time::timeout(WITHIN, lookup_host(address)).await;
        let why = match found {
            Ok(Ok(mut addresses)) => match addresses.next() {
                Some(_) => {
                    report.about(&self.id("dns"), self.address, State::Ok, format!("{address} is known"), "");
                    return true;
                }
                None => "no address".to_owned(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer within 10 s".to_owned(),
        };
        let cure = "check the name, and the DNS of this machine or pod";
        report.about(&self.id("dns"), self.address, State::Failed, format!("{address}: {why}"), cure);
        false
    }

    async fn connect(&self, report: &mut Report, address: &str, step: &str) -> bool {
        let why = match tokio::time::timeout(WITHIN, TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                report.about(&self.id(step), self.address, State::Ok, format!("{address} answers"), "");
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer within 10 s: most likely a firewall drops it".to_owned(),
        };
        let cure = if step == "proxy" {
            "check HTTPS_PROXY; where no proxy is needed, add the host to NO_PROXY"
        } else {
            "allow this connection in firewalls and NetworkPolicies, or set HTTPS_PROXY"
        };
        report.about(&self.id(step), self.address, State::Failed, format!("{address}: {why}"), cure);
        false
    }

    /// TLS with all checks of the real connection, and one request.
    async fn answer(&self, report: &mut Report) -> bool {
        let before = Timestamp::now();
        let answer = tokio::time::timeout(WITHIN, self.ask()).await;
        let after = Timestamp::now();
        let why = match answer {
            Ok(Ok(date)) => {
                let how = if self.proxy.is_some() {
                    "TLS is as expected (see also proxy)"
                } else {
                    "TLS is as expected"
                };
                report.about(&self.id("tls"), self.address, State::Ok, how, "");
                self.clock(report, date.as_deref(), before, after);
                return true;
            }
            Ok(Err(why)) => why,
            Err(_) => "no answer within 10 s".to_owned(),
        };
        let cure = cure_of(&why);
        report.about(&self.id("tls"), self.address, State::Failed, why, cure);
        false
    }

    /// The date of the answer.
    async fn ask(&self) -> Result<Option<String>, String> {
        let mut connector = Connector::new(self.config.clone()).with_proxy(self.proxy.cloned());
        if let Some(name) = self.server_name {
            connector = connector.with_server_name(name).map_err(|error| error.to_string())?;
        }
        let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
        // The connector makes the TLS.
        let uri = format!("http://{}{}", self.address, self.path);
        let request = Request::builder().uri(uri).body(Empty::new()).map_err(|error| error.to_string())?;
        let response = client.request(request).await.map_err(|error| chain(&error))?;
        let date = response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
        Ok(date.map(str::to_owned))
    }

    fn clock(&self, report: &mut Report, date: Option<&str>, before: Timestamp, after: Timestamp) {
        let id = self.id("clock");
        let parser = jiff::fmt::rfc2822::DateTimeParser::new();
        let Some(theirs) = date.and_then(|date| parser.parse_timestamp(date).ok()) else {
            report.about(&id, self.address, State::Warning, "the answer has no date", "");
            return;
        };
        let ours = before + after.duration_since(before) / 2;
        let offset = theirs.duration_since(ours);
        let message = format!("this clock is {:+} s from theirs, to a second", -offset.as_secs());
        let (state, cure) = match offset.abs() {
            offset if offset > OFFSET_FAILS => (State::Failed, "run NTP or chrony on both"),
            offset if offset > OFFSET_TOLD => (State::Warning, "run NTP or chrony on both"),
            _ => (State::Ok, ""),
        };
        report.about(&id, self.address, state, message, cure);
    }
}

/// An error with all its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

fn cure_of(why: &str) -> &'static str {
    let why = why.to_ascii_lowercase();
    let says = |word: &str| why.contains(word);
    if says("inspects tls") {
        "exempt this host from TLS inspection; or the token, pin or CA bundle is of another control plane"
    } else if says("proxy") {
        "check HTTPS_PROXY and its credentials; where no proxy is needed, add the host to NO_PROXY"
    } else if says("not valid for name") {
        "serve the control plane with --advertise of this name"
    } else if says("revoked") {
        "the cluster was revoked or replaced: invite it again, and give the agent the new token"
    } else if says("expired") || says("not valid yet") || says("notvalidyet") {
        "check both clocks; an agent that was away for more than a day needs `faultline clusters replace`"
    } else {
        "see the message"
    }
}
