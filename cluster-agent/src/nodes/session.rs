//! One node daemon's session, over channels: Hello and Welcome, heartbeats, the time at once, and the rest to the
//! driver. What the driver says to the daemon goes into the connection's own bounded queue; a daemon that does not
//! drain it loses its session and comes back with what it holds.

use std::sync::Arc;
use std::time::Duration;

use proto::injection::InjectionStatus;
use proto::wire::{NodeDown, NodeHaltState, NodeHello, NodeUp};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::driver::Input;

/// The longest until the first message.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Heartbeats missed before a daemon counts as lost.
const MISSES: u32 = 3;

/// A daemon that dialled: both ends of its connection, and who it was authenticated as.
#[derive(Debug)]
pub struct NodeConnection {
    /// The authenticated node.
    pub node: String,
    /// From the daemon. Ends when the connection does.
    pub up: mpsc::Receiver<NodeUp>,
    /// To the daemon. Bounded.
    pub down: mpsc::Sender<NodeDown>,
}

/// What node sessions tell the driver. `session` grows: a newer one of the same node replaces the older.
#[derive(Debug)]
pub enum NodeEvent {
    /// A session is open.
    Up {
        /// The authenticated node.
        node: String,
        /// Names the session.
        session: u64,
        /// The daemon's first message.
        hello: Box<NodeHello>,
        /// To the daemon.
        down: mpsc::Sender<NodeDown>,
        /// Ends the session.
        end: CancellationToken,
    },
    /// It is gone.
    Down {
        /// The node.
        node: String,
        /// Which session.
        session: u64,
    },
    /// The latest of an injection.
    State {
        /// The node.
        node: String,
        /// Which session.
        session: u64,
        /// What it says.
        status: Box<InjectionStatus>,
    },
    /// Halts there.
    Halts {
        /// The node.
        node: String,
        /// Which session.
        session: u64,
        /// What it says.
        state: NodeHaltState,
    },
    /// The daemon is about to end and takes no new start.
    Draining {
        /// The node.
        node: String,
        /// Which session.
        session: u64,
    },
}

/// What every session is told.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// This leader's.
    pub agent_epoch: u64,
    /// Between heartbeats.
    pub heartbeat: Duration,
}

/// Runs a session to its end.
pub async fn session(
    connection: NodeConnection,
    session: u64,
    settings: NodeSettings,
    clock: Arc<dyn Clock>,
    tell: mpsc::Sender<Input>,
) {
    let NodeConnection { node, mut up, down } = connection;
    let hello = match timeout(HELLO_WITHIN, up.recv()).await {
        Ok(Some(NodeUp::Hello(hello))) if hello.node == node => hello,
        Ok(Some(NodeUp::Hello(hello))) => {
            tracing::warn!(%node, said = hello.node, "a daemon claimed another node");
            return;
        }
        _ => {
            tracing::warn!(%node, "no Hello from the daemon");
            return;
        }
    };
    let heartbeat_interval_ms = u64::try_from(settings.heartbeat.as_millis()).unwrap_or(5000);
    let welcome = NodeDown::Welcome { agent_epoch: settings.agent_epoch, heartbeat_interval_ms };
    if down.try_send(welcome).is_err() {
        return;
    }
    tracing::info!(%node, session, version = hello.version, "node is up");
    let end = CancellationToken::new();
    let opened = NodeEvent::Up { node: node.clone(), session, hello, down: down.clone(), end: end.clone() };
    if tell.send(Input::Node(opened)).await.is_err() {
        return;
    }
    let why = tokio::select! {
        why = pump(&node, session, &mut up, &down, &settings, &*clock, &tell) => why,
        () = end.cancelled() => "replaced, or not drained",
    };
    tracing::info!(%node, session, why, "node is down");
    // The driver is gone only when everything ends.
    let _ = tell.send(Input::Node(NodeEvent::Down { node, session })).await;
}

async fn pump(
    node: &str,
    session: u64,
    up: &mut mpsc::Receiver<NodeUp>,
    down: &mpsc::Sender<NodeDown>,
    settings: &NodeSettings,
    clock: &dyn Clock,
    tell: &mpsc::Sender<Input>,
) -> &'static str {
    // In intervals, and not in one long wait: a process that was stopped sleeps through one of them, and what the daemon
    // said meanwhile is still read.
    let mut unheard = 0;
    loop {
        let message = tokio::select! {
            message = timeout(settings.heartbeat, up.recv()) => message,
            () = down.closed() => return "closed",
        };
        unheard = if message.is_err() { unheard + 1 } else { 0 };
        let node = node.to_owned();
        let event = match message {
            Err(_) if unheard >= MISSES => return "no heartbeat",
            Err(_) => continue,
            Ok(None) => return "closed",
            Ok(Some(NodeUp::Heartbeat { seq })) => {
                if down.try_send(NodeDown::Heartbeat { seq }).is_err() {
                    return "not drained";
                }
                continue;
            }
            Ok(Some(NodeUp::ClockProbe { id })) => {
                if down.try_send(NodeDown::ClockReply { id, at: clock.now().wall }).is_err() {
                    return "not drained";
                }
                continue;
            }
            Ok(Some(NodeUp::State(status))) => NodeEvent::State { node, session, status },
            Ok(Some(NodeUp::HaltState(state))) => NodeEvent::Halts { node, session, state },
            Ok(Some(NodeUp::Draining)) => NodeEvent::Draining { node, session },
            Ok(Some(NodeUp::Hello(_))) => return "a second Hello",
        };
        if tell.send(Input::Node(event)).await.is_err() {
            return "ending";
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::clock::SystemClock;

    const BEAT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_frozen_agent_reads_what_waits_before_it_gives_a_daemon_up() {
        let ((up, up_out), (down_in, mut down)) = (mpsc::channel(4), mpsc::channel(4));
        let (tell, _told) = mpsc::channel(4);
        let mut pumping = JoinSet::new();
        pumping.spawn(async move {
            let settings = NodeSettings { agent_epoch: 1, heartbeat: BEAT };
            let mut up = up_out;
            pump("n1", 1, &mut up, &down_in, &settings, &SystemClock, &tell).await
        });
        tokio::task::yield_now().await;
        for seq in 1..20 {
            // Nothing runs meanwhile, and the daemon's word comes a moment after it, out of the socket.
            advance(BEAT * 10).await;
            up.send(NodeUp::Heartbeat { seq }).await.unwrap();
            let answer = down.recv().await;
            assert!(matches!(answer, Some(NodeDown::Heartbeat { seq: heard }) if heard == seq), "{answer:?}");
        }
        let since = Instant::now();
        assert_eq!(pumping.join_next().await.unwrap().unwrap(), "no heartbeat");
        assert_eq!(since.elapsed().as_secs(), (BEAT * MISSES).as_secs());
    }
}
