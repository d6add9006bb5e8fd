//! Keys and signing requests. Agents and nodes make a [`PrivateKey`] and send its request; whoever signs reads the
//! request as a [`Csr`], which holds the public key and nothing else, so a forged name has nowhere to go.

use std::fmt;

use data_encoding::HEXLOWER;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData, SubjectPublicKeyInfo};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

/// The largest request read, in bytes of PEM. One of ours is about 400.
const MAX_CSR_BYTES: usize = 8 * 1024;

/// Why a key or a request cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system's random source or the key generator failed.
    #[error("generate a private key")]
    Generate(#[source] rcgen::Error),
    /// The text is not a PEM private key that we use.
    #[error("read the private key: an ECDSA P-256 key in PKCS#8 PEM is required")]
    Key,
    /// The request could not be written.
    #[error("write the signing request")]
    Write(#[source] rcgen::Error),
    /// Over 8 KiB.
    #[error("signing request is larger than {MAX_CSR_BYTES} bytes")]
    TooLarge,
    /// Not one PEM `CERTIFICATE REQUEST`.
    #[error("not a PEM certificate signing request")]
    Malformed,
    /// Signed by another key than the one it carries.
    #[error("signing request is not signed by its own key")]
    Signature,
    /// Not ECDSA P-256.
    #[error("signing request has an unsupported key: ECDSA P-256 is required")]
    Algorithm,
}

/// An ECDSA P-256 private key. Debug output never shows it.
pub struct PrivateKey(KeyPair);

impl PrivateKey {
    /// A new key from the system's random source.
    pub fn generate() -> Result<Self, Error> {
        Ok(Self(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(Error::Generate)?))
    }

    /// Reads PKCS#8 PEM.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(pem, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|_| Error::Key)?;
        Ok(Self(key))
    }

    /// PKCS#8 PEM. Keep it where only its owner reads.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// A signing request in PEM. The name in it is ours, because OpenSSL dislikes an empty one; signers ignore it.
    pub fn csr_pem(&self) -> Result<String, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "faultline");
        let request = params.serialize_request(&self.0).map_err(Error::Write)?;
        request.pem().map_err(Error::Write)
    }

    /// Hexadecimal SHA-256 of the public key, equal to [`Csr::key_hash`] of its request.
    pub fn key_hash(&self) -> String {
        hash(&self.0.subject_public_key_info())
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("key_hash", &self.key_hash()).finish_non_exhaustive()
    }
}

/// The public key of a request whose signature was checked. Subject, names and extensions were not even read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Csr {
    spki_der: Vec<u8>,
    key: SubjectPublicKeyInfo,
}

impl Csr {
    /// Reads a PEM request and checks that its own key signed it.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        if pem.len() > MAX_CSR_BYTES {
            return Err(Error::TooLarge);
        }
        let der =
            CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|_| Error::Malformed)?;
        let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| Error::Malformed)?;
        if !rest.is_empty() {
            return Err(Error::Malformed);
        }
        let spki_der = request.certification_request_info.subject_pki.raw.to_vec();
        let key = SubjectPublicKeyInfo::from_der(&spki_der).map_err(|_| Error::Algorithm)?;
        if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(Error::Algorithm);
        }
        request.verify_signature().map_err(|_| Error::Signature)?;
        Ok(Self { spki_der, key })
    }

    /// Hexadecimal SHA-256 of the public key. Whoever consumes a one-use token compares it, so that a retry with
    /// the same key gets the same answer and another key none.
    pub fn key_hash(&self) -> String {
        hash(&self.spki_der)
    }

    pub(crate) fn key(&self) -> &SubjectPublicKeyInfo {
        &self.key
    }
}

fn hash(spki_der: &[u8]) -> String {
    HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, spki_der).as_ref())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::pki_types::CertificateSigningRequestDer;
    use rustls::pki_types::pem::PemObject;

    use super::{Csr, Error, PrivateKey};

    #[test]
    fn a_key_survives_pem_and_its_request_carries_it() {
        let key = PrivateKey::generate().unwrap();
        let again = PrivateKey::from_pem(&key.to_pem()).unwrap();
        let csr = Csr::from_pem(&again.csr_pem().unwrap()).unwrap();
        assert_eq!(csr.key_hash(), key.key_hash());
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let pem = PrivateKey::generate().unwrap().csr_pem().unwrap();
        let mut der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
        // The last byte is inside the signature.
        let last = der.len() - 1;
        der[last] ^= 1;
        let forged = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
            data_encoding::BASE64.encode(&der)
        );
        assert!(matches!(Csr::from_pem(&forged), Err(Error::Signature)));
    }

    #[test]
    fn other_keys_and_junk_are_refused() {
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&p384).unwrap().pem().unwrap();
        assert!(matches!(Csr::from_pem(&request), Err(Error::Algorithm)));
        assert!(matches!(Csr::from_pem(&"x".repeat(9000)), Err(Error::TooLarge)));
        assert!(matches!(Csr::from_pem(""), Err(Error::Malformed)));
        assert!(PrivateKey::from_pem("nonsense").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_changed_request_never_panics_and_never_yields_another_key(at in 0usize..1000, bit in 0u8..8) {
            let key = PrivateKey::generate().unwrap();
            let mut pem = key.csr_pem().unwrap().into_bytes();
            let at = at % pem.len();
            pem[at] ^= 1 << bit;
            if let Ok(csr) = Csr::from_pem(&String::from_utf8_lossy(&pem)) {
                prop_assert_eq!(csr.key_hash(), key.key_hash());
            }
        }
    }
}
