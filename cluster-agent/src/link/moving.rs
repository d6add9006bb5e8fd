//! Going over to the centre's new address without letting go of the old one: the new one is dialled beside the session
//! that is open, and only when it answers is the session given up for it. Used by the session.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::dial::{Dial, DialError};
use super::session::Connection;

/// Heartbeats between two attempts; doubled with each move that came to nothing.
const AGAIN_BEATS: u32 = 12;
const MOST_DOUBLINGS: u32 = 6;
/// Heartbeats over which a fleet that hears of a new address spreads its first attempts.
const SPREAD_BEATS: u32 = 2;

type Dialling<'a> = Pin<Box<dyn Future<Output = Result<Connection, DialError>> + Send + 'a>>;

/// Attempts to reach a listed address.
pub(super) struct Moving<'a> {
    dial: &'a dyn Dial,
    beat: Duration,
    /// When to try next; never while the session's address is on the list.
    at: Option<Instant>,
    again_beats: u32,
    listed: usize,
    attempt: usize,
    dialling: Option<Dialling<'a>>,
}

impl<'a> Moving<'a> {
    /// Nowhere to go.
    pub(super) fn new(dial: &'a dyn Dial, beat: Duration) -> Self {
        Self { dial, beat, at: None, again_beats: AGAIN_BEATS, listed: 0, attempt: 0, dialling: None }
    }

    /// One of the first `listed` addresses shall be reached: at once, or, after so many moves in vain, later.
    pub(super) fn wanted(&mut self, listed: usize, after_detours: Option<u32>) {
        self.listed = listed;
        self.attempt = 0;
        self.dialling = None;
        self.again_beats = AGAIN_BEATS << after_detours.unwrap_or(0).min(MOST_DOUBLINGS);
        self.after(if after_detours.is_none() { 0 } else { self.again_beats });
    }

    /// The session's address will do.
    pub(super) fn settled(&mut self) {
        self.at = None;
        self.dialling = None;
    }

    fn after(&mut self, beats: u32) {
        let spread = (self.beat * SPREAD_BEATS).mul_f64(fastrand::f64());
        self.at = Some(Instant::now() + self.beat * beats + spread);
    }

    /// A connection to a listed address. Cancel safe.
    pub(super) async fn reached(&mut self) -> Connection {
        loop {
            let Some(at) = self.at else { return std::future::pending().await };
            if self.dialling.is_none() {
                sleep_until(at).await;
                let attempt = self.attempt.checked_rem(self.listed).unwrap_or(0);
                self.attempt = self.attempt.wrapping_add(1);
                self.dialling = Some(self.dial.dial(attempt));
            }
            let Some(dialling) = &mut self.dialling else { continue };
            let dialled = dialling.await;
            self.dialling = None;
            match dialled {
                Ok(connection) => return connection,
                Err(error) => tracing::info!(%error, "the centre's new address does not answer yet"),
            }
            // The others at once, then all of them again after a while.
            let all_tried = self.attempt.checked_rem(self.listed) == Some(0);
            self.after(if all_tried { self.again_beats } else { 0 });
        }
    }
}
