//! OpenTelemetry logs over gRPC: one log record per line, its JSON as the body, its fields as
//! attributes. A batch counts when the collector has answered that it took all of it.

use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use proto::audit::AuditLine;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::{Sink, SinkError};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(super) struct Otlp {
    client: LogsServiceClient<Channel>,
}

impl Otlp {
    /// Dials when there is something to send.
    pub(super) fn new(endpoint: &str, ca_pem: Option<&str>) -> Result<Self, SinkError> {
        let mut target = Endpoint::from_shared(endpoint.to_owned())?
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5));
        if endpoint.starts_with("https://") {
            let tls = match ca_pem {
                Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
                None => ClientTlsConfig::new().with_native_roots(),
            };
            target = target.tls_config(tls)?;
        }
        Ok(Self { client: LogsServiceClient::new(target.connect_lazy()) })
    }
}

fn text(text: impl Into<String>) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text.into())) }
}

fn attribute(key: &str, value: impl Into<String>) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(text(value)), ..KeyValue::default() }
}

fn log(line: &AuditLine) -> Result<LogRecord, SinkError> {
    let (replica, seq, at, event) = match line {
        AuditLine::Record(record) => (&record.replica, record.seq, record.at, "faultline.audit"),
        AuditLine::Checkpoint(checkpoint) => {
            (&checkpoint.replica, checkpoint.seq, checkpoint.at, "faultline.audit.checkpoint")
        }
    };
    let mut attributes = vec![
        attribute("faultline.audit.replica", replica),
        KeyValue {
            key: "faultline.audit.seq".to_owned(),
            value: Some(AnyValue { value: Some(Value::IntValue(seq as i64)) }),
            ..KeyValue::default()
        },
    ];
    if let AuditLine::Record(record) = line {
        attributes.extend([
            attribute("faultline.audit.by", &record.by),
            attribute("faultline.audit.action", &record.action),
            attribute("faultline.audit.subject", &record.subject),
            attribute("faultline.audit.result", &record.result),
        ]);
    }
    Ok(LogRecord {
        time_unix_nano: u64::try_from(at.as_nanosecond()).unwrap_or_default(),
        severity_number: SeverityNumber::Info.into(),
        severity_text: "INFO".to_owned(),
        body: Some(text(serde_json::to_string(line)?)),
        attributes,
        event_name: event.to_owned(),
        ..LogRecord::default()
    })
}

#[async_trait]
impl Sink for Otlp {
    async fn write(&mut self, lines: &[AuditLine]) -> Result<(), SinkError> {
        let scope = InstrumentationScope { name: "faultline.audit".to_owned(), ..Default::default() };
        let log_records = lines.iter().map(log).collect::<Result<_, _>>()?;
        let resource = Resource {
            attributes: vec![
                attribute("service.name", "faultline-control-plane"),
                attribute("service.version", env!("CARGO_PKG_VERSION")),
            ],
            ..Resource::default()
        };
        let request = ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs {
                resource: Some(resource),
                scope_logs: vec![ScopeLogs { scope: Some(scope), log_records, ..ScopeLogs::default() }],
                ..ResourceLogs::default()
            }],
        };
        let answer = self.client.export(request).await?.into_inner();
        match answer.partial_success.filter(|partial| partial.rejected_log_records > 0) {
            None => Ok(()),
            Some(partial) => Err(SinkError::Rejected {
                rejected: partial.rejected_log_records,
                message: partial.error_message,
            }),
        }
    }
}
