//! The agent's identity: what is kept of it in a Secret or file, and the handles that live connections use.

use std::sync::Arc;

use anyhow::Context;
use certs::client::{self, Expect, Trust};
use certs::{
    ClientConfig, Credential, Lifetime, PrivateKey, Protocol, Reloadable, ReloadableIdentity, TrustBundle,
};
use prometheus_client::metrics::gauge::Gauge;
use proto::ids::ClusterId;
use serde::{Deserialize, Serialize};

use crate::cluster::{Secrets, secret};

/// What is kept under [`secret::IDENTITY`]. The key is kept before the first word to the centre, so that a retry
/// comes with the same key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredIdentity {
    /// The cluster's id, as in the token.
    pub cluster: ClusterId,
    /// The token that it was made for.
    pub token_id: String,
    /// PKCS#8.
    pub key_pem: String,
    /// Absent until enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolled: Option<Enrolled>,
}

impl std::fmt::Debug for StoredIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredIdentity").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// What the centre answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrolled {
    /// Leaf, then intermediate.
    pub chain_pem: String,
    /// Roots of the centre.
    pub bundle_pem: String,
    /// Trust domain.
    pub trust_domain: String,
    /// host:port, all equal.
    pub link_endpoints: Vec<String>,
}

impl StoredIdentity {
    /// Reads it, if there is one.
    pub async fn load(secrets: &dyn Secrets) -> anyhow::Result<Option<Self>> {
        let bytes = secrets.get(secret::IDENTITY).await.context("read the identity")?;
        bytes.map(|bytes| serde_json::from_slice(&bytes).context("read the identity")).transpose()
    }

    /// Keeps it.
    pub async fn save(&self, secrets: &dyn Secrets) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        secrets.put(secret::IDENTITY, &bytes).await.context("keep the identity")
    }
}

/// The identity in use. Clones see each other's renewals.
#[derive(Debug, Clone)]
pub struct Credentials {
    stored: StoredIdentity,
    enrolled: Enrolled,
    identity: ReloadableIdentity,
    bundle: Reloadable<TrustBundle>,
    secrets: Arc<dyn Secrets>,
    /// When the certificate ends, seconds since 1970.
    expiry: Gauge,
}

impl Credentials {
    /// From what is kept; refused before enrolment.
    pub fn new(stored: StoredIdentity, secrets: Arc<dyn Secrets>) -> anyhow::Result<Self> {
        let enrolled = stored.enrolled.clone().context("this cluster is not enrolled yet")?;
        let credential =
            Credential { chain_pem: enrolled.chain_pem.clone(), key_pem: stored.key_pem.clone() };
        let identity = ReloadableIdentity::new(&credential).context("use the identity")?;
        let bundle = TrustBundle::from_pem(&enrolled.bundle_pem).context("use the centre's roots")?;
        Ok(Self {
            stored,
            enrolled,
            identity,
            bundle: Reloadable::new(bundle),
            secrets,
            expiry: Gauge::default(),
        })
    }

    /// Shows in this gauge when the certificate in use ends, now and after each renewal.
    #[must_use]
    pub fn measured(self, expiry: Gauge) -> Self {
        let measured = Self { expiry, ..self };
        measured.measure();
        measured
    }

    fn measure(&self) {
        if let Ok(lifetime) = self.lifetime() {
            self.expiry.set(lifetime.not_after.as_second());
        }
    }

    /// The cluster's id.
    pub fn cluster(&self) -> &ClusterId {
        &self.stored.cluster
    }

    /// Trust domain of the centre.
    pub fn trust_domain(&self) -> &str {
        &self.enrolled.trust_domain
    }

    /// Where to dial.
    pub fn endpoints(&self) -> &[String] {
        &self.enrolled.link_endpoints
    }

    /// When the certificate in use is valid.
    pub fn lifetime(&self) -> anyhow::Result<Lifetime> {
        Ok(Lifetime::of_chain_pem(&self.enrolled.chain_pem)?)
    }

    /// For dialling the centre by name.
    pub fn client_config(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let trust = Trust::Bundle(self.bundle.clone());
        Ok(client::config(&self.identity, trust, Expect::Name, Protocol::Grpc)?)
    }

    /// Keeps a new certificate, then uses it.
    pub(super) async fn replace(
        &mut self,
        key: &PrivateKey,
        chain_pem: String,
        bundle_pem: String,
    ) -> anyhow::Result<()> {
        let credential = Credential { chain_pem: chain_pem.clone(), key_pem: key.to_pem() };
        ReloadableIdentity::new(&credential).context("check the new certificate")?;
        let bundle = TrustBundle::from_pem(&bundle_pem).context("check the new roots")?;
        let mut stored = self.stored.clone();
        let enrolled = Enrolled { chain_pem, bundle_pem, ..self.enrolled.clone() };
        stored.key_pem = key.to_pem();
        stored.enrolled = Some(enrolled.clone());
        stored.save(&*self.secrets).await?;
        self.identity.replace(&credential)?;
        self.bundle.replace(bundle);
        self.stored = stored;
        self.enrolled = enrolled;
        self.measure();
        tracing::info!(cluster = %self.stored.cluster, "certificate renewed");
        Ok(())
    }
}
