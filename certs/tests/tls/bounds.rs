//! Slow, broken and too many handshakes.

use std::time::Duration;

use certs::throwaway::Throwaway;
use certs::{Acceptor, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::fixture::{PATIENCE, Server, now};

async fn server(ca: &Throwaway, max_handshakes: usize, timeout: Duration) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Server::over(Acceptor::with_limits(listener, ca.server_config().unwrap(), max_handshakes, timeout))
}

/// Waits until the server has closed the connection.
async fn closed(stream: &mut TcpStream) {
    let mut sink = Vec::new();
    // A reset is as good as an end.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut sink)).await.unwrap();
}

#[tokio::test]
async fn a_slow_handshake_delays_nobody_and_is_cut() {
    let ca = Throwaway::new(now()).unwrap();
    let server = server(&ca, 256, Duration::from_millis(1500)).await;
    let mut silent = TcpStream::connect(server.addr).await.unwrap();
    let mut half = TcpStream::connect(server.addr).await.unwrap();
    // The head of a TLS record whose body never comes.
    half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.unwrap();
    let config = ca.client_config(&Role::agent("c1")).unwrap();
    for _ in 0..3 {
        server.dial(&config).await.unwrap();
    }
    closed(&mut silent).await;
    closed(&mut half).await;
    server.dial(&config).await.unwrap();
}

#[tokio::test]
async fn the_bound_holds_and_frees_itself() {
    let ca = Throwaway::new(now()).unwrap();
    let timeout = Duration::from_millis(700);
    let server = server(&ca, 2, timeout).await;
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(server.addr).await.unwrap());
    }
    let begin = tokio::time::Instant::now();
    // Waits in the backlog until a place is free.
    server.dial(&ca.client_config(&Role::agent("c1")).unwrap()).await.unwrap();
    assert!(begin.elapsed() > timeout / 2, "was let in beside two handshakes in flight");
}

#[tokio::test]
async fn junk_ends_neither_the_loop_nor_the_server() {
    let ca = Throwaway::new(now()).unwrap();
    let server = server(&ca, 4, PATIENCE).await;
    for junk in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0; 64], &[0x16, 0x03, 0x01, 0xff, 0xff, 0x01]] {
        for _ in 0..4 {
            let mut stream = TcpStream::connect(server.addr).await.unwrap();
            stream.write_all(junk).await.unwrap();
            // A client that goes away in mid-handshake.
            stream.shutdown().await.unwrap();
            closed(&mut stream).await;
        }
    }
    server.dial(&ca.client_config(&Role::agent("c1")).unwrap()).await.unwrap();
}
