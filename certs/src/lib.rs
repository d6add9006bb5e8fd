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
pub mod proxy;
pub mod recovery;
pub mod reload;
pub mod renewal;
pub mod server;
pub mod serving;
pub mod signing;
pub mod throwaway;
pub mod token;

mod conn;
mod pem;
mod protocol;
mod provider;
mod shares;
mod verify;

pub use acceptor::{Acceptor, Limits, Plain, TurnedAway};
pub use bundle::{Pin, TrustBundle};
pub use ca::{Authority, Credential, Leaf};
pub use conn::{Conn, ConnInfo};
pub use connector::Connector;
pub use csr::{Csr, PrivateKey};
pub use identity::{Identity, Role, TrustDomain};
pub use peer::{Lifetime, Peer, Serial};
pub use protocol::Protocol;
pub use provider::install_provider;
pub(crate) use provider::provider;
pub use proxy::Proxy;
pub use reload::{Reloadable, ReloadableIdentity};
pub use rustls::{ClientConfig, ServerConfig};
pub use shares::Source;
pub use token::{JoinToken, SecretHash};
pub use verify::{PeerRules, Rejected, Revocations};
