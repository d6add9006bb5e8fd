//! Join tokens: the one string that `faultline join` needs. The control plane makes one per invitation, keeps only
//! the hash of its secret, and prints the string once; the agent reads it and knows where to go and whom to trust.
//!
//! Form: `flj1.<base64url of a JSON object>.<base64url of the secret>`. The object has `addr` (host:port), `cluster`,
//! `id`, `pin` and optionally `serverName`.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::bundle::Pin;
use crate::identity::{self, Identity, Role, TrustDomain};

const VERSION: &str = "flj1";
const MAX_TOKEN_BYTES: usize = 4096;
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// Why a text is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not of the form `flj1.x.y`.
    #[error("not a join token: it must be one string of the form {VERSION}.<...>.<...>")]
    Form,
    /// A later version's token.
    #[error("join token has version {0:?}, this program reads {VERSION}")]
    Version(String),
    /// More than 4096 bytes.
    #[error("join token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// The middle part is not base64url, or not the JSON object.
    #[error("join token is damaged in its middle part: {0}")]
    Payload(String),
    /// The last part is not a secret; most often the end was cut off.
    #[error("join token is damaged or cut off at its end")]
    Secret,
    /// `addr` is not host:port.
    #[error("join token address {0:?} is not host:port")]
    Address(String),
    /// The cluster id is not a usable name.
    #[error("join token has an unusable cluster id")]
    Cluster(#[source] identity::Error),
    /// The id is not 8 bytes of hexadecimal.
    #[error("token id must be 16 characters of lower-case hexadecimal")]
    Id,
    /// The hash is not 32 bytes of hexadecimal.
    #[error("secret hash must be 64 characters of lower-case hexadecimal")]
    Hash,
    /// The system's random source failed.
    #[error("read random bytes from the system")]
    Random,
}

/// Names a token in the store and the audit; not secret. Text is 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId([u8; ID_BYTES]);

/// The part that must not leak. Debug output never shows it; there is no Display.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    /// A new one, from the system's random source.
    ///
    /// # Errors
    /// [`Error::Random`].
    pub fn generate() -> Result<Self, Error> {
        let mut bytes = [0; SECRET_BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
        Ok(Self(bytes))
    }

    /// The text to send to the enrolment endpoint: 43 characters of base64url.
    pub fn reveal(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0)
    }

    /// Its SHA-256, the only form to store.
    pub fn hash(&self) -> SecretHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, &self.0).as_ref());
        SecretHash(hash)
    }
}

impl FromStr for Secret {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| Error::Secret)?;
        Ok(Self(bytes.try_into().map_err(|_| Error::Secret)?))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// SHA-256 of a secret. The secret has 256 random bits, so it needs neither salt nor a slow hash. Text is
/// hexadecimal.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// Whether `secret` is the one, in a time that does not depend on where they differ.
    pub fn matches(&self, secret: &Secret) -> bool {
        let other = secret.hash();
        self.0.iter().zip(other.0).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }
}

/// Everything in the string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// `host:port` of the enrolment endpoint.
    pub addr: String,
    /// The id the centre gave the cluster.
    pub cluster: String,
    /// Which token.
    pub id: TokenId,
    /// The root to expect there.
    pub pin: Pin,
    /// The name to expect there, where it is not the host of `addr`.
    pub server_name: Option<String>,
    /// The proof.
    pub secret: Secret,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    addr: String,
    cluster: String,
    id: TokenId,
    pin: Pin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_name: Option<String>,
}

impl JoinToken {
    /// A new token with a random id and secret.
    pub fn generate(
        addr: impl Into<String>,
        cluster: impl Into<String>,
        pin: Pin,
        server_name: Option<String>,
    ) -> Result<Self, Error> {
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        let random = SystemRandom::new();
        random.fill(&mut id).and_then(|()| random.fill(&mut secret)).map_err(|_| Error::Random)?;
        let (addr, cluster) = (addr.into(), cluster.into());
        let token = Self { addr, cluster, id: TokenId(id), pin, server_name, secret: Secret(secret) };
        token.check()?;
        Ok(token)
    }

    /// The string to hand over, secret included. Show it once and do not log it.
    pub fn reveal(&self) -> String {
        let payload = Payload {
            addr: self.addr.clone(),
            cluster: self.cluster.clone(),
            id: self.id,
            pin: self.pin,
            server_name: self.server_name.clone(),
        };
        // A struct of strings always has a JSON form.
        let json = serde_json::to_vec(&payload).unwrap_or_default();
        format!("{VERSION}.{}.{}", BASE64URL_NOPAD.encode(&json), self.secret.reveal())
    }

    fn check(&self) -> Result<(), Error> {
        check_address(&self.addr)?;
        // The cluster id ends up in an identity, under whatever trust domain the centre has.
        let any = TrustDomain::new("x").map_err(Error::Cluster)?;
        Identity::new(any, Role::agent(&*self.cluster)).map_err(Error::Cluster)?;
        Ok(())
    }
}

fn check_address(addr: &str) -> Result<(), Error> {
    let wrong = || Error::Address(addr.to_owned());
    let authority: http::uri::Authority = addr.parse().map_err(|_| wrong())?;
    match authority.port_u16() {
        Some(port) if port > 0 && !authority.host().is_empty() && !addr.contains('@') => Ok(()),
        _ => Err(wrong()),
    }
}

impl FromStr for JoinToken {
    type Err = Error;

    /// White space around the token is ignored: it is pasted by people.
    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.len() > MAX_TOKEN_BYTES {
            return Err(Error::TooLong);
        }
        let mut parts = text.split('.');
        let (Some(version), Some(payload), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Error::Form);
        };
        if version != VERSION {
            let ours = version.starts_with("flj");
            return Err(if ours { Error::Version(version.to_owned()) } else { Error::Form });
        }
        let json = BASE64URL_NOPAD
            .decode(payload.as_bytes())
            .map_err(|_| Error::Payload("not base64url".to_owned()))?;
        let payload: Payload =
            serde_json::from_slice(&json).map_err(|error| Error::Payload(error.to_string()))?;
        let Payload { addr, cluster, id, pin, server_name } = payload;
        let token = Self { addr, cluster, id, pin, server_name, secret: secret.parse()? };
        token.check()?;
        Ok(token)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl FromStr for TokenId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| Error::Id)?;
        Ok(Self(bytes.try_into().map_err(|_| Error::Id)?))
    }
}

impl TryFrom<String> for TokenId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for SecretHash {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| Error::Hash)?;
        Ok(Self(bytes.try_into().map_err(|_| Error::Hash)?))
    }
}

impl From<SecretHash> for String {
    fn from(hash: SecretHash) -> Self {
        HEXLOWER.encode(&hash.0)
    }
}

#[cfg(test)]
mod tests;
