//! The store of a real installation: etcd, shared by all replicas. The only module that knows
//! etcd-client. All keys live under a configurable prefix that callers never see.

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Certificate, Client, CompareOp, ConnectOptions, DeleteOptions, GetOptions, Identity, KeyValue, KvClient,
    PutOptions, TlsOptions, TxnOp,
};

use super::txn::check_key;
use super::{
    Compare, Entry, Error, Health, Lease, LeaseId, Limits, Op, Outcome, Page, PageRequest, Revision, Store,
    Txn, WatchStream,
};

mod failure;
mod watch;

/// Largest answer accepted. tonic's default of 4 MiB is less than etcd puts in one watch answer.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Where etcd is and how to talk to it.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// `http://host:port` or, with `tls`, `https://host:port` of each member.
    pub endpoints: Vec<String>,
    /// What every key starts with in etcd; not empty. Several fleets may share one etcd.
    pub prefix: String,
    /// Certificates; `None` talks in the clear.
    pub tls: Option<EtcdTls>,
    /// Bound of each call, connecting included.
    pub request_timeout: Duration,
    /// Bound of a connection attempt.
    pub connect_timeout: Duration,
    /// Time between HTTP/2 pings; etcd cuts who pings more often than every 5 s.
    pub keepalive_interval: Duration,
    /// How long a ping may stay unanswered before the connection counts as dead.
    pub keepalive_timeout: Duration,
    /// Bounds checked before sending.
    pub limits: Limits,
}

/// How to know etcd and to be known by it. PEM throughout.
#[derive(Clone)]
pub struct EtcdTls {
    /// The authorities that may vouch for etcd; no others are trusted.
    pub ca_pem: Vec<u8>,
    /// Our certificate chain and key, if etcd asks for one.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in etcd's certificate, if not the host of the endpoint.
    pub server_name: Option<String>,
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl EtcdConfig {
    /// The defaults, in the clear.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            prefix: "/faultline/".to_owned(),
            tls: None,
            request_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(3),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(3),
            limits: Limits::default(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let scheme = if self.tls.is_some() { "https://" } else { "http://" };
        if self.prefix.is_empty() {
            return Err(Error::Config("the key prefix is empty".to_owned()));
        }
        if self.endpoints.is_empty() {
            return Err(Error::Config("no etcd endpoint".to_owned()));
        }
        match self.endpoints.iter().find(|endpoint| !endpoint.starts_with(scheme)) {
            Some(wrong) => Err(Error::Config(format!("etcd endpoint {wrong} does not start with {scheme}"))),
            None => Ok(()),
        }
    }

    fn options(&self) -> ConnectOptions {
        let options = ConnectOptions::new()
            .with_connect_timeout(self.connect_timeout)
            .with_keep_alive(self.keepalive_interval, self.keepalive_timeout)
            .with_keep_alive_while_idle(true)
            // A member cut off from the others must not leave a watch silent.
            .with_require_leader(true);
        let Some(tls) = &self.tls else { return options };
        let mut with = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca_pem));
        if let Some((certificate, key)) = &tls.identity_pem {
            with = with.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &tls.server_name {
            with = with.domain_name(name);
        }
        options.with_tls(with)
    }
}

/// A store in etcd. Its connections are made when needed and again after each failure.
pub struct EtcdStore {
    client: Client,
    kv: KvClient,
    config: EtcdConfig,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore").field("config", &self.config).finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// Prepares the connections; etcd need not be there yet, [`Store::health`] tells.
    ///
    /// # Errors
    /// [`Error::Config`] when it could never work.
    pub async fn connect(mut config: EtcdConfig) -> Result<Self, Error> {
        config.check()?;
        // Always one separator, or `/a` and `/ab` would share keys.
        config.prefix = format!("{}/", config.prefix.trim_end_matches('/'));
        let client = Client::connect(&config.endpoints, Some(config.options()))
            .await
            .map_err(|error| Error::Config(error.to_string()))?;
        let kv = client
            .kv_client()
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .max_encoding_message_size(MAX_ANSWER_BYTES);
        Ok(Self { client, kv, config })
    }

    fn full(&self, key: &str) -> Vec<u8> {
        format!("{}{key}", self.config.prefix).into_bytes()
    }

    async fn call<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T, etcd_client::Error>> + Send,
    ) -> Result<T, Error> {
        let within = self.config.request_timeout;
        match tokio::time::timeout(within, call).await {
            Ok(answer) => answer.map_err(|error| failure::translate(operation, error)),
            Err(_) => Err(Error::Timeout { operation, within }),
        }
    }

    fn entry(&self, kv: &KeyValue) -> Result<Entry, Error> {
        entry(&self.config.prefix, kv)
    }

    fn compare(&self, compare: &Compare) -> etcd_client::Compare {
        use etcd_client::Compare as C;
        let key = self.full(compare.key());
        match compare {
            Compare::ModRevision(_, revision) => C::mod_revision(key, CompareOp::Equal, *revision as i64),
            Compare::CreateRevision(_, revision) => {
                C::create_revision(key, CompareOp::Equal, *revision as i64)
            }
            Compare::Absent(_) => C::create_revision(key, CompareOp::Equal, 0),
            Compare::Exists(_) => C::create_revision(key, CompareOp::Greater, 0),
        }
    }

    fn op(&self, op: Op) -> TxnOp {
        match op {
            Op::Put(key, value, lease) => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                TxnOp::put(self.full(&key), value.to_vec(), options)
            }
            Op::Delete(key) => TxnOp::delete(self.full(&key), None),
            Op::DeletePrefix(prefix) => {
                let start = self.full(&prefix);
                let end = range_end(&start);
                TxnOp::delete(start, Some(DeleteOptions::new().with_range(end)))
            }
        }
    }

    /// Fills in what etcd does not tell with "future revision".
    async fn locate(&self, error: Error, seen: Revision) -> Error {
        match error {
            Error::Rewound { .. } => match self.health().await {
                Ok(health) => Error::Rewound { seen, current: health.revision },
                Err(error) => error,
            },
            Error::Compacted { .. } => Error::Compacted { compact_revision: seen },
            error => error,
        }
    }
}

/// The first key after all keys that start with `prefix`, which is UTF-8 and not empty.
fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1; // no byte of UTF-8 is 0xff
    }
    end
}

fn stripped(prefix: &str, kv: &KeyValue) -> Result<String, Error> {
    let key = std::str::from_utf8(kv.key()).ok().and_then(|key| key.strip_prefix(prefix));
    let key =
        key.ok_or_else(|| Error::Corrupt(format!("foreign key {:?}", kv.key().escape_ascii().to_string())))?;
    Ok(key.to_owned())
}

fn entry(prefix: &str, kv: &KeyValue) -> Result<Entry, Error> {
    Ok(Entry {
        key: stripped(prefix, kv)?,
        value: Bytes::copy_from_slice(kv.value()),
        create_revision: kv.create_revision() as u64,
        mod_revision: kv.mod_revision() as u64,
        version: kv.version() as u64,
        lease: (kv.lease() != 0).then_some(LeaseId(kv.lease())),
    })
}

fn revision(header: Option<&etcd_client::ResponseHeader>) -> Revision {
    header.map_or(0, |header| header.revision() as u64)
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        check_key(key)?;
        let mut kv = self.kv.clone();
        let answer = self.call("get", kv.get(self.full(key), None)).await?;
        answer.kvs().first().map(|kv| self.entry(kv)).transpose()
    }

    async fn list(&self, prefix: &str, page: PageRequest) -> Result<Page, Error> {
        let start = self.full(prefix);
        let end = range_end(&start);
        let start = match page.after.as_deref() {
            Some(after) if after >= prefix => [self.full(after).as_slice(), b"\0"].concat(),
            _ => start,
        };
        // etcd takes a limit or a revision of 0 for none.
        let mut options = GetOptions::new().with_range(end).with_limit(page.limit.max(1) as i64);
        if let Some(revision) = page.revision {
            options = options.with_revision(revision as i64);
        }
        let mut kv = self.kv.clone();
        let answer = match self.call("list", kv.get(start, Some(options))).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.locate(error, page.revision.unwrap_or(0)).await),
        };
        Ok(Page {
            entries: answer.kvs().iter().map(|kv| self.entry(kv)).collect::<Result<_, _>>()?,
            revision: page.revision.unwrap_or_else(|| revision(answer.header())),
            more: answer.more(),
        })
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        self.config.limits.check(&txn)?;
        let lease = txn.ops.iter().find_map(|op| if let Op::Put(_, _, lease) = op { *lease } else { None });
        let compare: Vec<_> = txn.compare.iter().map(|compare| self.compare(compare)).collect();
        let ops: Vec<_> = txn.ops.into_iter().map(|op| self.op(op)).collect();
        let mut kv = self.kv.clone();
        let request = etcd_client::Txn::new().when(compare).and_then(ops);
        let answer = match self.call("txn", kv.txn(request)).await {
            Err(Error::LeaseNotFound(unnamed)) => return Err(Error::LeaseNotFound(lease.unwrap_or(unnamed))),
            answer => answer?,
        };
        let revision = revision(answer.header());
        Ok(if answer.succeeded() { Outcome::Committed { revision } } else { Outcome::Conflict { revision } })
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        self.open_watch(prefix, from.max(1)).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<Lease, Error> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let mut client = self.client.lease_client();
        let answer = self.call("grant lease", client.grant(seconds.max(1) as i64, None)).await?;
        Ok(Lease { id: LeaseId(answer.id()), ttl: Duration::from_secs(answer.ttl() as u64) })
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration, Error> {
        let mut client = self.client.lease_client();
        let kept = self
            .call("keep lease alive", async {
                // The first answer is checked and swallowed by the client: ask again for the ttl.
                let (mut keeper, mut answers) = client.keep_alive(id.0).await?;
                keeper.keep_alive().await?;
                answers.message().await
            })
            .await;
        match kept {
            Ok(Some(answer)) if answer.ttl() > 0 => Ok(Duration::from_secs(answer.ttl() as u64)),
            Ok(_) | Err(Error::LeaseNotFound(_)) => Err(Error::LeaseNotFound(id)),
            Err(error) => Err(error),
        }
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        let mut client = self.client.lease_client();
        match self.call("revoke lease", client.revoke(id.0)).await {
            Ok(_) | Err(Error::LeaseNotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let mut kv = self.kv.clone();
        match self.call("compact", kv.compact(revision as i64, None)).await {
            Ok(_) | Err(Error::Compacted { .. }) => Ok(()),
            Err(error) => Err(self.locate(error, revision).await),
        }
    }

    async fn health(&self) -> Result<Health, Error> {
        let mut kv = self.kv.clone();
        let options = GetOptions::new().with_count_only();
        let answer = self.call("health", kv.get(self.config.prefix.as_bytes(), Some(options))).await?;
        Ok(Health { revision: revision(answer.header()) })
    }
}
