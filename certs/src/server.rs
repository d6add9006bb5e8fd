//! TLS configurations for listeners. Give the result to [`crate::Acceptor`].

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use crate::Protocol;
use crate::reload::ReloadableIdentity;
use crate::verify::{ClientVerifier, PeerRules};

/// What is asked of clients.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// No certificate is asked for.
    None,
    /// One that is sent must pass; none is fine. For enrolment on the port of the links.
    Optional(PeerRules),
    /// One that passes is required.
    Required(PeerRules),
}

/// A configuration over resolvers that can be changed while it serves. Sessions are never resumed, because a
/// resumed session skips the client's certificate and with it the deny list.
pub fn config(
    identity: &ReloadableIdentity,
    clients: ClientAuth,
    protocol: Protocol,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let verifier = match clients {
        ClientAuth::None => WebPkiClientVerifier::no_client_auth(),
        ClientAuth::Optional(rules) => Arc::new(ClientVerifier { rules, mandatory: false }),
        ClientAuth::Required(rules) => Arc::new(ClientVerifier { rules, mandatory: true }),
    };
    let mut config = ServerConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(protocol.versions())?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(identity.clone()));
    config.alpn_protocols = protocol.alpn();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
