//! The link to the control plane: dial, enrol, say the latest of everything, hear assignments, come back after a
//! loss. The logic works over channels of the wire types; gRPC is a shell around it.

pub mod dial;
pub mod enrol;
pub mod identity;
pub mod outbox;
pub mod renewal;
pub mod session;

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::dial::Dial;
use self::outbox::Outbox;
use self::renewal::Renewal;
use self::session::Ended;
use crate::clock::Clock;
use crate::driver::Input;

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
        let mut store_epoch = String::new();
        let mut waits = self.waits();
        let mut attempt = 0usize;
        loop {
            let began = Instant::now();
            let ended = match self.dial.dial(attempt).await {
                Ok(connection) => {
                    let parts = (&*self.outbox, &*self.clock, &self.tell);
                    let (outbox, clock, tell) = parts;
                    let renewal = &mut self.renewal;
                    session::session(connection, outbox, self.epoch, &mut store_epoch, renewal, clock, tell)
                        .await
                }
                Err(error) => Ended::Lost(error.to_string()),
            };
            let lasted = began.elapsed();
            if lasted >= self.backoff.healthy {
                waits = self.waits();
            }
            let wait = match ended {
                Ended::Renewed => continue,
                // Never at once, and never all together, whatever we were told.
                Ended::GoAway(wait) => {
                    wait.min(self.backoff.most) + self.backoff.first.mul_f64(fastrand::f64())
                }
                Ended::Lost(why) => {
                    attempt = attempt.wrapping_add(1);
                    // Without a last one the builder never ends; the fallback is its own maximum.
                    let most = waits.next().unwrap_or(self.backoff.most);
                    let wait = most.mul_f64(fastrand::f64());
                    tracing::warn!(why, wait_ms = wait.as_millis(), "no link to the centre");
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    fn waits(&self) -> backon::ExponentialBackoff {
        let (first, most) = (self.backoff.first, self.backoff.most);
        ExponentialBuilder::default().with_min_delay(first).with_max_delay(most).without_max_times().build()
    }
}
