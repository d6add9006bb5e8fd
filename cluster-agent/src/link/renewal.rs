//! Renewal of the agent's certificate in a session: a new key at about half life, kept before it is used.

use std::time::Duration;

use certs::PrivateKey;
use jiff::Timestamp;

use super::identity::Credentials;

/// No certificate to renew: the next look is far away.
const NEVER: Duration = Duration::from_hours(365 * 24);

/// What the session renews; nothing in tests over channels.
#[derive(Debug, Default)]
pub struct Renewal {
    credentials: Option<Credentials>,
    key: Option<PrivateKey>,
    jitter: f64,
}

impl Renewal {
    /// Nothing to renew.
    pub fn none() -> Self {
        Self::default()
    }

    /// Renews these. `jitter` is uniform in 0..1.
    pub fn of(credentials: Credentials, jitter: f64) -> Self {
        Self { credentials: Some(credentials), key: None, jitter }
    }

    /// Until the renewal is due.
    pub fn due_in(&self, now: Timestamp) -> Duration {
        let lifetime = self.credentials.as_ref().and_then(|c| c.lifetime().ok());
        let Some(lifetime) = lifetime else { return NEVER };
        let ms = certs::renewal::renew_at(&lifetime, self.jitter).as_millisecond() - now.as_millisecond();
        Duration::from_millis(ms.max(0) as u64)
    }

    /// A request for a new certificate, with a new key.
    pub fn request(&mut self) -> Option<String> {
        self.credentials.as_ref()?;
        let key = PrivateKey::generate().ok()?;
        let csr = key.csr_pem().ok()?;
        self.key = Some(key);
        Some(csr)
    }

    /// Takes the answer: keeps it, then uses it from the next connection on.
    pub async fn take(&mut self, chain_pem: String, bundle_pem: String) -> anyhow::Result<()> {
        let credentials =
            self.credentials.as_mut().ok_or_else(|| anyhow::anyhow!("nothing was asked for"))?;
        let key = self.key.take().ok_or_else(|| anyhow::anyhow!("nothing was asked for"))?;
        credentials.replace(&key, chain_pem, bundle_pem).await
    }
}
