//! Writing certificates: what goes into a root, an intermediate, a client leaf and a server leaf.

use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::ServerName;

use super::{Authority, Credential, Error, Leaf, Signer};
use crate::bundle::Pin;
use crate::csr::{Csr, PrivateKey};
use crate::identity::{Identity, Role, TrustDomain};
use crate::peer::{BACKDATE, Lifetime, Serial};

const DAY: SignedDuration = SignedDuration::from_hours(24);
const ROOT_DAYS: i32 = 3650;
const INTERMEDIATE_DAYS: i32 = 730;
/// RFC 5280's bound on a common name and an organisation, in characters.
const MAX_DN_CHARS: usize = 64;

/// The pin of a key that has no certificate yet.
pub(super) fn pin_of(key: &PrivateKey) -> Pin {
    Pin::of_spki(&key.pair().subject_public_key_info())
}

/// A self-signed root.
pub(super) fn root(trust_domain: &TrustDomain, now: Timestamp) -> Result<Signer, Error> {
    let key = PrivateKey::generate()?;
    let name = format!("Faultline root {}", pin_of(&key).short());
    let (params, _) = ca_params(&name, trust_domain, lifetime(now, DAY * ROOT_DAYS)?, 1)?;
    let certificate = params.self_signed(key.pair()).map_err(Error::Write)?;
    Signer::new(certificate.pem(), key, "root")
}

/// An intermediate under `root`; it may sign leaves only.
pub(super) fn intermediate(
    root: &Signer,
    trust_domain: &TrustDomain,
    now: Timestamp,
) -> Result<Signer, Error> {
    let key = PrivateKey::generate()?;
    let name = format!("Faultline intermediate {}", pin_of(&key).short());
    let lifetime = within(lifetime(now, DAY * INTERMEDIATE_DAYS)?, &root.lifetime, now)?;
    let (mut params, _) = ca_params(&name, trust_domain, lifetime, 0)?;
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(key.pair(), &root.issuer()?).map_err(Error::Write)?;
    Signer::new(certificate.pem(), key, "intermediate")
}

impl Authority {
    /// Signs a leaf that dials as `role`: its SPIFFE id as the one name, client use only, valid for `ttl` from
    /// `now` (and five minutes back), never beyond the intermediate.
    pub fn sign_client(&self, csr: &Csr, role: &Role, now: Timestamp, ttl: Duration) -> Result<Leaf, Error> {
        let issuer = self.issuer_at(now)?;
        let (mut params, serial, lifetime) = self.leaf_params(&issuer, &role.to_string(), now, ttl)?;
        params.subject_alt_names = vec![self.uri(role)?];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(csr.key(), &issuer.issuer()?).map_err(Error::Write)?;
        Ok(Leaf { chain_pem: certificate.pem() + &issuer.certificate_pem, serial, lifetime })
    }

    /// Signs a leaf that answers under `names` (DNS names or IP addresses). With a role it carries that SPIFFE id
    /// too, so that clients can expect the id instead of a name, and may also dial as it.
    pub fn sign_server(
        &self,
        csr: &Csr,
        names: &[&str],
        role: Option<&Role>,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Leaf, Error> {
        let Some(title) = role.map(ToString::to_string).or_else(|| names.first().map(ToString::to_string))
        else {
            return Err(Error::Nameless);
        };
        let issuer = self.issuer_at(now)?;
        let (mut params, serial, lifetime) = self.leaf_params(&issuer, &title, now, ttl)?;
        for name in names {
            params.subject_alt_names.push(server_name(name)?);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if let Some(role) = role {
            params.subject_alt_names.push(self.uri(role)?);
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        let certificate = params.signed_by(csr.key(), &issuer.issuer()?).map_err(Error::Write)?;
        let chain_pem = certificate.pem() + &issuer.certificate_pem + &self.root.certificate_pem;
        Ok(Leaf { chain_pem, serial, lifetime })
    }

    /// Makes a key and signs it as [`Self::sign_client`] does.
    pub fn issue_client(&self, role: &Role, now: Timestamp, ttl: Duration) -> Result<Credential, Error> {
        let key = PrivateKey::generate()?;
        let leaf = self.sign_client(&Csr::from_pem(&key.csr_pem()?)?, role, now, ttl)?;
        Ok(Credential { chain_pem: leaf.chain_pem, key_pem: key.to_pem() })
    }

    /// Makes a key and signs it as [`Self::sign_server`] does.
    pub fn issue_server(
        &self,
        names: &[&str],
        role: Option<&Role>,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<Credential, Error> {
        let key = PrivateKey::generate()?;
        let leaf = self.sign_server(&Csr::from_pem(&key.csr_pem()?)?, names, role, now, ttl)?;
        Ok(Credential { chain_pem: leaf.chain_pem, key_pem: key.to_pem() })
    }

    fn leaf_params(
        &self,
        issuer: &Signer,
        title: &str,
        now: Timestamp,
        ttl: Duration,
    ) -> Result<(CertificateParams, Serial, Lifetime), Error> {
        let ttl = SignedDuration::try_from(ttl).map_err(|_| Error::Lifetime)?;
        let lifetime = within(lifetime(now, ttl)?, &issuer.lifetime, now)?;
        let (mut params, serial) = params(title, &self.trust_domain, lifetime)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Ok((params, serial, lifetime))
    }

    fn uri(&self, role: &Role) -> Result<SanType, Error> {
        let identity = Identity::new(self.trust_domain.clone(), role.clone())?;
        Ok(SanType::URI(Ia5String::try_from(identity.to_string()).map_err(Error::Write)?))
    }
}

fn server_name(name: &str) -> Result<SanType, Error> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let unusable = || Error::ServerName(name.to_owned());
    match ServerName::try_from(name) {
        Ok(ServerName::DnsName(dns)) => {
            Ok(SanType::DnsName(Ia5String::try_from(dns.as_ref()).map_err(|_| unusable())?))
        }
        _ => Err(unusable()),
    }
}

fn ca_params(
    name: &str,
    trust_domain: &TrustDomain,
    lifetime: Lifetime,
    path_length: u8,
) -> Result<(CertificateParams, Serial), Error> {
    let (mut params, serial) = params(name, trust_domain, lifetime)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((params, serial))
}

/// Every certificate has its own subject: with equal ones OpenSSL takes an issued certificate for a self-signed one.
fn params(
    name: &str,
    trust_domain: &TrustDomain,
    lifetime: Lifetime,
) -> Result<(CertificateParams, Serial), Error> {
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| Error::Random)?;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    // Lifetimes begin after 1970, and jiff's calendar ends where the writer's does.
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(lifetime.not_before.as_second().unsigned_abs());
    params.not_after = epoch + Duration::from_secs(lifetime.not_after.as_second().unsigned_abs());
    params.distinguished_name = DistinguishedName::new();
    let clip = |text: &str| text.chars().take(MAX_DN_CHARS).collect::<String>();
    params.distinguished_name.push(DnType::OrganizationName, clip(trust_domain.as_str()));
    params.distinguished_name.push(DnType::CommonName, clip(name));
    Ok((params, Serial::from_bytes(&serial)))
}

/// From five minutes before `now` until `ttl` after it, in whole seconds, as certificates have no finer ones.
fn lifetime(now: Timestamp, ttl: SignedDuration) -> Result<Lifetime, Error> {
    let whole = Timestamp::from_second(now.as_second()).map_err(|_| Error::Lifetime)?;
    let ttl = SignedDuration::from_secs(ttl.as_secs());
    let not_before = whole.checked_sub(BACKDATE).map_err(|_| Error::Lifetime)?;
    let not_after = whole.checked_add(ttl).map_err(|_| Error::Lifetime)?;
    if ttl <= SignedDuration::ZERO || not_before < Timestamp::UNIX_EPOCH {
        return Err(Error::Lifetime);
    }
    Ok(Lifetime { not_before, not_after })
}

/// Cuts a lifetime to that of the issuer: a leaf that outlives its issuer fails at a time nobody is told.
fn within(lifetime: Lifetime, issuer: &Lifetime, now: Timestamp) -> Result<Lifetime, Error> {
    if issuer.not_after <= now {
        return Err(Error::Expired(issuer.not_after));
    }
    Ok(Lifetime { not_after: lifetime.not_after.min(issuer.not_after), ..lifetime })
}
