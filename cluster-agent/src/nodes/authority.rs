//! The CA of the node links: the agent's own, kept in its Secret, its root published for the daemons.

use anyhow::Context;
use certs::ca::AuthorityPem;
use certs::{Authority, TrustDomain};
use jiff::Timestamp;

use crate::cluster::{Secrets, secret};

/// The CA in use.
pub struct NodeAuthority(Authority);

impl std::fmt::Debug for NodeAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeAuthority").finish_non_exhaustive()
    }
}

impl NodeAuthority {
    /// The kept one, or a new one that is kept before anybody trusts it; its root is published either way.
    pub async fn load(secrets: &dyn Secrets, trust_domain: &str, now: Timestamp) -> anyhow::Result<Self> {
        let kept = secrets.get(secret::NODE_CA).await.context("read the node CA")?;
        let authority = if let Some(bytes) = kept {
            let pem: AuthorityPem = serde_json::from_slice(&bytes).context("read the node CA")?;
            Authority::from_pem(&pem).context("read the node CA")?
        } else {
            let authority = Authority::create(TrustDomain::new(trust_domain)?, now)?;
            let bytes = serde_json::to_vec(&authority.to_pem())?;
            secrets.put(secret::NODE_CA, &bytes).await.context("keep the node CA")?;
            authority
        };
        secrets.publish_node_bundle(authority.bundle_pem()).await.context("publish the node CA's root")?;
        Ok(Self(authority))
    }

    /// The CA.
    pub fn get(&self) -> &Authority {
        &self.0
    }
}
