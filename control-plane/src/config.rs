//! What a control plane is told at its start. Made by the command line; checked as a whole, so
//! that every mistake is reported at once and before anything is bound.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use certs::{Credential, TrustDomain};

use crate::audit::AuditConfig;
use crate::enrolment::{AGENT_TTL, RecoveryConfig};
use crate::retention::RetentionConfig;
use crate::store::etcd::EtcdConfig;

/// Where the state lives.
#[derive(Debug, Clone)]
pub enum StoreChoice {
    /// One file in this directory, for one replica.
    Embedded {
        /// Made if it is not there.
        data_dir: PathBuf,
    },
    /// etcd, for production.
    Etcd(Box<EtcdConfig>),
    /// In memory: everything is gone with the process.
    Memory,
}

/// Settings of a control plane.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the state lives.
    pub store: StoreChoice,
    /// REST. Default 0.0.0.0:7443.
    pub rest_addr: SocketAddr,
    /// Agents' links. Default 0.0.0.0:7444.
    pub link_addr: SocketAddr,
    /// Enrolment. Default 0.0.0.0:7445.
    pub enrol_addr: SocketAddr,
    /// Health and metrics. Default 0.0.0.0:9090.
    pub health_addr: SocketAddr,
    /// Names and addresses in the server certificates, beside those of the advertised endpoints
    /// and of this machine's loopback.
    pub advertise: Vec<String>,
    /// `host:port` that agents dial. Default: the bound link address.
    pub link_advertise: Option<String>,
    /// `host:port` that goes into join tokens. Default: the bound enrolment address.
    pub enrol_advertise: Option<String>,
    /// `host:port` at which other replicas dial this one's link address. Default: the bound link
    /// address, with this machine's name where that is every address.
    pub peer_advertise: Option<String>,
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// At least 16 bytes: encrypts the CA's keys in the store.
    pub kek_file: PathBuf,
    /// The bootstrap admin's bearer token.
    pub admin_token_file: PathBuf,
    /// Certificate chain and key of the REST port; the centre's own CA where absent.
    pub rest_tls: Option<(PathBuf, PathBuf)>,
    /// How often these two files are looked at for a new certificate.
    pub rest_reload: Duration,
    /// How long agents' certificates are valid; renewed at half of it.
    pub agent_ttl: Duration,
    /// Which agents come back by themselves after their certificate expired.
    pub recovery: RecoveryConfig,
    /// How often agents and centre say that they are alive.
    pub heartbeat: Duration,
    /// How the audit is kept, sent and deleted.
    pub audit: AuditConfig,
    /// How often the leader deletes what is old and compacts the store.
    pub retention: RetentionConfig,
    /// This machine's or pod's name, for logs and the store.
    pub host: String,
}

impl Config {
    /// The defaults.
    pub fn new(store: StoreChoice, kek_file: PathBuf, admin_token_file: PathBuf) -> Self {
        let any = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        Self {
            store,
            rest_addr: any(7443),
            link_addr: any(7444),
            enrol_addr: any(7445),
            health_addr: any(9090),
            advertise: Vec::new(),
            link_advertise: None,
            enrol_advertise: None,
            peer_advertise: None,
            trust_domain: "faultline.local".to_owned(),
            kek_file,
            admin_token_file,
            rest_tls: None,
            rest_reload: Duration::from_secs(30),
            agent_ttl: AGENT_TTL,
            recovery: RecoveryConfig::default(),
            heartbeat: Duration::from_secs(5),
            audit: AuditConfig::default(),
            retention: RetentionConfig::default(),
            host: "control-plane".to_owned(),
        }
    }
}

/// Every mistake of a configuration.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot work: {}", .0.join("; "))]
pub struct Mistakes(pub Vec<String>);

/// A configuration that was checked, its files read.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) kek: Vec<u8>,
    pub(crate) admin_token: String,
    pub(crate) rest_tls: Option<Credential>,
}

impl Config {
    /// Everything that is wrong with it, each as one sentence that names the flag.
    pub fn mistakes(&self) -> Vec<String> {
        self.check().err().map_or_else(Vec::new, |Mistakes(mistakes)| mistakes)
    }

    /// Reads the files and checks everything.
    ///
    /// # Errors
    /// [`Mistakes`], all of them.
    pub(crate) fn check(&self) -> Result<Checked, Mistakes> {
        let mut mistakes = Vec::new();
        let mut read = |what: &str, path: &PathBuf| {
            std::fs::read(path)
                .map_err(|error| mistakes.push(format!("read {what} {}: {error}", path.display())))
                .ok()
        };
        let kek = read("--kek-file", &self.kek_file).unwrap_or_default();
        let token = read("--admin-token-file", &self.admin_token_file).unwrap_or_default();
        let rest_tls = self.rest_tls.as_ref().and_then(|(chain, key)| {
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            let (chain, key) = (read("--rest-cert", chain), read("--rest-key", key));
            Some(Credential { chain_pem: text(chain?), key_pem: text(key?) })
        });
        let files_read = mistakes.is_empty();
        if files_read && kek.len() < 16 {
            mistakes.push(format!("--kek-file {} holds fewer than 16 bytes", self.kek_file.display()));
        }
        let admin_token = String::from_utf8_lossy(&token).trim().to_owned();
        if files_read && admin_token.len() < 16 {
            mistakes.push(format!(
                "--admin-token-file {} holds fewer than 16 characters",
                self.admin_token_file.display()
            ));
        }
        for (flag, value) in [
            ("--link-advertise", &self.link_advertise),
            ("--enrol-advertise", &self.enrol_advertise),
            ("--peer-advertise", &self.peer_advertise),
        ] {
            if let Some(text) = value
                && host_of(text).is_none()
            {
                mistakes.push(format!("{flag} {text:?} is not host:port"));
            }
        }
        if let Some(tls) = &rest_tls
            && let Err(error) = certs::ReloadableIdentity::new(tls)
        {
            mistakes.push(format!("--rest-cert, --rest-key: {error}"));
        }
        if self.audit.keep_for < Duration::from_hours(1) {
            mistakes.push("--audit-retention is shorter than 1 h".to_owned());
        }
        if self.retention.compact_every.is_some_and(|every| every < Duration::from_mins(1)) {
            mistakes.push("--store-compaction is shorter than 1 min: 0 turns it off".to_owned());
        }
        if self.heartbeat < Duration::from_millis(100) {
            mistakes.push("the heartbeat interval is shorter than 100 ms".to_owned());
        }
        match TrustDomain::new(self.trust_domain.clone()) {
            Ok(trust_domain) if mistakes.is_empty() => {
                Ok(Checked { trust_domain, kek, admin_token, rest_tls })
            }
            Ok(_) => Err(Mistakes(mistakes)),
            Err(error) => {
                mistakes.push(format!("--trust-domain: {error}"));
                Err(Mistakes(mistakes))
            }
        }
    }
}

impl Config {
    /// `host:port` for other replicas; an IPv6 address may come without brackets, as the
    /// environment of a pod has it.
    ///
    /// # Errors
    /// When the listener has no address.
    pub(crate) fn peer_address(&self, link: &tokio::net::TcpListener) -> std::io::Result<String> {
        let bound = link.local_addr()?;
        Ok(match &self.peer_advertise {
            Some(given) => match given.rsplit_once(':') {
                Some((host, port)) if host.contains(':') && !host.starts_with('[') => {
                    format!("[{host}]:{port}")
                }
                _ => given.clone(),
            },
            None if bound.ip().is_unspecified() => format!("{}:{}", self.host, bound.port()),
            None => bound.to_string(),
        })
    }
}

/// The host of `host:port`, without the brackets of an IPv6 address.
pub(crate) fn host_of(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (port > 0 && !host.is_empty() && !host.contains(['/', '@', ' '])).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_reported_at_once() {
        let mut config = Config::new(StoreChoice::Memory, "/nowhere/kek".into(), "/nowhere/token".into());
        config.trust_domain = "Not A Domain".to_owned();
        config.link_advertise = Some("no-port".to_owned());
        config.peer_advertise = Some(":7444".to_owned());
        config.heartbeat = Duration::ZERO;
        config.audit.keep_for = Duration::from_mins(59);
        config.retention.compact_every = Some(Duration::ZERO);
        let Mistakes(mistakes) = config.check().unwrap_err();
        assert_eq!(mistakes.len(), 8, "{mistakes:#?}");
    }

    #[tokio::test]
    async fn replicas_are_told_an_address_that_can_be_dialled() {
        let mut config = Config::new(StoreChoice::Memory, "k".into(), "t".into());
        config.host = "cp-0".to_owned();
        let bind = async |addr: &str| tokio::net::TcpListener::bind(addr).await.unwrap();
        let (one, all) = (bind("127.0.0.1:0").await, bind("0.0.0.0:0").await);
        let port = all.local_addr().unwrap().port();
        assert_eq!(config.peer_address(&one).unwrap(), one.local_addr().unwrap().to_string());
        assert_eq!(config.peer_address(&all).unwrap(), format!("cp-0:{port}"));
        for (given, wanted) in [
            ("10.0.0.3:7444", "10.0.0.3:7444"),
            ("fd00::3:7444", "[fd00::3]:7444"),
            ("[fd00::3]:1", "[fd00::3]:1"),
        ] {
            config.peer_advertise = Some(given.to_owned());
            assert_eq!(config.peer_address(&all).unwrap(), wanted);
        }
    }

    #[test]
    fn hosts_lose_their_port_and_brackets() {
        assert_eq!(host_of("a.example:7444").as_deref(), Some("a.example"));
        assert_eq!(host_of("[::1]:7444").as_deref(), Some("::1"));
        for bad in ["a.example", ":1", "a:0", "a:b", "", "https://a:1", "me@a:1", "a b:1"] {
            assert_eq!(host_of(bad), None, "{bad}");
        }
    }
}
