//! The link to the control plane: dial, enrol, say the latest of everything, hear assignments, come back after a
//! loss. The logic works over channels of the wire types; gRPC is a shell around it.

pub mod dial;
pub mod enrol;
mod home;
pub mod identity;
pub mod known;
mod moving;
pub mod outbox;
pub mod recovery;
pub mod renewal;
pub mod session;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::dial::Dial;
use self::home::Home;
use self::outbox::Outbox;
use self::recovery::NotRecovered;
use self::renewal::Renewal;
use self::session::{Around, Ended};
use crate::clock::Clock;
use crate::driver::Input;

/// Least wait after the centre refused a recovery: somebody must do something first, or a day must pass.
const REFUSED_AGAIN: Duration = Duration::from_mins(5);
/// It doubles with each refusal, so often.
const REFUSED_DOUBLINGS: u32 = 3;

/// The wait after this refusal in a row, the first one being 1. `spread` is uniform in 0..1.
fn refused_wait(refusals: u32, spread: f64) -> Duration {
    let least = REFUSED_AGAIN * (1 << refusals.saturating_sub(1).min(REFUSED_DOUBLINGS));
    least + least.mul_f64(spread / 2.0)
}

/// How dialling again is spread: full jitter over exponentially growing waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first wait.
    pub first: Duration,
    /// Upper bound of every wait.
    pub most: Duration,
    /// A session that lasted so long starts the waits anew.
    pub healthy: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            most: Duration::from_mins(1),
            healthy: Duration::from_mins(5),
        }
    }
}

/// Keeps a session with the centre, for ever.
#[derive(Debug)]
pub struct Link {
    /// How to dial.
    pub dial: Arc<dyn Dial>,
    /// What to say.
    pub outbox: Arc<Outbox>,
    /// This leader's epoch.
    pub epoch: u64,
    /// Certificates.
    pub renewal: Renewal,
    /// Waits.
    pub backoff: Backoff,
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// To the driver.
    pub tell: mpsc::Sender<Input>,
}

impl Link {
    /// Dials, runs the session, waits, and dials the next endpoint.
    pub async fn run(mut self) {
        let mut home = Home::new(self.renewal.credentials());
        let mut waits = self.waits();
        let mut attempt = 0usize;
        let mut reached = None;
        let mut refusals = 0u32;
        loop {
            refusals = if self.recover(attempt).await { refusals.saturating_add(1) } else { 0 };
            let began = Instant::now();
            let dialled = match reached.take() {
                Some(connection) => Ok(connection),
                None => self.dial.dial(attempt).await,
            };
            let ended = match dialled {
                Ok(connection) => {
                    let (outbox, clock, tell, dial) = (&*self.outbox, &*self.clock, &self.tell, &*self.dial);
                    let around = Around { outbox, epoch: self.epoch, clock, tell, dial };
                    session::session(connection, around, &mut home, &mut self.renewal).await
                }
                Err(error) => Ended::Lost(error.to_string()),
            };
            let lasted = began.elapsed();
            if lasted >= self.backoff.healthy {
                waits = self.waits();
                // It was let in with the certificate that it has.
                refusals = 0;
            }
            let wait = match ended {
                Ended::Renewed => continue,
                Ended::Moved(connection) => {
                    home.moves();
                    (attempt, reached) = (0, Some(connection));
                    continue;
                }
                // Never at once, and never all together, whatever we were told; elsewhere, since it was told there.
                Ended::GoAway(wait) => {
                    attempt = attempt.wrapping_add(1);
                    wait.min(self.backoff.most) + self.backoff.first.mul_f64(fastrand::f64())
                }
                Ended::Lost(why) => {
                    attempt = attempt.wrapping_add(1);
                    // Without a last one the builder never ends; the fallback is its own maximum.
                    let most = waits.next().unwrap_or(self.backoff.most);
                    let spread = fastrand::f64();
                    let wait =
                        if refusals > 0 { refused_wait(refusals, spread) } else { most.mul_f64(spread) };
                    tracing::warn!(why, wait_ms = wait.as_millis(), "no link to the centre");
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Comes back by the identity key where the certificate expired; whether the centre refused that. Whatever came of
    /// it, the link is dialled then: the centre's clock is the one that counts.
    async fn recover(&self, attempt: usize) -> bool {
        let now = self.clock.now().wall;
        if !self.renewal.is_expired(now) {
            return false;
        }
        let cluster_uid = self.outbox.facts().cluster_uid;
        let recovered = self.renewal.recover(&cluster_uid, now, attempt).await;
        if let Err(error) = &recovered {
            tracing::warn!(error = format!("{error:#}"), "the certificate expired and is not renewed");
        }
        matches!(recovered, Err(NotRecovered::Refused(_)))
    }

    fn waits(&self) -> backon::ExponentialBackoff {
        let (first, most) = (self.backoff.first, self.backoff.most);
        ExponentialBuilder::default().with_min_delay(first).with_max_delay(most).without_max_times().build()
    }
}
