//! What the CA writes, refuses to copy, and how it is kept.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, SanType};
use x509_parser::extensions::GeneralName;

use super::{Authority, AuthorityPem, Error, SealedAuthority};
use crate::bundle::TrustBundle;
use crate::csr::{Csr, PrivateKey};
use crate::identity::{Role, TrustDomain};
use crate::peer::{self, Lifetime, Peer};

const DAY: Duration = Duration::from_hours(24);
const KEK: &[u8] = b"0123456789abcdef0123456789abcdef";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn now() -> Timestamp {
    at(1_800_000_000)
}

fn authority() -> Authority {
    Authority::create(TrustDomain::new("td.test").unwrap(), now()).unwrap()
}

fn csr() -> Csr {
    Csr::from_pem(&PrivateKey::generate().unwrap().csr_pem().unwrap()).unwrap()
}

#[test]
fn an_agent_leaf_says_what_we_say() {
    let authority = authority();
    let leaf = authority.sign_client(&csr(), &Role::agent("c1"), now(), DAY).unwrap();
    let peer = Peer::from_chain_pem(&leaf.chain_pem).unwrap();
    assert_eq!(peer.identity.to_string(), "spiffe://td.test/cluster/c1/agent");
    assert_eq!(peer.serial, leaf.serial);
    assert_eq!(peer.lifetime, leaf.lifetime);
    assert_eq!(leaf.lifetime.not_before, now() - SignedDuration::from_mins(5));
    assert_eq!(leaf.lifetime.not_after, now() + SignedDuration::from_hours(24));
    let chain = crate::pem::certificates(&leaf.chain_pem).unwrap();
    assert_eq!(chain.len(), 2, "leaf and intermediate");
    peer::with_certificate(&chain[0], |certificate| {
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        assert!(!certificate.is_ca());
        assert_ne!(certificate.subject(), certificate.issuer());
        assert!(certificate.subject().iter_organization().next().is_some());
        Ok(())
    })
    .unwrap();
}

#[test]
fn serials_differ() {
    let authority = authority();
    let request = csr();
    let sign = || authority.sign_client(&request, &Role::agent("c1"), now(), DAY).unwrap().serial;
    assert_ne!(sign(), sign());
}

#[test]
fn a_forged_request_gets_our_names_only() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut wish = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    wish.distinguished_name.push(DnType::CommonName, "control-plane");
    wish.subject_alt_names
        .push(SanType::URI("spiffe://td.test/operator/admin".to_owned().try_into().unwrap()));
    wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let request = wish.serialize_request(&key).unwrap().pem().unwrap();
    let leaf =
        authority().sign_client(&Csr::from_pem(&request).unwrap(), &Role::agent("c1"), now(), DAY).unwrap();
    let chain = crate::pem::certificates(&leaf.chain_pem).unwrap();
    peer::with_certificate(&chain[0], |certificate| {
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names, [GeneralName::URI("spiffe://td.test/cluster/c1/agent")]);
        assert_eq!(certificate.subject().to_string(), "O=td.test, CN=cluster/c1/agent");
        assert!(!certificate.is_ca());
        assert!(!certificate.extended_key_usage().unwrap().unwrap().value.server_auth);
        Ok(())
    })
    .unwrap();
}

#[test]
fn server_names_are_checked() {
    let authority = authority();
    let sign = |names: &[&str], role| authority.sign_server(&csr(), names, role, now(), DAY);
    let agent = Role::agent("c1");
    let leaf = sign(&["agent.faultline.svc", "10.0.0.1", "::1"], Some(&agent)).unwrap();
    assert_eq!(crate::pem::certificates(&leaf.chain_pem).unwrap().len(), 3, "with the root, for pins");
    assert_eq!(
        Peer::from_chain_pem(&leaf.chain_pem).unwrap().identity.to_string(),
        "spiffe://td.test/cluster/c1/agent"
    );
    assert!(matches!(sign(&["not a name"], None), Err(Error::ServerName(_))));
    assert!(matches!(sign(&[""], None), Err(Error::ServerName(_))));
    assert!(matches!(sign(&[], None), Err(Error::Nameless)));
    assert!(matches!(sign(&["x"], Some(&Role::agent("a/b"))), Err(Error::Identity(_))));
}

#[test]
fn a_leaf_never_outlives_its_issuer() {
    let authority = authority();
    let issuers_end =
        || Lifetime::of_chain_pem(&authority.to_pem().intermediate.chain_pem).unwrap().not_after;
    let sign = |now, ttl| authority.sign_client(&csr(), &Role::agent("c1"), now, ttl);
    assert_eq!(sign(now(), DAY * 9000).unwrap().lifetime.not_after, issuers_end());
    let end = authority.lifetime().not_after;
    let last_day = end - SignedDuration::from_hours(24);
    assert_eq!(sign(last_day, DAY * 9000).unwrap().lifetime.not_after, end);
    assert!(matches!(sign(end + SignedDuration::from_secs(1), DAY), Err(Error::Expired(_))));
    assert!(matches!(sign(now(), Duration::ZERO), Err(Error::Lifetime)));
    assert!(matches!(sign(now(), Duration::MAX), Err(Error::Lifetime)));
    assert!(matches!(
        Authority::create(TrustDomain::new("td").unwrap(), Timestamp::MIN),
        Err(Error::Lifetime)
    ));
}

/// A replica that is never restarted, from the making of the CA to its end.
#[test]
fn for_as_long_as_the_root_lives_leaves_live_as_long_as_asked_and_the_pin_stays() {
    let authority = authority();
    let bundle = TrustBundle::from_pem(authority.bundle_pem()).unwrap();
    let (pin, end) = (authority.pin(), authority.lifetime().not_after);
    let (first, mut intermediates) = (authority.to_pem(), BTreeSet::new());
    let mut at = now();
    while at + SignedDuration::from_hours(24 * 30) < end {
        let signed = authority.sign_statement(&Role::agent("c1"), b"words", at).unwrap();
        signed.verify(&bundle, b"words", at).unwrap();
        let leaf = authority.sign_client(&csr(), &Role::agent("c1"), at, DAY * 30).unwrap();
        assert!(leaf.lifetime.not_after >= at + SignedDuration::from_hours(24 * 30 - 1), "{at}");
        intermediates.insert(authority.to_pem().intermediate.chain_pem);
        at += SignedDuration::from_hours(24 * 20);
    }
    assert!((9..=12).contains(&intermediates.len()), "{}", intermediates.len());
    assert_eq!(authority.pin(), pin);
    // A process that starts with the first one, long past its end.
    let restarted = Authority::from_pem(&first).unwrap();
    let signed = restarted.sign_statement(&Role::agent("c1"), b"words", at).unwrap();
    signed.verify(&bundle, b"words", at).unwrap();
}

#[test]
fn an_intermediate_made_while_the_clock_was_wrong_is_replaced() {
    let authority = authority();
    let wrong = now() + SignedDuration::from_hours(24 * 900);
    authority.sign_client(&csr(), &Role::agent("c1"), wrong, DAY).unwrap();
    let signed = authority.sign_statement(&Role::agent("c1"), b"words", now()).unwrap();
    signed.verify(&TrustBundle::from_pem(authority.bundle_pem()).unwrap(), b"words", now()).unwrap();
}

#[test]
fn pem_export_round_trips_and_checks_the_keys() {
    let one = authority().to_pem();
    let json = serde_json::to_string(&one).unwrap();
    let again = Authority::from_pem(&serde_json::from_str::<AuthorityPem>(&json).unwrap()).unwrap();
    assert_eq!(again.to_pem(), one);
    let mut mixed = one.clone();
    mixed.intermediate.key_pem = authority().to_pem().intermediate.key_pem;
    assert!(matches!(Authority::from_pem(&mixed), Err(Error::Mismatch("intermediate"))));
    assert!(!format!("{one:?} {:?} {again:?}", one.root).contains("PRIVATE"));
}

#[test]
fn a_sealed_ca_opens_with_its_key_only() {
    let authority = authority();
    let sealed = authority.seal(KEK).unwrap();
    let json = serde_json::to_string(&sealed).unwrap();
    assert!(!json.contains("PRIVATE KEY"));
    let sealed: SealedAuthority = serde_json::from_str(&json).unwrap();
    assert_eq!(Authority::open(KEK, &sealed).unwrap().to_pem(), authority.to_pem());
    assert!(matches!(Authority::open(b"another key of enough bytes", &sealed), Err(Error::WrongKek)));
    assert!(matches!(Authority::open(b"short", &sealed), Err(Error::ShortKek(16))));
    assert_ne!(serde_json::to_string(&authority.seal(KEK).unwrap()).unwrap(), json, "salt and nonce are new");
}

#[test]
fn a_changed_envelope_is_noticed() {
    let sealed = serde_json::to_value(authority().seal(KEK).unwrap()).unwrap();
    let other = serde_json::to_value(authority().seal(KEK).unwrap()).unwrap();
    for field in ["rootPem", "intermediatePem", "keys", "nonce"] {
        let mut changed = sealed.clone();
        changed[field] = other[field].clone();
        let changed: SealedAuthority = serde_json::from_value(changed).unwrap();
        assert!(matches!(Authority::open(KEK, &changed), Err(Error::Tampered)), "{field}");
    }
    let mut changed = sealed.clone();
    changed["trustDomain"] = "other".into();
    assert!(matches!(Authority::open(KEK, &serde_json::from_value(changed).unwrap()), Err(Error::Tampered)));
    let mut later = sealed;
    later["format"] = 2.into();
    assert!(matches!(Authority::open(KEK, &serde_json::from_value(later).unwrap()), Err(Error::Format(2))));
}
