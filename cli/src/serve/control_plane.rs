//! `faultline serve control-plane`: the centre.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use control_plane::audit::SinkChoice;
use control_plane::config::{Config, StoreChoice};
use control_plane::store::etcd::{EtcdConfig, EtcdTls};

use proto::quantity::{Span, SpanError};

use crate::exit::Exit;
use crate::telemetry::TelemetryArgs;

/// Where the state is.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("store").required(true).args(["data_dir", "etcd_endpoints"]))]
pub(crate) struct StoreArgs {
    /// Embedded store: one file in this directory, for one replica
    #[arg(long, env = "FAULTLINE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// etcd, for production: https://host:2379 of each member
    #[arg(long, env = "FAULTLINE_ETCD_ENDPOINTS", value_delimiter = ',')]
    etcd_endpoints: Vec<String>,
    /// What every key in etcd starts with
    #[arg(long, env = "FAULTLINE_ETCD_PREFIX", default_value = "/faultline")]
    etcd_prefix: String,
    /// Authorities that may vouch for etcd, PEM
    #[arg(long, env = "FAULTLINE_ETCD_CA")]
    etcd_ca: Option<PathBuf>,
    /// Client certificate for etcd, PEM
    #[arg(long, env = "FAULTLINE_ETCD_CERT", requires = "etcd_key", requires = "etcd_ca")]
    etcd_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, env = "FAULTLINE_ETCD_KEY", requires = "etcd_cert")]
    etcd_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ControlPlaneArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// REST, for people and their tools
    #[arg(long, env = "FAULTLINE_REST_ADDR", default_value = "0.0.0.0:7443")]
    rest_addr: SocketAddr,
    /// Links of agents
    #[arg(long, env = "FAULTLINE_LINK_ADDR", default_value = "0.0.0.0:7444")]
    link_addr: SocketAddr,
    /// Enrolment of agents
    #[arg(long, env = "FAULTLINE_ENROL_ADDR", default_value = "0.0.0.0:7445")]
    enrol_addr: SocketAddr,
    /// Health and metrics, plain HTTP
    #[arg(long, env = "FAULTLINE_HEALTH_ADDR", default_value = "0.0.0.0:9090")]
    health_addr: SocketAddr,
    /// Names and addresses in the server certificate
    #[arg(long, env = "FAULTLINE_ADVERTISE", value_delimiter = ',')]
    advertise: Vec<String>,
    /// host:port that agents dial
    #[arg(long, env = "FAULTLINE_LINK_ADVERTISE")]
    link_advertise: Option<String>,
    /// host:port for enrolment; goes into join tokens
    #[arg(long, env = "FAULTLINE_ENROL_ADVERTISE")]
    enrol_advertise: Option<String>,
    /// host:port of the links at which other replicas dial this one; default: what is bound
    #[arg(long, env = "FAULTLINE_PEER_ADVERTISE")]
    peer_advertise: Option<String>,
    /// SPIFFE trust domain of every certificate issued
    #[arg(long, env = "FAULTLINE_TRUST_DOMAIN", default_value = "faultline.local")]
    trust_domain: String,
    /// At least 16 bytes that encrypt the CA's key in the store; losing it means that every member joins again
    #[arg(long, env = "FAULTLINE_KEK_FILE")]
    kek_file: PathBuf,
    /// Bearer token of the first admin
    #[arg(long, env = "FAULTLINE_ADMIN_TOKEN_FILE")]
    admin_token_file: PathBuf,
    /// Certificate chain of the REST port; default: of our own CA
    #[arg(long, env = "FAULTLINE_REST_CERT", requires = "rest_key")]
    rest_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, env = "FAULTLINE_REST_KEY", requires = "rest_cert")]
    rest_key: Option<PathBuf>,
    /// Where the leader sends the audit, at least once: jsonl:FILE, jsonl:FOLDER/ (a file for each
    /// process) or otlp:http(s)://HOST:4317
    #[arg(long, env = "FAULTLINE_AUDIT_SINK", value_name = "SINK")]
    audit_sink: Option<SinkChoice>,
    /// Authorities that may vouch for an https sink, PEM; default: the system's
    #[arg(long, env = "FAULTLINE_AUDIT_SINK_CA", requires = "audit_sink")]
    audit_sink_ca: Option<PathBuf>,
    /// The sink is alarmingly late when it lacks a record older than this
    #[arg(long, env = "FAULTLINE_AUDIT_SINK_ALARM", default_value = "5m", value_parser = some_time)]
    audit_sink_alarm: Duration,
    /// How long the store keeps the audit, the names of past runs and halts that were lifted
    #[arg(long, env = "FAULTLINE_AUDIT_RETENTION", default_value = "720h", value_parser = some_time)]
    audit_retention: Duration,
    /// How often the leader lets the store forget revisions older than this; 0s: never. An etcd that compacts
    /// itself, or is shared, may want that
    #[arg(long, env = "FAULTLINE_STORE_COMPACTION", default_value = "5m", value_parser = duration)]
    store_compaction: Duration,
    /// How long after its certificate expired an agent may come back by itself; 0s: never, it needs a new join token
    #[arg(long, env = "FAULTLINE_RECOVERY_WINDOW", default_value = "720h", value_parser = duration)]
    recovery_window: Duration,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

pub(crate) fn main(args: ControlPlaneArgs) -> anyhow::Result<Exit> {
    let store = args.store.choice()?;
    let mut config = Config::new(store, args.kek_file, args.admin_token_file);
    config.rest_addr = args.rest_addr;
    config.link_addr = args.link_addr;
    config.enrol_addr = args.enrol_addr;
    config.health_addr = args.health_addr;
    config.advertise = args.advertise;
    config.link_advertise = args.link_advertise;
    config.enrol_advertise = args.enrol_advertise;
    config.peer_advertise = args.peer_advertise;
    config.trust_domain = args.trust_domain;
    config.rest_tls = args.rest_cert.zip(args.rest_key);
    config.audit.sink = match (args.audit_sink, args.audit_sink_ca) {
        (Some(SinkChoice::Otlp { endpoint, .. }), Some(path)) => {
            let pem = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Some(SinkChoice::Otlp { endpoint, ca_pem: Some(pem) })
        }
        (sink, _) => sink,
    };
    config.audit.alarm_after = args.audit_sink_alarm;
    config.audit.keep_for = args.audit_retention;
    config.recovery.within = args.recovery_window;
    config.retention.compact_every = Some(args.store_compaction).filter(|every| !every.is_zero());
    if let Ok(host) = nix::unistd::gethostname() {
        config.host = host.to_string_lossy().into_owned();
    }
    let mut problems = args.telemetry.problems();
    problems.extend(config.mistakes());
    super::refuse(&problems)?;
    let _telemetry = args.telemetry.start("faultline-control-plane")?;
    super::until_signal(|shutdown| control_plane::run(config, shutdown))
}

impl StoreArgs {
    /// The store that is meant.
    pub(crate) fn choice(&self) -> anyhow::Result<StoreChoice> {
        Ok(match &self.data_dir {
            Some(data_dir) => StoreChoice::Embedded { data_dir: data_dir.clone() },
            None => StoreChoice::Etcd(Box::new(etcd(self)?)),
        })
    }
}

/// More than nothing.
fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Ok(Duration::ZERO) => Err("must be more than 0s".to_owned()),
        other => other.map_err(|error| error.to_string()),
    }
}

fn duration(text: &str) -> Result<Duration, SpanError> {
    Span::written(text).ms().map(Duration::from_millis)
}

fn etcd(args: &StoreArgs) -> anyhow::Result<EtcdConfig> {
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("read {}", path.display()));
    let mut config = EtcdConfig::new(args.etcd_endpoints.clone());
    config.prefix.clone_from(&args.etcd_prefix);
    if let Some(ca) = &args.etcd_ca {
        let identity = args.etcd_cert.as_ref().zip(args.etcd_key.as_ref());
        let identity_pem =
            identity.map(|(cert, key)| Ok::<_, anyhow::Error>((read(cert)?, read(key)?))).transpose()?;
        config.tls = Some(EtcdTls { ca_pem: read(ca)?, identity_pem, server_name: None });
    }
    Ok(config)
}
