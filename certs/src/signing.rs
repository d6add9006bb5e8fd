//! Signing a statement so that anybody with the root certificate can check it later, without us: the control plane
//! signs its audit's checkpoints, the command line verifies them. Every statement gets a key of its own that is
//! forgotten once it has signed: no key lies about that could sign another past.

use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use rcgen::SigningKey as _;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::UnixTime;
use serde::{Deserialize, Serialize};

use crate::bundle::TrustBundle;
use crate::ca::{self, Authority};
use crate::csr::{self, Csr, PrivateKey};
use crate::identity::Role;
use crate::peer::{self, Peer};

/// How long the certificate of a statement is valid: it must be valid at the instant that the statement names.
const VALID_FOR: Duration = Duration::from_mins(5);

/// Why a statement could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No key, or no request for its certificate.
    #[error("make a key to sign with")]
    Key(#[from] csr::Error),
    /// The CA did not sign its certificate.
    #[error("certify the key to sign with")]
    Certify(#[from] ca::Error),
    /// The key did not sign.
    #[error("sign")]
    Sign(#[source] rcgen::Error),
}

/// Why a signature is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The chain is not PEM certificates with an identity of ours.
    #[error("its certificate chain cannot be read")]
    Chain,
    /// The chain does not lead to a root that is trusted, or was not valid at that instant.
    #[error("its certificate does not lead to the CA, or was not valid then: {0}")]
    Untrusted(String),
    /// The signature is not base64url.
    #[error("its signature cannot be read")]
    Encoding,
    /// Another key, or another text.
    #[error("its signature is of another key or another text")]
    Signature,
}

/// A signature and what vouches for its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Signed {
    /// The leaf and the intermediate, PEM.
    pub chain_pem: String,
    /// ECDSA P-256 with SHA-256, ASN.1, base64url without padding.
    pub signature: String,
}

impl Authority {
    /// Signs `statement` as `role`, with a new key whose certificate is valid for five minutes around `now`.
    pub fn sign_statement(&self, role: &Role, statement: &[u8], now: Timestamp) -> Result<Signed, Error> {
        let key = PrivateKey::generate()?;
        let leaf = self.sign_client(&Csr::from_pem(&key.csr_pem()?)?, role, now, VALID_FOR)?;
        let signature = key.pair().sign(statement).map_err(Error::Sign)?;
        Ok(Signed { chain_pem: leaf.chain_pem, signature: BASE64URL_NOPAD.encode(&signature) })
    }
}

impl Signed {
    /// Checks that a certificate of `bundle`, valid at `at`, signed `statement`, and says whose it is.
    pub fn verify(&self, bundle: &TrustBundle, statement: &[u8], at: Timestamp) -> Result<Peer, Invalid> {
        let chain = crate::pem::certificates(&self.chain_pem).map_err(|_| Invalid::Chain)?;
        let (leaf, rest) = chain.split_first().ok_or(Invalid::Chain)?;
        let seconds =
            u64::try_from(at.as_second()).map_err(|_| Invalid::Untrusted("before 1970".to_owned()))?;
        let then = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        bundle
            .client_verifier()
            .verify_client_cert(leaf, rest, then)
            .map_err(|error| Invalid::Untrusted(error.to_string()))?;
        let signature = BASE64URL_NOPAD.decode(self.signature.as_bytes()).map_err(|_| Invalid::Encoding)?;
        let key = peer::with_certificate(leaf, |certificate| {
            Ok(certificate.public_key().subject_public_key.data.to_vec())
        });
        let key = key.map_err(|_| Invalid::Chain)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
            .verify(statement, &signature)
            .map_err(|_| Invalid::Signature)?;
        Peer::from_der(leaf).map_err(|_| Invalid::Chain)
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::{Invalid, Signed};
    use crate::bundle::TrustBundle;
    use crate::ca::Authority;
    use crate::identity::{Role, TrustDomain};

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn authority() -> Authority {
        Authority::create(TrustDomain::new("td.test").unwrap(), now()).unwrap()
    }

    fn bundle(authority: &Authority) -> TrustBundle {
        TrustBundle::from_pem(authority.bundle_pem()).unwrap()
    }

    #[test]
    fn a_statement_is_believed_for_ever_and_only_as_it_was_signed() {
        let authority = authority();
        let signed = authority.sign_statement(&Role::audit("r1"), b"all is well", now()).unwrap();
        let peer = signed.verify(&bundle(&authority), b"all is well", now()).unwrap();
        assert_eq!(peer.identity.to_string(), "spiffe://td.test/control-plane/r1/audit");
        // What it says of its time is checked against its certificate.
        for minutes in [-6, 6] {
            let at = now() + SignedDuration::from_mins(minutes);
            let refused = signed.verify(&bundle(&authority), b"all is well", at).unwrap_err();
            assert!(matches!(refused, Invalid::Untrusted(_)), "{refused}");
        }
        let other = signed.verify(&bundle(&authority), b"all is lost", now());
        assert_eq!(other.unwrap_err(), Invalid::Signature);
    }

    #[test]
    fn another_ca_another_key_and_junk_are_refused() {
        let (ours, theirs) = (authority(), authority());
        let role = Role::audit("r1");
        let signed = ours.sign_statement(&role, b"x", now()).unwrap();
        let refused = signed.verify(&bundle(&theirs), b"x", now()).unwrap_err();
        assert!(matches!(refused, Invalid::Untrusted(_)), "{refused}");
        let again = ours.sign_statement(&role, b"x", now()).unwrap();
        assert_ne!(again.chain_pem, signed.chain_pem, "a key of its own each time");
        let mixed = Signed { signature: again.signature, ..signed.clone() };
        assert_eq!(mixed.verify(&bundle(&ours), b"x", now()), Err(Invalid::Signature));
        let junk = Signed { signature: "%".to_owned(), ..signed.clone() };
        assert_eq!(junk.verify(&bundle(&ours), b"x", now()), Err(Invalid::Encoding));
        let junk = Signed { chain_pem: String::new(), ..signed };
        assert_eq!(junk.verify(&bundle(&ours), b"x", now()), Err(Invalid::Chain));
    }
}
