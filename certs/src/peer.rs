//! What one certificate says: identity, serial, lifetime. The verifiers decide on it, the acceptor attaches it to
//! a connection, and drivers read it from their own chain to know when to renew.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::identity::{self, Identity};

/// How long before its issue a certificate of ours begins: members' clocks may be this far behind.
pub(crate) const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// Why a certificate names no peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not one well-formed X.509 certificate.
    #[error("not an X.509 certificate")]
    NotACertificate,
    /// The serial text is not 1 to 20 bytes of lower-case hexadecimal.
    #[error("certificate serial must be 1 to 20 bytes of lower-case hexadecimal")]
    Serial,
    /// SPIFFE wants exactly one URI name; the count found is given.
    #[error("certificate has {0} URI names, exactly one is required")]
    UriNames(usize),
    /// The one URI name is not an identity.
    #[error("read the certificate's URI name")]
    Identity(#[from] identity::Error),
}

/// A certificate serial in one canonical text: lower-case hexadecimal without leading zero bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(String);

impl Serial {
    /// From the big-endian bytes of the integer.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let first = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
        let digits = HEXLOWER.encode(&bytes[first..]);
        Self(if digits.is_empty() { "00".to_owned() } else { digits })
    }

    /// The hexadecimal text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Serial {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| Error::Serial)?;
        // 20 bytes is the most that RFC 5280 allows.
        if bytes.is_empty() || bytes.len() > 20 {
            return Err(Error::Serial);
        }
        Ok(Self::from_bytes(&bytes))
    }
}

impl TryFrom<String> for Serial {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        serial.0
    }
}

/// The two instants between which a certificate is valid, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifetime {
    /// First instant.
    pub not_before: Timestamp,
    /// Last instant.
    pub not_after: Timestamp,
}

impl Lifetime {
    /// The lifetime of the first certificate of a PEM chain.
    pub fn of_chain_pem(chain_pem: &str) -> Result<Self, Error> {
        let chain = crate::pem::certificates(chain_pem).map_err(|_| Error::NotACertificate)?;
        with_certificate(chain.first().ok_or(Error::NotACertificate)?, Self::of)
    }

    /// When a certificate of ours was issued: five minutes after it begins, at the latest when it ends.
    pub fn issued_at(&self) -> Timestamp {
        self.not_before.checked_add(BACKDATE).map_or(self.not_after, |at| at.min(self.not_after))
    }

    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Result<Self, Error> {
        let at = |seconds| Timestamp::from_second(seconds).map_err(|_| Error::NotACertificate);
        let validity = certificate.validity();
        Ok(Self {
            not_before: at(validity.not_before.timestamp())?,
            not_after: at(validity.not_after.timestamp())?,
        })
    }
}

/// What a verified certificate says about its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The one SPIFFE id.
    pub identity: Identity,
    /// The serial, as in a deny list.
    pub serial: Serial,
    /// When it is valid.
    pub lifetime: Lifetime,
}

impl Peer {
    /// Reads a certificate. Says nothing about whether it is to be trusted.
    pub fn from_der(der: &CertificateDer<'_>) -> Result<Self, Error> {
        with_certificate(der, |certificate| {
            Ok(Self {
                identity: identity_of(certificate)?,
                serial: Serial::from_bytes(certificate.raw_serial()),
                lifetime: Lifetime::of(certificate)?,
            })
        })
    }

    /// Reads the first certificate of a PEM chain.
    pub fn from_chain_pem(chain_pem: &str) -> Result<Self, Error> {
        let chain = crate::pem::certificates(chain_pem).map_err(|_| Error::NotACertificate)?;
        Self::from_der(chain.first().ok_or(Error::NotACertificate)?)
    }
}

/// The serial of the first certificate of a PEM chain, CA certificates included (for the deny list).
pub fn serial_of_pem(chain_pem: &str) -> Result<Serial, Error> {
    let chain = crate::pem::certificates(chain_pem).map_err(|_| Error::NotACertificate)?;
    serial_of(chain.first().ok_or(Error::NotACertificate)?)
}

/// The serial of a certificate of any kind.
pub(crate) fn serial_of(der: &CertificateDer<'_>) -> Result<Serial, Error> {
    with_certificate(der, |certificate| Ok(Serial::from_bytes(certificate.raw_serial())))
}

/// Parses `der` and gives it to `read`; trailing bytes are refused.
pub(crate) fn with_certificate<T>(
    der: &CertificateDer<'_>,
    read: impl FnOnce(&X509Certificate<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => read(&certificate),
        _ => Err(Error::NotACertificate),
    }
}

fn identity_of(certificate: &X509Certificate<'_>) -> Result<Identity, Error> {
    let names = certificate.subject_alternative_name().map_err(|_| Error::NotACertificate)?;
    let mut uris = Vec::new();
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        if let GeneralName::URI(uri) = name {
            uris.push(*uri);
        }
    }
    match uris.as_slice() {
        [uri] => Ok(uri.parse()?),
        other => Err(Error::UriNames(other.len())),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::{Error, Peer, Serial};

    #[test]
    fn a_peer_has_exactly_one_uri_name() {
        let read = |uris: &[&str]| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["dns.example".to_owned()]).unwrap();
            let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
            params.subject_alt_names.extend(uris);
            Peer::from_der(params.self_signed(&key).unwrap().der()).map(|peer| peer.identity.to_string())
        };
        let (one, two) = ("spiffe://td/operator/a", "spiffe://td/operator/b");
        assert_eq!(read(&[one]), Ok(one.to_owned()));
        assert_eq!(read(&[]), Err(Error::UriNames(0)));
        assert_eq!(read(&[one, two]), Err(Error::UriNames(2)));
        assert_eq!(read(&[one, "https://x"]), Err(Error::UriNames(2)));
        assert!(matches!(read(&["https://x"]), Err(Error::Identity(_))));
        assert_eq!(Peer::from_der(&vec![0x30, 0x00].into()), Err(Error::NotACertificate));
    }

    #[test]
    fn a_serial_has_one_text() {
        let plain: Serial = "0a0b".parse().unwrap();
        assert_eq!(plain, "000a0b".parse().unwrap());
        assert_eq!(plain, Serial::from_bytes(&[0, 0x0a, 0x0b]));
        assert_eq!(Serial::from_bytes(&[0, 0]).as_str(), "00");
    }

    #[test]
    fn a_serial_is_checked() {
        for text in ["", "0A", "xyz", "0", "000000000000000000000000000000000000000000"] {
            assert_eq!(text.parse::<Serial>(), Err(Error::Serial), "{text:?}");
        }
    }
}
