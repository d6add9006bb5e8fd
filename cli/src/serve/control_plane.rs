//! `faultline serve control-plane`: the centre.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use control_plane::config::{Config, StoreChoice};
use control_plane::store::etcd::{EtcdConfig, EtcdTls};

use super::LogArgs;
use crate::exit::Exit;

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("store").required(true).args(["data_dir", "etcd_endpoints"]))]
pub(crate) struct ControlPlaneArgs {
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
    #[command(flatten)]
    log: LogArgs,
}

pub(crate) fn main(args: ControlPlaneArgs) -> anyhow::Result<Exit> {
    args.log.start()?;
    let store = match &args.data_dir {
        Some(data_dir) => StoreChoice::Embedded { data_dir: data_dir.clone() },
        None => StoreChoice::Etcd(Box::new(etcd(&args)?)),
    };
    let mut config = Config::new(store, args.kek_file, args.admin_token_file);
    config.rest_addr = args.rest_addr;
    config.link_addr = args.link_addr;
    config.enrol_addr = args.enrol_addr;
    config.health_addr = args.health_addr;
    config.advertise = args.advertise;
    config.link_advertise = args.link_advertise;
    config.enrol_advertise = args.enrol_advertise;
    config.trust_domain = args.trust_domain;
    config.rest_tls = args.rest_cert.zip(args.rest_key);
    if let Ok(host) = nix::unistd::gethostname() {
        config.host = host.to_string_lossy().into_owned();
    }
    super::until_signal(|shutdown| control_plane::run(config, shutdown))
}

fn etcd(args: &ControlPlaneArgs) -> anyhow::Result<EtcdConfig> {
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
