//! Where the audit goes beside the store. A sink takes lines in order and answers only when they
//! are safe with it; what was not answered is sent again, so it may see a line twice.

mod jsonl;
mod otlp;

use std::path::PathBuf;
use std::str::FromStr;

use async_trait::async_trait;
use proto::audit::AuditLine;

/// Why a sink did not take lines: they are sent again later.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The file.
    #[error("{what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line without a JSON form.
    #[error("write a line as JSON")]
    Json(#[from] serde_json::Error),
    /// The collector cannot be dialled as configured.
    #[error("set up the connection to the collector")]
    Setup(#[from] tonic::transport::Error),
    /// The collector did not answer well.
    #[error("the collector did not take the records: {0}")]
    Collector(#[from] tonic::Status),
    /// The collector took some only.
    #[error("the collector refused {rejected} records: {message}")]
    Rejected {
        /// How many.
        rejected: i64,
        /// Its words.
        message: String,
    },
}

/// A place that keeps what it is given.
#[async_trait]
pub(crate) trait Sink: Send + std::fmt::Debug {
    /// Returns once every line is safe. After an error any part of them may be.
    async fn write(&mut self, lines: &[AuditLine]) -> Result<(), SinkError>;
}

/// Which sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkChoice {
    /// `jsonl:PATH`: one JSON object a line, appended and synced to disk.
    Jsonl {
        /// The file, or, with a slash at its end, the folder in which each process has a file of its own; file and
        /// folder are made where they are not there. Only the leader writes, but two may believe for a moment that they lead, and
        /// on a network file system their appends would overwrite each other: in a folder they cannot.
        path: PathBuf,
    },
    /// `otlp:http://HOST:4317` or `otlp:https://HOST:4317`: OpenTelemetry logs over gRPC.
    Otlp {
        /// Of the collector.
        endpoint: String,
        /// Whom to trust with https, PEM; the system's authorities where absent.
        ca_pem: Option<String>,
    },
}

/// A text that names no sink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither jsonl:FILE, jsonl:FOLDER/ nor otlp:http(s)://HOST:PORT")]
pub struct UnknownSink(String);

impl FromStr for SinkChoice {
    type Err = UnknownSink;

    fn from_str(text: &str) -> Result<Self, UnknownSink> {
        let unknown = || UnknownSink(text.to_owned());
        match text.split_once(':').ok_or_else(unknown)? {
            ("jsonl", path) if !path.is_empty() => Ok(Self::Jsonl { path: path.into() }),
            ("otlp", endpoint) => {
                let uri: http::Uri = endpoint.parse().map_err(|_| unknown())?;
                let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
                if !scheme || uri.host().is_none_or(str::is_empty) {
                    return Err(unknown());
                }
                Ok(Self::Otlp { endpoint: endpoint.to_owned(), ca_pem: None })
            }
            _ => Err(unknown()),
        }
    }
}

impl std::fmt::Display for SinkChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Jsonl { path } => write!(f, "jsonl:{}", path.display()),
            Self::Otlp { endpoint, .. } => write!(f, "otlp:{endpoint}"),
        }
    }
}

impl SinkChoice {
    /// Names it in the store: another place begins anew, with everything that is still there.
    pub(crate) fn name(&self) -> String {
        let hash = proto::hash::sha256_hex(self.to_string().as_bytes());
        let kind = if matches!(self, Self::Jsonl { .. }) { "jsonl" } else { "otlp" };
        format!("{kind}-{}", &hash[..16])
    }

    /// For a process of this name.
    pub(crate) fn open(&self, replica: &str) -> Result<Box<dyn Sink>, SinkError> {
        Ok(match self {
            Self::Jsonl { path } if path.as_os_str().as_encoded_bytes().ends_with(b"/") => {
                Box::new(jsonl::Jsonl::in_folder(path, replica))
            }
            Self::Jsonl { path } => Box::new(jsonl::Jsonl::new(path.clone())),
            Self::Otlp { endpoint, ca_pem } => Box::new(otlp::Otlp::new(endpoint, ca_pem.as_deref())?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::SinkChoice;

    #[test]
    fn a_sink_reads_back_and_another_place_has_another_name() {
        let good = ["jsonl:/var/log/audit.jsonl", "otlp:http://c:4317", "otlp:https://c.example:4317"];
        let choices = good.map(|text| text.parse::<SinkChoice>().unwrap());
        assert_eq!(choices.each_ref().map(ToString::to_string), good);
        let names = choices.each_ref().map(SinkChoice::name);
        assert!(names[0] != names[1] && names[1] != names[2], "{names:?}");
        for bad in ["", "jsonl", "jsonl:", "file:/x", "otlp:c:4317", "otlp:ftp://c", "otlp:http://", "otlp:"]
        {
            assert!(bad.parse::<SinkChoice>().is_err(), "{bad}");
        }
    }
}
