//! The CA at rest: its keys in an AEAD envelope whose key comes from a Secret, so that a copy of the store alone
//! signs nothing. Certificates stay readable, and are bound to the envelope as additional data.

use std::fmt;

use data_encoding::BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::{Authority, AuthorityPem, Credential, Error};
use crate::identity::TrustDomain;

const FORMAT: u32 = 1;
/// The least key-encryption key, in bytes. 32 random ones are meant.
const MIN_KEK_BYTES: usize = 16;
const SALT_BYTES: usize = 32;
const CHECK_BYTES: usize = 8;
const KEY_INFO: &[&[u8]] = &[b"faultline ca envelope key v1"];
const CHECK_INFO: &[&[u8]] = &[b"faultline ca envelope check v1"];

/// A CA whose keys are encrypted. Safe to store; serialises to JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealedAuthority {
    format: u32,
    trust_domain: TrustDomain,
    root_pem: String,
    intermediate_pem: String,
    /// Random, so that one key-encryption key gives another envelope key each time (base64).
    salt: String,
    /// Tells a wrong key-encryption key from a damaged envelope; derived, not secret (base64).
    check: String,
    nonce: String,
    keys: String,
}

impl fmt::Debug for SealedAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedAuthority").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

/// The secret part, as it is encrypted.
#[derive(Serialize, Deserialize)]
struct Keys {
    root: String,
    intermediate: String,
}

impl Authority {
    /// Encrypts the keys under a key derived from `kek`, the content of a file or Secret (at least 16 bytes, taken
    /// as they are, a final newline included).
    pub fn seal(&self, kek: &[u8]) -> Result<SealedAuthority, Error> {
        let salt: [u8; SALT_BYTES] = random()?;
        let nonce: [u8; NONCE_LEN] = random()?;
        let (key, check) = derive(kek, &salt)?;
        let pem = self.to_pem();
        let keys = Keys { root: pem.root.key_pem, intermediate: pem.intermediate.key_pem };
        let mut buffer = serde_json::to_vec(&keys).map_err(|_| Error::Tampered)?;
        let mut sealed = SealedAuthority {
            format: FORMAT,
            trust_domain: pem.trust_domain,
            root_pem: pem.root.chain_pem,
            intermediate_pem: pem.intermediate.chain_pem,
            salt: BASE64.encode(&salt),
            check: BASE64.encode(&check),
            nonce: BASE64.encode(&nonce),
            keys: String::new(),
        };
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), sealed.aad(), &mut buffer)
            .map_err(|_| Error::Random)?;
        sealed.keys = BASE64.encode(&buffer);
        Ok(sealed)
    }

    /// Decrypts. [`Error::WrongKek`] and [`Error::Tampered`] are told apart.
    pub fn open(kek: &[u8], sealed: &SealedAuthority) -> Result<Self, Error> {
        if sealed.format != FORMAT {
            return Err(Error::Format(sealed.format));
        }
        let salt = decode(&sealed.salt)?;
        let (key, check) = derive(kek, &salt)?;
        if decode(&sealed.check)? != check {
            return Err(Error::WrongKek);
        }
        let nonce = decode(&sealed.nonce)?.try_into().map_err(|_| Error::Tampered)?;
        let mut buffer = decode(&sealed.keys)?;
        let plain = key
            .open_in_place(Nonce::assume_unique_for_key(nonce), sealed.aad(), &mut buffer)
            .map_err(|_| Error::Tampered)?;
        let keys: Keys = serde_json::from_slice(plain).map_err(|_| Error::Tampered)?;
        Self::from_pem(&AuthorityPem {
            trust_domain: sealed.trust_domain.clone(),
            root: Credential { chain_pem: sealed.root_pem.clone(), key_pem: keys.root },
            intermediate: Credential {
                chain_pem: sealed.intermediate_pem.clone(),
                key_pem: keys.intermediate,
            },
        })
    }
}

impl SealedAuthority {
    /// The trust domain, readable without the key.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The trust bundle, readable without the key.
    pub fn bundle_pem(&self) -> &str {
        &self.root_pem
    }

    fn aad(&self) -> Aad<String> {
        let parts = [self.trust_domain.as_str(), &self.root_pem, &self.intermediate_pem];
        // Lengths in front, so that no byte can move from one part to the next unseen.
        let lengths = parts.map(|part| part.len().to_string()).join(",");
        Aad::from(format!("faultline-ca {} {lengths} {}", self.format, parts.concat()))
    }
}

fn decode(text: &str) -> Result<Vec<u8>, Error> {
    BASE64.decode(text.as_bytes()).map_err(|_| Error::Tampered)
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes)
}

struct CheckLength;

impl KeyType for CheckLength {
    fn len(&self) -> usize {
        CHECK_BYTES
    }
}

/// HKDF-SHA256 (RFC 5869) of the key-encryption key: the envelope's key and its check value.
fn derive(kek: &[u8], salt: &[u8]) -> Result<(LessSafeKey, Vec<u8>), Error> {
    if kek.len() < MIN_KEK_BYTES {
        return Err(Error::ShortKek(MIN_KEK_BYTES));
    }
    let prk: Prk = Salt::new(HKDF_SHA256, salt).extract(kek);
    let key: UnboundKey = prk.expand(KEY_INFO, &AES_256_GCM).map_err(|_| Error::Random)?.into();
    let mut check = vec![0; CHECK_BYTES];
    prk.expand(CHECK_INFO, CheckLength).and_then(|okm| okm.fill(&mut check)).map_err(|_| Error::Random)?;
    Ok((LessSafeKey::new(key), check))
}
