//! network.delay: netem for what the target sends, a queue worker for what it receives; or the worker
//! for both where the plan promised it. In either case a table with timed matches leads the packets there,
//! so that the delay ends at the deadline without us.

use proto::fault::Direction;
use proto::ids::InjectionId;
use proto::injection::PeerMatch;

use super::{number_of, rules, table_name, worker_id};
use crate::resolve::Found;
use crate::step::Step;
use crate::system::nft::{TableSpec, Verdict};
use crate::system::tc::NetemSpec;
use crate::worker::spec::{self, Work, WorkerSpec};

/// Queue numbers of ours start here, away from the low ones that other software takes.
const QUEUE_FIRST: u16 = 0xf000;
const QUEUE_MASK: u64 = 0x0fff;
/// Room for so many packets a millisecond of delay.
const NETEM_PACKETS_PER_MS: u64 = 100;
const QUEUE_PACKETS_PER_MS: u64 = 20;
const PACKETS_MIN: u64 = 1000;
const NETEM_PACKETS_MAX: u64 = 500_000;
const QUEUE_PACKETS_MAX: u64 = 65_000;

/// The parameters, in plain units.
#[derive(Debug)]
pub(super) struct Delay<'a> {
    pub(super) direction: Direction,
    pub(super) peers: &'a [PeerMatch],
    pub(super) latency_ms: u64,
    pub(super) jitter_ms: u64,
    pub(super) correlation_percent: u8,
}

pub(super) fn steps(
    id: &InjectionId,
    found: &Found,
    delay: &Delay<'_>,
    netem: bool,
) -> Result<Vec<Step>, String> {
    let queue = Verdict::Queue { number: queue_number(id) };
    let by_netem = netem && delay.direction != Direction::Ingress;
    let by_queue = !netem || delay.direction != Direction::Egress;
    let mut steps = Vec::new();
    let mut all = Vec::new();
    if by_netem {
        if found.devices.is_empty() {
            return Err("the target has no network device but loopback".to_owned());
        }
        let tree = |device: &String| Step::NetemTree {
            netns: found.identity.netns.clone(),
            netem: netem_of(device, delay),
        };
        steps.extend(found.devices.iter().map(tree));
        all.extend(rules(Direction::Egress, delay.peers, Verdict::Priority { class: NetemSpec::class() }));
    }
    if by_queue {
        steps.push(worker(id, found, delay));
        let direction = if by_netem { Direction::Ingress } else { delay.direction };
        all.extend(rules(direction, delay.peers, queue));
    }
    // Last made, first undone: packets are led away only while something waits for them.
    let table = TableSpec { name: table_name(id), rules: all };
    steps.push(Step::NftTable { netns: found.identity.netns.clone(), table });
    Ok(steps)
}

fn netem_of(device: &str, delay: &Delay<'_>) -> NetemSpec {
    NetemSpec {
        device: device.to_owned(),
        latency_us: delay.latency_ms * 1000,
        jitter_us: delay.jitter_ms * 1000,
        correlation_percent: delay.correlation_percent,
        limit_packets: room(delay, NETEM_PACKETS_PER_MS, NETEM_PACKETS_MAX),
    }
}

fn worker(id: &InjectionId, found: &Found, delay: &Delay<'_>) -> Step {
    let work = Work::Nfqueue {
        netns: found.identity.netns.clone(),
        table: table_name(id),
        queue: queue_number(id),
        delay: spec::Delay {
            latency_us: delay.latency_ms * 1000,
            jitter_us: delay.jitter_ms * 1000,
            correlation_percent: delay.correlation_percent,
            seed: number_of(id.as_str()),
        },
        max_packets: room(delay, QUEUE_PACKETS_PER_MS, QUEUE_PACKETS_MAX),
    };
    Step::Worker { worker: WorkerSpec { id: worker_id(id), work } }
}

fn room(delay: &Delay<'_>, per_ms: u64, most: u64) -> u32 {
    let packets = (delay.latency_ms + delay.jitter_ms).saturating_mul(per_ms).clamp(PACKETS_MIN, most);
    packets as u32
}

/// Two injections of one pod that happen to share a number are refused as conflicting by the engine.
fn queue_number(id: &InjectionId) -> u16 {
    QUEUE_FIRST | (number_of(id.as_str()) & QUEUE_MASK) as u16
}
