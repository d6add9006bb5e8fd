//! The CA in the store and in memory: what signs agents, and what serves.

use std::time::Duration;

use certs::ca::SealedAuthority;
use certs::recovery::IdentityKey;
use certs::signing::Signed;
use certs::{Authority, Credential, Csr, Leaf, Pin, Role, TrustDomain};
use jiff::Timestamp;
use proto::ids::ClusterId;
use serde::{Deserialize, Serialize};

use super::recovery::IdentityRecord;
use crate::centre::Error;
use crate::driver::codec;
use crate::store::keys::Key;
use crate::store::{Store, Txn};

/// How long an agent's certificate is valid, unless configured.
pub(crate) const AGENT_TTL: Duration = Duration::from_hours(24);
/// How long a server's certificate is valid; it is made anew at half of it.
const SERVER_TTL: Duration = Duration::from_hours(24 * 30);
/// Certificates of one cluster that may be valid at once: renewed at half life there are two.
const MAX_VALID: usize = 16;
/// The one CA there is; a rotation makes the next epoch.
const CA_EPOCH: u64 = 1;

/// The value of `certs/<cluster>`: what was signed last for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CertRecord {
    /// Hash of the public key.
    pub key_hash: String,
    /// Serial of the certificate.
    pub serial: String,
    /// Its last instant.
    pub not_after: Timestamp,
    /// Those before it that are still valid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Issued>,
    /// By what its agent recovers once everything here expired; absent as long as it did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityRecord>,
}

/// A certificate that may still be in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Issued {
    /// Its serial.
    pub serial: String,
    /// Its last instant.
    pub not_after: Timestamp,
}

impl CertRecord {
    /// Everything that may still be shown to us.
    pub(crate) fn serials(&self) -> impl Iterator<Item = &str> {
        let earlier = self.earlier.iter().map(|issued| issued.serial.as_str());
        std::iter::once(self.serial.as_str()).chain(earlier)
    }
}

/// Signs for the centre.
#[derive(Debug)]
pub struct Signer {
    authority: Authority,
    replica: String,
    agent_ttl: Duration,
}

fn internal(error: impl std::error::Error) -> Error {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Error::Internal(text)
}

impl Signer {
    /// Signs with this CA.
    pub fn new(authority: Authority, replica: &str) -> Self {
        Self { authority, replica: replica.to_owned(), agent_ttl: AGENT_TTL }
    }

    /// Certificates of agents are valid for so long.
    #[must_use]
    pub fn with_agent_ttl(self, agent_ttl: Duration) -> Self {
        Self { agent_ttl, ..self }
    }

    /// How long an agent's certificate is valid.
    pub(crate) fn agent_ttl(&self) -> Duration {
        self.agent_ttl
    }

    /// Loads the CA from the store, or makes it if there is none.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::Internal`] when the key-encryption key is another one, or the
    /// trust domain differs from the one the CA was made for.
    pub async fn load(
        store: &dyn Store,
        kek: &[u8],
        trust_domain: &TrustDomain,
        replica: &str,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let path = Key::Ca { epoch: CA_EPOCH }.path().map_err(internal)?;
        if store.get(&path).await?.is_none() {
            let authority = Authority::create(trust_domain.clone(), now).map_err(internal)?;
            let sealed = authority.seal(kek).map_err(internal)?;
            let value = serde_json::to_vec(&sealed).map_err(internal)?;
            // A conflict means that another replica was faster: its CA is the one.
            let _ = store.txn(Txn::new().absent(&path).put(&path, value)).await?;
        }
        let entry = store.get(&path).await?.ok_or_else(|| Error::Internal("the CA vanished".to_owned()))?;
        let sealed: SealedAuthority = serde_json::from_slice(&entry.value).map_err(internal)?;
        if sealed.trust_domain() != trust_domain {
            return Err(Error::Internal(format!(
                "the CA in the store is of trust domain {}, configured is {}",
                sealed.trust_domain().as_str(),
                trust_domain.as_str()
            )));
        }
        Ok(Self::new(Authority::open(kek, &sealed).map_err(internal)?, replica))
    }

    /// What joining agents expect.
    pub fn pin(&self) -> Pin {
        self.authority.pin()
    }

    /// The roots.
    pub fn bundle_pem(&self) -> &str {
        self.authority.bundle_pem()
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.authority.trust_domain()
    }

    /// A certificate for this replica's listeners under these names.
    ///
    /// # Errors
    /// [`Error::Internal`] for a name that is none.
    pub fn issue_server(&self, names: &[&str], now: Timestamp) -> Result<Credential, Error> {
        let role = Role::control_plane(&*self.replica);
        self.authority.issue_server(names, Some(&role), now, SERVER_TTL).map_err(internal)
    }

    /// Encrypts for the store what only the replicas may read.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub(crate) fn encrypt(&self, purpose: &str, plain: &[u8]) -> Result<String, Error> {
        self.authority.encrypt(purpose, plain).map_err(internal)
    }

    /// Decrypts what a replica encrypted for this purpose.
    ///
    /// # Errors
    /// [`Error::Internal`] for anything else.
    pub(crate) fn decrypt(&self, purpose: &str, sealed: &str) -> Result<Vec<u8>, Error> {
        self.authority.decrypt(purpose, sealed).map_err(internal)
    }

    /// Signs what this replica's audit states.
    ///
    /// # Errors
    /// [`Error::Internal`] when the CA cannot sign.
    pub(crate) fn sign_audit(&self, statement: &[u8], now: Timestamp) -> Result<Signed, Error> {
        self.authority.sign_statement(&Role::audit(&*self.replica), statement, now).map_err(internal)
    }

    /// Signs where agents find the centre.
    ///
    /// # Errors
    /// [`Error::Internal`] when the CA cannot sign.
    pub(crate) fn sign_endpoints(&self, statement: &[u8], now: Timestamp) -> Result<Signed, Error> {
        self.authority.sign_statement(&Role::endpoints(&*self.replica), statement, now).map_err(internal)
    }

    /// A certificate for a cluster's agent.
    ///
    /// # Errors
    /// [`Error::Internal`] when the CA cannot sign.
    pub fn sign_agent(&self, cluster: &ClusterId, csr: &Csr, now: Timestamp) -> Result<Leaf, Error> {
        self.authority.sign_client(csr, &Role::agent(cluster.as_str()), now, self.agent_ttl).map_err(internal)
    }

    /// Keeps what was signed, before it is handed out: what is not kept could not be refused later. The identity key
    /// is kept where there is none yet; `true`: for the first time its agent shows another than the one that is kept.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the cluster has no certificate any more (it was replaced or removed), or too many;
    /// [`Error::Store`].
    pub async fn record(
        &self,
        store: &dyn Store,
        cluster: &ClusterId,
        csr: &Csr,
        identity: Option<IdentityKey>,
        leaf: &Leaf,
    ) -> Result<bool, Error> {
        let path = codec::cert_path(cluster.as_str())?;
        let entry = store.get(&path).await?;
        let known = entry.as_ref().and_then(|entry| serde_json::from_slice::<CertRecord>(&entry.value).ok());
        let (Some(entry), Some(known)) = (entry, known) else {
            return Err(Error::Conflict("this cluster's certificates are no longer valid".to_owned()));
        };
        let (identity, is_other) = identity_record(known.identity.clone(), identity);
        let record = CertRecord { identity, ..cert_record(csr, leaf, Some(known)) };
        if record.earlier.len() > MAX_VALID {
            return Err(Error::Conflict(format!("more than {MAX_VALID} certificates are valid already")));
        }
        let value = serde_json::to_vec(&record).map_err(internal)?;
        store.txn(Txn::new().unchanged(&path, entry.mod_revision).put(&path, value)).await?.committed()?;
        Ok(is_other)
    }
}

/// What is kept of an identity after its agent showed a key, or none; and whether that is a key that is not taken, and
/// was not shown before.
fn identity_record(
    known: Option<IdentityRecord>,
    shown: Option<IdentityKey>,
) -> (Option<IdentityRecord>, bool) {
    match (known, shown) {
        (None, shown) => (shown.map(IdentityRecord::new), false),
        (Some(known), None) => (Some(known), false),
        (Some(known), Some(shown)) => {
            let not_taken = Some(shown).filter(|shown| *shown != known.key);
            let is_other = not_taken.is_some() && not_taken != known.not_taken;
            (Some(IdentityRecord { not_taken, ..known }), is_other)
        }
    }
}

/// The record of a certificate after `known` was the last one; without an identity.
pub(super) fn cert_record(csr: &Csr, leaf: &Leaf, known: Option<CertRecord>) -> CertRecord {
    let issued_at = leaf.lifetime.issued_at();
    let mut earlier = Vec::new();
    if let Some(known) = known {
        earlier.push(Issued { serial: known.serial, not_after: known.not_after });
        earlier.extend(known.earlier);
        earlier.retain(|issued| issued.not_after >= issued_at);
    }
    CertRecord {
        key_hash: csr.key_hash(),
        serial: leaf.serial.to_string(),
        not_after: leaf.lifetime.not_after,
        earlier,
        identity: None,
    }
}
