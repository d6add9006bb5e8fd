//! PEM to DER for certificates, with one error text. Used by everything here that is handed PEM from a file, a
//! Secret or the wire.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The text holds no certificate, or something that is not one.
#[derive(Debug, thiserror::Error)]
#[error("no valid PEM certificate found")]
pub struct Error;

/// Every certificate of a PEM text, in order; at least one, each well-formed X.509.
pub(crate) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(|_| Error)?;
    let well_formed = |der: &CertificateDer<'_>| {
        x509_parser::parse_x509_certificate(der).is_ok_and(|(rest, _)| rest.is_empty())
    };
    if certificates.is_empty() || !certificates.iter().all(well_formed) {
        return Err(Error);
    }
    Ok(certificates)
}
