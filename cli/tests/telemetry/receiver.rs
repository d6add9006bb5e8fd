//! An OTLP receiver that keeps what it is sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Identity;
use tonic::{Request, Response, Status};

/// Bound of every wait.
const PATIENCE: Duration = Duration::from_mins(1);

/// A span as it was received.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) service: String,
    /// The module it was opened in.
    pub(crate) part: String,
    pub(crate) name: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty for a root.
    pub(crate) parent: String,
    pub(crate) began: u64,
    pub(crate) ended: u64,
    attributes: Vec<(String, String)>,
}

impl Seen {
    pub(crate) fn attribute(&self, key: &str) -> &str {
        let found = self.attributes.iter().find(|(known, _)| known == key);
        &found.unwrap_or_else(|| panic!("no {key} in {self:#?}")).1
    }
}

#[derive(Debug, Clone)]
struct Service(Arc<watch::Sender<Vec<Seen>>>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut new = Vec::new();
        for resource in request.into_inner().resource_spans {
            let of = attributes(&resource.resource.unwrap_or_default().attributes);
            let service = of.iter().find(|(key, _)| key == "service.name").map_or("", |(_, value)| value);
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let attributes = attributes(&span.attributes);
                let target = attributes.iter().find(|(key, _)| key == "target");
                new.push(Seen {
                    service: service.to_owned(),
                    part: target.map(|(_, value)| value.clone()).unwrap_or_default(),
                    name: span.name,
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    began: span.start_time_unix_nano,
                    ended: span.end_time_unix_nano,
                    attributes,
                });
            }
        }
        self.0.send_modify(|seen| seen.extend(new));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn attributes(pairs: &[KeyValue]) -> Vec<(String, String)> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(is)) => is.to_string(),
        other => format!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Listens while it lives.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) addr: SocketAddr,
    seen: Arc<watch::Sender<Vec<Seen>>>,
    _serving: JoinSet<()>,
}

impl Receiver {
    /// With a certificate, or in the clear.
    pub(crate) async fn start(identity: Option<Identity>) -> Self {
        let seen = Arc::new(watch::Sender::new(Vec::new()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let mut server = tonic::transport::Server::builder();
        if let Some(identity) = identity {
            let tls = tonic::transport::ServerTlsConfig::new().identity(identity);
            server = server.tls_config(tls).expect("a certificate");
        }
        let server = server.add_service(TraceServiceServer::new(Service(seen.clone())));
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let mut serving = JoinSet::new();
        serving.spawn(async move { server.serve_with_incoming(incoming).await.expect("serves") });
        Self { addr, seen, _serving: serving }
    }

    pub(crate) fn all(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }

    /// The first span that fits, once it is there.
    pub(crate) async fn first(&self, what: &str, fits: impl Fn(&Seen) -> bool) -> Seen {
        let mut changes = self.seen.subscribe();
        let found = tokio::time::timeout(PATIENCE, changes.wait_for(|seen| seen.iter().any(&fits))).await;
        let Ok(Ok(seen)) = found.map(|found| found.map(|seen| seen.clone())) else {
            let names: Vec<_> =
                self.all().into_iter().map(|seen| (seen.part, seen.name, seen.trace)).collect();
            panic!("no span {what}: {names:#?}");
        };
        seen.into_iter().find(fits).expect("it is there")
    }
}
