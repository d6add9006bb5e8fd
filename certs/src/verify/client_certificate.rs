//! The check a server makes of a client certificate. Built by `server::config`.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::{PeerRules, Rejected};
use crate::peer::{self, Peer};

/// Chain, trust domain, identity and deny list, in this order.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    pub(crate) rules: PeerRules,
    /// Clients without a certificate are refused.
    pub(crate) mandatory: bool,
}

impl ClientVerifier {
    fn check(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), Rejected> {
        let peer = Peer::from_der(leaf).map_err(Rejected::NoPeer)?;
        let found = peer.identity.trust_domain();
        if found != &self.rules.trust_domain {
            let expected = self.rules.trust_domain.clone();
            return Err(Rejected::TrustDomain { found: found.clone(), expected });
        }
        let revocations = self.rules.revocations.load();
        for der in std::iter::once(leaf).chain(rest) {
            let serial = peer::serial_of(der).map_err(Rejected::NoPeer)?;
            if revocations.serials.contains(&serial) {
                return Err(Rejected::Serial(serial));
            }
        }
        match peer.identity.cluster() {
            Some(cluster) if revocations.clusters.contains(cluster) => {
                Err(Rejected::Cluster(cluster.to_owned()))
            }
            _ => Ok(()),
        }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// None, so that a client always sends what it has: the roots may change while this verifier lives.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.rules.bundle.load().client_verifier().verify_client_cert(leaf, rest, now)?;
        self.check(leaf, rest).inspect_err(|error| tracing::debug!(%error, "client certificate refused"))?;
        Ok(verified)
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
