//! What is spoken inside TLS: decides the ALPN list and the TLS versions.

/// What a connection speaks once TLS is up: decides the ALPN list and the TLS versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC inside the trust chain: HTTP/2 only, TLS 1.3 only.
    Grpc,
    /// HTTP for people and their tools: HTTP/2 or HTTP/1.1, TLS 1.3 or 1.2.
    Http,
}

impl Protocol {
    pub(crate) fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Grpc => vec![b"h2".to_vec()],
            Self::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }

    pub(crate) fn versions(self) -> &'static [&'static rustls::SupportedProtocolVersion] {
        static GRPC: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];
        static HTTP: &[&rustls::SupportedProtocolVersion] =
            &[&rustls::version::TLS13, &rustls::version::TLS12];
        match self {
            Self::Grpc => GRPC,
            Self::Http => HTTP,
        }
    }
}
