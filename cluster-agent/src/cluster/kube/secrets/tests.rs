//! Writes whose answers are lost, against an apiserver of one Secret.

use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use k8s_openapi::api::core::v1::Secret;
use kube::core::Status;
use kube::core::response::StatusDetails;
use tokio::task::JoinSet;

use super::value;
use crate::cluster::kube::{Kube, stage};
use crate::cluster::{Error, Secrets, secret};

/// What becomes of the next write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Answered,
    /// It is done, and nothing readable is said.
    Garbled,
    /// It is done, and said not to be.
    Failed,
    /// It arrives later.
    Held,
}

#[derive(Debug)]
struct Inner {
    there: Option<Secret>,
    version: u64,
    next: Next,
    held: Option<Secret>,
}

#[derive(Debug, Clone)]
struct One(Arc<Mutex<Inner>>);

fn status(code: u16) -> Response {
    let mut status = Status::failure("no", "No").with_code(code);
    let name = "identity".to_owned();
    status.details = Some(StatusDetails {
        name,
        group: String::new(),
        kind: String::new(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: 0,
    });
    (StatusCode::from_u16(code).unwrap(), Json(status)).into_response()
}

impl Inner {
    fn write(&mut self, mut object: Secret) -> Result<Secret, u16> {
        let at = self.there.as_ref().and_then(|there| there.metadata.resource_version.clone());
        if at != object.metadata.resource_version {
            return Err(409);
        }
        self.version += 1;
        object.metadata.resource_version = Some(self.version.to_string());
        self.there = Some(object.clone());
        Ok(object)
    }
}

async fn read(State(one): State<One>) -> Response {
    match &one.0.lock().unwrap().there {
        Some(object) => Json(object).into_response(),
        None => status(404),
    }
}

async fn write(State(one): State<One>, Json(object): Json<Secret>) -> Response {
    let mut inner = one.0.lock().unwrap();
    let next = std::mem::replace(&mut inner.next, Next::Answered);
    if next == Next::Held {
        inner.held = Some(object);
        return status(504);
    }
    match (inner.write(object), next) {
        (Ok(object), Next::Answered) => Json(object).into_response(),
        (Ok(_), Next::Garbled) => "{".into_response(),
        (Ok(_), _) => status(500),
        (Err(code), _) => status(code),
    }
}

struct Stage {
    one: One,
    address: String,
    _server: JoinSet<()>,
}

impl Stage {
    async fn start() -> Self {
        let inner = Inner { there: None, version: 0, next: Next::Answered, held: None };
        let one = One(Arc::new(Mutex::new(inner)));
        let router = Router::new()
            .route("/api/v1/namespaces/faultline/secrets/identity", get(read).put(write))
            .route("/api/v1/namespaces/faultline/secrets", axum::routing::post(write))
            .with_state(one.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { one, address, _server: server }
    }

    fn agent(&self) -> Kube {
        stage::agent(&self.address)
    }

    fn next(&self, next: Next) {
        self.one.0.lock().unwrap().next = next;
    }

    /// The write that was held arrives.
    fn arrives(&self) -> Result<(), u16> {
        let mut inner = self.one.0.lock().unwrap();
        let object = inner.held.take().unwrap();
        inner.write(object).map(drop)
    }

    fn document(&self) -> Vec<u8> {
        value(self.one.0.lock().unwrap().there.as_ref().unwrap()).unwrap().to_vec()
    }
}

async fn put(agent: &Kube, document: &str) -> Result<(), Error> {
    Secrets::put(agent, secret::IDENTITY, document.as_bytes()).await
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_written_over_by_the_next_one() {
    let stage = Stage::start().await;
    let agent = stage.agent();
    put(&agent, "d1").await.unwrap();
    for (next, lost, other) in [(Next::Garbled, "d2", "d3"), (Next::Failed, "d4", "d5")] {
        stage.next(next);
        let answer = put(&agent, lost).await;
        assert!(answer.as_ref().is_err_and(Error::retryable), "{answer:?}");
        assert_eq!(stage.document(), lost.as_bytes(), "it is there all the same");
        put(&agent, other).await.unwrap();
        assert_eq!(stage.document(), other.as_bytes());
    }
}

#[tokio::test]
async fn several_lost_answers_and_a_write_that_arrives_late_are_all_known_again() {
    let stage = Stage::start().await;
    let agent = stage.agent();
    put(&agent, "d1").await.unwrap();
    stage.next(Next::Held);
    put(&agent, "d2").await.unwrap_err();
    // Reading it again tells nothing about what is still under way.
    assert_eq!(agent.get(secret::IDENTITY).await, Ok(Some(b"d1".to_vec())));
    let late = stage.one.0.lock().unwrap().held.clone();
    stage.next(Next::Held);
    put(&agent, "d3").await.unwrap_err();
    stage.one.0.lock().unwrap().held = late;
    stage.arrives().unwrap();
    put(&agent, "d4").await.unwrap();
    assert_eq!(stage.document(), b"d4");
}

#[tokio::test]
async fn a_successor_is_not_written_over_also_after_a_lost_answer() {
    let stage = Stage::start().await;
    let (old, new) = (stage.agent(), stage.agent());
    put(&old, "d1").await.unwrap();
    stage.next(Next::Garbled);
    put(&old, "d2").await.unwrap_err();
    assert_eq!(new.get(secret::IDENTITY).await, Ok(Some(b"d2".to_vec())));
    put(&new, "theirs").await.unwrap();
    for document in ["d2", "d3"] {
        let late = put(&old, document).await;
        assert!(matches!(late, Err(Error::Refused { .. })), "{late:?}");
    }
    assert_eq!(stage.document(), b"theirs");
}
