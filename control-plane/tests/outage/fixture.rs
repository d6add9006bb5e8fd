//! A centre of several replicas on one etcd, and what people and clusters do with it.

use std::path::PathBuf;
use std::time::Duration;

use axum::body::Body;
use certs::client::{self, Expect, Trust};
use certs::throwaway::Throwaway;
use certs::{Connector, Credential, JoinToken, PrivateKey, Protocol, ReloadableIdentity};
use control_plane::config::{Config, StoreChoice};
use control_plane::store::etcd::{EtcdConfig, EtcdStore};
use control_plane::{Listeners, serve};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use proto::api::enrolment::EnrolRequest;
use proto::api::enrolment::enrolment_client::EnrolmentClient;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::agent::hello;
use super::link::{Link, Member, channel};
use super::server::EtcdServer;

/// Longer than anything here should take, on a machine with more to do.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// Within this a stop or a halt is answered, and has reached every agent.
pub(crate) const BOUND: Duration = Duration::from_secs(20);
const TOKEN: &str = "a-bootstrap-token-of-the-test";
pub(crate) const KEK: &str = "0123456789abcdef0123456789abcdef";

pub(crate) struct Cell {
    pub(crate) etcd: EtcdServer,
    pub(crate) replicas: Vec<Replica>,
    front: Throwaway,
    dir: tempfile::TempDir,
}

pub(crate) struct Replica {
    pub(crate) rest: String,
    pub(crate) link: String,
    health: String,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Replica {
    /// Ends it without a word, as SIGKILL does.
    pub(crate) async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Cell {
    /// Two replicas that know each other; `None` where tests on etcd are left out.
    pub(crate) async fn start() -> Option<Self> {
        let etcd = EtcdServer::start().await?;
        let front = Throwaway::new(jiff::Timestamp::now()).unwrap();
        let mut cell = Self { etcd, replicas: Vec::new(), front, dir: tempfile::tempdir().unwrap() };
        cell.replicas(2).await;
        Some(cell)
    }

    /// Adds replicas until there are so many, and waits until all know all.
    pub(crate) async fn replicas(&mut self, count: usize) {
        while self.replicas.len() < count {
            self.add_replica().await;
        }
        for replica in &self.replicas {
            self.metric(&replica.health, &format!("faultline_replicas {count}")).await;
        }
    }

    /// One more replica; those before it may still have a lease. Begun again when it ends, as an
    /// orchestrator does: etcd may not serve yet.
    pub(crate) async fn add_replica(&mut self) {
        let replica = eventually("a replica", async || {
            let mut replica = self.replica().await;
            tokio::select! {
                Some(ended) = replica.tasks.join_next() => return Err(format!("{:?}", ended.unwrap())),
                () = self.metric(&replica.health, "faultline_store_up 1") => {}
            }
            Ok(replica)
        });
        let replica = replica.await;
        self.replicas.push(replica);
    }

    async fn replica(&self) -> Replica {
        let file = |name: &str, text: &str| -> PathBuf {
            let path = self.dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let store = StoreChoice::Etcd(Box::new(EtcdConfig::new(vec![self.etcd.endpoint()])));
        let mut config = Config::new(store, file("kek", KEK), file("token", TOKEN));
        let any = "127.0.0.1:0".parse().unwrap();
        (config.rest_addr, config.link_addr, config.enrol_addr, config.health_addr) = (any, any, any, any);
        let day = Duration::from_hours(24);
        let now = jiff::Timestamp::now();
        let own = self.front.authority.issue_server(&["127.0.0.1"], None, now, day).unwrap();
        config.rest_tls = Some((file("rest.crt", &own.chain_pem), file("rest.key", &own.key_pem)));
        let listeners = Listeners::bind(&config).await.unwrap();
        let text = |listener: &tokio::net::TcpListener| listener.local_addr().unwrap().to_string();
        let (rest, link, health) = (text(&listeners.rest), text(&listeners.link), text(&listeners.health));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(config, listeners, CancellationToken::new()));
        Replica { rest, link, health, tasks }
    }

    /// Waits for a line on a replica's page of metrics.
    async fn metric(&self, health: &str, line: &str) {
        let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
        let uri: http::Uri = format!("http://{health}/metrics").parse().unwrap();
        eventually(line, async || {
            let answer = client.get(uri.clone()).await.map_err(|error| error.to_string())?;
            let bytes = answer.into_body().collect().await.unwrap().to_bytes();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if text.lines().any(|known| known == line) { Ok(()) } else { Err(text) }
        })
        .await;
    }

    /// Waits until every replica has found that etcd answers, or that it does not.
    pub(crate) async fn store_up(&self, up: bool) {
        for replica in &self.replicas {
            self.metric(&replica.health, &format!("faultline_store_up {}", u8::from(up))).await;
        }
    }

    pub(crate) async fn store(&self) -> EtcdStore {
        EtcdStore::connect(EtcdConfig::new(vec![self.etcd.endpoint()])).await.unwrap()
    }

    /// One REST call to one replica as the bootstrap admin.
    pub(crate) async fn call(
        &self,
        at: usize,
        method: Method,
        path: &str,
        body: &Value,
    ) -> (StatusCode, Value) {
        let trust = Trust::Bundle(self.front.bundle.clone());
        let tls = client::config(&ReloadableIdentity::empty(), trust, Expect::Name, Protocol::Http).unwrap();
        let client = Client::builder(TokioExecutor::new()).build::<_, Body>(Connector::new(tls));
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.replicas[at].rest))
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json")
            .body(if body.is_null() { Body::empty() } else { Body::from(body.to_string()) })
            .unwrap();
        let answer = tokio::time::timeout(PATIENCE, client.request(request)).await.unwrap().unwrap();
        let status = answer.status();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn done(&self, method: Method, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(0, method, path, body).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    /// Invites, accepts and enrols.
    pub(crate) async fn member(&self, name: &str) -> Member {
        let body = json!({ "name": name, "labels": { "network": "flat" }, "autoAccept": true });
        let invitation = self.done(Method::POST, "/v1/clusters", &body).await;
        let token: JoinToken = invitation["token"].as_str().unwrap().parse().unwrap();
        let key = PrivateKey::generate().unwrap();
        let request = EnrolRequest {
            token: format!("{}.{}", token.id, token.secret.reveal()),
            csr_pem: key.csr_pem().unwrap(),
            kube_system_uid: format!("uid-of-{name}"),
            version: "0.1.0".to_owned(),
            identity_csr_pem: String::new(),
        };
        let trust = Trust::Pin(token.pin);
        let channel = channel(&token.addr, &ReloadableIdentity::empty(), trust).await.unwrap();
        let reply = EnrolmentClient::new(channel).enrol(request).await.unwrap().into_inner();
        let credential = Credential { chain_pem: reply.chain_pem, key_pem: key.to_pem() };
        Member { credential, bundle_pem: reply.bundle_pem }
    }

    /// A link of a member to one replica, once that replica knows the member.
    pub(crate) async fn link(&self, at: usize, name: &str, member: &Member) -> Link {
        self.until(at, &format!("/v1/clusters/{name}"), "the member", |view| !view.is_null()).await;
        member.link(&self.replicas[at].link, hello(1)).await
    }

    /// Starts a run on these clusters; its id.
    pub(crate) async fn run(&self, clusters: &[&str]) -> String {
        let grant = json!({ "spec": {
            "from": { "operators": ["*"] },
            "to": { "clusters": { "names": clusters }, "namespaces": ["*"], "kinds": ["*"], "maxTargets": 100 }
        }});
        self.done(Method::PUT, "/v1/grants/all", &grant).await;
        let experiment = json!({ "spec": {
            "clusters": { "names": clusters },
            "targets": [{
                "name": "web",
                "pods": { "namespaces": ["shop"], "labelSelector": { "matchLabels": { "app": "web" } } },
                "atMost": { "perCluster": 5 }
            }],
            "faults": [{ "name": "late", "target": "web", "at": "0s", "for": "5m", "network": { "delay": { "latency": "200ms" } } }],
            "limits": { "clusterDeadline": "10m", "runDeadline": "20m", "startWithin": "10m" }
        }});
        self.done(Method::PUT, "/v1/experiments/slow", &experiment).await;
        let run = json!({ "name": "r", "spec": { "experimentRef": { "name": "slow" } } });
        let made = self.done(Method::POST, "/v1/runs", &run).await;
        made["record"]["id"].as_str().unwrap().to_owned()
    }

    /// Reads until the answer is as wanted.
    pub(crate) async fn until(
        &self,
        at: usize,
        path: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        eventually(what, async || {
            let (status, body) = self.call(at, Method::GET, path, &Value::Null).await;
            if status.is_success() && wanted(&body) { Ok(body) } else { Err(format!("{status} {body:#}")) }
        })
        .await
    }

    /// Every audit record with this action, unless the store does not answer now.
    pub(crate) async fn audited(&self, at: usize, action: &str) -> Result<Vec<Value>, String> {
        let (status, page) = self.call(at, Method::GET, "/v1/audit?limit=500", &Value::Null).await;
        let items = page["items"].as_array().filter(|_| status == StatusCode::OK);
        let items = items.ok_or_else(|| format!("{status} {page}"))?;
        Ok(items.iter().filter(|record| record["action"] == action).cloned().collect())
    }
}

/// Polls until `look` finds it; fails with what was seen last.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) if tokio::time::Instant::now() > deadline => panic!("{what}: last seen {seen}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
