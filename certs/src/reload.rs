//! Values that the next handshake reads fresh. Drivers keep a handle and call `replace`; configurations that were
//! built from the same handle need no rebuilding, and connections that are already open are not touched.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::ca::Credential;

/// Why a credential cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chain is not PEM certificates.
    #[error("read the certificate chain")]
    Chain(#[from] crate::pem::Error),
    /// The key is not a PEM private key.
    #[error("no valid PEM private key found")]
    Key,
    /// The key is of a kind we do not use, or does not belong to the first certificate.
    #[error("use the private key with its certificate")]
    Mismatch(#[source] rustls::Error),
}

/// A shared value with one current version. Clones see each other's `replace`.
#[derive(Debug)]
pub struct Reloadable<T>(Arc<ArcSwap<T>>);

impl<T> Clone for Reloadable<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Reloadable<T> {
    /// Starts with `value`.
    pub fn new(value: T) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(value)))
    }

    /// The current version.
    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Makes `value` the current version for everything that loads from now on.
    pub fn replace(&self, value: T) {
        self.0.store(Arc::new(value));
    }
}

/// Our own certificate and key, for either side of a connection. Clones see each other's `replace`.
#[derive(Debug, Clone, Default)]
pub struct ReloadableIdentity(Arc<ArcSwapOption<CertifiedKey>>);

impl ReloadableIdentity {
    /// No certificate yet: a client connects without one, a server refuses every handshake.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Starts with `credential`; refused when the key is not that of the first certificate.
    pub fn new(credential: &Credential) -> Result<Self, Error> {
        let identity = Self::empty();
        identity.replace(credential)?;
        Ok(identity)
    }

    /// Uses `credential` from the next handshake on; on error the old one stays.
    pub fn replace(&self, credential: &Credential) -> Result<(), Error> {
        let chain = crate::pem::certificates(&credential.chain_pem)?;
        let key = PrivateKeyDer::from_pem_slice(credential.key_pem.as_bytes()).map_err(|_| Error::Key)?;
        let key = CertifiedKey::from_der(chain, key, &crate::provider()).map_err(Error::Mismatch)?;
        self.0.store(Some(Arc::new(key)));
        Ok(())
    }
}

impl ResolvesServerCert for ReloadableIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl ResolvesClientCert for ReloadableIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}
