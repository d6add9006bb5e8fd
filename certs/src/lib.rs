//! Who may talk to whom: identities, the CA, join tokens, and rustls configurations that can be changed while
//! they are in use. The control plane, the agent and the node daemon build every listener and every connection
//! from here, so that no other crate names rustls.

#![forbid(unsafe_code)]

pub mod acceptor;
pub mod bundle;
pub mod ca;
pub mod client;
pub mod connector;
pub mod csr;
pub mod identity;
pub mod peer;
pub mod reload;
pub mod renewal;
pub mod server;
pub mod throwaway;
pub mod token;

mod pem;
mod verify;

pub use acceptor::{Acceptor, Conn, ConnInfo};
pub use bundle::{Pin, TrustBundle};
pub use ca::{Authority, Credential, Leaf};
pub use connector::Connector;
pub use csr::{Csr, PrivateKey};
pub use identity::{Identity, Role, TrustDomain};
pub use peer::{Lifetime, Peer, Serial};
pub use reload::{Reloadable, ReloadableIdentity};
pub use rustls::{ClientConfig, ServerConfig};
pub use token::{JoinToken, SecretHash};
pub use verify::{PeerRules, Rejected, Revocations};

use std::sync::Arc;

/// What a connection speaks once TLS is up: decides the ALPN list and the TLS versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC inside the trust chain: HTTP/2 only, TLS 1.3 only.
    Grpc,
    /// HTTP for people and their tools: HTTP/2 or HTTP/1.1, TLS 1.3 or 1.2.
    Http,
}

impl Protocol {
    pub(crate) fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Grpc => vec![b"h2".to_vec()],
            Self::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }

    pub(crate) fn versions(self) -> &'static [&'static rustls::SupportedProtocolVersion] {
        static GRPC: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
        static HTTP: &[&rustls::SupportedProtocolVersion] =
            &[&rustls::version::TLS13, &rustls::version::TLS12];
        match self {
            Self::Grpc => GRPC,
            Self::Http => HTTP,
        }
    }
}

/// The one crypto provider; never the process default, which panics when two providers are compiled in.
pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
