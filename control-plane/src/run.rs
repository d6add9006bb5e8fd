//! A control plane as a process: listeners over one replica. Any part that ends before it was told
//! to is fatal; told to, agents are sent elsewhere before the parts end, within a deadline.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use certs::server::{self, ClientAuth};
use certs::{Acceptor, PeerRules, Protocol, Reloadable, ReloadableIdentity, TrustBundle};
use prometheus_client::metrics::gauge::Gauge;
use proto::api::enrolment::enrolment_server::EnrolmentServer;
use proto::api::link::link_server::LinkServer;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::cache::Cache;
use crate::centre::listed;
use crate::config::{Checked, Config, StoreChoice, host_of};
use crate::driver::clock::Clock;
use crate::enrolment::{EnrolmentService, Signer};
use crate::link::LinkConfig;
use crate::link::grpc::LinkService;
use crate::peers::PeersConfig;
use crate::replica::{Replica, ReplicaConfig, Started};
use crate::rest;
use crate::store::etcd::EtcdStore;
use crate::store::memory::MemoryStore;
use crate::store::redb::RedbStore;
use crate::store::{Limits, Store};

/// A connection's receive window. Below it, many small messages end the connection (federation).
const CONNECTION_WINDOW: u32 = 8 << 20;
const STREAM_WINDOW: u32 = 256 << 10;
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(3);
/// How long agents have to leave.
const DRAIN_WITHIN: Duration = Duration::from_secs(8);
/// How long the parts have to end after that.
const END_WITHIN: Duration = Duration::from_secs(12);
/// The largest link message, in bytes: a complete list of authored objects.
const MAX_MESSAGE_BYTES: usize = 2 << 20;

/// Of one request's headers.
const MAX_HEADER_LIST_BYTES: u32 = 16 << 10;
const ENROL_CONNECTIONS: usize = 2048;
/// An enrolment is one request: who stays longer is sent away.
const ENROL_AGE: Duration = Duration::from_mins(1);
const ENROL_GRACE: Duration = Duration::from_secs(20);

/// Bound sockets, so that a caller knows the addresses before anything is served.
#[derive(Debug)]
pub struct Listeners {
    /// REST.
    pub rest: TcpListener,
    /// Links.
    pub link: TcpListener,
    /// Enrolment.
    pub enrol: TcpListener,
    /// Health and metrics.
    pub health: TcpListener,
}

impl Listeners {
    /// Binds the configured addresses.
    ///
    /// # Errors
    /// Names the address that cannot be bound.
    pub async fn bind(config: &Config) -> anyhow::Result<Self> {
        let bind =
            |addr| async move { TcpListener::bind(addr).await.with_context(|| format!("bind {addr}")) };
        Ok(Self {
            rest: bind(config.rest_addr).await?,
            link: bind(config.link_addr).await?,
            enrol: bind(config.enrol_addr).await?,
            health: bind(config.health_addr).await?,
        })
    }
}

/// Serves until `shutdown`.
///
/// # Errors
/// [`crate::config::Mistakes`] before anything is bound; later, what ended the process.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    config.check()?;
    let listeners = Listeners::bind(&config).await?;
    serve(config, listeners, shutdown).await
}

/// As [`run`], on sockets that are bound already.
///
/// # Errors
/// As [`run`].
pub async fn serve(config: Config, listeners: Listeners, shutdown: CancellationToken) -> anyhow::Result<()> {
    let checked = config.check()?;
    let clock = Clock::new();
    let store = open(&config.store).await.context("open the store")?;
    let replica = clock.new_replica(&config.host);
    let signer =
        Signer::load(store.as_ref(), &checked.kek, &checked.trust_domain, &replica, clock.now()).await;
    let signer = Arc::new(signer.context("load the CA")?.with_agent_ttl(config.agent_ttl));
    let advertised = |given: &Option<String>, listener: &TcpListener| match given {
        Some(given) => Ok(given.clone()),
        None => listener.local_addr().map(|addr| addr.to_string()),
    };
    let link_advertise = advertised(&config.link_advertise, &listeners.link)?;
    let enrol_advertise = advertised(&config.enrol_advertise, &listeners.enrol)?;
    let names = server_names(&config, &[&link_advertise, &enrol_advertise]);
    let identity = ReloadableIdentity::empty();
    identity.replace(&issue(&signer, &names, &clock)?)?;
    let bundle = Reloadable::new(TrustBundle::from_pem(signer.bundle_pem())?);

    let inner = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let mut settings = ReplicaConfig::new(&replica, enrol_advertise);
    settings.peers = Some(PeersConfig {
        address: config.peer_address(&listeners.link)?,
        identity: identity.clone(),
        bundle: bundle.clone(),
        trust_domain: checked.trust_domain.clone(),
    });
    settings.link_advertise.clone_from(&link_advertise);
    settings.audit = config.audit.clone();
    settings.retention = config.retention;
    settings.recovery = config.recovery;
    settings.link = LinkConfig { heartbeat: config.heartbeat, ..LinkConfig::default() };
    let replica =
        Replica::new(store, signer.clone(), clock.clone(), settings).await?.start(&mut tasks, &inner);
    replica.centre.ensure_admin(&checked.admin_token).await.context("store the bootstrap token")?;
    let expiry = replica.health.certificate_expiry.clone();
    let server = ServerNames { given: names, cache: replica.hub.cache.clone() };
    tasks.spawn(renew(signer.clone(), identity.clone(), server, clock, expiry, inner.clone()));
    let link = LinkService::new(replica.hub.clone(), shutdown.clone());
    let rest_files = config.rest_tls.as_ref();
    let rest_reload = config.rest_reload;
    let ports = Ports { replica: &replica, identity, bundle, checked: &checked, rest_files, rest_reload };
    ports.serve(listeners, &link, link_advertise, &mut tasks, &shutdown, &inner)?;
    tracing::info!(pin = %signer.pin(), "control plane serves");

    tokio::select! {
        () = shutdown.cancelled() => {}
        Some(ended) = tasks.join_next() => {
            ended.context("a part of the control plane panicked")??;
            if !shutdown.is_cancelled() {
                anyhow::bail!("a part of the control plane ended by itself");
            }
        }
    }
    replica.health.set_draining();
    end(&link, &inner, tasks).await
}

/// Sends agents elsewhere, then ends the parts; each within its time.
async fn end(
    link: &LinkService,
    inner: &CancellationToken,
    mut tasks: JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    if tokio::time::timeout(DRAIN_WITHIN, link.drained()).await.is_err() {
        tracing::warn!("agents did not leave in time");
    }
    inner.cancel();
    let ended = tokio::time::timeout(END_WITHIN, async {
        while let Some(ended) = tasks.join_next().await {
            ended.context("a part of the control plane panicked")??;
        }
        Ok::<_, anyhow::Error>(())
    });
    ended.await.context("parts of the control plane did not end in time")?
}

/// Opens the store that a configuration names.
///
/// # Errors
/// What keeps it from being opened.
pub async fn open(choice: &StoreChoice) -> Result<Arc<dyn Store>, crate::store::Error> {
    Ok(match choice {
        StoreChoice::Memory => Arc::new(MemoryStore::new()),
        StoreChoice::Etcd(config) => Arc::new(EtcdStore::connect((**config).clone()).await?),
        StoreChoice::Embedded { data_dir } => {
            let disk = |source: std::io::Error| crate::store::Error::Disk {
                operation: "make the data directory",
                source: Box::new(source),
            };
            tokio::fs::create_dir_all(data_dir).await.map_err(disk)?;
            Arc::new(RedbStore::open(data_dir.join("faultline.redb"), Limits::default()).await?)
        }
    })
}

/// Every name under which one of the listeners may be dialled.
fn server_names(config: &Config, advertised: &[&str]) -> Vec<String> {
    let mut names = config.advertise.clone();
    names.extend(advertised.iter().filter_map(|text| host_of(text)));
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    // A listener on every address is dialled by another name than that.
    names.retain(|name| !name.is_empty() && name != "0.0.0.0" && name != "::");
    names.sort();
    names.dedup();
    names
}

fn issue(signer: &Signer, names: &[String], clock: &Clock) -> anyhow::Result<certs::Credential> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    signer.issue_server(&names, clock.now()).context("issue the server certificate")
}

/// What the listeners are called: as configured, and as an admin told agents to dial them.
struct ServerNames {
    given: Vec<String>,
    cache: Arc<Cache>,
}

impl ServerNames {
    fn all(&self) -> Vec<String> {
        let mut names = self.given.clone();
        if let Some(list) = listed(&self.cache) {
            let addresses = list.link_endpoints.iter().chain(&list.enrol_endpoints);
            names.extend(addresses.filter_map(|address| host_of(address)));
        }
        names.sort();
        names.dedup();
        names
    }

    fn issue(&self, signer: &Signer, clock: &Clock) -> anyhow::Result<certs::Credential> {
        issue(signer, &self.all(), clock).or_else(|error| {
            tracing::error!(error = format!("{error:#}"), "the listed addresses cannot be certified");
            issue(signer, &self.given, clock)
        })
    }
}

/// Makes the server certificate anew at half of its life, and when agents are told other addresses, until `shutdown`.
async fn renew(
    signer: Arc<Signer>,
    identity: ReloadableIdentity,
    names: ServerNames,
    clock: Clock,
    expiry: Gauge,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut changes = names.cache.endpoints_changes();
    loop {
        changes.mark_unchanged();
        let credential = names.issue(&signer, &clock)?;
        let lifetime = certs::Lifetime::of_chain_pem(&credential.chain_pem)?;
        identity.replace(&credential)?;
        expiry.set(lifetime.not_after.as_second());
        let at = certs::renewal::renew_at(&lifetime, clock.jitter());
        let pause: Duration = at.duration_since(clock.now()).try_into().unwrap_or(Duration::from_mins(1));
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = changes.changed() => changed.context("the cache is gone")?,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The four listeners of a replica.
struct Ports<'a> {
    replica: &'a Started,
    identity: ReloadableIdentity,
    bundle: Reloadable<TrustBundle>,
    checked: &'a Checked,
    rest_files: Option<&'a (PathBuf, PathBuf)>,
    rest_reload: Duration,
}

impl Ports<'_> {
    fn serve(
        self,
        listeners: Listeners,
        link: &LinkService,
        link_advertise: String,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        shutdown: &CancellationToken,
        inner: &CancellationToken,
    ) -> anyhow::Result<()> {
        let rules = PeerRules {
            trust_domain: self.checked.trust_domain.clone(),
            bundle: self.bundle,
            revocations: self.replica.revocations.clone(),
        };
        let tls = server::config(&self.identity, ClientAuth::Required(rules), Protocol::Grpc)?;
        let service = LinkServer::new(link.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let server = grpc_server().add_service(service).add_service(self.replica.peers.clone().guarded());
        let health = &self.replica.health;
        let serving = server.serve_with_incoming_shutdown(
            Acceptor::new(listeners.link, tls).telling(health.turned_away("link")),
            shutdown.clone().cancelled_owned(),
        );
        tasks.spawn(async move { serving.await.context("serve the links") });

        let tls = server::config(&self.identity, ClientAuth::None, Protocol::Grpc)?;
        let service = EnrolmentService::new(self.replica.enroller.clone(), vec![link_advertise]);
        let mut server = grpc_server()
            .timeout(Duration::from_secs(20))
            .max_connection_age(ENROL_AGE)
            .max_connection_age_grace(ENROL_GRACE);
        let enrolment = EnrolmentServer::new(service.clone()).max_decoding_message_size(64 << 10);
        let server = server.add_service(enrolment);
        let serving = server.serve_with_incoming_shutdown(
            Acceptor::with_limits(listeners.enrol, tls, enrol_limits()).telling(health.turned_away("enrol")),
            shutdown.clone().cancelled_owned(),
        );
        tasks.spawn(async move {
            let served = serving.await.context("serve enrolment");
            service.drained().await;
            served
        });

        let own = self.checked.rest_tls.as_ref().map(ReloadableIdentity::new).transpose();
        let own = own.context("use --rest-cert and --rest-key")?;
        if let (Some(own), Some((chain, key))) = (&own, self.rest_files) {
            let (chain, key, every) = (chain.clone(), key.clone(), self.rest_reload);
            tasks.spawn(rest::certificate::reload(own.clone(), chain, key, every, inner.clone()));
        }
        let identity = own.unwrap_or(self.identity);
        let tls = server::config(&identity, ClientAuth::None, Protocol::Http)?;
        let meter = rest::Meter::default();
        let centre = self.replica.centre.clone();
        let serving = rest::serve(listeners.rest, tls, centre.clone(), meter.clone(), shutdown.clone());
        tasks.spawn(async move { serving.await.context("serve REST") });
        let serving = rest::health::serve(listeners.health, centre, meter, inner.clone());
        tasks.spawn(async move { serving.await.context("serve health") });
        Ok(())
    }
}

/// Nobody who enrols is known yet, and nobody stays.
fn enrol_limits() -> certs::Limits {
    certs::Limits { connections: ENROL_CONNECTIONS, ..certs::Limits::default() }
}

fn grpc_server() -> Server {
    Server::builder()
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_concurrent_streams(16)
        .http2_keepalive_interval(Some(KEEPALIVE_EVERY))
        .http2_keepalive_timeout(Some(KEEPALIVE_WITHIN))
}
