//! The way back after the certificate expired, by the identity key instead of a join token. Counter and new key are
//! kept before the request leaves: after a crash or a lost answer the same request is made again, and gets the same
//! answer. Called by the link before it dials.

use std::time::Duration;

use anyhow::Context;
use certs::client::{self, Expect, Trust};
use certs::recovery::Recovery;
use certs::{Connector, Csr, Protocol, Proxy, ReloadableIdentity};
use jiff::Timestamp;
use proto::api::enrolment::enrolment_client::EnrolmentClient;
use proto::api::enrolment::{RecoverReply, RecoverRequest};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use super::identity::{Credentials, EnrolEndpoint};

/// How long one attempt may take.
const WITHIN: Duration = Duration::from_secs(30);

/// Why the agent did not come back this time.
#[derive(Debug, thiserror::Error)]
pub enum NotRecovered {
    /// The centre said why; asking again soon is no use.
    #[error("the control plane refuses to let this agent recover: {0}")]
    Refused(String),
    /// It was not asked, or could not answer.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

/// What one attempt knows beside the identity.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt<'a> {
    /// On the way to the centre.
    pub(super) proxy: Option<&'a Proxy>,
    /// Uid of the kube-system namespace; empty where it was not seen yet.
    pub(super) cluster_uid: &'a str,
    /// The agent's clock.
    pub(super) now: Timestamp,
    /// Grows with each failure and chooses the endpoint.
    pub(super) number: usize,
}

/// A new certificate for the identity, kept and in use.
pub(super) async fn recover(credentials: &Credentials, attempt: Attempt<'_>) -> Result<(), NotRecovered> {
    let endpoints = credentials.enrol_endpoints();
    let at = attempt.number.checked_rem(endpoints.len()).unwrap_or(0);
    let endpoint = endpoints.get(at).context("where to enrol is not known: a join token is needed")?;
    let identity = credentials.identity_key()?;
    let (counter, key) = credentials.begin_recovery().await?;
    let csr_pem = key.csr_pem().context("ask for a certificate")?;
    let said = Recovery {
        trust_domain: credentials.trust_domain(),
        cluster: credentials.cluster().as_str(),
        kube_system_uid: attempt.cluster_uid,
        counter,
        key_hash: &Csr::from_pem(&csr_pem).context("ask for a certificate")?.key_hash(),
        at_unix_ms: attempt.now.as_millisecond(),
    };
    let request = RecoverRequest {
        cluster: said.cluster.to_owned(),
        counter,
        signature: said.sign(&identity).context("recover")?,
        csr_pem,
        at_unix_ms: said.at_unix_ms,
        kube_system_uid: said.kube_system_uid.to_owned(),
    };
    let asking = ask(credentials, endpoint, attempt.proxy, request);
    let late = || format!("{} did not answer a recovery within {} s", endpoint.addr, WITHIN.as_secs());
    let reply = tokio::time::timeout(WITHIN, asking).await.with_context(late)??;
    credentials.replace(&key, reply.chain_pem, reply.bundle_pem).await?;
    let not_after = credentials.lifetime()?.not_after;
    tracing::warn!(
        event = "AgentRecovered",
        cluster = %credentials.cluster(),
        counter,
        %not_after,
        "came back by the identity key after the certificate expired"
    );
    Ok(())
}

/// The server is known by the roots that were kept, as on the link; the token's pin is not needed any more.
async fn ask(
    credentials: &Credentials,
    endpoint: &EnrolEndpoint,
    proxy: Option<&Proxy>,
    request: RecoverRequest,
) -> Result<RecoverReply, NotRecovered> {
    let trust = Trust::Bundle(credentials.roots());
    let config = client::config(&ReloadableIdentity::empty(), trust, Expect::Name, Protocol::Grpc)
        .context("make a TLS configuration")?;
    let mut connector = Connector::new(config).with_proxy(proxy.cloned());
    if let Some(name) = &endpoint.server_name {
        connector = connector.with_server_name(name).context("use the kept server name")?;
    }
    let what = || format!("reach the enrolment endpoint {} to recover", endpoint.addr);
    let dialled = Endpoint::from_shared(format!("http://{}", endpoint.addr)).with_context(what)?;
    let channel = dialled.connect_with_connector(connector).await.with_context(what)?;
    let reply = EnrolmentClient::new(channel).recover(request).await;
    reply.map(tonic::Response::into_inner).map_err(|status| NotRecovered::from_status(&status))
}

impl NotRecovered {
    fn from_status(status: &Status) -> Self {
        let said = format!("{}: {}", status.code(), status.message());
        match status.code() {
            Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::InvalidArgument
            | Code::Unimplemented => Self::Refused(said),
            _ => Self::Failed(anyhow::anyhow!("recover: {said}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_judged_waits_long_and_what_may_pass_by_itself_does_not() {
        let refused =
            |code| matches!(NotRecovered::from_status(&Status::new(code, "why")), NotRecovered::Refused(_));
        for code in [Code::PermissionDenied, Code::FailedPrecondition, Code::Unauthenticated] {
            assert!(refused(code), "{code}");
        }
        for code in [Code::ResourceExhausted, Code::Unavailable, Code::DeadlineExceeded, Code::Internal] {
            assert!(!refused(code), "{code}");
        }
    }
}
