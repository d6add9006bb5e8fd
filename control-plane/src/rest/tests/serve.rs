//! Clients that are slow on purpose, and the end of a server that has some.

use std::time::Duration;

use certs::client::{Expect, Trust, config};
use certs::throwaway::Throwaway;
use certs::{Connector, Protocol, ReloadableIdentity};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::fixture::{ADMIN, Lab, SOON, experiment};
use crate::rest::{self, Meter, Patience};

/// A server, and connections to it whose bytes the test writes.
struct Port {
    authority: String,
    ca: Throwaway,
    shutdown: CancellationToken,
    tasks: JoinSet<std::io::Result<()>>,
}

impl Port {
    async fn of(lab: &Lab, patience: Patience) -> Self {
        let ca = Throwaway::new(lab.centre.inner.clock.now()).expect("a CA");
        let tls = ca.open_server_config().expect("a configuration");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let authority = listener.local_addr().expect("an address").to_string();
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (centre, meter) = (lab.centre.clone(), Meter::default());
        tasks.spawn(rest::serve_with(listener, tls, centre, meter, shutdown.clone(), patience));
        Self { authority, ca, shutdown, tasks }
    }

    async fn connect(&self, protocol: Protocol) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
        let trust = Trust::Pin(self.ca.authority.pin());
        let config =
            config(&ReloadableIdentity::empty(), trust, Expect::Name, protocol).expect("a configuration");
        let uri = format!("http://{}", self.authority).parse().expect("a uri");
        TokioIo::new(Connector::new(config).call(uri).await.expect("a connection"))
    }
}

fn patience() -> Patience {
    let short = Duration::from_millis(300);
    Patience { head_within: short, take_within: short, drain_within: short, connections: 100 }
}

/// Everything until the server closes.
async fn rest_of(conn: &mut (impl AsyncRead + Unpin)) -> String {
    let mut all = Vec::new();
    // A close without a goodbye is one, too.
    let _ = tokio::time::timeout(SOON, conn.read_to_end(&mut all)).await.expect("closed in time");
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn who_sends_a_head_slowly_is_cut() {
    let lab = Lab::new().await;
    let port = Port::of(&lab, patience()).await;
    for sent in [
        "",
        "G",
        "GET /v1/whoami HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        "PRI * HTTP/2.0\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut conn = port.connect(Protocol::Http).await;
        conn.write_all(sent.as_bytes()).await.expect("written");
        let said = rest_of(&mut conn).await;
        assert!(!said.contains("200 OK"), "{sent:?}: {said}");
    }
    // Between two requests as well, once the first was answered.
    let mut conn = port.connect(Protocol::Http).await;
    let request = format!("GET /v1/whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n\r\n");
    conn.write_all(request.as_bytes()).await.expect("written");
    assert!(rest_of(&mut conn).await.contains("\"admin\""));
}

#[tokio::test]
async fn who_takes_an_answer_slowly_is_cut_and_costs_no_place() {
    let lab = Lab::new().await;
    // Far more than the buffers on the way hold.
    let mut large = experiment("c1");
    large["hypothesis"] = json!("x".repeat(900));
    for n in 0..200 {
        lab.put_json(&format!("/v1/experiments/e{n}"), &json!({ "spec": large })).await.ok(200);
    }
    let port = Port::of(&lab, Patience { connections: 1, ..patience() }).await;
    let mut conn = port.connect(Protocol::Http).await;
    let request =
        format!("GET /v1/experiments?limit=200 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n\r\n");
    for _ in 0..60 {
        if conn.write_all(request.as_bytes()).await.is_err() {
            break;
        }
    }
    // There is one place. It is free only when the slow one was cut.
    let mut next = tokio::time::timeout(SOON, port.connect(Protocol::Http)).await.expect("let in in time");
    let whoami = format!(
        "GET /v1/whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {ADMIN}\r\n\r\n"
    );
    next.write_all(whoami.as_bytes()).await.expect("written");
    assert!(rest_of(&mut next).await.contains("\"admin\""));
}

#[tokio::test]
async fn the_end_leaves_no_connection() {
    let lab = Lab::new().await;
    let mut port = Port::of(&lab, Patience { head_within: SOON, ..patience() }).await;
    let mut conns = Vec::new();
    for protocol in [Protocol::Http, Protocol::Grpc, Protocol::Http] {
        let mut conn = port.connect(protocol).await;
        conn.write_all(b"GET /v1/whoami HTTP/1.1\r\nHost:").await.expect("written");
        conns.push(conn);
    }
    port.shutdown.cancel();
    let ended = tokio::time::timeout(SOON, port.tasks.join_next()).await.expect("ended in time");
    ended.expect("a task").expect("no panic").expect("no error");
    for conn in &mut conns {
        rest_of(conn).await;
    }
}
