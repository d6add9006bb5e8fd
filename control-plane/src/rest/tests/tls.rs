//! The whole way: a socket, TLS with a pinned root, HTTP, and a drain.

use std::sync::Arc;

use certs::client::{Expect, Trust, config};
use certs::throwaway::Throwaway;
use certs::{Connector, Protocol, ReloadableIdentity, ServerConfig};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use proto::rest::WhoAmI;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::fixture::{ADMIN, Lab, SOON};
use crate::rest::{self, Meter};

type Https = Client<Connector, Full<bytes::Bytes>>;

fn client(throwaway: &Throwaway, protocol: Protocol) -> Https {
    let trust = Trust::Pin(throwaway.authority.pin());
    let config =
        config(&ReloadableIdentity::empty(), trust, Expect::Name, protocol).expect("a configuration");
    let mut builder = Client::builder(TokioExecutor::new());
    builder.http2_only(protocol == Protocol::Grpc).build(Connector::new(config))
}

async fn whoami(
    client: &Https,
    authority: &str,
) -> Result<(StatusCode, Vec<u8>), Box<dyn std::error::Error>> {
    let request = Request::get(format!("http://{authority}/v1/whoami"))
        .header("authorization", format!("Bearer {ADMIN}"))
        .body(Full::default())?;
    let response = tokio::time::timeout(SOON, client.request(request)).await??;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes().to_vec()))
}

#[tokio::test]
async fn a_pinned_client_is_served_over_tls_until_the_drain() {
    let lab = Lab::new().await;
    let now = lab.centre.inner.clock.now();
    let (ours, other) = (Throwaway::new(now).expect("a CA"), Throwaway::new(now).expect("a CA"));
    let tls: Arc<ServerConfig> = ours.open_server_config().expect("a configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let authority = listener.local_addr().expect("an address").to_string();
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(rest::serve(listener, tls, lab.centre.clone(), Meter::default(), shutdown.clone()));

    for protocol in [Protocol::Http, Protocol::Grpc] {
        let (status, body) = whoami(&client(&ours, protocol), &authority).await.expect("an answer");
        assert_eq!(status, StatusCode::OK, "{protocol:?}");
        let who: WhoAmI = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(who.name, "admin", "{protocol:?}");
    }
    whoami(&client(&other, Protocol::Http), &authority).await.expect_err("another pin");

    shutdown.cancel();
    let ended = tokio::time::timeout(SOON, tasks.join_next()).await.expect("drained in time");
    ended.expect("a task").expect("no panic").expect("no error");
    whoami(&client(&ours, Protocol::Http), &authority).await.expect_err("nobody listens");
}
