//! Renewal of the agent's certificate in a session: a new key at about half life, kept before it is used.

use std::time::Duration;

use certs::{PrivateKey, Proxy};
use jiff::Timestamp;
use tokio::task::JoinSet;

use super::identity::Credentials;
use super::recovery::{Attempt, NotRecovered, recover};

/// No certificate to renew: the next look is far away.
const NEVER: Duration = Duration::from_hours(365 * 24);

/// What the session renews; nothing in tests over channels.
#[derive(Debug, Default)]
pub struct Renewal {
    credentials: Option<Credentials>,
    key: Option<PrivateKey>,
    jitter: f64,
    proxy: Option<Proxy>,
    /// A new certificate on its way to disk: one task at most.
    taking: JoinSet<anyhow::Result<()>>,
}

impl Renewal {
    /// Nothing to renew.
    pub fn none() -> Self {
        Self::default()
    }

    /// Renews these. `jitter` is uniform in 0..1.
    pub fn of(credentials: Credentials, jitter: f64) -> Self {
        Self { credentials: Some(credentials), jitter, ..Self::default() }
    }

    /// Recovers through this proxy where it is for that.
    #[must_use]
    pub fn through(self, proxy: Option<Proxy>) -> Self {
        Self { proxy, ..self }
    }

    /// Whether there is a certificate, and it expired.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        let lifetime = self.credentials.as_ref().and_then(|c| c.lifetime().ok());
        lifetime.is_some_and(|lifetime| certs::renewal::is_expired(&lifetime, now))
    }

    /// Comes back by the identity key.
    pub(super) async fn recover(
        &self,
        cluster_uid: &str,
        now: Timestamp,
        number: usize,
    ) -> Result<(), NotRecovered> {
        let Some(credentials) = &self.credentials else { return Ok(()) };
        recover(credentials, Attempt { proxy: self.proxy.as_ref(), cluster_uid, now, number }).await
    }

    /// What is renewed.
    pub(super) fn credentials(&self) -> Option<Credentials> {
        self.credentials.clone()
    }

    /// Until the renewal is due.
    pub fn due_in(&self, now: Timestamp) -> Duration {
        let lifetime = self.credentials.as_ref().and_then(|c| c.lifetime().ok());
        let Some(lifetime) = lifetime else { return NEVER };
        let ms = certs::renewal::renew_at(&lifetime, self.jitter).as_millisecond() - now.as_millisecond();
        Duration::from_millis(ms.max(0) as u64)
    }

    /// A request for a new certificate, with a new key; and one that shows the identity key, for a centre that lacks
    /// it. None while the answer to the last one is not on disk yet.
    pub fn request(&mut self) -> Option<(String, String)> {
        let credentials = self.credentials.as_ref().filter(|_| self.taking.is_empty())?;
        let identity = credentials.identity_key().ok().and_then(|key| key.csr_pem().ok());
        let key = PrivateKey::generate().ok()?;
        let csr = key.csr_pem().ok()?;
        self.key = Some(key);
        Some((csr, identity.unwrap_or_default()))
    }

    /// Takes the answer: keeps it, then uses it from the next connection on. [`Self::taken`] says when. One that was
    /// not asked for is left alone.
    pub(super) fn take(&mut self, chain_pem: String, bundle_pem: String) {
        let (Some(credentials), Some(key)) = (self.credentials.clone(), self.key.take()) else { return };
        self.taking.spawn(async move { credentials.replace(&key, chain_pem, bundle_pem).await });
    }

    /// What came of an answer that was taken; waits for ever where there is none. Cancel safe.
    pub(super) async fn taken(&mut self) -> anyhow::Result<()> {
        match self.taking.join_next().await {
            Some(taken) => taken?,
            None => std::future::pending().await,
        }
    }
}
