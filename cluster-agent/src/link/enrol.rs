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

use super::identity::{Enrolled, StoredIdentity};
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
        let key_pem = PrivateKey::generate()?.to_pem();
        let fresh = StoredIdentity { cluster, token_id, key_pem, enrolled: None };
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
    let key_pem = PrivateKey::generate()?.to_pem();
    let mut fresh = StoredIdentity { cluster, token_id: token.id.to_string(), key_pem, enrolled: None };
    fresh.enrolled = Some(enrol(token, &fresh, cluster_uid, proxy).await?);
    fresh.save(secrets).await?;
    tracing::info!(cluster = %fresh.cluster, "enrolled again, with another join token");
    Ok(fresh)
}

async fn enrol(
    token: &JoinToken,
    stored: &StoredIdentity,
    cluster_uid: &str,
    proxy: Option<&Proxy>,
) -> anyhow::Result<Enrolled> {
    let key = PrivateKey::from_pem(&stored.key_pem).context("read the kept key")?;
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
    })
}
