//! The client outside both clusters: one GET after the other on a fresh
//! connection, timed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request gives up after this long.
const PATIENCE: Duration = Duration::from_secs(3);

/// Latency of one GET in milliseconds, connect included.
pub(crate) async fn measure(address: SocketAddr) -> anyhow::Result<f64> {
    let begin = Instant::now();
    tokio::time::timeout(PATIENCE, get(address)).await.context("no answer within 3 s")??;
    Ok(begin.elapsed().as_secs_f64() * 1000.0)
}

async fn get(address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    anyhow::ensure!(answer.starts_with(b"HTTP/1.1 200"), "the service did not answer 200");
    Ok(())
}

/// The middle of the values, rounded to a tenth; None without values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).map(|v| (v * 10.0).round() / 10.0)
}
