//! Which certificates are good enough. Servers check their clients with [`PeerRules`], clients check their server
//! by pin or bundle and by name or identity. Everything is loaded anew for each handshake.

mod client_certificate;
mod server_certificate;

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::{CertificateError, OtherError};

use crate::bundle::{Pin, TrustBundle};
use crate::identity::{Identity, TrustDomain};
use crate::peer::{self, Serial};
use crate::reload::Reloadable;

pub(crate) use client_certificate::ClientVerifier;
pub(crate) use server_certificate::ServerVerifier;

/// Why one of our own checks refused a certificate whose chain may well be valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The leaf carries no readable identity.
    #[error("certificate names no peer: {0}")]
    NoPeer(peer::Error),
    /// The leaf's identity is of another trust domain.
    #[error("certificate is of trust domain {found}, expected {expected}")]
    TrustDomain {
        /// The one of the certificate.
        found: TrustDomain,
        /// Ours.
        expected: TrustDomain,
    },
    /// A certificate of the chain is on the deny list.
    #[error("certificate {0} is revoked")]
    Serial(Serial),
    /// The cluster of the identity is on the deny list.
    #[error("cluster {0} is revoked")]
    Cluster(String),
    /// The server is somebody else.
    #[error("server is {found}, expected {expected}")]
    Identity {
        /// Who answered.
        found: Box<Identity>,
        /// Who was meant.
        expected: Box<Identity>,
    },
    /// The chain leads to none of the roots that are trusted.
    #[error(
        "the server's certificate was issued by {issuer:?}, which none of the trusted roots vouches for: this is \
         another control plane, or a proxy that inspects TLS is in between (exempt this host from inspection)"
    )]
    Authority {
        /// Issuer of the leaf that was sent.
        issuer: String,
    },
    /// No self-signed certificate of the chain has the pinned key.
    #[error(
        "the server's certificate chain does not hold the pinned root {expected} (the certificate's issuer is \
         {issuer:?}): the token is for another control plane, or a proxy that inspects TLS is in between"
    )]
    Pin {
        /// The pin of the token.
        expected: Pin,
        /// Issuer of the leaf that was sent.
        issuer: String,
    },
}

impl From<Rejected> for rustls::Error {
    fn from(rejected: Rejected) -> Self {
        Self::InvalidCertificate(match rejected {
            // These two have an alert of their own, which the other side can show.
            Rejected::Serial(_) | Rejected::Cluster(_) => CertificateError::Revoked,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

/// The deny list: a listed serial or cluster fails its next handshake. Live connections are closed by their owner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Certificates, intermediates included.
    pub serials: BTreeSet<Serial>,
    /// Cluster ids; agents and nodes of these are refused.
    pub clusters: BTreeSet<String>,
}

/// Whom a server lets in: a chain to the bundle, an identity of the trust domain, and not on the deny list. What a
/// [`crate::Role`] may then do is for each service to decide from its [`crate::ConnInfo`].
#[derive(Debug, Clone)]
pub struct PeerRules {
    /// The trust domain that identities must be of.
    pub trust_domain: TrustDomain,
    /// The roots.
    pub bundle: Reloadable<TrustBundle>,
    /// The deny list.
    pub revocations: Reloadable<Revocations>,
}
