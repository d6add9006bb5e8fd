//! The CLI behind a forward proxy, and a REST certificate that is renewed while it is served.

use std::time::Duration;

use certs::{Authority, TrustDomain};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Centre, WITHIN};

/// Tunnels `NAME:PORT` to this machine's PORT for who has the password.
async fn proxy(tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    tasks.spawn(async move {
        let mut tunnels = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            tunnels.spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = near.read_u8().await else { return };
                    head.push(byte);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                // me:secret
                if !head.contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n") {
                    let _ = near.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
                    return;
                }
                let port = head.split([':', ' ']).nth(2).expect("a port").to_owned();
                let mut far = TcpStream::connect(format!("127.0.0.1:{port}")).await.expect("the centre");
                let _ = near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cli_goes_through_the_proxy_and_errors_name_it() {
    let centre = Centre::start().await;
    let mut tasks = JoinSet::new();
    let address = proxy(&mut tasks).await;
    let server = centre.address.replace("localhost", "centre.test");
    let token = centre.path("token");
    let login = ["login", server.as_str(), "--pin", &centre.pin, "--token-file", &token];
    let through = format!("http://me:secret@{address}");
    let (code, _, err) = centre.said_with(&login, &[("HTTPS_PROXY", &through)]).await;
    assert_eq!((code, err.as_str()), (0, "logged in as admin (admin), context default\n"));
    let ca = centre.path("ca.pem");
    let by_ca = ["login", server.as_str(), "--ca-file", &ca, "--token-file", &token];
    let (code, ..) = centre.said_with(&by_ca, &[("https_proxy", &through)]).await;
    assert_eq!(code, 0);

    let wrong = format!("http://me:hunter2@{address}");
    let (code, _, err) = centre.said_with(&["get", "runs"], &[("HTTPS_PROXY", &wrong)]).await;
    assert_eq!(code, 1);
    assert!(err.contains(&address) && err.contains("407") && !err.contains("hunter2"), "{err}");
    let except = [("HTTPS_PROXY", wrong.as_str()), ("NO_PROXY", ".test")];
    let (code, _, err) = centre.said_with(&["get", "runs"], &except).await;
    assert_eq!(code, 1, "nothing resolves it");
    assert!(!err.contains("through the proxy"), "{err}");
    let (code, _, err) = centre.said_with(&["get", "runs"], &[("HTTPS_PROXY", "socks5://h:1")]).await;
    assert_eq!(code, 2);
    assert!(err.contains("HTTPS_PROXY") && err.contains("socks5"), "{err}");
    centre.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_rest_certificate_is_served_without_a_restart() {
    let centre = Centre::start().await;
    centre.login().await;
    let now = jiff::Timestamp::now();
    let other = Authority::create(TrustDomain::new("other.test").expect("a domain"), now).expect("a CA");
    let renewed =
        other.issue_server(&["localhost"], None, now, Duration::from_hours(1)).expect("a certificate");
    std::fs::write(centre.path("rest.key"), "not a key").expect("a file");
    std::fs::write(centre.path("rest.crt"), &renewed.chain_pem).expect("a file");
    // Half of it is there, looked at or not: what was served before is served on.
    centre.login().await;
    std::fs::write(centre.path("rest.key"), &renewed.key_pem).expect("a file");
    let pin = other.pin().to_string();
    let token = centre.path("token");
    let served = async {
        while centre.said(&["login", &centre.address, "--pin", &pin, "--token-file", &token]).await.0 != 0 {}
    };
    tokio::time::timeout(WITHIN, served).await.expect("the new certificate is served");
    centre.end().await;
}
