//! One session with the centre, over channels: Hello and Welcome, heartbeats both ways, and pumping between the
//! outbox and the driver. The gRPC shell and the tests give it the two ends of a connection.

use std::time::Duration;

use proto::wire::{Down, Hello, Nack, PROTOCOL, PROTOCOL_MIN, Up, Welcome};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::dial::Dial;
use super::home::{Home, OLD_STORE, Refused};
use super::moving::Moving;
use super::outbox::Outbox;
use super::renewal::Renewal;
use crate::clock::Clock;
use crate::driver::Input;

/// The longest that the centre may take to answer Hello.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);
/// Heartbeats that nobody answers before the link counts as lost. Beats are counted, not time: after a freeze (of the
/// machine, of this process) one more is sent, and what the centre said meanwhile has until the next to be heard.
const MISSES: u32 = 3;
/// Heartbeats answered before an address counts as one that works, and the way back is forgotten: five minutes where
/// the centre asks for one every 5 s.
const PROVED: u32 = 60;
/// How long a centre that was refused may take to hang up.
const HANGS_UP_WITHIN: Duration = Duration::from_secs(2);

/// Both ends of an open connection.
#[derive(Debug)]
pub struct Connection {
    /// To the centre. Bounded.
    pub up: mpsc::Sender<Up>,
    /// From the centre. Ends when the connection does.
    pub down: mpsc::Receiver<Down>,
    /// The shell's pumps; ended with the session.
    pub pumps: tokio::task::JoinSet<()>,
    /// The `host:port` that was dialled, where the kept list was followed.
    pub address: Option<String>,
}

/// What a session works with.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// What to say.
    pub outbox: &'a Outbox,
    /// This leader's epoch.
    pub epoch: u64,
    /// Clocks.
    pub clock: &'a dyn Clock,
    /// To the driver.
    pub tell: &'a mpsc::Sender<Input>,
    /// To reach another address.
    pub dial: &'a dyn Dial,
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
#[derive(Debug)]
pub enum Ended {
    /// The connection closed, or nothing came for too long.
    Lost(String),
    /// The centre said so; come back after this.
    GoAway(Duration),
    /// A new certificate is in place: dial again with it.
    Renewed,
    /// Given up for this connection to the centre's new address.
    Moved(Connection),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost(why) => write!(f, "lost: {why}"),
            Self::GoAway(wait) => write!(f, "sent away for {} ms", wait.as_millis()),
            Self::Renewed => f.write_str("renewed"),
            Self::Moved(_) => f.write_str("moved"),
        }
    }
}

/// Runs a session to its end. `Input::Link` carries what the driver must know.
pub(super) async fn session(
    mut connection: Connection,
    around: Around<'_>,
    home: &mut Home,
    renewal: &mut Renewal,
) -> Ended {
    let welcome = match hello(&mut connection, around, home).await {
        Ok(welcome) => welcome,
        Err(ended) => return ended,
    };
    if let Err(old) = home.enter(&welcome.store_epoch) {
        tracing::warn!(address = connection.address, session = %welcome.session, "{old}");
        refuse(connection, &old.to_string()).await;
        return Ended::Lost("the centre stands on an older copy of its store".to_owned());
    }
    tracing::info!(session = %welcome.session, accepted = welcome.accepted, "link is up");
    around.outbox.renew();
    let beat = Duration::from_millis(welcome.heartbeat_interval_ms.max(10));
    let accepted = welcome.accepted;
    if around.tell.send(Input::Link(LinkEvent::Up(welcome))).await.is_err() {
        return Ended::Lost("the agent is ending".to_owned());
    }
    let moving = Moving::new(around.dial, beat);
    let listed = home.known().sequence;
    let open = Open { connection, around, accepted, beat, seq: 0, unheard: 0, answered: 0, listed, moving };
    let ended = open.run(home, renewal).await;
    tracing::info!(%ended, "link is down");
    // The driver is gone only when everything ends.
    let _ = around.tell.send(Input::Link(LinkEvent::Down)).await;
    ended
}

async fn hello(connection: &mut Connection, around: Around<'_>, home: &Home) -> Result<Welcome, Ended> {
    let facts = around.outbox.facts();
    let hello = Up::Hello(Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        agent_epoch: around.epoch,
        store_epoch: home.known().store_epoch.clone(),
        held: facts.held,
        halts: facts.halts,
        kube_system_uid: facts.cluster_uid,
        accepts_starts: facts.accepts_starts,
        endpoints_sequence: home.sequence(),
    });
    let lost = |why: &str| Ended::Lost(why.to_owned());
    connection.up.send(hello).await.map_err(|_| lost("closed before Hello"))?;
    match timeout(WELCOME_WITHIN, connection.down.recv()).await {
        Ok(Some(Down::Welcome(welcome))) if (PROTOCOL_MIN..=PROTOCOL).contains(&welcome.protocol) => {
            Ok(welcome)
        }
        Ok(Some(Down::Welcome(_))) => {
            Err(lost("the centre chose a protocol that this version does not speak"))
        }
        Ok(Some(Down::GoAway { reason, reconnect_in_ms })) => {
            tracing::warn!(%reason, "the centre sent us away");
            Err(Ended::GoAway(Duration::from_millis(reconnect_in_ms)))
        }
        Ok(Some(_)) => Err(lost("the first answer was not Welcome")),
        Ok(None) => Err(lost("closed before Welcome")),
        Err(_) => Err(lost("no Welcome in time")),
    }
}

fn nack(code: &str, detail: String) -> Up {
    Up::Nack(Nack { run: String::new(), generation: 0, code: code.to_owned(), detail })
}

/// Tells a centre on an older copy of the store so, and obeys nothing that it says.
async fn refuse(mut connection: Connection, why: &str) {
    // A centre that takes no message is not waited for.
    let _ = connection.up.try_send(nack(OLD_STORE, why.to_owned()));
    let hung_up = async { while connection.down.recv().await.is_some() {} };
    let _ = timeout(HANGS_UP_WITHIN, hung_up).await;
}

struct Open<'a> {
    connection: Connection,
    around: Around<'a>,
    accepted: bool,
    beat: Duration,
    seq: u64,
    /// Heartbeats since the centre last said anything.
    unheard: u32,
    /// Heartbeats that were answered.
    answered: u32,
    /// Sequence of the list that this session went by last.
    listed: u64,
    moving: Moving<'a>,
}

impl Open<'_> {
    async fn run(mut self, home: &mut Home, renewal: &mut Renewal) -> Ended {
        let Around { outbox, clock, .. } = self.around;
        let mut heartbeat = interval(self.beat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let renew_in = renewal.due_in(clock.now().wall);
        let mut renew_at = Instant::now() + renew_in;
        let up = self.connection.up.clone();
        self.look_ahead(home, false);
        loop {
            let pending = outbox.is_pending(self.accepted);
            tokio::select! {
                down = self.connection.down.recv() => {
                    let Some(down) = down else { return Ended::Lost("closed".to_owned()) };
                    self.unheard = 0;
                    if let Some(ended) = self.received(down, home, renewal).await {
                        return ended;
                    }
                }
                permit = up.reserve(), if pending => {
                    let Ok(permit) = permit else { return Ended::Lost("closed".to_owned()) };
                    if let Some(up) = outbox.take(self.accepted) {
                        permit.send(up);
                    }
                }
                () = outbox.changed(), if !pending => {}
                _ = heartbeat.tick() => {
                    if self.unheard >= MISSES {
                        return Ended::Lost("no heartbeat".to_owned());
                    }
                    self.unheard += 1;
                    self.seq += 1;
                    let beat = Up::Heartbeat { at: clock.now().wall, seq: self.seq };
                    // Full means that much is under way; the connection's own death is seen by the silence.
                    let _ = up.try_send(beat);
                }
                answer = home.saved() => {
                    if let Some(answer) = answer {
                        self.answer_list(answer, home);
                    }
                }
                renewed = renewal.taken() => match renewed {
                    Ok(()) => return Ended::Renewed,
                    Err(error) => tracing::warn!(error = format!("{error:#}"), "certificate not renewed"),
                },
                reached = self.moving.reached() => return Ended::Moved(reached),
                () = sleep_until(renew_at) => {
                    renew_at = Instant::now() + Duration::from_mins(1);
                    if let Some((csr_pem, identity_csr_pem)) = renewal.request() {
                        let _ = up.try_send(Up::Renew { csr_pem, identity_csr_pem });
                    }
                }
            }
        }
    }

    /// Whether this session's address is one that the centre wants to be dialled at.
    fn is_listed(&self, home: &Home) -> bool {
        self.connection.address.as_ref().is_none_or(|address| home.known().is_listed(address))
    }

    /// Goes for a listed address beside this session, where this is none.
    fn look_ahead(&mut self, home: &Home, soon: bool) {
        if self.is_listed(home) {
            self.moving.settled();
        } else {
            self.moving.wanted(home.known().link.len(), if soon { None } else { Some(home.detours()) });
        }
    }

    /// A list is acknowledged when it is on disk; one that is not taken changes nothing.
    fn answer_list(&mut self, answer: Result<u64, Refused>, home: &Home) {
        let is_kept = answer.is_ok();
        let answer = match answer {
            Ok(sequence) => Up::EndpointsKept { sequence },
            Err(refused) => {
                tracing::warn!(code = refused.code(), %refused, "a list is not taken");
                nack(refused.code(), refused.to_string())
            }
        };
        // Full means that the centre does not read: it asks again with the next session.
        let _ = self.connection.up.try_send(answer);
        if is_kept && self.listed != home.known().sequence {
            self.listed = home.known().sequence;
            self.answered = 0;
            self.look_ahead(home, true);
        }
    }

    async fn received(&mut self, down: Down, home: &mut Home, renewal: &mut Renewal) -> Option<Ended> {
        if matches!(down, Down::HeartbeatAck { .. }) {
            self.answered = self.answered.saturating_add(1);
            if self.answered >= PROVED {
                home.settle(self.connection.address.as_deref());
            }
        }
        let event = match down {
            Down::HeartbeatAck { accepted, .. } if accepted == self.accepted => return None,
            Down::Endpoints(signed) => {
                if let Some(answer) = home.offer(&signed).transpose() {
                    self.answer_list(answer, home);
                }
                return None;
            }
            Down::HeartbeatAck { accepted, .. } => {
                self.accepted = accepted;
                LinkEvent::Accepted(accepted)
            }
            Down::ObservedAck { run, epoch, seq } => {
                self.around.outbox.acknowledged(&run, epoch, seq);
                return None;
            }
            Down::GoAway { reason, reconnect_in_ms } => {
                tracing::info!(%reason, reconnect_in_ms, "the centre sent us away");
                return Some(Ended::GoAway(Duration::from_millis(reconnect_in_ms)));
            }
            Down::Renewed { chain_pem, bundle_pem } => {
                renewal.take(chain_pem, bundle_pem);
                return None;
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
        let _ = self.around.tell.send(Input::Link(event)).await;
        None
    }
}
