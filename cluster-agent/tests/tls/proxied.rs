//! The centre behind a forward proxy: enrolment and link both go through it, and nothing else knows the way.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use certs::Proxy;
use proto::wire::Up;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::centre::start_at;

/// Tunnels `centre.test:PORT` to this machine's PORT.
async fn proxy(asked: Arc<Mutex<Vec<String>>>, tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tasks.spawn(async move {
        let mut tunnels = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            let asked = asked.clone();
            tunnels.spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(near.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.split(' ').nth(1).unwrap().to_owned();
                let port = target.strip_prefix("centre.test:").unwrap().to_owned();
                asked.lock().unwrap().push(target);
                let mut far = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
                near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                // Either side may break off.
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn enrolment_and_link_go_through_the_proxy() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    let address = proxy(asked.clone(), &mut tasks).await;
    let through = Proxy::new(&format!("http://{address}"), "").unwrap();
    let mut running = start_at(Duration::from_hours(1), "centre.test", Some(through)).await;
    let (peer, hello) = running.next().await;
    assert_eq!(peer, "spiffe://throwaway.test/cluster/c2/agent");
    assert!(matches!(hello, Up::Hello(_)));
    let asked = asked.lock().unwrap().clone();
    let ports: std::collections::BTreeSet<&String> = asked.iter().collect();
    assert_eq!(ports.len(), 2, "enrolment and link: {asked:?}");
}
