//! One session with the centre, over channels: Hello and Welcome, heartbeats both ways, and pumping between the
//! outbox and the driver. The gRPC shell and the tests give it the two ends of a connection.

use std::time::Duration;

use proto::wire::{Down, Hello, PROTOCOL, Up, Welcome};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::outbox::Outbox;
use super::renewal::Renewal;
use crate::clock::Clock;
use crate::driver::Input;

/// The longest that the centre may take to answer Hello.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);
/// Heartbeats missed before the link counts as lost.
const MISSES: u32 = 3;

/// Both ends of an open connection.
#[derive(Debug)]
pub struct Connection {
    /// To the centre. Bounded.
    pub up: mpsc::Sender<Up>,
    /// From the centre. Ends when the connection does.
    pub down: mpsc::Receiver<Down>,
    /// The shell's pumps; ended with the session.
    pub pumps: tokio::task::JoinSet<()>,
}

/// What the link tells the driver.
#[derive(Debug)]
pub enum LinkEvent {
    /// A session is open.
    Up(Welcome),
    /// The second opt-in changed while it is open.
    Accepted(bool),
    /// It is gone.
    Down,
    /// Anything that the session does not deal with itself.
    Message(Down),
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The connection closed, or nothing came for too long.
    Lost(String),
    /// The centre said so; come back after this.
    GoAway(Duration),
    /// A new certificate is in place: dial again with it.
    Renewed,
}

/// Runs a session to its end. `Input::Link` carries what the driver must know.
pub async fn session(
    mut connection: Connection,
    outbox: &Outbox,
    epoch: u64,
    store_epoch: &mut String,
    renewal: &mut Renewal,
    clock: &dyn Clock,
    tell: &mpsc::Sender<Input>,
) -> Ended {
    let welcome = match hello(&mut connection, outbox, epoch, store_epoch).await {
        Ok(welcome) => welcome,
        Err(ended) => return ended,
    };
    tracing::info!(session = %welcome.session, accepted = welcome.accepted, "link is up");
    store_epoch.clone_from(&welcome.store_epoch);
    outbox.renew();
    let beat = Duration::from_millis(welcome.heartbeat_interval_ms.max(10));
    let accepted = welcome.accepted;
    if tell.send(Input::Link(LinkEvent::Up(welcome))).await.is_err() {
        return Ended::Lost("the agent is ending".to_owned());
    }
    let ended = Open { connection, outbox, accepted, beat, seq: 0 }.run(renewal, clock, tell).await;
    tracing::info!(?ended, "link is down");
    // The driver is gone only when everything ends.
    let _ = tell.send(Input::Link(LinkEvent::Down)).await;
    ended
}

async fn hello(
    connection: &mut Connection,
    outbox: &Outbox,
    epoch: u64,
    store_epoch: &str,
) -> Result<Welcome, Ended> {
    let facts = outbox.facts();
    let hello = Up::Hello(Hello {
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        agent_epoch: epoch,
        store_epoch: store_epoch.to_owned(),
        held: facts.held,
        halts: facts.halts,
        kube_system_uid: facts.cluster_uid,
        accepts_starts: facts.accepts_starts,
    });
    let lost = |why: &str| Ended::Lost(why.to_owned());
    connection.up.send(hello).await.map_err(|_| lost("closed before Hello"))?;
    match timeout(WELCOME_WITHIN, connection.down.recv()).await {
        Ok(Some(Down::Welcome(welcome))) => Ok(welcome),
        Ok(Some(Down::GoAway { reason, reconnect_in_ms })) => {
            tracing::warn!(%reason, "the centre sent us away");
            Err(Ended::GoAway(Duration::from_millis(reconnect_in_ms)))
        }
        Ok(Some(_)) => Err(lost("the first answer was not Welcome")),
        Ok(None) => Err(lost("closed before Welcome")),
        Err(_) => Err(lost("no Welcome in time")),
    }
}

struct Open<'a> {
    connection: Connection,
    outbox: &'a Outbox,
    accepted: bool,
    beat: Duration,
    seq: u64,
}

impl Open<'_> {
    async fn run(mut self, renewal: &mut Renewal, clock: &dyn Clock, tell: &mpsc::Sender<Input>) -> Ended {
        let mut heartbeat = interval(self.beat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lost_at = Instant::now() + self.beat * MISSES;
        let renew_in = renewal.due_in(clock.now().wall);
        let mut renew_at = Instant::now() + renew_in;
        let up = self.connection.up.clone();
        loop {
            let pending = self.outbox.is_pending(self.accepted);
            tokio::select! {
                down = self.connection.down.recv() => {
                    let Some(down) = down else { return Ended::Lost("closed".to_owned()) };
                    lost_at = Instant::now() + self.beat * MISSES;
                    if let Some(ended) = self.received(down, renewal, tell).await {
                        return ended;
                    }
                }
                permit = up.reserve(), if pending => {
                    let Ok(permit) = permit else { return Ended::Lost("closed".to_owned()) };
                    if let Some(up) = self.outbox.take(self.accepted) {
                        permit.send(up);
                    }
                }
                () = self.outbox.changed(), if !pending => {}
                _ = heartbeat.tick() => {
                    self.seq += 1;
                    let beat = Up::Heartbeat { at: clock.now().wall, seq: self.seq };
                    // Full means that much is under way; the connection's own death is seen by the timeout.
                    let _ = up.try_send(beat);
                }
                () = sleep_until(lost_at) => return Ended::Lost("no heartbeat".to_owned()),
                () = sleep_until(renew_at) => {
                    renew_at = Instant::now() + Duration::from_mins(1);
                    if let Some(csr_pem) = renewal.request() {
                        let _ = up.try_send(Up::Renew { csr_pem });
                    }
                }
            }
        }
    }

    async fn received(
        &mut self,
        down: Down,
        renewal: &mut Renewal,
        tell: &mpsc::Sender<Input>,
    ) -> Option<Ended> {
        let event = match down {
            Down::HeartbeatAck { accepted, .. } if accepted == self.accepted => return None,
            Down::HeartbeatAck { accepted, .. } => {
                self.accepted = accepted;
                LinkEvent::Accepted(accepted)
            }
            Down::ObservedAck { run, epoch, seq } => {
                self.outbox.acknowledged(&run, epoch, seq);
                return None;
            }
            Down::GoAway { reason, reconnect_in_ms } => {
                tracing::info!(%reason, reconnect_in_ms, "the centre sent us away");
                return Some(Ended::GoAway(Duration::from_millis(reconnect_in_ms)));
            }
            Down::Renewed { chain_pem, bundle_pem } => {
                return match renewal.take(chain_pem, bundle_pem).await {
                    Ok(()) => Some(Ended::Renewed),
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "certificate not renewed");
                        None
                    }
                };
            }
            Down::Nack(nack) => {
                tracing::warn!(
                    run = nack.run,
                    code = nack.code,
                    detail = nack.detail,
                    "the centre refused a message"
                );
                return None;
            }
            Down::Welcome(_) => return None,
            other => LinkEvent::Message(other),
        };
        // The driver is gone only when everything ends.
        let _ = tell.send(Input::Link(event)).await;
        None
    }
}
