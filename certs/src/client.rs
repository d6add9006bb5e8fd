//! TLS configurations for dialling. Give the result to [`crate::Connector`].

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;

use crate::Protocol;
use crate::bundle::{Pin, TrustBundle};
use crate::identity::Identity;
use crate::reload::{Reloadable, ReloadableIdentity};
use crate::verify::ServerVerifier;

/// What the server's chain must lead to.
#[derive(Debug, Clone)]
pub enum Trust {
    /// A root with this key, which the server sends along: all that a joining agent knows.
    Pin(Pin),
    /// A root of the bundle, as it is at each handshake.
    Bundle(Reloadable<TrustBundle>),
}

/// Who the server must be.
#[derive(Debug, Clone)]
pub enum Expect {
    /// The DNS name or address that is dialled, or the connector's server name.
    Name,
    /// This SPIFFE id, whatever the address.
    Identity(Identity),
}

/// A configuration that shows `identity` when asked for a certificate and it holds one. Sessions are never
/// resumed, because a resumed session skips both certificates.
pub fn config(
    identity: &ReloadableIdentity,
    trust: Trust,
    expect: Expect,
    protocol: Protocol,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(protocol.versions())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier { trust, expect }))
        .with_client_cert_resolver(Arc::new(identity.clone()));
    config.alpn_protocols = protocol.alpn();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
