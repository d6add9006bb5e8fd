//! The acceptor under tonic and under axum, the connector under tonic and under hyper-util.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request};
use axum::routing::get;
use certs::client::{self, Expect, Trust};
use certs::throwaway::Throwaway;
use certs::{Acceptor, ConnInfo, Connector, Protocol, ReloadableIdentity, Role};
use http::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;
use tower::{Service, ServiceExt};

use super::fixture::{chain, now};

fn told(info: &ConnInfo) -> String {
    info.peer.as_ref().map_or_else(|| "nobody".to_owned(), ToString::to_string)
}

#[tokio::test]
async fn tonic_serves_the_stream_and_dials_by_the_connector() {
    let ca = Throwaway::new(now()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = Acceptor::new(listener, ca.server_config().unwrap());
    let uri = format!("http://{}", acceptor.local_addr().unwrap());
    let who = get(|request: Request| async move { told(request.extensions().get::<ConnInfo>().unwrap()) });
    let routes = tonic::service::Routes::from(Router::new().route("/who", who));
    let mut tasks = JoinSet::new();
    tasks.spawn(tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(acceptor));

    let endpoint = Endpoint::from_shared(uri).unwrap();
    let connector = Connector::new(ca.client_config(&Role::agent("c1")).unwrap());
    let mut channel = endpoint.connect_with_connector(connector).await.unwrap();
    let request = http::Request::get("/who").body(tonic::body::Body::empty()).unwrap();
    let response = channel.ready().await.unwrap().call(request).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    let body = to_bytes(Body::new(response.into_body()), 1000).await.unwrap();
    assert_eq!(body, "spiffe://throwaway.test/cluster/c1/agent");

    let other = Throwaway::new(now()).unwrap().joining_client_config().unwrap();
    let error = endpoint.connect_with_connector(Connector::new(other)).await.unwrap_err();
    assert!(chain(&error).contains("another control plane"), "{}", chain(&error));
}

#[tokio::test]
async fn axum_serves_the_listener_to_http_clients() {
    let ca = Throwaway::new(now()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let acceptor = Acceptor::new(listener, ca.open_server_config().unwrap());
    let uri: Uri = format!("http://{}/who", acceptor.local_addr().unwrap()).parse().unwrap();
    let who = get(|ConnectInfo(info): ConnectInfo<ConnInfo>| async move { told(&info) });
    let app = Router::new().route("/who", who).into_make_service_with_connect_info::<ConnInfo>();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(acceptor, app).await.unwrap() });

    let operator = ReloadableIdentity::new(&ca.credential(&Role::operator("ann")).unwrap()).unwrap();
    for (identity, expected) in
        [(operator, "spiffe://throwaway.test/operator/ann"), (ReloadableIdentity::empty(), "nobody")]
    {
        let trust = Trust::Bundle(ca.bundle.clone());
        let config = client::config(&identity, trust, Expect::Name, Protocol::Http).unwrap();
        let client = Client::builder(TokioExecutor::new()).build::<_, Body>(Connector::new(config));
        let response = client.get(uri.clone()).await.unwrap();
        let body = to_bytes(Body::new(response.into_body()), 1000).await.unwrap();
        assert_eq!(body, expected);
    }
}
