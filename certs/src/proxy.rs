//! A forward proxy between us and a server: which one, for whom, and the CONNECT that opens a tunnel through it.
//! Used by [`crate::Connector`]; filled in from `HTTPS_PROXY` and `NO_PROXY` by the command line.

use std::fmt;
use std::io;
use std::net::IpAddr;

use data_encoding::BASE64;
use http::Uri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The longest answer head that a proxy may send, in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// The port of a proxy whose URL has none.
const DEFAULT_PORT: u16 = 3128;

/// Why a proxy's URL or the list of exceptions cannot be used. The URL is never repeated: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// Not `http://[user:password@]host[:port]`.
    #[error("HTTPS_PROXY is not of the form http://[user:password@]host[:port]")]
    Url,
    /// A scheme other than `http`.
    #[error(
        "HTTPS_PROXY has the scheme {0:?}: only http is spoken with proxies (what goes through stays TLS)"
    )]
    Scheme(String),
    /// An entry of the exceptions.
    #[error("NO_PROXY has the entry {0:?}, which is neither a domain, an address nor a CIDR")]
    Exception(String),
}

/// Why a proxy opened no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// It cannot be reached, or broke off.
    #[error("talk to the proxy")]
    Io(#[from] io::Error),
    /// It wants credentials, or others.
    #[error("the proxy wants {} credentials (407): put user:password@ into HTTPS_PROXY", if *.0 { "other" } else { "some" })]
    Credentials(bool),
    /// It does not want to, or could not.
    #[error("the proxy refused: {0}")]
    Refused(String),
    /// It does not speak HTTP.
    #[error("the proxy did not answer in HTTP")]
    NotHttp,
}

/// A forward proxy and whom it is not for.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    address: String,
    authorization: Option<String>,
    exceptions: Vec<Exception>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Exception {
    host: Pattern,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Everything,
    /// Without a leading dot, lower case: itself and everything below it.
    Domain(String),
    Network(IpAddr, u8),
}

impl Proxy {
    /// From the environment as `read` gives it: `HTTPS_PROXY` and `NO_PROXY`, or their lower-case forms. None where
    /// no proxy is named.
    ///
    /// # Errors
    /// [`SettingError`] when one of them cannot be read.
    pub fn from_env(read: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, SettingError> {
        let either = |upper: &str| {
            let value = read(upper).filter(|text| !text.trim().is_empty());
            value.or_else(|| read(&upper.to_ascii_lowercase())).filter(|text| !text.trim().is_empty())
        };
        let Some(url) = either("HTTPS_PROXY") else { return Ok(None) };
        Self::new(&url, &either("NO_PROXY").unwrap_or_default()).map(Some)
    }

    /// From a URL and a list of exceptions with commas between them.
    ///
    /// # Errors
    /// [`SettingError`].
    pub fn new(url: &str, exceptions: &str) -> Result<Self, SettingError> {
        let url = url.trim();
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(SettingError::Scheme(scheme.to_owned()));
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let uri: Uri = format!("http://{host}").parse().map_err(|_| SettingError::Url)?;
        let name = uri.host().filter(|name| !name.is_empty()).ok_or(SettingError::Url)?;
        let port = match host.strip_prefix(name) {
            Some("") => DEFAULT_PORT,
            Some(port) => port[1..].parse().map_err(|_| SettingError::Url)?,
            None => return Err(SettingError::Url),
        };
        let authorization = user.map(basic).transpose()?;
        let exceptions = exceptions.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Ok(Self {
            address: format!("{name}:{port}"),
            authorization,
            exceptions: exceptions.map(exception).collect::<Result<_, _>>()?,
        })
    }

    /// `host:port` of the proxy, without credentials.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether connections to this host go through it. Loopback never does.
    pub fn is_for(&self, host: &str, port: u16) -> bool {
        let host =
            host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return false;
        }
        !self.exceptions.iter().any(|exception| exception.covers(&host, address, port))
    }

    /// Opens a tunnel to `target` (host:port).
    pub(crate) async fn tunnel(&self, target: &str) -> Result<TcpStream, TunnelError> {
        let mut stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        let head = head(&mut stream).await?;
        let mut words = head.lines().next().unwrap_or_default().splitn(3, ' ');
        let version = words.next().unwrap_or_default();
        let code: u16 = words.next().and_then(|code| code.parse().ok()).ok_or(TunnelError::NotHttp)?;
        if !version.starts_with("HTTP/1.") {
            return Err(TunnelError::NotHttp);
        }
        match code {
            200..=299 => Ok(stream),
            407 => Err(TunnelError::Credentials(self.authorization.is_some())),
            _ => {
                let reason: String =
                    words.next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(100).collect();
                Err(TunnelError::Refused(format!("{code} {reason}").trim_end().to_owned()))
            }
        }
    }
}

/// Everything up to the empty line. Nothing can follow it: the other side waits for our first word.
async fn head(stream: &mut TcpStream) -> Result<String, TunnelError> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD {
            return Err(TunnelError::NotHttp);
        }
        // Byte by byte: what comes after the empty line is not ours to read.
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(TunnelError::Refused("it closed the connection".to_owned()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// `user:password`, percent-decoded, as a header's value.
fn basic(user: &str) -> Result<String, SettingError> {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let mut plain = decoded(name)?;
    plain.push(b':');
    plain.extend(decoded(password)?);
    Ok(format!("Basic {}", BASE64.encode(&plain)))
}

fn decoded(text: &str) -> Result<Vec<u8>, SettingError> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(byte);
            continue;
        }
        let mut digit =
            || bytes.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or(SettingError::Url);
        let value = digit()? * 16 + digit()?;
        plain.push(u8::try_from(value).map_err(|_| SettingError::Url)?);
    }
    Ok(plain)
}

fn exception(entry: &str) -> Result<Exception, SettingError> {
    let wrong = || SettingError::Exception(entry.to_owned());
    if entry == "*" {
        return Ok(Exception { host: Pattern::Everything, port: None });
    }
    if let Some((address, bits)) = entry.split_once('/') {
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let host = if bits <= most { Pattern::Network(address, bits) } else { return Err(wrong()) };
        return Ok(Exception { host, port: None });
    }
    let bare = entry.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        return Ok(Exception { host: Pattern::Network(address, bits), port: None });
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().map_err(|_| wrong())?)),
        None => (entry, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = if let Ok(address) = host.parse::<IpAddr>() {
        Pattern::Network(address, if address.is_ipv4() { 32 } else { 128 })
    } else {
        let domain = host.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase();
        let fit = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if domain.is_empty() || !domain.chars().all(fit) {
            return Err(wrong());
        }
        Pattern::Domain(domain)
    };
    Ok(Exception { host, port })
}

impl Exception {
    fn covers(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        if self.port.is_some_and(|wanted| wanted != port) {
            return false;
        }
        match &self.host {
            Pattern::Everything => true,
            Pattern::Domain(domain) => {
                host == domain || host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            Pattern::Network(network, bits) => {
                address.is_some_and(|address| within(address, *network, *bits))
            }
        }
    }
}

fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            u32::from(a) & mask == u32::from(b) & mask
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            u128::from(a) & mask == u128::from(b) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
