//! Whom we trust: the root certificates of a trust domain, and the pin that stands for one root before its
//! certificate is known. The control plane hands bundles out, agents and daemons verify with them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use ring::digest;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use serde::{Deserialize, Serialize};

const PIN_PREFIX: &str = "sha256/";

/// Why a bundle or a pin cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not PEM certificates.
    #[error("read the trust bundle")]
    Pem(#[from] crate::pem::Error),
    /// A certificate cannot be a trust anchor.
    #[error("use a certificate of the trust bundle as a root")]
    Root(#[source] rustls::Error),
    /// The verifiers refuse the roots.
    #[error("build a verifier from the trust bundle")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// The text is not `sha256/` and 32 bytes in base64url without padding.
    #[error("pin must be {PIN_PREFIX} followed by 43 characters of base64url")]
    Pin,
}

/// SHA-256 of a root's SubjectPublicKeyInfo, as text `sha256/<base64url>`. It survives a new certificate for the
/// same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a DER SubjectPublicKeyInfo.
    pub(crate) fn of_spki(spki_der: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, spki_der).as_ref());
        Self(hash)
    }

    /// The pin of a certificate's key.
    pub(crate) fn of_certificate(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        Some(Self::of_spki(certificate.public_key().raw))
    }

    /// Eight hexadecimal digits to tell keys apart in a name.
    pub(crate) fn short(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.0[..4])
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PIN_PREFIX}{}", BASE64URL_NOPAD.encode(&self.0))
    }
}

impl FromStr for Pin {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let encoded = text.strip_prefix(PIN_PREFIX).ok_or(Error::Pin)?;
        let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| Error::Pin)?;
        Ok(Self(bytes.try_into().map_err(|_| Error::Pin)?))
    }
}

impl TryFrom<String> for Pin {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> Self {
        pin.to_string()
    }
}

/// Root certificates with the verifiers made from them.
#[derive(Debug)]
pub struct TrustBundle {
    pem: String,
    roots: Arc<RootCertStore>,
    server: Arc<WebPkiServerVerifier>,
    client: Arc<dyn ClientCertVerifier>,
}

impl TrustBundle {
    /// Reads one or more PEM certificates and trusts each as a root.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in crate::pem::certificates(pem)? {
            roots.add(certificate).map_err(Error::Root)?;
        }
        let roots = Arc::new(roots);
        let server = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), crate::provider())
            .build()
            .map_err(Error::Verifier)?;
        let client = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), crate::provider())
            .build()
            .map_err(Error::Verifier)?;
        Ok(Self { pem: pem.to_owned(), roots, server, client })
    }

    /// The PEM text it was read from.
    pub fn as_pem(&self) -> &str {
        &self.pem
    }

    pub(crate) fn roots(&self) -> &RootCertStore {
        &self.roots
    }

    pub(crate) fn server_verifier(&self) -> &WebPkiServerVerifier {
        &self.server
    }

    pub(crate) fn client_verifier(&self) -> &dyn ClientCertVerifier {
        self.client.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::{Pin, TrustBundle};

    #[test]
    fn a_pin_round_trips_and_is_strict() {
        let pin = Pin::of_spki(b"key");
        let text = pin.to_string();
        assert_eq!(text.parse::<Pin>().unwrap(), pin);
        assert_eq!(text.len(), "sha256/".len() + 43);
        for wrong in ["", "sha256/", "sha1/AAAA", &text[..text.len() - 1], &format!("{text}=")] {
            assert!(wrong.parse::<Pin>().is_err(), "accepted {wrong:?}");
        }
    }

    #[test]
    fn a_bundle_needs_a_certificate() {
        assert!(TrustBundle::from_pem("").is_err());
        assert!(
            TrustBundle::from_pem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err()
        );
    }
}
