//! The agent's identity: what is kept of it in a Secret or file, and the handles that live connections use.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use certs::client::{self, Expect, Trust};
use certs::{
    ClientConfig, Credential, Lifetime, PrivateKey, Protocol, Reloadable, ReloadableIdentity, TrustBundle,
};
use prometheus_client::metrics::gauge::Gauge;
use proto::ids::ClusterId;
use serde::{Deserialize, Serialize};

use super::known::KnownCentre;
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
    /// PKCS#8 of the certificate's key.
    pub key_pem: String,
    /// PKCS#8 of the key that signs recoveries and nothing else, for as long as this identity lives. Absent in what an
    /// earlier version kept, until it is looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_key_pem: Option<String>,
    /// Counter of the recovery that was begun last.
    #[serde(default)]
    pub recoveries: u64,
    /// PKCS#8 of that recovery's new key, until it is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovering_key_pem: Option<String>,
    /// Absent until enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolled: Option<Enrolled>,
    /// What was learnt of the centre since.
    #[serde(default)]
    pub centre: KnownCentre,
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
    /// host:port, all equal; what the centre said since goes before it.
    pub link_endpoints: Vec<String>,
    /// Where it enrolled, and recovers; what the centre said since goes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrol_endpoint: Option<EnrolEndpoint>,
}

/// A place to enrol and recover at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnrolEndpoint {
    /// host:port.
    pub addr: String,
    /// The name to expect there, where it is not the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

impl StoredIdentity {
    /// Reads it, if there is one.
    pub async fn load(secrets: &dyn Secrets) -> anyhow::Result<Option<Self>> {
        let bytes = secrets.get(secret::IDENTITY).await.context("read the identity")?;
        bytes.map(|bytes| serde_json::from_slice(&bytes).context("read the identity")).transpose()
    }

    /// Where to recover, in this order: where the centre said last, then where this cluster enrolled.
    pub fn enrol_endpoints(&self) -> Vec<EnrolEndpoint> {
        let listed = self.centre.enrol.iter().cloned().map(|addr| EnrolEndpoint { addr, server_name: None });
        let mut endpoints: Vec<EnrolEndpoint> = listed.collect();
        let first = self.enrolled.as_ref().and_then(|enrolled| enrolled.enrol_endpoint.clone());
        endpoints.extend(first.filter(|first| !self.centre.enrol.contains(&first.addr)));
        endpoints
    }

    /// Keeps it.
    pub async fn save(&self, secrets: &dyn Secrets) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        secrets.put(secret::IDENTITY, &bytes).await.context("keep the identity")
    }
}

/// The identity in use. Clones see each other's changes.
#[derive(Debug, Clone)]
pub struct Credentials {
    cluster: ClusterId,
    trust_domain: String,
    kept: Arc<Mutex<StoredIdentity>>,
    /// Held while what is kept is changed, so that no change is lost.
    changing: Arc<tokio::sync::Mutex<()>>,
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
            cluster: stored.cluster.clone(),
            trust_domain: enrolled.trust_domain,
            kept: Arc::new(Mutex::new(stored)),
            changing: Arc::default(),
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

    fn kept(&self) -> MutexGuard<'_, StoredIdentity> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a change on disk, then in memory; one at a time.
    async fn change(&self, change: impl FnOnce(&mut StoredIdentity)) -> anyhow::Result<()> {
        let _one = self.changing.lock().await;
        let mut stored = self.kept().clone();
        change(&mut stored);
        stored.save(&*self.secrets).await?;
        *self.kept() = stored;
        Ok(())
    }

    /// The cluster's id.
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// Trust domain of the centre.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Where to dial now: what the centre said last, then what worked before.
    pub fn endpoints(&self) -> Vec<String> {
        let first = self.enrolled_endpoints();
        self.kept().centre.addresses(&first)
    }

    /// Where to dial as told at enrolment.
    pub(super) fn enrolled_endpoints(&self) -> Vec<String> {
        let kept = self.kept();
        kept.enrolled.as_ref().map(|enrolled| enrolled.link_endpoints.clone()).unwrap_or_default()
    }

    /// The centre's roots.
    pub(super) fn bundle(&self) -> Arc<TrustBundle> {
        self.bundle.load()
    }

    /// The centre's roots, as they are at each handshake.
    pub(super) fn roots(&self) -> Reloadable<TrustBundle> {
        self.bundle.clone()
    }

    /// What was learnt of the centre since enrolment.
    pub fn centre(&self) -> KnownCentre {
        self.kept().centre.clone()
    }

    /// Keeps what was learnt of the centre.
    pub(super) async fn learn(&self, centre: KnownCentre) -> anyhow::Result<()> {
        self.change(|stored| {
            // An agent of the version before reads no list: once it is proved, that finds the centre by it, too.
            if let Some(enrolled) = stored.enrolled.as_mut().filter(|_| centre.is_proved()) {
                enrolled.link_endpoints.clone_from(&centre.link);
            }
            stored.centre = centre;
        })
        .await
    }

    /// When the certificate in use is valid.
    pub fn lifetime(&self) -> anyhow::Result<Lifetime> {
        let chain_pem = self.kept().enrolled.as_ref().map(|enrolled| enrolled.chain_pem.clone());
        Ok(Lifetime::of_chain_pem(&chain_pem.unwrap_or_default())?)
    }

    /// For dialling the centre by name.
    pub fn client_config(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let trust = Trust::Bundle(self.bundle.clone());
        Ok(client::config(&self.identity, trust, Expect::Name, Protocol::Grpc)?)
    }

    /// Where to recover.
    pub(super) fn enrol_endpoints(&self) -> Vec<EnrolEndpoint> {
        self.kept().enrol_endpoints()
    }

    /// The key that signs recoveries.
    pub(super) fn identity_key(&self) -> anyhow::Result<PrivateKey> {
        let pem = self.kept().identity_key_pem.clone().context("no identity key is kept")?;
        PrivateKey::from_pem(&pem).context("read the identity key")
    }

    /// The recovery that was begun and not answered, or a new one; kept when this returns.
    pub(super) async fn begin_recovery(&self) -> anyhow::Result<(u64, PrivateKey)> {
        let (counter, begun) = {
            let kept = self.kept();
            (kept.recoveries, kept.recovering_key_pem.clone())
        };
        if let Some(pem) = begun {
            return Ok((counter, PrivateKey::from_pem(&pem).context("read the key of a recovery")?));
        }
        let key = PrivateKey::generate()?;
        let counter = counter.saturating_add(1);
        self.change(|stored| {
            stored.recoveries = counter;
            stored.recovering_key_pem = Some(key.to_pem());
        })
        .await?;
        Ok((counter, key))
    }

    /// Keeps a new certificate, then uses it.
    pub(super) async fn replace(
        &self,
        key: &PrivateKey,
        chain_pem: String,
        bundle_pem: String,
    ) -> anyhow::Result<()> {
        let credential = Credential { chain_pem: chain_pem.clone(), key_pem: key.to_pem() };
        ReloadableIdentity::new(&credential).context("check the new certificate")?;
        let bundle = TrustBundle::from_pem(&bundle_pem).context("check the new roots")?;
        self.change(|stored| {
            stored.key_pem = key.to_pem();
            stored.recovering_key_pem = None;
            if let Some(enrolled) = &mut stored.enrolled {
                (enrolled.chain_pem, enrolled.bundle_pem) = (chain_pem, bundle_pem);
            }
        })
        .await?;
        self.identity.replace(&credential)?;
        self.bundle.replace(bundle);
        self.measure();
        tracing::info!(cluster = %self.cluster, "certificate renewed");
        Ok(())
    }
}
