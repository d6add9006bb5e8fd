//! What every worker shares: its order, its pipe to the daemon, its deadline, its signals, its words.

use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};

use super::spec::{WorkerReport, WorkerSpec};
use crate::system::clock;

/// The first line of a worker's standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Order {
    /// What to do.
    pub(super) spec: WorkerSpec,
    /// When to end, in milliseconds of `CLOCK_BOOTTIME`.
    pub(super) deadline_boottime_ms: u64,
}

/// One line of a worker's standard output.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Said {
    /// The first one means that the worker is at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) report: Option<WorkerReport>,
    /// Why it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// The time asked for has passed.
    Time,
    /// The other descriptor has something to read.
    Ready,
    /// Deadline, end of the daemon's pipe, or a signal: leave now.
    End,
}

/// The reasons for a worker to end, as descriptors and a time.
#[derive(Debug)]
pub(super) struct Life {
    deadline_ms: u64,
    signals: SignalFd,
}

impl Life {
    /// Takes over termination signals and reads the order.
    pub(super) fn begin() -> io::Result<(Self, Order)> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGINT);
        set.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        let order: Order = serde_json::from_str(&line)?;
        Ok((Self { deadline_ms: order.deadline_boottime_ms, signals }, order))
    }

    /// Waits for the other descriptor, at most `wait_us` microseconds.
    pub(super) fn wait(&self, other: Option<BorrowedFd<'_>>, wait_us: u64) -> io::Result<Woken> {
        let left_ms = self.deadline_ms.saturating_sub(clock::boottime_ms());
        if left_ms == 0 {
            return Ok(Woken::End);
        }
        let stdin = io::stdin();
        let mut fds = vec![
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(other.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let wait_us = wait_us.min(left_ms.saturating_mul(1000));
        let timeout = TimeSpec::new((wait_us / 1_000_000) as i64, (wait_us % 1_000_000 * 1000) as i64);
        match nix::poll::ppoll(&mut fds, Some(timeout), None) {
            Err(nix::Error::EINTR) => return Ok(Woken::Time),
            other => other?,
        };
        let woken = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        // Nothing more is ever written to the pipe: whatever comes is its end.
        if fds.iter().take(2).any(woken) {
            return Ok(Woken::End);
        }
        Ok(if fds.get(2).is_some_and(woken) { Woken::Ready } else { Woken::Time })
    }
}

/// Says one line. A daemon that no longer reads is no error: the end of the other pipe tells.
pub(super) fn say(said: &Said) {
    let Ok(mut line) = serde_json::to_vec(said) else {
        return;
    };
    line.push(b'\n');
    let mut out = io::stdout().lock();
    let _ = out.write_all(&line).and_then(|()| out.flush());
}

/// Says how far the work is.
pub(super) fn report(report: WorkerReport) {
    say(&Said { report: Some(report), error: None });
}
