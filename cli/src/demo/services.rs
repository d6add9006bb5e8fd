//! The victims: a small HTTP service per cluster, each a child process in a
//! network namespace of its own, joined to ours by a veth pair. A child ends
//! when its standard input closes, so none outlives the demo.

use std::convert::Infallible;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::world::ip;

/// Name of the hidden worker.
pub(crate) const KIND: &str = "demo-http";

const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(10);

/// A running service.
#[derive(Debug)]
pub(crate) struct Service {
    /// Where it answers.
    pub(crate) address: SocketAddr,
    /// Its process, whose network namespace is the target's.
    pub(crate) pid: u32,
    /// Ends when this is dropped.
    _stdin: ChildStdin,
    _child: Child,
}

impl Service {
    /// Starts the service of the `index`th cluster.
    pub(crate) async fn start(name: &str, index: u8) -> anyhow::Result<Self> {
        let (ours, theirs) = (Ipv4Addr::new(10, 99, index, 1), Ipv4Addr::new(10, 99, index, 2));
        let mut child = Command::new(std::env::current_exe()?)
            .args(["worker", KIND, name, &theirs.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start a demo service")?;
        let pid = child.id().context("the demo service ended at once")?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let mut expect = async |word: &str| {
            let line = tokio::time::timeout(PATIENCE, lines.next_line())
                .await
                .context("the demo service is silent")??;
            if line.as_deref() != Some(word) {
                bail!("the demo service said {line:?} instead of {word:?}");
            }
            Ok(())
        };
        expect("namespace").await?;
        let (host, peer) = (format!("{name}-host"), format!("{name}-pod"));
        ip(&["link", "add", &host, "type", "veth", "peer", "name", &peer, "netns", &pid.to_string()])?;
        ip(&["addr", "add", &format!("{ours}/24"), "dev", &host])?;
        ip(&["link", "set", &host, "up"])?;
        stdin.write_all(b"link\n").await?;
        expect("listening").await?;
        Ok(Self { address: (theirs, PORT).into(), pid, _stdin: stdin, _child: child })
    }
}

/// The child: enters a namespace, waits for its link, serves until stdin ends.
pub(crate) fn main(arguments: &[String]) -> anyhow::Result<()> {
    let [name, address] = arguments else { bail!("usage: worker {KIND} NAME ADDRESS") };
    let address: Ipv4Addr = address.parse()?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    tell("namespace")?;
    std::io::stdin().read_line(&mut String::new())?;
    let peer = format!("{name}-pod");
    ip(&["link", "set", "lo", "up"])?;
    ip(&["addr", "add", &format!("{address}/24"), "dev", &peer])?;
    ip(&["link", "set", &peer, "up"])?;
    let (over, end) = oneshot::channel();
    std::thread::spawn(move || {
        // The end, or an error: either way nobody needs us any more.
        drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        drop(over);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(serve(address, end));
    runtime.shutdown_background();
    served
}

/// One word to the parent.
fn tell(word: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{word}")?;
    Ok(stdout.flush()?)
}

async fn serve(address: Ipv4Addr, mut end: oneshot::Receiver<()>) -> anyhow::Result<()> {
    let listener = TcpListener::bind((address, PORT)).await?;
    tell("listening")?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut end => return Ok(()),
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let answer = service_fn(async |_| {
                    Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::from_static(b"ok\n"))))
                });
                connections.spawn(async move {
                    // A client that goes away is none of our concern.
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
