//! Measurements from outside the target: plain HTTP to an address, from the
//! machine, a node or a pod's network namespace, and one DNS question. Called
//! by the scenarios and by `up`.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::net;

const LONGEST_REPLY: u64 = 1 << 20;

/// Where a measurement is made from.
#[derive(Debug, Clone)]
pub enum Vantage {
    /// The machine; it has routes to all pods.
    Host,
    /// A network namespace, such as a node's or a process's `/proc/PID/ns/net`.
    Netns(PathBuf),
}

impl Vantage {
    /// Runs `work` there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match self {
            Self::Host => work(),
            Self::Netns(path) => net::inside(path, work),
        }
    }
}

/// One HTTP exchange.
#[derive(Debug, Clone)]
pub struct HttpSample {
    /// Status code.
    pub status: u16,
    /// From the first packet of the connection to the end of the reply.
    pub latency: Duration,
    /// Body of the reply.
    pub body: String,
}

/// GETs `url` (`http://ADDRESS:PORT/PATH`, no names) on a fresh connection.
/// An error is a refusal, a reset or no reply within `timeout`.
pub fn http_get(from: &Vantage, url: &str, timeout: Duration) -> Result<HttpSample> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url} is not plain http"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address: SocketAddr = if host.contains(':') { host.parse() } else { format!("{host}:80").parse() }
        .with_context(|| format!("{url} has no numeric address"))?;
    from.run(|| exchange(address, host, path, timeout)).with_context(|| format!("GET {url}"))
}

/// Milliseconds that [`http_get`] took; a status other than 200 is an error.
pub fn http_latency_ms(from: &Vantage, url: &str, timeout: Duration) -> Result<f64> {
    let sample = http_get(from, url, timeout)?;
    ensure!(sample.status == 200, "GET {url}: status {}", sample.status);
    Ok(sample.latency.as_secs_f64() * 1000.0)
}

/// Opens and closes a TCP connection.
pub fn tcp_connect(from: &Vantage, address: SocketAddr, timeout: Duration) -> Result<()> {
    from.run(|| {
        TcpStream::connect_timeout(&address, timeout)
            .map(drop)
            .with_context(|| format!("connect to {address}"))
    })
}

fn exchange(address: SocketAddr, host: &str, path: &str, timeout: Duration) -> Result<HttpSample> {
    let started = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(timeout))?;
    // One segment: a server that answers before it has read everything would reset the connection.
    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    while (bytes.len() as u64) < LONGEST_REPLY {
        let left = timeout.checked_sub(started.elapsed()).filter(|left| !left.is_zero());
        stream.set_read_timeout(Some(left.context("no whole reply in time")?))?;
        match stream.read(&mut chunk)? {
            0 => break,
            n => bytes.extend_from_slice(&chunk[..n]),
        }
    }
    let latency = started.elapsed();
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").context("the reply is not HTTP")?;
    let status =
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("the reply has no status")?;
    Ok(HttpSample { status, latency, body: body.to_owned() })
}

/// Asks the DNS server at `server` for the IPv4 address of `name`.
pub fn resolve(from: &Vantage, server: IpAddr, name: &str, timeout: Duration) -> Result<IpAddr> {
    let reply = from.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(timeout))?;
        socket.send_to(&question(name)?, (server, 53))?;
        let mut reply = vec![0; 1500];
        let (size, _) = socket.recv_from(&mut reply).with_context(|| format!("ask {server} for {name}"))?;
        reply.truncate(size);
        Ok(reply)
    })?;
    answer(&reply).with_context(|| format!("the reply of {server} for {name}"))
}

/// A recursive question of type A, class IN (RFC 1035, 4.1).
fn question(name: &str) -> Result<Vec<u8>> {
    let mut packet = vec![0xfa, 0x17, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        ensure!(!label.is_empty() && label.len() < 64, "{name} is not a DNS name");
        packet.push(u8::try_from(label.len())?);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&[0, 0, 1, 0, 1]);
    Ok(packet)
}

/// The last A record of a reply whose records all end in it.
fn answer(reply: &[u8]) -> Result<IpAddr> {
    ensure!(reply.len() >= 12, "too short");
    let code = reply[3] & 0x0f;
    if code != 0 {
        bail!("code {code}");
    }
    // Type A, class IN, four bytes of time to live, length 4: the address follows.
    let found = reply.windows(14).rev().find(|w| w[..4] == [0, 1, 0, 1] && w[8..10] == [0, 4]);
    let record = found.context("no address")?;
    Ok(IpAddr::from([record[10], record[11], record[12], record[13]]))
}

/// Median of some latencies in milliseconds.
pub fn median_ms(mut samples: Vec<f64>) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied()
}

/// The network namespace at a path, as a vantage.
impl From<&Path> for Vantage {
    fn from(path: &Path) -> Self {
        Self::Netns(path.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn a_slow_reply_is_measured_and_a_silent_server_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let size = stream.read(&mut request).unwrap();
            thread::sleep(Duration::from_millis(80));
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nok\n").unwrap();
            drop(stream);
            let silent = listener.accept().unwrap();
            (String::from_utf8_lossy(&request[..size]).into_owned(), silent, listener)
        });
        let sample = http_get(&Vantage::Host, &url, Duration::from_secs(10)).unwrap();
        assert_eq!((sample.status, sample.body.as_str()), (200, "ok\n"));
        assert!(sample.latency >= Duration::from_millis(80), "{:?}", sample.latency);
        let error = http_get(&Vantage::Host, &url, Duration::from_millis(100)).unwrap_err();
        assert!(format!("{error:#}").contains("GET http://127.0.0.1"), "{error:#}");
        assert!(server.join().unwrap().0.starts_with("GET /x HTTP/1.1\r\n"));
    }

    #[test]
    fn the_address_in_a_reply_is_found() {
        let mut reply = question("a.b").unwrap();
        reply[2] = 0x81;
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 2, 0, 4, 10, 101, 0, 1]);
        assert_eq!(answer(&reply).unwrap(), IpAddr::from([10, 101, 0, 1]));
        reply[3] = 3;
        assert!(answer(&reply).unwrap_err().to_string().contains("code 3"));
    }
}
