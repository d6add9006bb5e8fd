//! A daemon in a process of its own, with the agent's end of the link beside it: told what to do by lines
//! on its standard input, saying every status on its standard output. And the handle to it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use jiff::Timestamp;
use node_daemon::link::Channels;
use node_daemon::{Config, Resolver, run_with};
use proto::injection::{Injection, InjectionPhase, InjectionStatus};
use proto::wire::{Inject, NodeDown, NodeUp};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Its name.
pub(crate) const NODE: &str = "n1";

/// One line to the daemon. The end of its input is its first signal.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    Inject { injection: Box<Injection>, lasts_ms: u64 },
    Revert { id: String },
}

/// Runs it; the process is this test, started again as `daemon <state dir> <workloads file>`.
pub(crate) fn daemon(state_dir: PathBuf, workloads: PathBuf) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(async {
        let (up, ups) = mpsc::channel(64);
        let (downs, down) = mpsc::channel(64);
        let shutdown = CancellationToken::new();
        let config = Config::new(NODE, state_dir, Resolver::Workloads(workloads));
        let running = run_with(Channels { up, down }, config, shutdown.clone());
        tokio::select! {
            result = running => result,
            never = agent(ups, downs, shutdown) => match never {},
        }
    })
}

async fn agent(
    mut ups: mpsc::Receiver<NodeUp>,
    downs: mpsc::Sender<NodeDown>,
    shutdown: CancellationToken,
) -> Infallible {
    let (lines_in, mut lines) = mpsc::channel::<String>(64);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = lines_in.blocking_send(line);
        }
    });
    let say = |status: &InjectionStatus| {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{}", serde_json::to_string(status).unwrap());
    };
    let mut is_open = true;
    loop {
        tokio::select! {
            line = lines.recv(), if is_open => {
                let Some(line) = line else {
                    is_open = false;
                    shutdown.cancel();
                    continue;
                };
                let down = match serde_json::from_str(&line).unwrap() {
                    Order::Revert { id } => NodeDown::Revert { injection: id.parse().unwrap(), reason: "Stopped".into() },
                    Order::Inject { injection, lasts_ms } => {
                        let at = |ms| Timestamp::now() + Duration::from_millis(ms);
                        NodeDown::Inject(Box::new(Inject {
                            injection: *injection,
                            agent_epoch: 1,
                            remaining_ms: lasts_ms,
                            deadline: at(lasts_ms),
                            start_before: at(10_000),
                        }))
                    }
                };
                let _ = downs.send(down).await;
            }
            up = ups.recv() => match up {
                // The session is over: the daemon is about to be.
                None => std::future::pending().await,
                Some(NodeUp::Hello(hello)) => {
                    let _ = downs.send(NodeDown::Welcome { agent_epoch: 1, heartbeat_interval_ms: 1000 }).await;
                    hello.held.iter().for_each(say);
                }
                Some(NodeUp::State(status)) => say(&status),
                Some(NodeUp::ClockProbe { id }) => {
                    let _ = downs.send(NodeDown::ClockReply { id, at: Timestamp::now() }).await;
                }
                Some(NodeUp::Heartbeat { seq }) => {
                    let _ = downs.send(NodeDown::Heartbeat { seq }).await;
                }
                Some(NodeUp::HaltState(_) | NodeUp::Draining) => {}
            }
        }
    }
}

/// A daemon that was started. Killed on drop.
pub(crate) struct Daemon {
    child: Child,
    orders: Option<ChildStdin>,
    said: Receiver<InjectionStatus>,
    /// Said, and not asked for yet.
    unasked: VecDeque<InjectionStatus>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    pub(crate) fn start(state_dir: &Path, workloads: &Path) -> Self {
        let mut command = Command::new("/proc/self/exe");
        command.arg("daemon").arg(state_dir).arg(workloads).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (orders, output) = (child.stdin.take(), child.stdout.take().unwrap());
        let (sender, said) = sync_channel(1000);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, orders, said, unasked: VecDeque::new() }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn order(&mut self, order: &Order) {
        writeln!(self.orders.as_mut().unwrap(), "{}", serde_json::to_string(order).unwrap()).unwrap();
    }

    pub(crate) fn inject(&mut self, injection: &Injection, lasts_ms: u64) {
        self.order(&Order::Inject { injection: Box::new(injection.clone()), lasts_ms });
    }

    pub(crate) fn revert(&mut self, injection: &Injection) {
        self.order(&Order::Revert { id: injection.id.to_string() });
    }

    /// Waits until that is said of it; another end is a failure.
    #[track_caller]
    pub(crate) fn sees(&mut self, injection: &Injection, phase: InjectionPhase) -> InjectionStatus {
        loop {
            let is_meant = |status: &InjectionStatus| status.id == injection.id;
            let status = match self.unasked.iter().position(is_meant).and_then(|at| self.unasked.remove(at)) {
                Some(status) => status,
                None => self.said.recv_timeout(Duration::from_secs(20)).expect("the daemon is silent"),
            };
            if !is_meant(&status) {
                self.unasked.push_back(status);
                continue;
            }
            if status.phase == phase {
                return status;
            }
            assert!(!status.phase.is_terminal(), "wanted {phase:?}, is {status:?}");
        }
    }

    /// SIGKILL, and gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The first signal; waits for its end.
    pub(crate) fn drain(&mut self) -> std::process::ExitStatus {
        drop(self.orders.take());
        self.child.wait().unwrap()
    }
}
