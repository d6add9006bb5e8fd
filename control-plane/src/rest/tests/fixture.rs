//! A centre in memory, and requests to its router.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use certs::ca::AuthorityPem;
use certs::{Authority, TrustDomain};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use proto::ids::ClusterId;
use proto::problem::ProblemDetails;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::centre::Centre;
use crate::driver::clock::Clock;
use crate::driver::codec;
use crate::engine::object::{Object, SessionRecord};
use crate::enrolment::Signer;
use crate::replica::{Replica, ReplicaConfig};
use crate::rest::{self, Meter};
use crate::store::memory::MemoryStore;
use crate::store::{Outcome, Store, Txn};

/// Nothing in these tests takes longer.
pub(super) const SOON: Duration = Duration::from_secs(20);
pub(super) const ADMIN: &str = "admin-token-of-the-tests";

/// The API of a centre that works.
pub(super) struct Lab {
    pub(super) centre: Centre,
    pub(super) router: Router,
    pub(super) health: Router,
    pub(super) store: Arc<dyn Store>,
    ca: AuthorityPem,
    pub(super) closing: CancellationToken,
    replica: Option<Replica>,
    tasks: JoinSet<anyhow::Result<()>>,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts that it is a problem, in form and status.
    pub(super) fn problem(&self, status: u16) -> ProblemDetails {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        let details: ProblemDetails = serde_json::from_str(&self.text).expect("a problem");
        assert_eq!(details.status, status, "{details:?}");
        assert!(details.kind.starts_with("urn:faultline:error:"), "{details:?}");
        details
    }

    pub(super) fn ok(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }
}

impl Lab {
    /// Made, but its driver does not run yet.
    pub(super) async fn cold() -> Self {
        let domain = TrustDomain::new("rest.test").expect("a trust domain");
        let authority = Authority::create(domain, Clock::new().now()).expect("a CA");
        Self::over(Arc::new(MemoryStore::new()), authority.to_pem(), "r1").await
    }

    /// Another replica on the same store, ready.
    pub(super) async fn beside(lab: &Self) -> Self {
        let mut beside = Self::over(lab.store.clone(), lab.ca.clone(), "r2").await;
        beside.start_following().await;
        beside
    }

    async fn over(store: Arc<dyn Store>, ca: AuthorityPem, name: &str) -> Self {
        let signer = Arc::new(Signer::new(Authority::from_pem(&ca).expect("a CA"), name));
        let settings = ReplicaConfig::new(name, "localhost:7445");
        let replica = Replica::new(store.clone(), signer, Clock::new(), settings).await.expect("a replica");
        let centre = replica.centre.clone();
        centre.ensure_admin(ADMIN).await.expect("an admin");
        let (meter, closing) = (Meter::default(), CancellationToken::new());
        Self {
            router: rest::router(centre.clone(), meter.clone(), closing.clone()),
            health: rest::health::router(centre.clone(), meter),
            centre,
            store,
            ca,
            closing,
            replica: Some(replica),
            tasks: JoinSet::new(),
        }
    }

    /// Made and ready.
    pub(super) async fn new() -> Self {
        let mut lab = Self::cold().await;
        lab.start().await;
        lab
    }

    pub(super) async fn start(&mut self) {
        self.start_following().await;
        let health = self.centre.health();
        eventually(async || (health.leading.get() > 0).then_some(())).await;
    }

    async fn start_following(&mut self) {
        let replica = self.replica.take().expect("not started yet");
        replica.start(&mut self.tasks, &CancellationToken::new());
        let health = self.centre.health();
        eventually(async || health.not_ready().is_none().then_some(())).await;
    }

    /// The token of an operator with this role.
    pub(super) async fn token(&self, role: &str) -> String {
        let token = format!("{role}-token-of-the-tests");
        let record = json!({ "name": role, "role": role, "createdAt": "2026-01-01T00:00:00Z" });
        let path = codec::operator_path(&proto::hash::sha256_hex(token.as_bytes()));
        let stored = self.store.txn(Txn::new().put(path, record.to_string())).await;
        assert!(matches!(stored, Ok(Outcome::Committed { .. })), "{stored:?}");
        token
    }

    /// A member that is accepted and connected, and never answers.
    pub(super) async fn mute_member(&self, name: &str) -> ClusterId {
        let invitation = self.post("/v1/clusters", &json!({ "name": name })).await.ok(201).json();
        self.post(&format!("/v1/clusters/{name}/accept"), &json!({})).await.ok(200);
        let id: ClusterId = serde_json::from_value(invitation["cluster"].clone()).expect("an id");
        let session = Object::Session(
            id.clone(),
            SessionRecord {
                replica: "r1".to_owned(),
                session: "s1".to_owned(),
                agent_epoch: 1,
                opened_at: "2026-01-01T00:00:00Z".parse().expect("an instant"),
            },
        );
        let path = codec::path(&session.key()).expect("a key");
        let txn = Txn::new().put(&path, codec::encode(&session).expect("a value"));
        let revision = self.store.txn(txn).await.and_then(Outcome::committed).expect("stored");
        self.centre.inner.cache.seen(revision, &[path]).await;
        id
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        send(&self.router, request).await
    }

    pub(super) async fn call(&self, method: Method, path: &str, token: &str, body: Option<&Value>) -> Answer {
        self.send(request(method, path, token, body)).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, ADMIN, None).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, ADMIN, Some(body)).await
    }

    pub(super) async fn put_json(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PUT, path, ADMIN, Some(body)).await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, ADMIN, None).await
    }
}

pub(super) fn request(method: Method, path: &str, token: &str, body: Option<&Value>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let body = match body {
        Some(body) => {
            request = request.header("content-type", "application/json");
            Body::from(body.to_string())
        }
        None => Body::empty(),
    };
    request.body(body).expect("a request")
}

pub(super) async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response =
        tokio::time::timeout(SOON, router.clone().oneshot(request)).await.expect("an answer in time");
    let (head, body) = response.expect("infallible").into_parts();
    let bytes = body.collect().await.expect("a body").to_bytes();
    let text = String::from_utf8(bytes.to_vec()).expect("text");
    Answer { status: head.status, headers: head.headers, text }
}

/// What a look finds at last: for what is done behind the answers.
pub(super) async fn eventually<T>(look: impl AsyncFn() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, looking).await.expect("found in time")
}

/// An Experiment that is valid.
pub(super) fn experiment(cluster: &str) -> Value {
    json!({
        "clusters": { "names": [cluster] },
        "targets": [{
            "name": "payments",
            "pods": { "namespaces": ["shop"], "labelSelector": { "matchLabels": { "app": "payments" } } },
            "pick": { "percent": 50 },
            "atMost": { "perCluster": 5, "total": 50 }
        }],
        "faults": [{
            "name": "late", "target": "payments", "at": "0s", "for": "60s",
            "network": { "delay": { "latency": "200ms", "direction": "Egress" } }
        }],
        "limits": {
            "clusterDeadline": "5m", "runDeadline": "1h", "startWithin": "10m",
            "onLinkLoss": { "after": "60s", "do": "Revert" }
        }
    })
}

/// A Grant that lets every operator do so.
pub(super) fn grant(cluster: &str) -> Value {
    json!({
        "from": { "operators": ["*"] },
        "to": { "clusters": { "names": [cluster] }, "namespaces": ["shop"], "kinds": ["*"], "maxTargets": 10 }
    })
}
