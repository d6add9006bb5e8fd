//! One request, and whether it may be sent again.

use http::Method;
use hyper::body::Bytes;
use proto::problem::ErrorCode;
use serde::Serialize;

use super::Refused;

/// One request, as often as it is sent.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) body: Option<Bytes>,
    pub(super) if_match: Option<&'a str>,
    pub(super) key: Option<String>,
    pub(super) last_event: Option<&'a str>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(method: Method, path: &'a str) -> Self {
        Self { method, path, body: None, if_match: None, key: None, last_event: None }
    }

    pub(super) fn with(mut self, body: &impl Serialize) -> anyhow::Result<Self> {
        self.body = Some(serde_json::to_vec(body)?.into());
        Ok(self)
    }

    /// Whether asking again may help and cannot do anything twice.
    pub(super) fn is_safe_again(&self, error: &anyhow::Error) -> bool {
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
