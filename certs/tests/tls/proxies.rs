//! Tunnels through a forward proxy, and a box in between that inspects TLS.

use std::sync::Arc;

use certs::client::{self, Expect, Trust};
use certs::throwaway::Throwaway;
use certs::{ClientConfig, Connector, Protocol, Proxy, ReloadableIdentity, TrustBundle};
use data_encoding::BASE64;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::fixture::{DAY, PATIENCE, Server, chain, now};

/// A CONNECT proxy that sends everything to one server, whatever name is asked for.
struct Tunnels {
    address: String,
    asked: mpsc::Receiver<String>,
    _tasks: JoinSet<()>,
}

impl Tunnels {
    async fn start(to: std::net::SocketAddr, answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (tell, asked) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let tell = tell.clone();
                connections.spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(near.read_u8().await.unwrap());
                    }
                    tell.send(String::from_utf8(head).unwrap()).await.unwrap();
                    near.write_all(answer.as_bytes()).await.unwrap();
                    if answer.starts_with("HTTP/1.1 200") {
                        let mut far = TcpStream::connect(to).await.unwrap();
                        // Either side may break off.
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Self { address, asked, _tasks: tasks }
    }
}

async fn dial(config: &Arc<ClientConfig>, proxy: Proxy, uri: &str) -> Result<u8, String> {
    let connector = Connector::new(config.clone()).with_proxy(Some(proxy));
    let mut conn = connector.connect(&uri.parse().unwrap()).await.map_err(|error| chain(&error))?;
    let read = tokio::time::timeout(PATIENCE, conn.read_u8()).await.unwrap();
    read.map_err(|error| chain(&error))
}

fn by_pin(ca: &Throwaway) -> Arc<ClientConfig> {
    let trust = Trust::Pin(ca.authority.pin());
    client::config(&ReloadableIdentity::empty(), trust, Expect::Name, Protocol::Grpc).unwrap()
}

/// A server called `centre.test`, which nothing resolves: only the proxy knows the way.
async fn centre(ca: &Throwaway) -> Server {
    let named = ca.authority.issue_server(&["centre.test"], None, now(), DAY).unwrap();
    ca.server.replace(&named).unwrap();
    Server::start(ca.open_server_config().unwrap()).await
}

#[tokio::test]
async fn a_tunnel_carries_the_same_tls_and_the_credentials() {
    let ca = Throwaway::new(now()).unwrap();
    let server = centre(&ca).await;
    let mut tunnels = Tunnels::start(server.addr, "HTTP/1.1 200 Connection established\r\n\r\n").await;
    let proxy = Proxy::new(&format!("http://me:s%3Acret@{}", tunnels.address), "").unwrap();
    assert_eq!(dial(&by_pin(&ca), proxy, "http://centre.test:7444").await.unwrap(), b'!');
    let asked = tunnels.asked.recv().await.unwrap();
    assert!(asked.starts_with("CONNECT centre.test:7444 HTTP/1.1\r\nHost: centre.test:7444\r\n"), "{asked}");
    let credentials = format!("Proxy-Authorization: Basic {}\r\n", BASE64.encode(b"me:s:cret"));
    assert!(asked.contains(&credentials), "{asked}");
}

#[tokio::test]
async fn what_is_exempt_is_dialled_directly() {
    let ca = Throwaway::new(now()).unwrap();
    let server = Server::start(ca.open_server_config().unwrap()).await;
    // Nothing listens there; loopback does not ask it.
    let proxy = Proxy::new("http://127.0.0.1:1", "").unwrap();
    assert_eq!(dial(&by_pin(&ca), proxy, &server.uri().to_string()).await.unwrap(), b'!');
}

#[tokio::test]
async fn every_error_names_the_proxy_and_never_the_password() {
    let ca = Throwaway::new(now()).unwrap();
    let server = centre(&ca).await;
    for (answer, wanted) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "wants other credentials"),
        ("HTTP/1.1 403 Forbidden by policy\r\n\r\n", "403 Forbidden by policy"),
        ("SSH-2.0-OpenSSH\r\n\r\n", "did not answer in HTTP"),
    ] {
        let tunnels = Tunnels::start(server.addr, answer).await;
        let proxy = Proxy::new(&format!("http://me:hunter2@{}", tunnels.address), "").unwrap();
        let error = dial(&by_pin(&ca), proxy, "http://centre.test:7444").await.unwrap_err();
        assert!(error.contains(wanted) && error.contains(&tunnels.address), "{error}");
        assert!(error.contains("centre.test:7444") && error.contains("HTTPS_PROXY"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let unreachable = Proxy::new("http://127.0.0.1:1", "").unwrap();
    let error = dial(&by_pin(&ca), unreachable, "http://centre.test:7444").await.unwrap_err();
    assert!(error.contains("through the proxy 127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn a_proxy_that_inspects_tls_is_told_as_such() {
    let (ca, inspector) = (Throwaway::new(now()).unwrap(), Throwaway::new(now()).unwrap());
    // It answers in the centre's name with a certificate of its own CA.
    let middle = centre(&inspector).await;
    let tunnels = Tunnels::start(middle.addr, "HTTP/1.1 200 OK\r\n\r\n").await;
    let proxy = || Proxy::new(&format!("http://{}", tunnels.address), "").unwrap();
    let bundle = certs::Reloadable::new(TrustBundle::from_pem(ca.authority.bundle_pem()).unwrap());
    let by_bundle =
        client::config(&ReloadableIdentity::empty(), Trust::Bundle(bundle), Expect::Name, Protocol::Grpc)
            .unwrap();
    for config in [by_pin(&ca), by_bundle] {
        let error = dial(&config, proxy(), "http://centre.test:7444").await.unwrap_err();
        assert!(error.contains("inspects TLS") && error.contains("Faultline intermediate"), "{error}");
    }
}
