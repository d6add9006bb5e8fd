//! The only place where the agent reads clocks. The driver and the link take a `Clock`, so that tests may hand
//! them another.

use std::fmt::Debug;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

use crate::engine::Now;

/// Something that knows the time.
pub trait Clock: Send + Sync + Debug {
    /// Both clocks, read together.
    fn now(&self) -> Now;
}

/// The machine's.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        // CLOCK_BOOTTIME exists on every kernel we run on; zero only delays what waits for it.
        let boottime_ms = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |t| {
            t.tv_sec()
                .unsigned_abs()
                .saturating_mul(1000)
                .saturating_add(t.tv_nsec().unsigned_abs() / 1_000_000)
        });
        Now { wall: Timestamp::now(), boottime_ms }
    }
}
