//! Short secrets at rest under a key that follows from the CA's own: every replica of the centre can read them, a
//! copy of the store alone cannot. Called by the control plane for answers that hold a token.

use data_encoding::BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};

use super::{Authority, Error};

const SALT_BYTES: usize = 32;
const KEY_INFO: &[&[u8]] = &[b"faultline envelope of the centre v1"];

impl Authority {
    /// Encrypts; `purpose` must be said again to [`Self::decrypt`]. The text is base64.
    ///
    /// # Errors
    /// [`Error::Random`].
    pub fn encrypt(&self, purpose: &str, plain: &[u8]) -> Result<String, Error> {
        let mut head = [0; SALT_BYTES + NONCE_LEN];
        SystemRandom::new().fill(&mut head).map_err(|_| Error::Random)?;
        let (salt, nonce) = head.split_at(SALT_BYTES);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::Random)?;
        let mut buffer = plain.to_vec();
        self.key(salt)?
            .seal_in_place_append_tag(nonce, Aad::from(purpose.as_bytes()), &mut buffer)
            .map_err(|_| Error::Random)?;
        Ok(BASE64.encode(&[head.as_slice(), &buffer].concat()))
    }

    /// Decrypts what [`Self::encrypt`] made for this purpose.
    ///
    /// # Errors
    /// [`Error::Tampered`]: damaged, for another purpose, or under another CA.
    pub fn decrypt(&self, purpose: &str, sealed: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = BASE64.decode(sealed.as_bytes()).map_err(|_| Error::Tampered)?;
        let (salt, rest) = bytes.split_at_mut_checked(SALT_BYTES).ok_or(Error::Tampered)?;
        let (nonce, buffer) = rest.split_at_mut_checked(NONCE_LEN).ok_or(Error::Tampered)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::Tampered)?;
        let aad = Aad::from(purpose.as_bytes());
        let plain = self.key(salt)?.open_in_place(nonce, aad, buffer).map_err(|_| Error::Tampered)?;
        Ok(plain.to_vec())
    }

    /// The root's key is the one that no renewal changes.
    fn key(&self, salt: &[u8]) -> Result<LessSafeKey, Error> {
        let root = self.to_pem().root.key_pem;
        let prk = Salt::new(HKDF_SHA256, salt).extract(root.as_bytes());
        let key: UnboundKey = prk.expand(KEY_INFO, &AES_256_GCM).map_err(|_| Error::Random)?.into();
        Ok(LessSafeKey::new(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::TrustDomain;

    #[test]
    fn only_the_same_ca_reads_it_and_only_for_its_purpose() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let authority = || Authority::create(TrustDomain::new("seal.test").unwrap(), now).unwrap();
        let (ours, other) = (authority(), authority());
        let sealed = ours.encrypt("answer", b"a token").unwrap();
        assert!(!sealed.contains("token"));
        let copy = Authority::from_pem(&ours.to_pem()).unwrap();
        assert_eq!(copy.decrypt("answer", &sealed).unwrap(), b"a token");
        assert_ne!(ours.encrypt("answer", b"a token").unwrap(), sealed, "never twice the same");
        assert!(other.decrypt("answer", &sealed).is_err());
        assert!(ours.decrypt("another", &sealed).is_err());
        for damaged in ["", "AAAA", &sealed[..sealed.len() - 8], "%"] {
            assert!(ours.decrypt("answer", damaged).is_err(), "{damaged}");
        }
    }
}
