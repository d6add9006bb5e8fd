//! The clocks of this node, read by drivers and workers and passed on as values.

use std::io;
use std::path::Path;

use nix::time::{ClockId, clock_gettime};

/// Milliseconds of `CLOCK_BOOTTIME`: monotonic, counts suspended time, starts again at a boot.
pub fn boottime_ms() -> u64 {
    milliseconds(ClockId::CLOCK_BOOTTIME)
}

/// Microseconds of `CLOCK_BOOTTIME`.
pub(crate) fn boottime_us() -> u64 {
    read(ClockId::CLOCK_BOOTTIME).map_or(u64::MAX, |(seconds, nanos)| seconds * 1_000_000 + nanos / 1000)
}

/// Milliseconds since 1970 by the wall clock, which may jump.
pub fn wall_ms() -> u64 {
    milliseconds(ClockId::CLOCK_REALTIME)
}

/// The id of this boot: another one means that nothing the daemon did to this kernel is left.
pub fn boot_id(proc_root: &Path) -> io::Result<String> {
    let text = std::fs::read_to_string(proc_root.join("sys/kernel/random/boot_id"))?;
    Ok(text.trim().to_owned())
}

/// A clock that cannot be read shows the end of time, so that every deadline has passed.
fn milliseconds(clock: ClockId) -> u64 {
    read(clock).map_or(u64::MAX, |(seconds, nanos)| seconds * 1000 + nanos / 1_000_000)
}

fn read(clock: ClockId) -> Option<(u64, u64)> {
    let now = clock_gettime(clock).ok()?;
    Some((u64::try_from(now.tv_sec()).ok()?, u64::try_from(now.tv_nsec()).ok()?))
}
