//! First contact: a join token against a certificate. The server is known by the token's pin only. A retry, also
//! after a crash, comes with the same key and gets the same answer.

use std::sync::Arc;

use anyhow::{Context, bail};
use certs::client::{self, Expect, Trust};
use certs::{Connector, JoinToken, PrivateKey, Protocol, Proxy, ReloadableIdentity};
use proto::api::enrolment::EnrolRequest;
use proto::api::enrolment::enrolment_client::EnrolmentClient;
use proto::ids::ClusterId;
use tonic::transport::Endpoint;

use super::identity::{EnrolEndpoint, Enrolled, StoredIdentity};
use super::known::KnownCentre;
use crate::cluster::Secrets;

/// The identity, enrolled: as kept, or by this token. Needs no token once enrolled. Another token for the same
/// cluster than the one that was used is a new invitation: it is used up; where that does not work, what is kept is.
pub async fn identity(
    secrets: &Arc<dyn Secrets>,
    token: Option<&JoinToken>,
    cluster_uid: &str,
    proxy: Option<&Proxy>,
) -> anyhow::Result<StoredIdentity> {
    let kept = StoredIdentity::load(&**secrets).await?;
    let kept = match kept {
        Some(kept) => Some(completed(kept, &**secrets, token).await?),
        None => None,
    };
    if let Some(kept) = kept.as_ref().filter(|k| k.enrolled.is_some()) {
        let other = token.filter(|t| t.cluster != kept.cluster.as_str());
        if let Some(token) = other {
            bail!("this cluster is enrolled as {} and the join token is for {}", kept.cluster, token.cluster);
        }
        let Some(token) = token.filter(|t| t.id.to_string() != kept.token_id) else {
            return Ok(kept.clone());
        };
        return Ok(match again(&**secrets, token, cluster_uid, proxy).await {
            Ok(fresh) => fresh,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the new join token was not used");
                kept.clone()
            }
        });
    }
    let token = token.context("this cluster has no identity yet: a join token is needed")?;
    let cluster: ClusterId = token.cluster.parse().context("read the join token")?;
    let token_id = token.id.to_string();
    let mut stored = if let Some(kept) = kept.filter(|k| k.token_id == token_id && k.cluster == cluster) {
        kept
    } else {
        let fresh = fresh(cluster, token_id)?;
        fresh.save(&**secrets).await?;
        fresh
    };
    let enrolled = enrol(token, &stored, cluster_uid, proxy).await?;
    stored.enrolled = Some(enrolled);
    stored.save(&**secrets).await?;
    tracing::info!(cluster = %stored.cluster, "enrolled");
    Ok(stored)
}

/// Enrols anew with a new key. What is kept is replaced only by what works, so the key of an attempt that was cut
/// off is lost, and its token with it.
async fn again(
    secrets: &dyn Secrets,
    token: &JoinToken,
    cluster_uid: &str,
    proxy: Option<&Proxy>,
) -> anyhow::Result<StoredIdentity> {
    let cluster: ClusterId = token.cluster.parse().context("read the join token")?;
    let mut fresh = fresh(cluster, token.id.to_string())?;
    fresh.enrolled = Some(enrol(token, &fresh, cluster_uid, proxy).await?);
    fresh.save(secrets).await?;
    tracing::info!(cluster = %fresh.cluster, "enrolled again, with another join token");
    Ok(fresh)
}

/// An identity of its own two keys, nothing done with it yet.
fn fresh(cluster: ClusterId, token_id: String) -> anyhow::Result<StoredIdentity> {
    Ok(StoredIdentity {
        cluster,
        token_id,
        key_pem: PrivateKey::generate()?.to_pem(),
        identity_key_pem: Some(PrivateKey::generate()?.to_pem()),
        recoveries: 0,
        recovering_key_pem: None,
        enrolled: None,
        centre: KnownCentre::default(),
    })
}

/// With what an earlier version did not keep: the identity key, which the next renewal registers, and where it
/// enrolled, as long as the token is still there.
async fn completed(
    kept: StoredIdentity,
    secrets: &dyn Secrets,
    token: Option<&JoinToken>,
) -> anyhow::Result<StoredIdentity> {
    let mut whole = kept.clone();
    if whole.identity_key_pem.is_none() {
        whole.identity_key_pem = Some(PrivateKey::generate()?.to_pem());
    }
    let token = token.filter(|token| token.id.to_string() == kept.token_id);
    if let (Some(enrolled), Some(token)) = (&mut whole.enrolled, token) {
        enrolled.enrol_endpoint.get_or_insert_with(|| endpoint_of(token));
    }
    if whole != kept {
        whole.save(secrets).await?;
    }
    Ok(whole)
}

fn endpoint_of(token: &JoinToken) -> EnrolEndpoint {
    EnrolEndpoint { addr: token.addr.clone(), server_name: token.server_name.clone() }
}

async fn enrol(
    token: &JoinToken,
    stored: &StoredIdentity,
    cluster_uid: &str,
    proxy: Option<&Proxy>,
) -> anyhow::Result<Enrolled> {
    let key = PrivateKey::from_pem(&stored.key_pem).context("read the kept key")?;
    let identity = stored.identity_key_pem.as_deref().context("no identity key is kept")?;
    let identity = PrivateKey::from_pem(identity).context("read the identity key")?;
    let trust = Trust::Pin(token.pin);
    let config = client::config(&ReloadableIdentity::empty(), trust, Expect::Name, Protocol::Grpc)?;
    let mut connector = Connector::new(config).with_proxy(proxy.cloned());
    if let Some(name) = &token.server_name {
        connector = connector.with_server_name(name)?;
    }
    let endpoint = Endpoint::from_shared(format!("http://{}", token.addr))?;
    let what = || format!("reach the enrolment endpoint {}", token.addr);
    let channel = endpoint.connect_with_connector(connector).await.with_context(what)?;
    let request = EnrolRequest {
        token: format!("{}.{}", token.id, token.secret.reveal()),
        csr_pem: key.csr_pem()?,
        kube_system_uid: cluster_uid.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        identity_csr_pem: identity.csr_pem()?,
    };
    let reply = EnrolmentClient::new(channel).enrol(request).await;
    let reply = reply.map_err(|status| anyhow::anyhow!("enrol: {}: {}", status.code(), status.message()))?;
    let reply = reply.into_inner();
    if reply.cluster != stored.cluster.as_str() {
        bail!("the centre answered for cluster {}, the token is for {}", reply.cluster, stored.cluster);
    }
    if reply.link_endpoints.is_empty() {
        bail!("the centre named no link endpoint");
    }
    Ok(Enrolled {
        chain_pem: reply.chain_pem,
        bundle_pem: reply.bundle_pem,
        trust_domain: reply.trust_domain,
        link_endpoints: reply.link_endpoints,
        enrol_endpoint: Some(endpoint_of(token)),
    })
}
