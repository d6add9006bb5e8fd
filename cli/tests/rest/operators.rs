//! Operators by the command line, and commands whose answer is lost on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Centre, WITHIN};

#[tokio::test(flavor = "multi_thread")]
async fn operators_are_made_listed_rotated_and_revoked() {
    let centre = Centre::start().await;
    centre.login().await;
    let (code, out, err) =
        centre.said(&["operators", "create", "ann", "--role", "author", "--ttl", "1h"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("flo1.") && out.lines().count() == 1 && !err.contains(out.trim()), "{out}{err}");
    let listed = centre.ok(&["operators", "list"]).await;
    assert!(listed.contains("ann") && listed.contains("author") && !listed.contains("flo1."), "{listed}");

    let login = async |token: &str, name: &str| {
        std::fs::write(centre.path("ann"), token).expect("a file");
        let (pin, file) = (centre.pin.clone(), centre.path("ann"));
        centre.said(&["login", &centre.address, "--pin", &pin, "--token-file", &file, "--name", name]).await
    };
    assert_eq!(login(&out, "ann").await.0, 0);
    centre.ok(&["apply", "-f", "good.yaml", "--context", "ann"]).await;
    let (code, _, err) = centre.said(&["run", "slow-payments", "--context", "ann"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("this needs the role operator, you have author"), "{err}");

    let second = centre.ok(&["operators", "rotate", "ann", "--context", "default"]).await;
    assert_ne!(second, out);
    assert_eq!(login(&out, "old").await.0, 1, "the token before opens nothing");
    assert_eq!(login(&second, "ann").await.0, 0);
    centre.ok(&["operators", "revoke", "ann", "--context", "default"]).await;
    assert_eq!(login(&second, "ann").await.0, 1);
    let (code, _, err) = centre.said(&["operators", "revoke", "admin", "--context", "default"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("the last admin"), "{err}");
    centre.end().await;
}

/// Passes bytes on. Once armed it keeps back what is answered to a request, until the cut: that ends the connections
/// of those requests, and what comes later passes.
struct Wire {
    port: u16,
    armed: Arc<AtomicBool>,
    cut: CancellationToken,
    #[expect(dead_code, reason = "dropped with this")]
    tasks: JoinSet<()>,
}

impl Wire {
    async fn to(centre: &Centre) -> Self {
        let upstream = centre.address.trim_start_matches("https://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (armed, cut) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let (is_armed, told) = (armed.clone(), cut.clone());
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&upstream).await.expect("the control plane");
                open.spawn(pass(client, server, is_armed.clone(), told.clone()));
            }
        });
        Self { port, armed, cut, tasks }
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream, armed: Arc<AtomicBool>, cut: CancellationToken) {
    let (mut up, mut down) = ([0; 16 * 1024], [0; 16 * 1024]);
    let (mut sent, mut is_kept_back) = (0, false);
    loop {
        // The first is the greeting of TLS; the request comes with the second.
        is_kept_back |= sent > 1 && armed.load(Ordering::SeqCst) && !cut.is_cancelled();
        tokio::select! {
            read = client.read(&mut up) => match read {
                Ok(n) if n > 0 && server.write_all(&up[..n]).await.is_ok() => sent += 1,
                _ => return,
            },
            read = server.read(&mut down) => match read {
                Ok(n) if n > 0 => {
                    if !is_kept_back && client.write_all(&down[..n]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            () = cut.cancelled(), if is_kept_back => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lost_its_answer_is_asked_again_and_done_once() {
    let centre = Centre::start().await;
    centre.login().await;
    let wire = Wire::to(&centre).await;
    let through = format!("https://localhost:{}", wire.port);
    let (pin, token) = (centre.pin.clone(), centre.path("token"));
    centre.ok(&["login", &through, "--pin", &pin, "--token-file", &token, "--name", "wire"]).await;
    wire.armed.store(true, Ordering::SeqCst);
    let invite = centre.said(&["clusters", "invite", "c2", "--context", "wire"]);
    let lose = async {
        loop {
            let clusters = centre.json(&["clusters", "list", "--context", "default"]).await;
            if clusters.as_array().is_some_and(|clusters| !clusters.is_empty()) {
                break;
            }
        }
        wire.cut.cancel();
    };
    let both = async { tokio::join!(invite, lose) };
    let ((code, out, err), ()) = tokio::time::timeout(WITHIN, both).await.expect("in time");
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.trim().parse::<certs::JoinToken>().is_ok(), "{out}");
    let noted = async {
        loop {
            let audit = centre.json(&["get", "audit", "--context", "default"]).await;
            let invited = |record: &&Value| record["action"] == "cluster.invite";
            let count = audit.as_array().expect("a list").iter().filter(invited).count();
            if count > 0 {
                return count;
            }
        }
    };
    assert_eq!(tokio::time::timeout(WITHIN, noted).await.expect("noted in time"), 1, "invited once");
    centre.end().await;
}
