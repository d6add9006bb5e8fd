//! The agent of the machine as this process, with a tracer of its own, and its node daemon as a process of the real
//! binary that dials it over gRPC and asks a container runtime.

use std::path::Path;

use cluster_agent::cluster::NodeAuth;
use cluster_agent::cluster::host::{Host, HostConfig};
use opentelemetry::Context;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;

/// What the agent is called in its spans.
pub(crate) const SERVICE: &str = "the-agent-of-the-test";

/// Lets the bearer of whatever token in as the node of this name.
#[derive(Debug)]
struct Only(&'static str);

#[tonic::async_trait]
impl NodeAuth for Only {
    async fn node_of(&self, _: &str) -> Result<String, cluster_agent::cluster::Error> {
        Ok(self.0.to_owned())
    }
}

/// An agent that ends with this value.
#[derive(Debug)]
pub(crate) struct Agent {
    provider: SdkTracerProvider,
    shutdown: CancellationToken,
    parts: JoinSet<anyhow::Result<()>>,
}

impl Agent {
    /// Over the files in this folder; daemons dial this address.
    pub(crate) async fn start(folder: &Path, address: &str, endpoint: &str) -> Self {
        let provider = traced(endpoint);
        let config = HostConfig {
            state_dir: folder.join("agent"),
            workloads: folder.join("workloads.yaml"),
            ceiling: folder.join("ceiling.yaml"),
            authored_dir: folder.join("authored"),
            node_name: "edge".to_owned(),
            denied: Vec::new(),
        };
        let door = Host::open(config).await.expect("a state folder");
        let mut doors = door.doors();
        doors.node_auth = Some(std::sync::Arc::new(Only("edge")));
        let host = address.split_once(':').expect("an address and a port").0;
        let config = cluster_agent::Config {
            join_token_file: Some(folder.join("join.token")),
            node_link_addr: Some(address.parse().expect("an address")),
            node_service: vec![host.to_owned()],
            ..cluster_agent::Config::default()
        };
        let shutdown = CancellationToken::new();
        let mut parts = JoinSet::new();
        parts.spawn(cluster_agent::run_with(doors, config, None, shutdown.clone()));
        parts.spawn(async move { door.watch().await });
        Self { provider, shutdown, parts }
    }

    pub(crate) async fn end(mut self) {
        self.shutdown.cancel();
        self.parts.join_next().await.expect("it was started").expect("no panic").expect("a clean end");
        let _ = self.provider.shutdown();
    }
}

/// Sends spans after a moment.
fn soon(exporter: opentelemetry_otlp::SpanExporter) -> BatchSpanProcessor {
    let config = BatchConfigBuilder::default().with_scheduled_delay(std::time::Duration::from_millis(100));
    BatchSpanProcessor::builder(exporter).with_batch_config(config.build()).build()
}

/// Spans of this process go to the endpoint under a name of their own.
fn traced(endpoint: &str) -> SdkTracerProvider {
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let provider = SdkTracerProvider::builder()
        .with_resource(Resource::builder().with_service_name(SERVICE).build())
        .with_span_processor(soon(exporter.expect("an endpoint")))
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test")).with_target(true);
    let ours = tracing_subscriber::filter::Targets::new().with_target("cluster_agent", tracing::Level::INFO);
    let layer = tracing_subscriber::Layer::with_filter(layer, ours);
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
        .expect("the only test with spans of its own");
    proto::trace::install(Box::new(Spans));
    provider
}

/// As the binary does it: traceparents as data.
struct Spans;

impl proto::trace::Exporter for Spans {
    fn set_parent(&self, span: &tracing::Span, traceparent: &str) {
        let parts: Vec<&str> = traceparent.split('-').collect();
        let (Ok(trace), Ok(parent)) = (TraceId::from_hex(parts[1]), SpanId::from_hex(parts[2])) else {
            return;
        };
        let context = SpanContext::new(trace, parent, TraceFlags::SAMPLED, true, TraceState::default());
        let _ = span.set_parent(Context::new().with_remote_span_context(context));
    }

    fn traceparent(&self, span: &tracing::Span) -> Option<String> {
        let context = span.context();
        let span = context.span();
        let is = span.span_context();
        is.is_valid().then(|| format!("00-{}-{}-01", is.trace_id(), is.span_id()))
    }
}
