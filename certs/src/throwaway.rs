//! A CA that lives in memory only, with configurations ready to use: for tests of every crate, and for the demo.
//! Not for anything that is meant to be found again after a restart.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::{ClientConfig, ServerConfig};

use crate::Protocol;
use crate::bundle::{self, TrustBundle};
use crate::ca::{self, Authority, Credential};
use crate::client::{self, Expect, Trust};
use crate::identity::{self, Role, TrustDomain};
use crate::reload::{self, Reloadable, ReloadableIdentity};
use crate::server::{self, ClientAuth};
use crate::verify::{PeerRules, Revocations};

/// The names of the server certificate.
pub const SERVER_NAMES: &[&str] = &["localhost", "127.0.0.1", "::1"];
const TTL: Duration = Duration::from_hours(24);

/// Anything that can go wrong while setting up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`identity::Error`].
    #[error("name the trust domain")]
    Identity(#[from] identity::Error),
    /// See [`ca::Error`].
    #[error("make the throwaway CA")]
    Authority(#[from] ca::Error),
    /// See [`bundle::Error`].
    #[error("make the throwaway bundle")]
    Bundle(#[from] bundle::Error),
    /// See [`reload::Error`].
    #[error("load a throwaway certificate")]
    Reload(#[from] reload::Error),
    /// See [`rustls::Error`].
    #[error("make a TLS configuration")]
    Tls(#[from] rustls::Error),
}

/// A CA of the trust domain `throwaway.test`, one server certificate, and handles to change both.
#[derive(Debug)]
pub struct Throwaway {
    /// The CA.
    pub authority: Authority,
    /// Its root; used by every configuration made here.
    pub bundle: Reloadable<TrustBundle>,
    /// The deny list of every server configuration made here; empty at first.
    pub revocations: Reloadable<Revocations>,
    /// The server certificate, for localhost, 127.0.0.1 and ::1, replica `throwaway`.
    pub server: ReloadableIdentity,
    now: Timestamp,
}

impl Throwaway {
    /// Makes the CA and the server certificate, both valid around `now`.
    pub fn new(now: Timestamp) -> Result<Self, Error> {
        let authority = Authority::create(TrustDomain::new("throwaway.test")?, now)?;
        let bundle = Reloadable::new(TrustBundle::from_pem(authority.bundle_pem())?);
        let role = Role::control_plane("throwaway");
        let server =
            ReloadableIdentity::new(&authority.issue_server(SERVER_NAMES, Some(&role), now, TTL)?)?;
        Ok(Self { authority, bundle, revocations: Reloadable::new(Revocations::default()), server, now })
    }

    /// The rules by which its servers let peers in.
    pub fn rules(&self) -> PeerRules {
        PeerRules {
            trust_domain: self.authority.trust_domain().clone(),
            bundle: self.bundle.clone(),
            revocations: self.revocations.clone(),
        }
    }

    /// A gRPC server that requires a certificate.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        Ok(server::config(&self.server, ClientAuth::Required(self.rules()), Protocol::Grpc)?)
    }

    /// A gRPC and HTTP server that lets clients without a certificate in, too.
    pub fn open_server_config(&self) -> Result<Arc<ServerConfig>, Error> {
        Ok(server::config(&self.server, ClientAuth::Optional(self.rules()), Protocol::Http)?)
    }

    /// A certificate for `role`, valid for a day.
    pub fn credential(&self, role: &Role) -> Result<Credential, Error> {
        Ok(self.authority.issue_client(role, self.now, TTL)?)
    }

    /// A gRPC client that dials as `role` and checks the server's name.
    pub fn client_config(&self, role: &Role) -> Result<Arc<ClientConfig>, Error> {
        let identity = ReloadableIdentity::new(&self.credential(role)?)?;
        Ok(client::config(&identity, Trust::Bundle(self.bundle.clone()), Expect::Name, Protocol::Grpc)?)
    }

    /// A gRPC client without a certificate that knows only the root's pin.
    pub fn joining_client_config(&self) -> Result<Arc<ClientConfig>, Error> {
        let trust = Trust::Pin(self.authority.pin());
        Ok(client::config(&ReloadableIdentity::empty(), trust, Expect::Name, Protocol::Grpc)?)
    }
}
