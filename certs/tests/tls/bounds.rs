//! Slow, broken and too many handshakes; callers that want everything for themselves.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use certs::throwaway::Throwaway;
use certs::{Acceptor, Connector, Limits, Role, TurnedAway};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::fixture::{PATIENCE, Server, now};

/// Longer than any test: nothing here ends because it took so long.
const NEVER: Duration = Duration::from_hours(1);

/// What was turned away, and why.
#[derive(Clone, Default)]
struct Away(Arc<Mutex<BTreeMap<TurnedAway, usize>>>);

impl Away {
    fn of(&self, why: TurnedAway) -> usize {
        self.0.lock().unwrap().get(&why).copied().unwrap_or_default()
    }

    async fn until(&self, why: TurnedAway, wanted: usize) {
        let looking = async {
            while self.of(why) < wanted {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, looking).await;
        found.unwrap_or_else(|_| panic!("{} of {wanted} turned away", self.of(why)));
        assert_eq!(self.of(why), wanted);
    }
}

/// An acceptor with other limits, and what it turns away.
async fn acceptor(ca: &Throwaway, limits: Limits) -> (Acceptor, Away) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = Away::default();
    let told = away.clone();
    let acceptor = Acceptor::with_limits(listener, ca.server_config().unwrap(), limits)
        .telling(move |why| *told.0.lock().unwrap().entry(why).or_default() += 1);
    (acceptor, away)
}

async fn server(ca: &Throwaway, limits: Limits) -> (Server, Away) {
    let (acceptor, away) = acceptor(ca, limits).await;
    (Server::over(acceptor), away)
}

fn handshakes(handshakes: usize, handshake_within: Duration) -> Limits {
    Limits { handshakes, handshake_within, ..Limits::default() }
}

/// A connection from 127.0.0.`host` that says nothing.
async fn silent(host: u8, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), 0)).unwrap();
    socket.connect(server).await.unwrap()
}

/// One that says nothing, and one that sends the head of a TLS record whose body never comes.
async fn slow_handshakes(server: SocketAddr) -> [TcpStream; 2] {
    let silent = TcpStream::connect(server).await.unwrap();
    let mut half = TcpStream::connect(server).await.unwrap();
    half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.unwrap();
    [silent, half]
}

/// Waits until the server has closed the connection.
async fn closed(stream: &mut TcpStream) {
    let mut sink = Vec::new();
    // A reset is as good as an end.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut sink)).await.unwrap();
}

#[tokio::test]
async fn a_slow_handshake_delays_nobody() {
    let ca = Throwaway::new(now()).unwrap();
    let (server, _) = server(&ca, handshakes(256, NEVER)).await;
    // Still under way when this ends.
    let _slow = slow_handshakes(server.addr).await;
    let config = ca.client_config(&Role::agent("c1")).unwrap();
    for _ in 0..3 {
        server.dial(&config).await.unwrap();
    }
}

#[tokio::test]
async fn a_slow_handshake_is_cut() {
    let ca = Throwaway::new(now()).unwrap();
    let (server, away) = server(&ca, handshakes(256, Duration::from_millis(200))).await;
    for mut slow in slow_handshakes(server.addr).await {
        closed(&mut slow).await;
    }
    away.until(TurnedAway::Slow, 2).await;
}

#[tokio::test]
async fn the_bound_holds_and_frees_itself() {
    let ca = Throwaway::new(now()).unwrap();
    let (server, away) = server(&ca, handshakes(2, NEVER)).await;
    let [gone, _stays] = [silent(2, server.addr).await, silent(3, server.addr).await];
    // Waits in the backlog until a place is free.
    let config = ca.client_config(&Role::agent("c1")).unwrap();
    let mut dial = pin!(server.dial(&config));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut dial).await;
    assert!(early.is_err(), "was let in beside two handshakes in flight");
    drop(gone);
    away.until(TurnedAway::Handshake, 1).await;
    dial.await.unwrap();
}

#[tokio::test]
async fn one_source_cannot_keep_another_out() {
    let ca = Throwaway::new(now()).unwrap();
    let (server, away) = server(&ca, handshakes(8, NEVER)).await;
    let config = ca.client_config(&Role::agent("c1")).unwrap();
    let mut greedy = Vec::new();
    for _ in 0..50 {
        greedy.push(silent(2, server.addr).await);
    }
    // Half of the places stay with it, for as long as it likes; the rest was closed at once.
    server.dial(&config).await.unwrap();
    away.until(TurnedAway::Share, 46).await;
    // A second one gets a share of the rest, and there is still a place.
    for _ in 0..50 {
        greedy.push(silent(3, server.addr).await);
    }
    server.dial(&config).await.unwrap();
    away.until(TurnedAway::Share, 46 + 48).await;
    drop(greedy);
    away.until(TurnedAway::Handshake, 6).await;
    server.dial(&config).await.unwrap();
}

#[tokio::test]
async fn one_identity_cannot_hold_every_connection() {
    let ca = Throwaway::new(now()).unwrap();
    let (mut acceptor, away) = acceptor(&ca, Limits::default()).await;
    let uri: http::Uri = format!("http://{}", acceptor.local_addr().unwrap()).parse().unwrap();
    let (greedy, other) =
        (ca.client_config(&Role::agent("c1")).unwrap(), ca.client_config(&Role::agent("c2")).unwrap());
    let mut open = Vec::new();
    for _ in 0..32 {
        let dialled = Connector::new(greedy.clone());
        let (client, held) = tokio::join!(dialled.connect(&uri), acceptor.accept());
        open.push((client.unwrap(), held));
    }
    let dialled = Connector::new(greedy.clone());
    let refused = async {
        let mut conn = dialled.connect(&uri).await.unwrap();
        // With TLS 1.3 the end of it arrives with the first read.
        let mut byte = [0];
        tokio::time::timeout(PATIENCE, conn.read(&mut byte)).await.unwrap().unwrap_or_default()
    };
    tokio::select! {
        conn = acceptor.accept() => panic!("let in: {conn:?}"),
        read = refused => assert_eq!(read, 0),
    }
    assert_eq!(away.of(TurnedAway::Share), 1);
    let dialled = Connector::new(other);
    let (client, held) = tokio::join!(dialled.connect(&uri), acceptor.accept());
    assert_ne!(held.info().peer, open[0].1.info().peer);
    client.unwrap();
    // What it gives back it may take again.
    open.pop();
    let dialled = Connector::new(greedy);
    let (client, _held) = tokio::join!(dialled.connect(&uri), acceptor.accept());
    client.unwrap();
}

#[tokio::test]
async fn who_says_nothing_after_the_handshake_is_cut() {
    let ca = Throwaway::new(now()).unwrap();
    let first_within = Duration::from_millis(200);
    let (mut acceptor, _) = acceptor(&ca, Limits { first_within, ..Limits::default() }).await;
    let uri: http::Uri = format!("http://{}", acceptor.local_addr().unwrap()).parse().unwrap();
    let connector = Connector::new(ca.client_config(&Role::agent("c1")).unwrap());
    let (client, mut held) = tokio::join!(connector.connect(&uri), acceptor.accept());
    let _client = client.unwrap();
    let mut text = Vec::new();
    let read = tokio::time::timeout(PATIENCE, held.read_to_end(&mut text)).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn junk_ends_neither_the_loop_nor_the_server() {
    let ca = Throwaway::new(now()).unwrap();
    let (server, away) = server(&ca, handshakes(8, PATIENCE)).await;
    for junk in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0; 64], &[0x16, 0x03, 0x01, 0xff, 0xff, 0x01]] {
        for _ in 0..4 {
            let mut stream = TcpStream::connect(server.addr).await.unwrap();
            stream.write_all(junk).await.unwrap();
            // A client that goes away in mid-handshake.
            stream.shutdown().await.unwrap();
            closed(&mut stream).await;
        }
    }
    away.until(TurnedAway::Handshake, 12).await;
    server.dial(&ca.client_config(&Role::agent("c1")).unwrap()).await.unwrap();
}
