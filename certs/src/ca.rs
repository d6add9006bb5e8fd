//! The CA: a root that signs intermediates and an intermediate that signs leaves. The control plane holds one for
//! agents, replicas and operators; each agent holds one of its own for its node daemons. Signing takes only the
//! public key out of a request and writes everything else itself.

mod envelope;
mod issue;
mod seal;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use rcgen::Issuer;
use serde::{Deserialize, Serialize};

use crate::bundle::Pin;
use crate::csr::{self, PrivateKey};
use crate::identity::{self, TrustDomain};
use crate::peer::{self, Lifetime, Serial};

pub use seal::SealedAuthority;

/// Why the CA cannot be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A private key could not be made or read.
    #[error("prepare a CA key")]
    Key(#[from] csr::Error),
    /// A certificate could not be written.
    #[error("write a certificate")]
    Write(#[source] rcgen::Error),
    /// A stored CA certificate could not be read.
    #[error("read a CA certificate")]
    Read(#[source] peer::Error),
    /// A stored key is not that of its certificate.
    #[error("the {0} key does not belong to the {0} certificate")]
    Mismatch(&'static str),
    /// The system's random source failed.
    #[error("read random bytes from the system")]
    Random,
    /// The instants asked for do not exist, or the lifetime is zero.
    #[error("certificate lifetime is empty or outside the calendar")]
    Lifetime,
    /// The CA ended before the certificate would begin.
    #[error("the CA expired at {0}: it signs nothing any more")]
    Expired(Timestamp),
    /// The role's names do not make an identity.
    #[error("write the identity into a certificate")]
    Identity(#[from] identity::Error),
    /// Neither a DNS name nor an IP address.
    #[error("server name {0:?} is neither a DNS name nor an IP address")]
    ServerName(String),
    /// A server certificate was asked for without any name and without an identity.
    #[error("a server certificate needs at least one name or an identity")]
    Nameless,
    /// Fewer than 16 bytes.
    #[error("the key-encryption key is too short: at least {0} bytes are required")]
    ShortKek(usize),
    /// The envelope was sealed with another key-encryption key.
    #[error("wrong key-encryption key: this CA was sealed with another one")]
    WrongKek,
    /// The key-encryption key is right, but the envelope was changed.
    #[error("the sealed CA was damaged or changed after it was sealed")]
    Tampered,
    /// An envelope of a format this version does not know.
    #[error("sealed CA has format {0}, this version reads 1")]
    Format(u32),
}

/// A signed certificate without its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leaf {
    /// The leaf, then the intermediate, then (servers only, so that a pin can be checked) the root.
    pub chain_pem: String,
    /// Its serial.
    pub serial: Serial,
    /// When it is valid.
    pub lifetime: Lifetime,
}

/// A certificate chain with its private key, both PEM. Debug output never shows the key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    /// As in [`Leaf::chain_pem`].
    pub chain_pem: String,
    /// PKCS#8 key of the first certificate.
    pub key_pem: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("chain_pem", &self.chain_pem).finish_non_exhaustive()
    }
}

/// A whole CA as PEM, keys in the clear: for a Kubernetes Secret, or inside the sealed envelope.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityPem {
    /// The trust domain it issues for.
    pub trust_domain: TrustDomain,
    /// The root.
    pub root: Credential,
    /// The intermediate; its chain is the intermediate alone.
    pub intermediate: Credential,
}

impl fmt::Debug for AuthorityPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityPem").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

struct Signer {
    certificate_pem: String,
    key: PrivateKey,
    lifetime: Lifetime,
    pin: Pin,
}

impl Signer {
    /// Puts a certificate and its key together; `what` names them in the error.
    fn new(certificate_pem: String, key: PrivateKey, what: &'static str) -> Result<Self, Error> {
        let unreadable = || Error::Read(peer::Error::NotACertificate);
        let certificates = crate::pem::certificates(&certificate_pem).map_err(|_| unreadable())?;
        let [certificate] = certificates.as_slice() else {
            return Err(unreadable());
        };
        let pin = Pin::of_certificate(certificate).ok_or_else(unreadable)?;
        if pin != issue::pin_of(&key) {
            return Err(Error::Mismatch(what));
        }
        let lifetime = Lifetime::of_chain_pem(&certificate_pem).map_err(Error::Read)?;
        Ok(Self { certificate_pem, key, lifetime, pin })
    }

    fn issuer(&self) -> Result<Issuer<'static, &rcgen::KeyPair>, Error> {
        Issuer::from_ca_cert_pem(&self.certificate_pem, self.key.pair()).map_err(Error::Write)
    }

    fn credential(&self) -> Credential {
        Credential { chain_pem: self.certificate_pem.clone(), key_pem: self.key.to_pem() }
    }
}

/// A root and an intermediate with their keys.
///
/// Past half its life the intermediate is replaced when the next leaf is signed. The new one is kept in memory only:
/// whoever trusts the root trusts it, leaves carry it along, and a process that starts with the old one makes its own.
pub struct Authority {
    trust_domain: TrustDomain,
    root: Signer,
    intermediate: RwLock<Arc<Signer>>,
}

impl Authority {
    /// Makes a new root (10 years) and intermediate (2 years), both valid from five minutes before `now`.
    pub fn create(trust_domain: TrustDomain, now: Timestamp) -> Result<Self, Error> {
        let root = issue::root(&trust_domain, now)?;
        let intermediate = issue::intermediate(&root, &trust_domain, now)?;
        Ok(Self { trust_domain, root, intermediate: RwLock::new(Arc::new(intermediate)) })
    }

    /// Reads an exported CA and checks that each key belongs to its certificate.
    pub fn from_pem(pem: &AuthorityPem) -> Result<Self, Error> {
        let signer = |credential: &Credential, what| {
            Signer::new(credential.chain_pem.clone(), PrivateKey::from_pem(&credential.key_pem)?, what)
        };
        Ok(Self {
            trust_domain: pem.trust_domain.clone(),
            root: signer(&pem.root, "root")?,
            intermediate: RwLock::new(Arc::new(signer(&pem.intermediate, "intermediate")?)),
        })
    }

    /// Everything, keys in the clear.
    pub fn to_pem(&self) -> AuthorityPem {
        AuthorityPem {
            trust_domain: self.trust_domain.clone(),
            root: self.root.credential(),
            intermediate: self.intermediate().credential(),
        }
    }

    /// The trust domain it issues for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What others have to trust: the root certificate in PEM.
    pub fn bundle_pem(&self) -> &str {
        &self.root.certificate_pem
    }

    /// The pin of the root's key.
    pub fn pin(&self) -> Pin {
        self.root.pin
    }

    /// When the root, and with it everything, ends.
    pub fn lifetime(&self) -> Lifetime {
        self.root.lifetime
    }

    fn intermediate(&self) -> Arc<Signer> {
        Arc::clone(&self.intermediate.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What signs leaves at `now`: the intermediate, or a new one where that is past half its life or, after a clock
    /// was set right, not valid yet. One that ends with the root cannot be bettered.
    fn issuer_at(&self, now: Timestamp) -> Result<Arc<Signer>, Error> {
        let serves = |signer: &Signer| {
            let Lifetime { not_before, not_after } = signer.lifetime;
            let half = not_before.duration_until(not_after) / 2;
            let is_young = not_before <= now && not_before.duration_until(now) < half;
            is_young || not_after >= self.root.lifetime.not_after
        };
        let current = self.intermediate();
        if serves(&current) {
            return Ok(current);
        }
        let mut intermediate = self.intermediate.write().unwrap_or_else(PoisonError::into_inner);
        if !serves(&intermediate) {
            *intermediate = Arc::new(issue::intermediate(&self.root, &self.trust_domain, now)?);
        }
        Ok(Arc::clone(&intermediate))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .field("pin", &self.root.pin.to_string())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
