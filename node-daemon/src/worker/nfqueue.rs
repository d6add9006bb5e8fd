//! Delay where the kernel has no netem: packets that a rule of ours hands to an NFQUEUE are held here
//! for a while and then accepted, in order. Only their numbers come here, the kernel keeps the bytes.
//! The queue fails open (a full or dead queue lets packets pass), so the worst this worker can do is
//! nothing. A packet of a local socket waits in its sender's buffer meanwhile (TCP small queues): a bulk
//! stream that is delayed where it is sent gets slower than its round trip says, one delayed where it is
//! received does not. Protocol: linux/netfilter/nfnetlink_queue.h.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;
use nix::sys::socket::{MsgFlags, SockProtocol};

use super::life::{Life, Woken, report};
use super::spec::{Delay, WorkerReport};
use crate::system::netlink::{Attributes, Buffer, NLM_F_ACK, NLM_F_REQUEST, Socket, attribute};
use crate::system::target::NetnsRef;
use crate::system::{Error, clock, kernel, netns};

const SUBSYSTEM: u16 = 3;
const PACKET: u16 = SUBSYSTEM << 8;
const CONFIG: u16 = SUBSYSTEM << 8 | 2;
const VERDICT_BATCH: u16 = SUBSYSTEM << 8 | 3;
const COMMAND_BIND: u8 = 1;
const COPY_META: u8 = 1;
const FAIL_OPEN: u32 = 1;
/// Packets that the network card would split stay whole.
const KEEP_WHOLE: u32 = 4;
const ACCEPT: u32 = 1;
/// Reports are given this often at most, in microseconds.
const REPORT_EVERY_US: u64 = 500_000;

/// Serves the queue until the deadline, the end of the daemon or the end of the target, then removes the table that feeds it
/// and lets go of everything held.
pub(super) fn run(
    life: &Life,
    netns_ref: &NetnsRef,
    table: &str,
    queue: u16,
    delay: &Delay,
    max_packets: u32,
) -> anyhow::Result<()> {
    netns::inside(netns_ref, || {
        let refused = |error| Error::refused(format!("serve queue {queue}"), error);
        let mut held = Held::bind(queue, max_packets).map_err(refused)?;
        let served = serve(life, &mut held, delay, &netns_ref.path);
        // In this order: no packet may come to a queue that nobody serves any more.
        let removed = kernel::remove_table(table);
        held.release(u64::MAX).map_err(refused)?;
        served.map_err(refused).and(removed)
    })
    .context("delay packets")
}

fn serve(life: &Life, held: &mut Held, delay: &Delay, path: &Path) -> io::Result<()> {
    let mut jitter = Jitter::new(delay);
    let mut reported_us = 0;
    loop {
        let now_us = clock::boottime_us();
        held.release(now_us)?;
        if reported_us == 0 || now_us >= reported_us + REPORT_EVERY_US {
            reported_us = now_us;
            // This thread and its socket keep the namespace alive: they must not outlast the target.
            if !is_here(path) {
                return Ok(());
            }
            report(WorkerReport { units: held.taken, held: held.packets.len() as u64 });
        }
        let due_us =
            held.packets.front().map_or(REPORT_EVERY_US, |(due_us, _)| due_us.saturating_sub(now_us));
        match life.wait(Some(held.socket.as_fd()), due_us.min(REPORT_EVERY_US))? {
            Woken::End => return Ok(()),
            Woken::Ready => held.take(&mut jitter)?,
            Woken::Time => {}
        }
    }
}

/// Whether that path still leads to the namespace of this thread. While the thread stands in it, its
/// inode number is not given to another.
fn is_here(path: &Path) -> bool {
    let inode = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    match (inode(path), inode(Path::new("/proc/thread-self/ns/net"))) {
        (Ok(there), Ok(here)) => there == here,
        _ => false,
    }
}

/// The queue and the packets held: when each is due, and its number.
struct Held {
    socket: Socket,
    queue: u16,
    packets: VecDeque<(u64, u32)>,
    taken: u64,
}

impl Held {
    fn bind(queue: u16, max_packets: u32) -> io::Result<Self> {
        let mut socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
        let mut buffer = Buffer::default();
        let sequence = socket.next_sequence();
        buffer.message(CONFIG, NLM_F_REQUEST | NLM_F_ACK, sequence, |body| {
            header(body, queue);
            body.put(1, &[COMMAND_BIND, 0, 0, 0]);
        });
        socket.exchange(&buffer, sequence, sequence)?;
        let mut buffer = Buffer::default();
        let sequence = socket.next_sequence();
        buffer.message(CONFIG, NLM_F_REQUEST | NLM_F_ACK, sequence, |body| {
            header(body, queue);
            body.put(2, &[0, 0, 0, 0, COPY_META]);
            body.put_be32(3, max_packets);
            body.put_be32(4, FAIL_OPEN | KEEP_WHOLE);
            body.put_be32(5, FAIL_OPEN | KEEP_WHOLE);
        });
        socket.exchange(&buffer, sequence, sequence)?;
        Ok(Self { socket, queue, packets: VecDeque::new(), taken: 0 })
    }

    /// Takes every packet that is waiting.
    fn take(&mut self, jitter: &mut Jitter) -> io::Result<()> {
        loop {
            let messages = match self.socket.receive(MsgFlags::MSG_DONTWAIT) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // Too many at once: the kernel has let those pass.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => continue,
                other => other?,
            };
            let now_us = clock::boottime_us();
            for (_, message) in messages.iter().filter(|(_, message)| message.kind == PACKET) {
                let body = message.payload.get(4..).unwrap_or_default();
                let Some(number) = attribute(body, 1).and_then(|header| header.first_chunk::<4>()) else {
                    continue;
                };
                let last_us = self.packets.back().map_or(0, |(due_us, _)| *due_us);
                let due_us = (now_us + jitter.next_us()).max(last_us);
                self.packets.push_back((due_us, u32::from_be_bytes(*number)));
                self.taken += 1;
            }
        }
    }

    /// Accepts what is due: one message for all, since numbers grow and order is kept.
    fn release(&mut self, now_us: u64) -> io::Result<()> {
        let mut last = None;
        while let Some((_, number)) = self.packets.pop_front_if(|(due_us, _)| *due_us <= now_us) {
            last = Some(number);
        }
        let Some(number) = last else { return Ok(()) };
        let mut buffer = Buffer::default();
        buffer.message(VERDICT_BATCH, NLM_F_REQUEST, 0, |body| {
            header(body, self.queue);
            let mut verdict = ACCEPT.to_be_bytes().to_vec();
            verdict.extend_from_slice(&number.to_be_bytes());
            body.put(2, &verdict);
        });
        self.socket.send(&buffer)
    }
}

fn header(body: &mut Attributes<'_>, queue: u16) {
    let number = queue.to_be_bytes();
    body.raw(&[0, 0, number[0], number[1]]);
}

/// Successive delays: each deviation follows the one before by the correlation, as netem's do.
struct Jitter {
    latency_us: f64,
    most_us: f64,
    correlation: f64,
    previous: f64,
    random: fastrand::Rng,
}

impl Jitter {
    fn new(delay: &Delay) -> Self {
        Self {
            latency_us: delay.latency_us as f64,
            most_us: delay.jitter_us as f64,
            correlation: f64::from(delay.correlation_percent.min(100)) / 100.0,
            previous: 0.0,
            random: fastrand::Rng::with_seed(delay.seed),
        }
    }

    fn next_us(&mut self) -> u64 {
        let fresh = self.random.f64() * 2.0 - 1.0;
        self.previous = self.previous * self.correlation + fresh * (1.0 - self.correlation);
        (self.latency_us + self.most_us * self.previous).max(0.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_stay_within_the_jitter_and_repeat_with_the_seed() {
        let delay = Delay { latency_us: 10_000, jitter_us: 2_000, correlation_percent: 25, seed: 7 };
        let sample = |delay: &Delay| -> Vec<u64> {
            let mut jitter = Jitter::new(delay);
            (0..1000).map(|_| jitter.next_us()).collect()
        };
        let first = sample(&delay);
        assert!(first.iter().all(|us| (8_000..=12_000).contains(us)));
        assert!(first.iter().any(|us| *us < 9_500) && first.iter().any(|us| *us > 10_500));
        assert_eq!(first, sample(&delay));
        assert_ne!(first, sample(&Delay { seed: 8, ..delay.clone() }));
    }

    #[test]
    fn full_correlation_keeps_the_first_deviation() {
        let delay = Delay { latency_us: 5_000, jitter_us: 1_000, correlation_percent: 100, seed: 1 };
        let mut jitter = Jitter::new(&delay);
        assert!((0..10).all(|_| jitter.next_us() == 5_000));
    }

    #[test]
    fn a_jitter_above_the_latency_never_goes_below_zero() {
        let mut jitter =
            Jitter::new(&Delay { latency_us: 0, jitter_us: 500, correlation_percent: 0, seed: 3 });
        assert!((0..1000).all(|_| jitter.next_us() <= 500));
    }
}
