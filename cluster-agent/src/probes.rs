//! Steady-state probes: one task per probe, each sample bounded in time and size, none to a forbidden address. The
//! driver starts and stops them; the engine judges the samples.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use proto::ids::RunId;
use proto::probe::{Probe, ProbeStage};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::driver::Input;
use crate::engine::Sample;
use crate::engine::hosts::{self, Destination};
use crate::engine::probing::{every_ms, within_ms};

/// At most so much of a body is read, and dropped.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Which addresses are never dialled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denied {
    /// The apiserver's.
    pub api: Vec<IpAddr>,
    /// Tests measure a server on loopback; nothing else sets this.
    pub allow_loopback: bool,
}

impl Denied {
    fn refuses(&self, ip: IpAddr) -> bool {
        hosts::is_denied(ip, &self.api) && !(self.allow_loopback && ip.is_loopback())
    }
}

/// Every running probe, by run. Dropping it ends them.
#[derive(Debug)]
pub struct Probes {
    running: BTreeMap<RunId, JoinSet<()>>,
    tell: mpsc::Sender<Input>,
}

impl Probes {
    /// None yet.
    pub fn new(tell: mpsc::Sender<Input>) -> Self {
        Self { running: BTreeMap::new(), tell }
    }

    /// Measures for one stage; what was measured for the run before ends.
    pub fn start(&mut self, run: RunId, stage: ProbeStage, probes: Vec<Probe>, denied: &Denied) {
        let mut tasks = JoinSet::new();
        for probe in probes {
            let (run, denied, tell) = (run.clone(), denied.clone(), self.tell.clone());
            tasks.spawn(async move {
                let mut ticks = interval(Duration::from_millis(every_ms(&probe)));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    let (good, latency_ms, detail) = measure(&probe, &denied).await;
                    let probe = probe.name.clone();
                    let sample = Sample { run: run.clone(), stage, probe, good, latency_ms, detail };
                    if tell.send(Input::Sample(sample)).await.is_err() {
                        return;
                    }
                }
            });
        }
        self.running.insert(run, tasks);
    }

    /// Measures nothing more for a run.
    pub fn stop(&mut self, run: &RunId) {
        self.running.remove(run);
    }
}

/// One sample: whether it was good, how long an answer took, and what was seen.
pub async fn measure(probe: &Probe, denied: &Denied) -> (bool, Option<u64>, String) {
    let to = match hosts::destination(probe) {
        Ok(to) => to,
        Err(why) => return (false, None, why),
    };
    let within = Duration::from_millis(within_ms(probe));
    let began = Instant::now();
    let answer = timeout(within, ask(probe, &to, denied)).await;
    let latency = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    match answer {
        Err(_) => (false, None, format!("no answer within {} ms", within.as_millis())),
        Ok(Err(why)) => (false, None, why),
        Ok(Ok(None)) => (true, Some(latency), String::new()),
        Ok(Ok(Some(status))) => {
            let expected = &probe.expect.status;
            let good = if expected.is_empty() {
                (200..300).contains(&status)
            } else {
                expected.contains(&i64::from(status))
            };
            (good, Some(latency), format!("status {status}"))
        }
    }
}

async fn ask(probe: &Probe, to: &Destination, denied: &Denied) -> Result<Option<u16>, String> {
    let address = resolve(to, denied).await?;
    let stream = TcpStream::connect(address).await.map_err(|e| format!("connect: {e}"))?;
    if probe.http.is_none() {
        return Ok(None);
    }
    let connection = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = connection.await.map_err(|e| format!("http: {e}"))?;
    let host = if to.host.contains(':') { format!("[{}]", to.host) } else { to.host.clone() };
    let request = http::Request::get(&to.path)
        .header(http::header::HOST, format!("{host}:{}", to.port))
        .header(http::header::USER_AGENT, concat!("faultline-probe/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|e| format!("http: {e}"))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| format!("http: {e}"))?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut read = 0usize;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| format!("http body: {e}"))?;
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > MAX_BODY_BYTES {
                break;
            }
        }
        Ok(Some(status))
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    let mut open = true;
    loop {
        tokio::select! {
            answer = &mut exchange => return answer,
            _ = &mut connection, if open => open = false,
        }
    }
}

/// The first address, if none of them is forbidden: a name that leads to a forbidden place is not asked at all.
async fn resolve(to: &Destination, denied: &Denied) -> Result<SocketAddr, String> {
    let found =
        lookup_host((to.host.as_str(), to.port)).await.map_err(|e| format!("look up {}: {e}", to.host))?;
    let found: Vec<SocketAddr> = found.collect();
    if let Some(bad) = found.iter().find(|a| denied.refuses(a.ip())) {
        return Err(format!("{} is never allowed", bad.ip()));
    }
    found.first().copied().ok_or_else(|| format!("{} has no address", to.host))
}

#[cfg(test)]
mod tests;
