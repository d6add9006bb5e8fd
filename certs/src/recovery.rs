//! The word by which an agent whose certificate expired proves that it is the one that enrolled: a signature of its
//! identity key, which it made for this alone and which never leaves the cluster. The agent signs, the centre checks
//! with the public key that it kept at enrolment.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use rcgen::{PublicKeyData, SigningKey as _};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::csr::{Csr, PrivateKey};

/// What is signed begins with this, so that it can be taken for nothing else that the key might sign.
const DOMAIN: &[u8] = b"faultline recover v1\0";
/// Length of an uncompressed point of P-256.
const POINT_BYTES: usize = 65;

/// The key did not sign.
#[derive(Debug, thiserror::Error)]
#[error("sign with the identity key")]
pub struct SignError(#[source] rcgen::Error);

/// Another key, or other words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature is of another identity key or of another request")]
pub struct Invalid;

/// The text is not the public half of an identity key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an identity key must be {POINT_BYTES} bytes in base64url")]
pub struct NotAKey;

/// The public half of an identity key (ECDSA P-256). Text is base64url of the uncompressed point.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdentityKey(Vec<u8>);

impl IdentityKey {
    /// The key that a request carries; reading the request checked that its sender holds the other half.
    pub fn of(csr: &Csr) -> Self {
        Self(csr.key().der_bytes().to_vec())
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityKey({})", String::from(self.clone()))
    }
}

impl TryFrom<String> for IdentityKey {
    type Error = NotAKey;
    fn try_from(text: String) -> Result<Self, NotAKey> {
        let point = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| NotAKey)?;
        if point.len() == POINT_BYTES { Ok(Self(point)) } else { Err(NotAKey) }
    }
}

impl From<IdentityKey> for String {
    fn from(key: IdentityKey) -> Self {
        BASE64URL_NOPAD.encode(&key.0)
    }
}

/// What a recovery asks for. Both sides make it from what they know; only equal ones verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery<'a> {
    /// Of the centre.
    pub trust_domain: &'a str,
    /// Id of the cluster.
    pub cluster: &'a str,
    /// Uid of its kube-system namespace; empty where the agent does not know it yet.
    pub kube_system_uid: &'a str,
    /// How often it has recovered, this time included.
    pub counter: u64,
    /// [`Csr::key_hash`] of the key that is to be certified.
    pub key_hash: &'a str,
    /// The agent's wall clock, milliseconds since 1970.
    pub at_unix_ms: i64,
}

impl Recovery<'_> {
    /// The bytes that are signed: no two different recoveries have the same. Every text comes with its length.
    fn statement(&self) -> Vec<u8> {
        let texts = [self.trust_domain, self.cluster, self.kube_system_uid, self.key_hash];
        let mut bytes = DOMAIN.to_vec();
        for text in texts {
            bytes.extend((text.len() as u64).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes.extend(self.counter.to_be_bytes());
        bytes.extend(self.at_unix_ms.to_be_bytes());
        bytes
    }

    /// Signs it: ECDSA P-256 with SHA-256, ASN.1.
    pub fn sign(&self, identity: &PrivateKey) -> Result<Vec<u8>, SignError> {
        identity.pair().sign(&self.statement()).map_err(SignError)
    }

    /// Checks that the holder of this key signed just this.
    pub fn verify(&self, identity: &IdentityKey, signature: &[u8]) -> Result<(), Invalid> {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &identity.0)
            .verify(&self.statement(), signature)
            .map_err(|_| Invalid)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn public(key: &PrivateKey) -> IdentityKey {
        IdentityKey::of(&Csr::from_pem(&key.csr_pem().unwrap()).unwrap())
    }

    fn recovery() -> Recovery<'static> {
        Recovery {
            trust_domain: "td.test",
            cluster: "c-1",
            kube_system_uid: "u-1",
            counter: 3,
            key_hash: "aa",
            at_unix_ms: 1_800_000_000_000,
        }
    }

    #[test]
    fn only_the_same_words_of_the_same_key_verify() {
        let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let said = recovery();
        let signature = said.sign(&key).unwrap();
        assert_eq!(said.verify(&public(&key), &signature), Ok(()));
        assert_eq!(said.verify(&public(&other), &signature), Err(Invalid));
        for changed in [
            Recovery { trust_domain: "td.tes", ..said },
            Recovery { cluster: "c-2", ..said },
            Recovery { kube_system_uid: "", ..said },
            Recovery { counter: 4, ..said },
            Recovery { key_hash: "ab", ..said },
            Recovery { at_unix_ms: said.at_unix_ms + 1, ..said },
        ] {
            assert_eq!(changed.verify(&public(&key), &signature), Err(Invalid), "{changed:?}");
        }
        for at in [0, signature.len() / 2, signature.len() - 1] {
            let mut bent = signature.clone();
            bent[at] ^= 1;
            assert_eq!(said.verify(&public(&key), &bent), Err(Invalid));
        }
        assert_eq!(said.verify(&public(&key), b""), Err(Invalid));
    }

    #[test]
    fn a_public_key_survives_its_text_and_junk_is_none() {
        let key = public(&PrivateKey::generate().unwrap());
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<IdentityKey>(&text).unwrap(), key);
        for junk in ["\"\"", "\"AAAA\"", "\"%\"", "7"] {
            assert!(serde_json::from_str::<IdentityKey>(junk).is_err(), "{junk}");
        }
    }

    #[test]
    fn the_bytes_are_as_they_always_were() {
        let said = Recovery {
            trust_domain: "t",
            cluster: "c",
            kube_system_uid: "",
            counter: 1,
            key_hash: "k",
            at_unix_ms: 2,
        };
        let mut bytes = b"faultline recover v1\0".to_vec();
        bytes.extend(b"\0\0\0\0\0\0\0\x01t\0\0\0\0\0\0\0\x01c\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01k");
        bytes.extend(b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02");
        assert_eq!(said.statement(), bytes);
    }

    type Parts = (String, String, String, String, u64, i64);

    /// Few letters and lengths, so that shifted boundaries come up often.
    fn parts() -> impl Strategy<Value = Parts> {
        let text = || "[a\u{0}]{0,3}";
        (text(), text(), text(), text(), 0u64..3, -1i64..2)
    }

    fn of(parts: &Parts) -> Recovery<'_> {
        let (trust_domain, cluster, kube_system_uid, key_hash, counter, at_unix_ms) = parts;
        let (counter, at_unix_ms) = (*counter, *at_unix_ms);
        Recovery { trust_domain, cluster, kube_system_uid, counter, key_hash, at_unix_ms }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn no_two_recoveries_have_the_same_bytes(a in parts(), b in parts()) {
            prop_assert_eq!(of(&a).statement() == of(&b).statement(), a == b);
        }
    }
}
