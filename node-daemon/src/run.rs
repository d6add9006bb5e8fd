//! Puts a daemon together and runs it to its end. Called by the command line ([`run`] on a node of a
//! cluster, [`run_with`] in host mode, where the agent is in the same process) and by tests.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use proto::injection::node_halt_id;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Resolver};
use crate::driver::{Clock, Doors, Driver, NodeClock};
use crate::engine::{Node, State};
use crate::health::{self, Vitals};
use crate::journal::Journal;
use crate::keeper::{self, KeeperProcess};
use crate::link::dial::Dialler;
use crate::link::{Channels, Outbox, Session};
use crate::recover::recover;
use crate::resolve::{Cri, Resolve, Workloads};
use crate::system::clock;
use crate::system::kernel::KernelSystem;

mod capabilities;

/// Faults are taken away within this after the first signal.
const DRAIN_WITHIN: Duration = Duration::from_secs(25);
/// The agent gets so long to be told how it ended.
const TELL_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Events on their way to the driver.
const EVENTS: usize = 1024;

/// What this node's kernel and runtime can do, as the daemon would report it. Changes nothing that outlives the call.
pub fn probe(config: &Config) -> proto::cluster::NodeCapabilities {
    capabilities::probe(config)
}

/// Runs a daemon that dials its agent, until `shutdown`; then lets its faults end for as long as `config`
/// says and `at_once` is not cancelled, reverts what is left and returns.
pub async fn run(
    config: Config,
    shutdown: CancellationToken,
    at_once: CancellationToken,
) -> anyhow::Result<()> {
    let agent = config.agent.clone().context("no agent address is configured (--agent)")?;
    let daemon = start(&config).await?;
    let metrics = daemon.vitals.borrow().metrics.clone();
    let dialler = Dialler::new(agent, daemon.session.clone()).measured(metrics);
    let stop = CancellationToken::new();
    let link = dialler.run(stop.clone());
    daemon.run_beside(&config, link, stop, (shutdown, at_once)).await
}

/// The same over channels to an agent in this process.
pub async fn run_with(channels: Channels, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let daemon = start(&config).await?;
    let session = daemon.session.clone();
    let stop = CancellationToken::new();
    let link = {
        let stop = stop.clone();
        async move {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = session.run(channels) => {}
            }
        }
    };
    daemon.run_beside(&config, link, stop, (shutdown, CancellationToken::new())).await
}

/// A daemon that has recovered and not begun.
#[derive(Debug)]
struct Daemon {
    driver: Driver,
    session: Session,
    vitals: watch::Receiver<Vitals>,
}

async fn start(config: &Config) -> anyhow::Result<Daemon> {
    let problems = config.problems();
    anyhow::ensure!(problems.is_empty(), "the configuration is not valid: {}", problems.join("; "));
    let config = config.clone();
    // Recovery undoes faults, and the probe uses every kernel feature once: both block.
    tokio::task::spawn_blocking(move || start_blocking(&config)).await.context("start the daemon")?
}

fn start_blocking(config: &Config) -> anyhow::Result<Daemon> {
    let boot_id = clock::boot_id(&config.roots.proc).context("read the boot id")?;
    let system = Arc::new(KernelSystem::new(config.roots.clone()));
    let (journal, loaded) = Journal::open(&config.state_dir)?;
    let now = NodeClock.now();
    let recovered = recover(&journal, loaded, &*system, &boot_id, now.wall_ms);
    let node = Node {
        name: config.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id,
        halt_id: node_halt_id(&config.node)?,
        capabilities: capabilities::probe(config),
    };
    let keeper = KeeperProcess::new(
        config.state_dir.clone(),
        config.roots.clone(),
        keeper::group_name(&config.node, &config.state_dir),
    );
    keeper.sweep();
    let doors = Doors {
        keeper: Arc::new(keeper),
        resolver: resolver(config),
        clock: Arc::new(NodeClock),
        journal: Arc::new(journal),
        roots: config.roots.clone(),
        system,
    };
    let (events_in, events) = mpsc::channel(EVENTS);
    let outbox = Arc::<Outbox>::default();
    let (vitals_in, vitals) = watch::channel(Vitals::default());
    let state = State::new(node, config.limits(), recovered, now);
    let driver = Driver::new(state, doors, Arc::clone(&outbox), events, vitals_in);
    Ok(Daemon { driver, session: Session { outbox, events: events_in }, vitals })
}

fn resolver(config: &Config) -> Arc<dyn Resolve> {
    let roots = config.roots.clone();
    match &config.resolver {
        Resolver::Cri { socket } => Arc::new(Cri { socket: socket.clone(), roots }),
        Resolver::Workloads(path) => Arc::new(Workloads { path: path.clone(), roots }),
    }
}

impl Daemon {
    /// Driver, link and health side by side. The end of any before `shutdown` reverts everything and is an error.
    async fn run_beside(
        self,
        config: &Config,
        link: impl Future<Output = ()> + Send + 'static,
        stop_link: CancellationToken,
        (shutdown, at_once): (CancellationToken, CancellationToken),
    ) -> anyhow::Result<()> {
        let Self { driver, session, vitals } = self;
        let drain = CancellationToken::new();
        let driver = driver.waiting(Duration::from_millis(config.drain_wait_ms), at_once.clone());
        let mut others: JoinSet<anyhow::Result<()>> = JoinSet::new();
        if let Some(addr) = config.health_addr {
            let listener =
                tokio::net::TcpListener::bind(addr).await.with_context(|| format!("listen on {addr}"))?;
            let serving = health::serve(listener, vitals, stop_link.clone());
            others.spawn(async move {
                serving.await;
                Ok(())
            });
        }
        others.spawn(async move {
            link.await;
            Ok(())
        });
        let mut driving = JoinSet::new();
        driving.spawn(driver.run(drain.clone(), DRAIN_WITHIN));
        let ended_early = tokio::select! {
            biased;
            () = shutdown.cancelled() => Ok(()),
            Some(ended) = others.join_next() => Err(lost(ended)),
            ended = driving.join_next() => anyhow::bail!("the driver ended: {ended:?}"),
        };
        if ended_early.is_err() {
            at_once.cancel();
        }
        drain.cancel();
        let (clean, ended_early) = drained(&mut driving, &mut others, &at_once, ended_early).await?;
        let told = async {
            while !session.outbox.is_empty() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let _ = tokio::time::timeout(TELL_WITHIN, told).await;
        stop_link.cancel();
        while others.join_next().await.is_some() {}
        ended_early?;
        anyhow::ensure!(clean, "something may be left on this node: see the journal and the log");
        Ok(())
    }
}

/// Waits for the driver's end. Who is lost beside it ends its wait: without a link or a health port nobody could see
/// what it waits for.
async fn drained(
    driving: &mut JoinSet<bool>,
    others: &mut JoinSet<anyhow::Result<()>>,
    at_once: &CancellationToken,
    mut ended_early: anyhow::Result<()>,
) -> anyhow::Result<(bool, anyhow::Result<()>)> {
    loop {
        tokio::select! {
            ended = driving.join_next() => {
                return Ok((ended.context("the driver is lost")??, ended_early));
            }
            Some(ended) = others.join_next() => {
                tracing::warn!(?ended, "lost while draining: reverting at once");
                at_once.cancel();
                // An agent in this process, told to end as well, ends the link in good order.
                if !matches!(ended, Ok(Ok(()))) {
                    ended_early = ended_early.and(Err(lost(ended)));
                }
            }
        }
    }
}

/// What to say of the end of the link or the health port.
fn lost(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow::anyhow!("the link or the health port ended"),
        Ok(Err(error)) => error,
        Err(error) => error.into(),
    }
}

/// The entry of `faultline worker ...`: the keeper or a worker child. `args` are the words after
/// `worker`. Call it before any other thread is started.
pub fn work(args: impl IntoIterator<Item = std::ffi::OsString>) -> anyhow::Result<()> {
    let mut args = args.into_iter().peekable();
    if args.next_if(|word| word == "keeper").is_some() {
        return crate::keeper::main(args);
    }
    crate::worker::main(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A driver that waits for as long as it may, which nobody ends here.
    #[tokio::test]
    async fn who_is_lost_during_the_wait_for_a_drain_ends_it() {
        let at_once = CancellationToken::new();
        let (mut driving, mut others) = (JoinSet::new(), JoinSet::new());
        let waits = at_once.clone();
        driving.spawn(async move {
            waits.cancelled().await;
            true
        });
        others.spawn(std::future::pending());
        others.spawn(async { anyhow::bail!("no port any more") });
        let (clean, ended_early) = drained(&mut driving, &mut others, &at_once, Ok(())).await.unwrap();
        assert!(clean && ended_early.unwrap_err().to_string().contains("no port any more"));
    }

    #[tokio::test]
    async fn a_drain_beside_which_nobody_is_lost_is_no_error_and_not_hurried() {
        let at_once = CancellationToken::new();
        let (mut driving, mut others) = (JoinSet::new(), JoinSet::new());
        driving.spawn(std::future::ready(true));
        others.spawn(std::future::pending());
        let (clean, ended_early) = drained(&mut driving, &mut others, &at_once, Ok(())).await.unwrap();
        assert!(clean && ended_early.is_ok() && !at_once.is_cancelled());
    }
}
