//! Pages without TLS: one source cannot take every place, and who sends slowly is cut.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use certs::Plain;
use certs::serving::{self, Patience};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::fixture::PATIENCE;

const NEVER: Duration = Duration::from_hours(1);
const ASKED: &[u8] = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

struct Page {
    addr: SocketAddr,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

async fn page(patience: Patience) -> Page {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let router = Router::new().route("/livez", get(|| async { "alive" }));
    let door = Plain::new(listener, patience.limits());
    tasks.spawn(serving::serve(door, router, patience, shutdown.clone()));
    Page { addr, shutdown, tasks }
}

async fn from(host: u8, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), 0)).unwrap();
    socket.connect(server).await.unwrap()
}

/// Everything until the server closes.
async fn rest_of(conn: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, conn.read_to_end(&mut all)).await.expect("closed in time");
    String::from_utf8_lossy(&all).into_owned()
}

async fn answer(host: u8, server: SocketAddr) -> String {
    let mut conn = from(host, server).await;
    conn.write_all(ASKED).await.unwrap();
    rest_of(&mut conn).await
}

#[tokio::test]
async fn one_source_cannot_keep_another_out() {
    let patience = Patience { head_within: NEVER, take_within: NEVER, connections: 8, ..Patience::default() };
    let page = page(patience).await;
    let mut greedy = Vec::new();
    for _ in 0..40 {
        let mut conn = from(2, page.addr).await;
        // The beginning of a request that never ends.
        let _ = conn.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ").await;
        greedy.push(conn);
    }
    for _ in 0..20 {
        assert!(answer(1, page.addr).await.ends_with("alive"));
    }
    // Four of them stay, as long as they like; the others were closed.
    for conn in greedy.iter_mut().skip(4) {
        assert_eq!(rest_of(conn).await, "");
    }
    let mut page = page;
    page.shutdown.cancel();
    drop(greedy);
    tokio::time::timeout(PATIENCE, page.tasks.join_next()).await.expect("ended in time");
}

#[tokio::test]
async fn who_sends_a_head_slowly_or_too_large_is_cut() {
    let short = Duration::from_millis(200);
    let page = page(Patience { head_within: short, take_within: short, ..Patience::for_health() }).await;
    for sent in ["", "G", "GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut conn = from(1, page.addr).await;
        conn.write_all(sent.as_bytes()).await.unwrap();
        assert!(!rest_of(&mut conn).await.contains("200 OK"), "{sent:?}");
    }
    let mut conn = from(1, page.addr).await;
    let large = format!("GET /livez HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "x".repeat(128 * 1024));
    let _ = conn.write_all(large.as_bytes()).await;
    let said = rest_of(&mut conn).await;
    assert!(!said.contains("200 OK"), "{said}");
    // On a busy machine the head of a request may itself take too long: then it is sent again.
    let alive = async { while !answer(1, page.addr).await.ends_with("alive") {} };
    tokio::time::timeout(PATIENCE, alive).await.expect("it serves on");
}
