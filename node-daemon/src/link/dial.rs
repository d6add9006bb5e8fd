//! The gRPC shell of the node link: enrols with the projected token, dials the active agent over mTLS,
//! pumps messages between the stream and a [`Session`], renews, and dials again when the link is lost.
//! Started by `run` when an agent's address is configured. The only place here that names generated types.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use backon::{BackoffBuilder, ExponentialBuilder};
use certs::client::{Expect, Trust};
use certs::{
    Connector, Credential, Lifetime, PrivateKey, Protocol, Reloadable, ReloadableIdentity, TrustBundle,
};
use jiff::Timestamp;
use proto::api::node as pb;
use proto::api::node::node_link_client::NodeLinkClient;
use proto::ids::{InjectionId, RunId};
use proto::injection::{EndReason, InjectionPhase, InjectionStatus};
use proto::wire::{NodeDown, NodeUp, WireError};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::{Channels, Outbox, Session, SessionEnd};
use crate::metrics::Metrics;

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(20);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(5);
const ENROL_WITHIN: Duration = Duration::from_secs(15);
const RENEW_RETRY: Duration = Duration::from_mins(1);
/// Messages on their way between stream and session.
const DEPTH: usize = 64;

/// Where the agent is and what proves who is who.
#[derive(Debug, Clone)]
pub struct AgentLink {
    /// `host:port` of the Service in front of the active agent.
    pub address: String,
    /// PEM roots of the agent's CA; read again at every try.
    pub bundle: PathBuf,
    /// Projected service-account token; read again at every enrolment.
    pub token: PathBuf,
}

/// Dials for as long as the daemon runs.
#[derive(Debug)]
pub struct Dialler {
    agent: AgentLink,
    session: Session,
    identity: ReloadableIdentity,
    lifetime: Option<Lifetime>,
    metrics: Metrics,
}

impl Dialler {
    /// Nothing is dialled yet.
    pub fn new(agent: AgentLink, session: Session) -> Self {
        let identity = ReloadableIdentity::empty();
        Self { agent, session, identity, lifetime: None, metrics: Metrics::default() }
    }

    /// Shows in these when its certificate ends.
    #[must_use]
    pub fn measured(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Keeps a session open until `stop`. Waits between tries grow, with full jitter, and start anew
    /// after a session that the agent welcomed.
    pub async fn run(mut self, stop: CancellationToken) {
        let policy = ExponentialBuilder::default()
            .with_min_delay(RETRY_FIRST)
            .with_max_delay(RETRY_MAX)
            .without_max_times();
        let mut waits = policy.build();
        loop {
            let welcomed = tokio::select! {
                () = stop.cancelled() => return,
                result = self.once() => match result {
                    Ok((end, welcomed)) => {
                        tracing::warn!(agent = self.agent.address, ?end, "link ended");
                        if end == SessionEnd::Driver {
                            return;
                        }
                        welcomed
                    }
                    Err(error) => {
                        tracing::warn!(agent = self.agent.address, error = format!("{error:#}"), "link failed");
                        false
                    }
                },
            };
            if welcomed {
                waits = policy.build();
            }
            let wait = waits.next().unwrap_or(RETRY_MAX).mul_f64(fastrand::f64());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn once(&mut self) -> anyhow::Result<(SessionEnd, bool)> {
        let bundle = self.bundle().await?;
        let now = Timestamp::now();
        if self.lifetime.as_ref().is_none_or(|lifetime| certs::renewal::is_expired(lifetime, now)) {
            self.enrol().await?;
        }
        let channel = self.connect(&self.identity, bundle).await?;
        let (up, from_session) = mpsc::channel::<NodeUp>(DEPTH);
        let (to_session, down) = mpsc::channel::<NodeDown>(DEPTH);
        let session = self.session.clone();
        let outbox = session.outbox.clone();
        let session = session.run(Channels { up, down });
        let pump = pump(channel, from_session, to_session, &outbox);
        tokio::pin!(session, pump);
        let mut renew_at = self.renew_in(now);
        let mut pumping = true;
        loop {
            tokio::select! {
                end = &mut session => return Ok(end),
                // Its end closes the session's channel, which then ends as Closed.
                result = &mut pump, if pumping => {
                    pumping = false;
                    if let Err(error) = result {
                        tracing::warn!(error = format!("{error:#}"), "link stream ended");
                    }
                }
                () = tokio::time::sleep(renew_at), if pumping => {
                    // The open session goes on; the next one shows the new certificate.
                    renew_at = match self.enrol().await {
                        Ok(()) => self.renew_in(Timestamp::now()),
                        Err(error) => {
                            tracing::warn!(error = format!("{error:#}"), "certificate not renewed");
                            RENEW_RETRY
                        }
                    };
                }
            }
        }
    }

    fn renew_in(&self, now: Timestamp) -> Duration {
        let at = self.lifetime.as_ref().map(|lifetime| certs::renewal::renew_at(lifetime, fastrand::f64()));
        let left = at.map(|at| at.duration_since(now).as_millis());
        left.and_then(|ms| u64::try_from(ms).ok()).map_or(RENEW_RETRY, Duration::from_millis)
    }

    async fn bundle(&self) -> anyhow::Result<Reloadable<TrustBundle>> {
        let path = &self.agent.bundle;
        let pem = tokio::fs::read_to_string(path)
            .await
            .with_context(|| format!("read the agent's bundle {} (the agent writes it)", path.display()))?;
        Ok(Reloadable::new(TrustBundle::from_pem(&pem)?))
    }

    async fn connect(
        &self,
        identity: &ReloadableIdentity,
        bundle: Reloadable<TrustBundle>,
    ) -> anyhow::Result<Channel> {
        let config = certs::client::config(identity, Trust::Bundle(bundle), Expect::Name, Protocol::Grpc)?;
        // TLS is the connector's; an https address would add another on top.
        let endpoint = Endpoint::from_shared(format!("http://{}", self.agent.address))
            .context("use the agent's address")?
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_WITHIN)
            .keep_alive_while_idle(true);
        endpoint.connect_with_connector(Connector::new(config)).await.context("connect to the agent")
    }

    /// A new key and a certificate for it, against the token.
    async fn enrol(&mut self) -> anyhow::Result<()> {
        let bundle = self.bundle().await?;
        let path = &self.agent.token;
        let token = tokio::fs::read_to_string(path)
            .await
            .with_context(|| format!("read the token {}", path.display()))?;
        let key = PrivateKey::generate()?;
        let request = pb::NodeEnrolRequest { token: token.trim().to_owned(), csr_pem: key.csr_pem()? };
        let enrolled = async {
            let channel = self.connect(&ReloadableIdentity::empty(), bundle).await?;
            let reply = NodeLinkClient::new(channel).enrol(request).await.context("enrol with the agent")?;
            anyhow::Ok(reply.into_inner())
        };
        let reply = tokio::time::timeout(ENROL_WITHIN, enrolled).await.context("enrol within 15 s")??;
        let lifetime = Lifetime::of_chain_pem(&reply.chain_pem)?;
        self.identity.replace(&Credential { chain_pem: reply.chain_pem, key_pem: key.to_pem() })?;
        self.lifetime = Some(lifetime);
        self.metrics.certified(lifetime.not_after.as_second());
        tracing::info!(node = reply.node, "enrolled");
        Ok(())
    }
}

/// Moves messages until the stream ends. A message that cannot be understood is left out: it is for
/// something this version does not know. Of an injection the agent is told that nothing was made.
async fn pump(
    channel: Channel,
    from_session: mpsc::Receiver<NodeUp>,
    to_session: mpsc::Sender<NodeDown>,
    outbox: &Outbox,
) -> anyhow::Result<()> {
    let ups = ReceiverStream::new(from_session).map(pb::NodeUp::from);
    let mut downs = NodeLinkClient::new(channel).link(ups).await.context("open the link")?.into_inner();
    while let Some(down) = downs.message().await.context("read the link")? {
        let asked = injection_of(&down);
        match NodeDown::try_from(down) {
            Ok(down) => {
                if to_session.send(down).await.is_err() {
                    return Ok(());
                }
            }
            Err(error) => {
                tracing::warn!(%error, "message not understood");
                if let Some((id, run)) = asked {
                    outbox.push(NodeUp::State(Box::new(refused(id, run, &error))));
                }
            }
        }
    }
    Ok(())
}

/// The injection and the run that a message asks to be made, by its envelope.
fn injection_of(down: &pb::NodeDown) -> Option<(InjectionId, RunId)> {
    match &down.kind {
        Some(pb::node_down::Kind::Inject(inject)) => {
            Some((inject.injection.parse().ok()?, inject.run.parse().ok()?))
        }
        _ => None,
    }
}

fn refused(id: InjectionId, run: RunId, why: &WireError) -> InjectionStatus {
    InjectionStatus {
        id,
        run,
        phase: InjectionPhase::Refused,
        reason: Some(EndReason::Error),
        message: format!(
            "this version of the daemon ({}) does not understand it: {why}",
            env!("CARGO_PKG_VERSION")
        ),
        effect: None,
        backend: String::new(),
        injected_at_unix_ms: None,
        reverted_at_unix_ms: None,
        resolves_at_unix_ms: None,
    }
}
