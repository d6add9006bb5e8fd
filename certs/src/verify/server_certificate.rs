//! The check a client makes of its server. Built by `client::config`.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::Rejected;
use crate::bundle::Pin;
use crate::client::{Expect, Trust};
use crate::identity::Identity;
use crate::peer::{self, Peer};

/// A chain to what is trusted, then who the server is.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    pub(crate) trust: Trust,
    pub(crate) expect: Expect,
}

impl ServerVerifier {
    fn verify(
        &self,
        bundle: &WebPkiServerVerifier,
        roots: &RootCertStore,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.expect {
            Expect::Name => bundle.verify_server_cert(leaf, rest, name, &[], now),
            Expect::Identity(expected) => {
                let algorithms = crate::provider().signature_verification_algorithms.all;
                let parsed = ParsedCertificate::try_from(leaf)?;
                verify_server_cert_signed_by_trust_anchor(&parsed, roots, rest, now, algorithms)?;
                check_identity(leaf, expected)?;
                Ok(ServerCertVerified::assertion())
            }
        }
    }
}

fn check_identity(leaf: &CertificateDer<'_>, expected: &Identity) -> Result<(), Rejected> {
    let found = Peer::from_der(leaf).map_err(Rejected::NoPeer)?.identity;
    if found != *expected {
        return Err(Rejected::Identity { found: Box::new(found), expected: Box::new(expected.clone()) });
    }
    Ok(())
}

/// The certificate of a chain that has the pinned key and is signed by it.
///
/// The self-signature matters: the pinned public key is public, and without the check anybody could present it
/// inside a certificate of their own making. The chain below still needs the private key either way.
fn pinned_root<'a>(pin: Pin, rest: &'a [CertificateDer<'a>]) -> Option<&'a CertificateDer<'a>> {
    rest.iter().find(|der| {
        let self_signed = peer::with_certificate(der, |certificate| {
            Ok(certificate.is_ca() && certificate.verify_signature(None).is_ok())
        });
        Pin::of_certificate(der) == Some(pin) && self_signed == Ok(true)
    })
}

fn issuer_of(leaf: &CertificateDer<'_>) -> String {
    peer::with_certificate(leaf, |certificate| Ok(certificate.issuer().to_string())).unwrap_or_default()
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::Bundle(bundle) => {
                let bundle = bundle.load();
                let verified = self.verify(bundle.server_verifier(), bundle.roots(), leaf, rest, name, now);
                verified.map_err(|error| match error {
                    Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                        Rejected::Authority { issuer: issuer_of(leaf) }.into()
                    }
                    other => other,
                })
            }
            Trust::Pin(pin) => {
                let Some(root) = pinned_root(*pin, rest) else {
                    return Err(Rejected::Pin { expected: *pin, issuer: issuer_of(leaf) }.into());
                };
                let mut roots = RootCertStore::empty();
                roots.add(root.clone().into_owned())?;
                let verifier =
                    WebPkiServerVerifier::builder_with_provider(roots.clone().into(), crate::provider())
                        .build()
                        .map_err(|error| Error::General(error.to_string()))?;
                self.verify(&verifier, &roots, leaf, rest, name, now)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = crate::provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = crate::provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crate::provider().signature_verification_algorithms.supported_schemes()
    }
}
