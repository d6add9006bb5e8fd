//! The roles. Each turns its flags into a checked configuration and runs the
//! role's library until a signal: the first drains, the second aborts.

mod agent;
mod control_plane;
mod host;
mod member_drain;
mod node;

pub(crate) use agent::AgentArgs;
pub(crate) use control_plane::StoreArgs;
pub(crate) use host::{HostArgs, HostRole};
pub(crate) use node::NodeArgs;

use std::ffi::OsString;
use std::future::Future;

use anyhow::Context as _;
use clap::Subcommand;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::args::WorkerArgs;
use crate::exit::Exit;

#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// The centre: store, REST, agent links, enrolment
    ControlPlane(Box<control_plane::ControlPlaneArgs>),
    /// One per member cluster: talks to the centre and its own apiserver
    Agent(agent::AgentArgs),
    /// One per node: makes faults and takes them away
    Node(node::NodeArgs),
    /// Agent and node daemon in one process, on a machine without Kubernetes
    Host(host::HostArgs),
    /// Around an uninstall of the member chart: halt and wait, or lift
    #[command(hide = true)]
    MemberDrain(member_drain::MemberDrainArgs),
}

/// Runs a role until a signal.
pub(crate) fn main(role: Role) -> anyhow::Result<Exit> {
    certs::install_provider();
    match role {
        Role::ControlPlane(args) => control_plane::main(*args),
        Role::Agent(args) => agent::main(&args),
        Role::Node(args) => node::main(&args),
        Role::Host(args) => host::main(&args),
        Role::MemberDrain(args) => member_drain::main(args),
    }
}

/// A child of a node daemon, or of the demo.
pub(crate) fn worker(args: &WorkerArgs) -> anyhow::Result<Exit> {
    match args.arguments.split_first() {
        Some((kind, rest)) if kind == crate::demo::SERVICE_KIND => crate::demo::service(rest)?,
        _ => node_daemon::work(args.arguments.iter().map(OsString::from))?,
    }
    Ok(Exit::Ok)
}

/// Runs a role's library until it ends, with a token that the first SIGTERM or
/// SIGINT cancels. The second signal aborts the process's wait for it.
fn until_signal<F, Fut>(run: F) -> anyhow::Result<Exit>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    until_signals(|[shutdown]| run(shutdown))
}

/// The same for a role whose drain has steps: each signal cancels the next token, the one after the last
/// aborts.
fn until_signals<const STEPS: usize, F, Fut>(run: F) -> anyhow::Result<Exit>
where
    F: FnOnce([CancellationToken; STEPS]) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let steps: [CancellationToken; STEPS] = std::array::from_fn(|_| CancellationToken::new());
        let mut left = steps.iter();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let role = run(steps.clone());
        tokio::pin!(role);
        loop {
            tokio::select! {
                result = &mut role => return result.map(|()| Exit::Ok),
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            let step = left.next().context("another signal came before the drain was over")?;
            tracing::info!(signals_until_abort = left.len() + 1, "draining");
            step.cancel();
        }
    })
}

/// The forward proxy of the environment, and what is wrong with it.
fn proxy() -> (Option<certs::Proxy>, Vec<String>) {
    match certs::Proxy::from_env(|name| std::env::var(name).ok()) {
        Ok(proxy) => (proxy, Vec::new()),
        Err(error) => (None, vec![error.to_string()]),
    }
}

/// Every mistake of a configuration at once, as a usage error.
fn refuse(problems: &[String]) -> anyhow::Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(crate::exit::Misuse(problems.join("\n       ")).into())
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[test]
    fn each_signal_is_one_step_and_the_one_after_the_last_aborts() {
        let ended = until_signals(|[shutdown, at_once]| async move {
            raise(Signal::SIGTERM)?;
            shutdown.cancelled().await;
            anyhow::ensure!(!at_once.is_cancelled(), "one signal took two steps");
            raise(Signal::SIGINT)?;
            at_once.cancelled().await;
            Ok(())
        });
        assert!(ended.is_ok(), "{ended:?}");
        let aborted = until_signal(|shutdown| async move {
            raise(Signal::SIGTERM)?;
            shutdown.cancelled().await;
            raise(Signal::SIGTERM)?;
            std::future::pending().await
        });
        assert!(aborted.is_err_and(|error| error.to_string().contains("another signal")));
    }
}
