//! The whole process over real TLS: enrolment, the link, revocation, the drain.

use std::path::PathBuf;
use std::time::Duration;

use axum::body::Body;
use certs::client::{self, Expect, Trust};
use certs::throwaway::Throwaway;
use certs::{
    Connector, Credential, JoinToken, PrivateKey, Protocol, Reloadable, ReloadableIdentity, TrustBundle,
};
use control_plane::config::{Config, StoreChoice};
use control_plane::{Listeners, serve};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use proto::api::enrolment::enrolment_client::EnrolmentClient;
use proto::api::enrolment::{EnrolReply, EnrolRequest};
use proto::api::link::link_client::LinkClient;
use proto::wire::{Down, Up};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::agent::hello;
use super::fixture::PATIENCE;

const TOKEN: &str = "a-bootstrap-token-of-the-test";

struct Process {
    rest: String,
    link: String,
    front: Throwaway,
    shutdown: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
    dir: tempfile::TempDir,
}

fn config(dir: &tempfile::TempDir, front: &Throwaway) -> Config {
    let file = |name: &str, text: &str| -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let kek = file("kek", "0123456789abcdef0123456789abcdef");
    let store = StoreChoice::Embedded { data_dir: dir.path().join("data") };
    let mut config = Config::new(store, kek, file("token", TOKEN));
    let any = "127.0.0.1:0".parse().unwrap();
    (config.rest_addr, config.link_addr, config.enrol_addr, config.health_addr) = (any, any, any, any);
    let day = Duration::from_hours(24);
    let own = front.authority.issue_server(&["127.0.0.1"], None, jiff::Timestamp::now(), day).unwrap();
    config.rest_tls = Some((file("rest.crt", &own.chain_pem), file("rest.key", &own.key_pem)));
    config
}

impl Process {
    async fn start(dir: tempfile::TempDir) -> Self {
        let front = Throwaway::new(jiff::Timestamp::now()).unwrap();
        let config = config(&dir, &front);
        let listeners = Listeners::bind(&config).await.unwrap();
        let rest = listeners.rest.local_addr().unwrap().to_string();
        let link = listeners.link.local_addr().unwrap().to_string();
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(config, listeners, shutdown.clone()));
        Self { rest, link, front, shutdown, tasks, dir }
    }

    async fn end(mut self) -> tempfile::TempDir {
        self.shutdown.cancel();
        // Longer than the bounds that it has itself: when those are over, it says of what.
        let ended = tokio::time::timeout(PATIENCE * 2, self.tasks.join_next()).await.unwrap();
        ended.unwrap().unwrap().unwrap();
        self.dir
    }

    /// One REST call as the bootstrap admin.
    async fn post(&self, path: &str, body: &Value) -> Value {
        let trust = Trust::Bundle(self.front.bundle.clone());
        let config =
            client::config(&ReloadableIdentity::empty(), trust, Expect::Name, Protocol::Http).unwrap();
        let client = Client::builder(TokioExecutor::new()).build::<_, Body>(Connector::new(config));
        let request = http::Request::post(format!("http://{}{path}", self.rest))
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let answer = tokio::time::timeout(PATIENCE, client.request(request)).await.unwrap().unwrap();
        let status = answer.status();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&bytes));
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    async fn invite(&self, name: &str) -> JoinToken {
        let body = json!({ "name": name, "autoAccept": true });
        let invitation = self.post("/v1/clusters", &body).await;
        invitation["token"].as_str().unwrap().parse().unwrap()
    }

    /// A link with this identity, after Hello.
    async fn link(&self, credential: &Credential, bundle_pem: &str) -> Result<Link, Status> {
        let identity = ReloadableIdentity::new(credential).unwrap();
        let trust = Trust::Bundle(Reloadable::new(TrustBundle::from_pem(bundle_pem).unwrap()));
        let endpoint = Endpoint::from_shared(format!("http://{}", self.link)).unwrap();
        let channel = endpoint.connect_with_connector(channel_config(trust, &identity)).await;
        let channel = channel.map_err(|error| Status::unavailable(format!("{error:?}")))?;
        let (up, messages) = mpsc::channel(8);
        up.send(Up::Hello(hello(1)).into()).await.unwrap();
        let down = LinkClient::new(channel).link(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Link { up, down })
    }
}

struct Link {
    up: mpsc::Sender<proto::api::link::Up>,
    down: tonic::Streaming<proto::api::link::Down>,
}

impl Link {
    /// Reads until a message is what is wanted; `None` at the end of the stream.
    async fn until(&mut self, wanted: impl Fn(&Down) -> bool) -> Option<Down> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.down.message()).await.unwrap();
            let down: Down = next.ok().flatten()?.try_into().unwrap();
            if wanted(&down) {
                return Some(down);
            }
        }
    }
}

fn channel_config(trust: Trust, identity: &ReloadableIdentity) -> Connector {
    Connector::new(client::config(identity, trust, Expect::Name, Protocol::Grpc).unwrap())
}

async fn channel(addr: &str, connector: Connector) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
    endpoint.connect_with_connector(connector).await.unwrap()
}

async fn enrol(token: &JoinToken, text: String, key: &PrivateKey) -> Result<EnrolReply, Status> {
    let connector = channel_config(Trust::Pin(token.pin), &ReloadableIdentity::empty());
    let request = EnrolRequest {
        token: text,
        csr_pem: key.csr_pem().unwrap(),
        kube_system_uid: "uid-1".to_owned(),
        version: "0.1.0".to_owned(),
        identity_csr_pem: String::new(),
    };
    let mut client = EnrolmentClient::new(channel(&token.addr, connector).await);
    client.enrol(request).await.map(tonic::Response::into_inner)
}

fn secret_of(token: &JoinToken) -> String {
    format!("{}.{}", token.id, token.secret.reveal())
}

#[tokio::test]
async fn a_cluster_enrols_once_links_and_is_revoked() {
    let process = Process::start(tempfile::tempdir().unwrap()).await;
    let token = process.invite("west").await;
    let (key, thief) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());

    let mut guess = secret_of(&token);
    guess.replace_range(guess.len() - 4..guess.len() - 1, "AAA");
    let refused = enrol(&token, guess, &key).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated, "{refused}");

    let reply = enrol(&token, secret_of(&token), &key).await.unwrap();
    assert_eq!(reply.cluster, token.cluster);
    assert_eq!(reply.link_endpoints, vec![process.link.clone()]);
    // Its own retry gets the same answer, anybody else's use of it none.
    assert_eq!(enrol(&token, secret_of(&token), &key).await.unwrap(), reply);
    let refused = enrol(&token, secret_of(&token), &thief).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert!(refused.message().contains("used already"), "{refused}");

    let credential = Credential { chain_pem: reply.chain_pem.clone(), key_pem: key.to_pem() };
    let mut link = process.link(&credential, &reply.bundle_pem).await.unwrap();
    let welcome = link.until(|_| true).await;
    assert!(
        matches!(&welcome, Some(Down::Welcome(w)) if w.accepted && w.cluster.as_str() == reply.cluster),
        "{welcome:?}"
    );
    // A new certificate over the link.
    let renewal = PrivateKey::generate().unwrap();
    let renew = Up::Renew { csr_pem: renewal.csr_pem().unwrap(), identity_csr_pem: String::new() };
    link.up.send(renew.into()).await.unwrap();
    let renewed = link.until(|down| matches!(down, Down::Renewed { .. })).await;
    let Some(Down::Renewed { chain_pem, .. }) = renewed else { panic!("{renewed:?}") };
    let renewed = Credential { chain_pem, key_pem: renewal.to_pem() };

    process.post("/v1/clusters/west/revoke", &json!({})).await;
    let away = link.until(|down| matches!(down, Down::GoAway { .. })).await;
    assert!(matches!(&away, Some(Down::GoAway { reason, .. }) if reason == "Revoked"), "{away:?}");
    assert_eq!(link.until(|_| true).await, None, "the stream is closed");
    assert!(process.link(&renewed, &reply.bundle_pem).await.is_err(), "the next handshake fails");
    process.end().await;
}

#[tokio::test]
async fn a_restart_keeps_the_ca_and_the_members() {
    let process = Process::start(tempfile::tempdir().unwrap()).await;
    let token = process.invite("west").await;
    let key = PrivateKey::generate().unwrap();
    let reply = enrol(&token, secret_of(&token), &key).await.unwrap();
    let credential = Credential { chain_pem: reply.chain_pem, key_pem: key.to_pem() };
    let mut link = process.link(&credential, &reply.bundle_pem).await.unwrap();
    assert!(link.until(|down| matches!(down, Down::Welcome(_))).await.is_some());
    // Told to end, it sends its agents elsewhere first.
    process.shutdown.cancel();
    let away = link.until(|down| matches!(down, Down::GoAway { .. })).await;
    assert!(matches!(&away, Some(Down::GoAway { reason, .. }) if reason == "Draining"), "{away:?}");
    drop(link);
    let process = Process::start(process.end().await).await;
    let mut link = process.link(&credential, &reply.bundle_pem).await.unwrap();
    assert!(link.until(|down| matches!(down, Down::Welcome(_))).await.is_some());
    drop(link);
    process.end().await;
}

#[tokio::test]
async fn another_key_encryption_key_does_not_open_the_ca() {
    let dir = Process::start(tempfile::tempdir().unwrap()).await;
    dir.invite("west").await;
    let dir = dir.end().await;
    let front = Throwaway::new(jiff::Timestamp::now()).unwrap();
    let config = config(&dir, &front);
    std::fs::write(&config.kek_file, "ffffffffffffffffffffffffffffffff").unwrap();
    let error = control_plane::run(config, CancellationToken::new()).await.unwrap_err();
    assert!(format!("{error:#}").contains("wrong key-encryption key"), "{error:#}");
}
