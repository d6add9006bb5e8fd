//! Logs to stderr, and traces over OTLP where an endpoint is named. The one place that knows OpenTelemetry: the
//! crates of the roles open `tracing` spans and carry a [`TraceContext`](proto::trace::TraceContext) as data. Called by
//! every role in `serve`.
//!
//! Nothing here is ever waited for: spans go into a bounded queue, a thread of its own sends them, what cannot be sent
//! is counted, said and dropped, and the flush at the end has a deadline.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// The last spans have so long to be sent when the process ends.
const FLUSH_WITHIN: Duration = Duration::from_secs(3);
/// That spans are lost is said at most this often.
const SAY_AGAIN: Duration = Duration::from_mins(1);
/// Whose spans are exported: ours, never those of the libraries that export them.
const OURS: [&str; 4] = ["control_plane", "cluster_agent", "node_daemon", "cli"];

/// Options of every role.
#[derive(Debug, Args)]
pub(crate) struct TelemetryArgs {
    /// What to log, as in info or faultline=debug,info
    #[arg(long, env = "FAULTLINE_LOG", default_value = "info")]
    log: String,
    /// Form of the log
    #[arg(long, env = "FAULTLINE_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Where traces go, OTLP over gRPC, as in http://collector:4317; without it none are made. Other OTEL_ variables
    /// are honoured too: see the guide on telemetry
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// Authorities that may vouch for an https endpoint, PEM; default: the system's
    #[arg(long, env = "OTEL_EXPORTER_OTLP_CERTIFICATE", value_name = "FILE")]
    otlp_ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl TelemetryArgs {
    /// What cannot be used of them, each by its flag.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Err(error) = EnvFilter::try_new(&self.log) {
            problems.push(format!("--log {:?}: {error}", self.log));
        }
        let endpoint = self.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty());
        if endpoint.is_some_and(|endpoint| !is_http(endpoint)) {
            problems.push("--otlp-endpoint is not http(s)://host:port".to_owned());
        }
        if let Some(path) = &self.otlp_ca
            && let Err(error) = std::fs::read(path)
        {
            problems.push(format!("--otlp-ca: read {}: {error}", path.display()));
        }
        problems
    }

    /// Starts logging and, where an endpoint is named, tracing as `service`. Keep what is returned until the role has
    /// ended: dropping it sends the last spans. A second start in one process is a mistake.
    ///
    /// # Errors
    /// A filter, an endpoint or a file that cannot be used. Whether anybody answers at the endpoint is not asked.
    pub(crate) fn start(&self, service: &'static str) -> anyhow::Result<Telemetry> {
        let filter = EnvFilter::try_new(&self.log).with_context(|| format!("--log {:?}", self.log))?;
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(std::io::stderr);
        let lines = match self.log_format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        let exporting = self.endpoint().map(|endpoint| self.exporting(&endpoint, service)).transpose()?;
        let spans = exporting.as_ref().map(|exporting| {
            let tracer = exporting.provider.tracer("faultline");
            let ours = Targets::new().with_targets(OURS.map(|name| (name, LevelFilter::INFO)));
            let layer = tracing_opentelemetry::layer().with_tracer(tracer);
            layer.with_location(false).with_threads(false).with_target(true).with_filter(ours)
        });
        tracing_subscriber::registry()
            .with(lines.with_filter(filter))
            .with(spans)
            .try_init()
            .map_err(|error| anyhow::anyhow!("start logging: {error}"))?;
        if exporting.is_some() {
            proto::trace::install(Box::new(Spans));
        }
        Ok(Telemetry(exporting))
    }

    /// The endpoint, unless the standard switches say that nothing is exported.
    fn endpoint(&self) -> Option<String> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let nowhere = set("OTEL_TRACES_EXPORTER").is_some_and(|value| value == "none");
        let endpoint = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| self.otlp_endpoint.clone());
        endpoint.filter(|endpoint| !endpoint.is_empty() && !disabled && !nowhere)
    }

    fn exporting(&self, endpoint: &str, service: &'static str) -> anyhow::Result<Exporting> {
        // Of its own, so that a busy role delays no export and the flush works after the role's runtime has ended.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("otlp")
            .enable_all()
            .build()
            .context("start the runtime of the exporter")?;
        let mut exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint);
        if endpoint.starts_with("https://") {
            exporter = exporter.with_tls_config(self.tls()?);
        }
        let exporter = {
            let _inside = runtime.enter();
            exporter.build().with_context(|| format!("--otlp-endpoint {endpoint:?}"))?
        };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(service))
            .with_batch_exporter(Counted {
                exporter,
                lost: AtomicU64::new(0),
                said: std::sync::Mutex::default(),
            })
            .build();
        Ok(Exporting { provider, runtime })
    }

    fn tls(&self) -> anyhow::Result<ClientTlsConfig> {
        let Some(path) = &self.otlp_ca else {
            return Ok(ClientTlsConfig::new().with_native_roots());
        };
        let pem = std::fs::read(path).with_context(|| format!("--otlp-ca: read {}", path.display()))?;
        Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
    }
}

fn is_http(endpoint: &str) -> bool {
    endpoint.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    })
}

/// Who this process is, as every span says. What the OTEL_ variables say goes first.
fn resource(service: &'static str) -> Resource {
    let named = |variable: &str, part: &str| std::env::var(variable).is_ok_and(|value| value.contains(part));
    let mut resource =
        Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if !named("OTEL_SERVICE_NAME", "") && !named("OTEL_RESOURCE_ATTRIBUTES", "service.name=") {
        resource = resource.with_service_name(service);
    }
    if let Ok(host) = nix::unistd::gethostname()
        && !named("OTEL_RESOURCE_ATTRIBUTES", "host.name=")
    {
        resource = resource.with_attribute(KeyValue::new("host.name", host.to_string_lossy().into_owned()));
    }
    resource.build()
}

/// Sends the last spans when it is dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct Telemetry(Option<Exporting>);

#[derive(Debug)]
struct Exporting {
    provider: SdkTracerProvider,
    runtime: tokio::runtime::Runtime,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(Exporting { provider, runtime }) = self.0.take() {
            if let Err(error) = provider.shutdown_with_timeout(FLUSH_WITHIN) {
                tracing::warn!(%error, "the last spans were not sent");
            }
            runtime.shutdown_background();
        }
    }
}

/// An exporter whose failures cost nothing but the spans.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    lost: AtomicU64,
    said: std::sync::Mutex<Option<Instant>>,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        if let Err(error) = self.exporter.export(batch).await {
            let lost = self.lost.fetch_add(count, Ordering::Relaxed) + count;
            self.say(&error.to_string(), lost);
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(lost, "spans could not be sent while this process lived");
        }
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E> Counted<E> {
    fn say(&self, error: &str, lost: u64) {
        let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if said.is_none_or(|at| at.elapsed() > SAY_AGAIN) {
            *said = Some(Instant::now());
            tracing::warn!(error, lost, "spans could not be sent");
        }
    }
}

/// The spans of this process as traceparents, and back.
struct Spans;

impl proto::trace::Exporter for Spans {
    fn set_parent(&self, span: &tracing::Span, traceparent: &str) {
        if let Some(parent) = parsed(traceparent) {
            // Fails for a span that is filtered out, which has no parent to get.
            let _ = span.set_parent(Context::new().with_remote_span_context(parent));
        }
    }

    fn traceparent(&self, span: &tracing::Span) -> Option<String> {
        let context = span.context();
        let span = context.span();
        let is = span.span_context();
        let flags = u8::from(is.is_sampled());
        is.is_valid().then(|| format!("00-{}-{}-0{flags}", is.trace_id(), is.span_id()))
    }
}

fn parsed(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    Some(SpanContext::new(trace, span, TraceFlags::new(flags), true, TraceState::default()))
}
