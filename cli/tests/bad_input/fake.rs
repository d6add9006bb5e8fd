//! A server in the place of a control plane: it writes down what it was asked and says what the test wants, byte by
//! byte, over real TLS.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use certs::server::{self, ClientAuth};
use certs::{Acceptor, Authority, Protocol, ReloadableIdentity, TrustDomain};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) head: String,
}

impl Asked {
    pub(crate) fn changes(&self) -> bool {
        self.method != "GET"
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// What it says to each request.
#[derive(Debug, Clone)]
pub(crate) enum Says {
    /// This, and then it hangs up.
    Bytes(Vec<u8>),
    /// Nothing, for as long as anybody listens.
    Nothing,
    /// The head of an answer, and then this again and again.
    Endless(&'static str, Vec<u8>, Duration),
}

impl Says {
    /// A whole answer.
    pub(crate) fn answer(status: &str, kind: &str, body: &str) -> Self {
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nETag: \"1\"\r\nContent-Length: {length}");
        Self::Bytes(format!("{head}\r\nConnection: close\r\n\r\n{body}").into_bytes())
    }

    pub(crate) fn json(body: &str) -> Self {
        Self::answer("200 OK", "application/json", body)
    }

    pub(crate) fn not_found() -> Self {
        let body =
            r#"{"type":"urn:faultline:error:not-found","title":"not found","status":404,"code":"not-found"}"#;
        Self::answer("404 Not Found", "application/problem+json", body)
    }
}

/// Serves while it lives.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) server: String,
    pub(crate) pin: String,
    /// Its authority, PEM.
    pub(crate) bundle: String,
    /// Its certificate and key, PEM.
    pub(crate) chain: String,
    pub(crate) key: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    _serving: JoinSet<()>,
}

impl Fake {
    pub(crate) async fn start(says: impl Fn(&Asked) -> Says + Send + Sync + 'static) -> Self {
        certs::install_provider();
        let now = jiff::Timestamp::now();
        let authority =
            Authority::create(TrustDomain::new("fake.test").expect("a domain"), now).expect("a CA");
        let leaf =
            authority.issue_server(&["localhost"], None, now, Duration::from_hours(1)).expect("issued");
        let identity = ReloadableIdentity::new(&leaf).expect("an identity");
        let config = server::config(&identity, ClientAuth::None, Protocol::Http).expect("a configuration");
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let mut acceptor = Acceptor::new(listener, Arc::new(config));
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (noted, says) = (asked.clone(), Arc::new(says));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut talks = JoinSet::new();
            loop {
                let connection = acceptor.accept().await;
                while talks.try_join_next().is_some() {}
                talks.spawn(talk(connection, noted.clone(), says.clone()));
            }
        });
        let (server, pin) = (format!("https://localhost:{port}"), authority.pin().to_string());
        Self {
            server,
            pin,
            bundle: authority.bundle_pem().to_owned(),
            chain: leaf.chain_pem,
            key: leaf.key_pem,
            asked,
            _serving: serving,
        }
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn talk<F: Fn(&Asked) -> Says>(
    mut connection: impl AsyncReadExt + AsyncWriteExt + Unpin,
    noted: Arc<Mutex<Vec<Asked>>>,
    says: Arc<F>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = connection.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let asked = Asked { method, path, head };
    let length = asked.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    if connection.read_exact(&mut body).await.is_err() {
        return;
    }
    let said = says(&asked);
    noted.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
    // Whether anybody still listens is not the question.
    match said {
        Says::Bytes(bytes) => {
            let _ = connection.write_all(&bytes).await;
            let _ = connection.shutdown().await;
        }
        Says::Nothing => std::future::pending().await,
        Says::Endless(head, bytes, pause) => {
            let _ = connection.write_all(head.as_bytes()).await;
            while connection.write_all(&bytes).await.is_ok() && connection.flush().await.is_ok() {
                tokio::time::sleep(pause).await;
            }
        }
    }
}
