//! The qdisc tree over rtnetlink, in the namespace of the calling thread: our `prio` root and netem under
//! its fourth band. Layouts: `tc_prio_qopt` and `tc_netem_qopt` of linux/pkt_sched.h, `tcmsg` of
//! linux/rtnetlink.h. netem's options are its struct followed by attributes.

use std::io;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockProtocol;

use super::{NETEM_BAND, NetemSpec, NetemState, ROOT_MAJOR};
use crate::system::Error;
use crate::system::netlink::{
    Attributes, Buffer, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    Socket, attribute, text,
};

const NEW_QDISC: u16 = 36;
const DELETE_QDISC: u16 = 37;
const GET_QDISC: u16 = 38;
const TCM_BYTES: usize = 20;
const ROOT: u32 = 0xffff_ffff;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_STATS2: u16 = 7;
const TCA_STATS_BASIC: u16 = 1;
const NETEM_CORRELATION: u16 = 1;
const NETEM_LATENCY64: u16 = 10;
const NETEM_JITTER64: u16 = 11;
const NETEM_QOPT_BYTES: usize = 24;
const ROOT_HANDLE: u32 = (ROOT_MAJOR as u32) << 16;
/// The handle of netem itself.
const NETEM_HANDLE: u32 = (ROOT_MAJOR as u32 + 1) << 16;
struct Qdisc {
    kind: String,
    handle: u32,
    parent: u32,
    options: Vec<u8>,
    packets: u64,
}

/// `tc_prio_qopt` with one band more than `pfifo_fast` has, which no type of service leads to: only a
/// priority that names it does.
pub(crate) fn prio_options() -> Vec<u8> {
    let mut bytes = u32::from(NETEM_BAND).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&[1, 2, 2, 2, 1, 2, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
    bytes
}

/// `tc_netem_qopt`, then correlation, and latency and jitter in nanoseconds.
pub(crate) fn netem_options(spec: &NetemSpec) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in [0, spec.limit_packets, 0, 0, 0, 0] {
        bytes.extend_from_slice(&value.to_ne_bytes());
    }
    let mut body = Attributes::over(&mut bytes);
    let mut correlation = correlation(spec.correlation_percent).to_ne_bytes().to_vec();
    correlation.extend_from_slice(&[0; 8]);
    body.put(NETEM_CORRELATION, &correlation);
    body.put(NETEM_LATENCY64, &(spec.latency_us * 1000).to_ne_bytes());
    body.put(NETEM_JITTER64, &(spec.jitter_us * 1000).to_ne_bytes());
    bytes
}

/// netem takes probabilities as parts of 2^32 - 1.
fn correlation(percent: u8) -> u32 {
    (u64::from(u32::MAX) * u64::from(percent.min(100)) / 100) as u32
}

/// The intent that these options stand for; `None` when they are not of our making.
pub(super) fn parse_netem(device: &str, options: &[u8]) -> Option<NetemSpec> {
    let word = |at: usize| Some(u32::from_ne_bytes(options.get(at..at + 4)?.try_into().ok()?));
    // loss, gap and duplicate are never set by us.
    if (word(8)?, word(12)?, word(16)?) != (0, 0, 0) {
        return None;
    }
    let rest = options.get(NETEM_QOPT_BYTES..)?;
    let nanos = |kind| Some(u64::from_ne_bytes(attribute(rest, kind)?.get(..8)?.try_into().ok()?));
    let share =
        attribute(rest, NETEM_CORRELATION).and_then(|bytes| Some(u32::from_ne_bytes(*bytes.first_chunk()?)));
    let percent = (0..=100).find(|percent| correlation(*percent) == share.unwrap_or_default())?;
    Some(NetemSpec {
        device: device.to_owned(),
        latency_us: nanos(NETEM_LATENCY64)? / 1000,
        jitter_us: nanos(NETEM_JITTER64)? / 1000,
        correlation_percent: percent,
        limit_packets: word(4)?,
    })
}

/// Our root, then netem under it; the root is taken away again when netem is refused.
pub(crate) fn install(spec: &NetemSpec) -> Result<(), Error> {
    let device = &spec.device;
    let refused = |error: io::Error| Error::refused(format!("install netem on {device}"), error);
    let missing_or = |error: io::Error| match error.raw_os_error() {
        Some(libc::ENOENT) => Error::Missing { capability: "netem", detail: "unknown qdisc kind".to_owned() },
        _ => refused(error),
    };
    let mut socket = Socket::open(SockProtocol::NetlinkRoute).map_err(refused)?;
    let index = index_of(device)?;
    let qdiscs = list(&mut socket, index).map_err(refused)?;
    if let Some(root) = qdiscs.iter().find(|qdisc| qdisc.parent == ROOT) {
        // What the kernel puts there by itself (noqueue, pfifo_fast, fq_codel, mq) has no handle.
        if root.handle != ROOT_HANDLE && root.handle != 0 {
            return Err(Error::Foreign {
                what: format!("{device} has a root qdisc {} that is not ours", root.kind),
            });
        }
    }
    if !qdiscs.iter().any(|qdisc| qdisc.parent == ROOT && qdisc.handle == ROOT_HANDLE) {
        put(&mut socket, index, (ROOT_HANDLE, ROOT), "prio", &prio_options()).map_err(missing_or)?;
    }
    let parent = ROOT_HANDLE | u32::from(NETEM_BAND);
    put(&mut socket, index, (NETEM_HANDLE, parent), "netem", &netem_options(spec)).map_err(|error| {
        let _ = delete(&mut socket, index, ROOT_HANDLE, ROOT);
        missing_or(error)
    })
}

/// What our root on that device leads to; `None` when the root is not ours.
pub(crate) fn read(device: &str) -> Result<Option<NetemState>, Error> {
    let refused = |error: io::Error| Error::refused(format!("read the qdiscs of {device}"), error);
    let mut socket = Socket::open(SockProtocol::NetlinkRoute).map_err(refused)?;
    let index = match index_of(device) {
        Err(error) if error.is_target_gone() => return Ok(None),
        other => other?,
    };
    let qdiscs = list(&mut socket, index).map_err(refused)?;
    if !qdiscs.iter().any(|qdisc| qdisc.parent == ROOT && qdisc.handle == ROOT_HANDLE) {
        return Ok(None);
    }
    let netem = qdiscs.iter().find(|qdisc| qdisc.handle == NETEM_HANDLE && qdisc.kind == "netem");
    let unset = NetemSpec {
        device: device.to_owned(),
        latency_us: 0,
        jitter_us: 0,
        correlation_percent: 0,
        limit_packets: 0,
    };
    Ok(Some(netem.map_or(NetemState { spec: unset.clone(), packets: 0 }, |qdisc| NetemState {
        spec: parse_netem(device, &qdisc.options).unwrap_or(unset),
        packets: qdisc.packets,
    })))
}

/// Deletes our own root; anything else is left alone.
pub(crate) fn remove(device: &str) -> Result<(), Error> {
    let refused = |error: io::Error| Error::refused(format!("delete the root qdisc of {device}"), error);
    let mut socket = Socket::open(SockProtocol::NetlinkRoute).map_err(refused)?;
    let index = match index_of(device) {
        Err(error) if error.is_target_gone() => return Ok(()),
        other => other?,
    };
    let qdiscs = list(&mut socket, index).map_err(refused)?;
    if !qdiscs.iter().any(|qdisc| qdisc.parent == ROOT && qdisc.handle == ROOT_HANDLE) {
        return Ok(());
    }
    match delete(&mut socket, index, ROOT_HANDLE, ROOT) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map_err(refused),
    }
}

/// Whether the kernel knows that kind of qdisc, tried on the loopback device of the calling thread's
/// (private) namespace.
pub(crate) fn knows(kind: &str, options: &[u8]) -> io::Result<bool> {
    let mut socket = Socket::open(SockProtocol::NetlinkRoute)?;
    let index = if_nametoindex("lo")?;
    match put(&mut socket, index, (ROOT_HANDLE, ROOT), kind, options) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        other => other.and_then(|()| delete(&mut socket, index, ROOT_HANDLE, ROOT)).map(|()| true),
    }
}

fn index_of(device: &str) -> Result<u32, Error> {
    if_nametoindex(device).map_err(|_| Error::gone(format!("device {device}")))
}

fn tcmsg(body: &mut Attributes<'_>, index: u32, handle: u32, parent: u32) {
    body.raw(&[0; 4]);
    for value in [index, handle, parent, 0] {
        body.raw(&value.to_ne_bytes());
    }
}

fn put(
    socket: &mut Socket,
    index: u32,
    (handle, parent): (u32, u32),
    kind: &str,
    options: &[u8],
) -> io::Result<()> {
    // The kernel itself refuses to replace a root that somebody set up meanwhile.
    let mode = NLM_F_CREATE | if parent == ROOT { NLM_F_EXCL } else { NLM_F_REPLACE };
    let sequence = socket.next_sequence();
    let mut buffer = Buffer::default();
    buffer.message(NEW_QDISC, NLM_F_REQUEST | NLM_F_ACK | mode, sequence, |body| {
        tcmsg(body, index, handle, parent);
        body.put_str(TCA_KIND, kind);
        body.put(TCA_OPTIONS, options);
    });
    socket.exchange(&buffer, sequence, sequence).map(|_| ())
}

fn delete(socket: &mut Socket, index: u32, handle: u32, parent: u32) -> io::Result<()> {
    let sequence = socket.next_sequence();
    let mut buffer = Buffer::default();
    buffer.message(DELETE_QDISC, NLM_F_REQUEST | NLM_F_ACK, sequence, |body| {
        tcmsg(body, index, handle, parent);
    });
    socket.exchange(&buffer, sequence, sequence).map(|_| ())
}

fn list(socket: &mut Socket, index: u32) -> io::Result<Vec<Qdisc>> {
    let sequence = socket.next_sequence();
    let mut buffer = Buffer::default();
    buffer.message(GET_QDISC, NLM_F_REQUEST | NLM_F_DUMP, sequence, |body| {
        tcmsg(body, 0, 0, 0);
    });
    let answers = socket.exchange(&buffer, sequence, sequence)?;
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_ne_bytes)
    };
    let parse = |payload: &[u8]| {
        let body = payload.get(TCM_BYTES..)?;
        let basic = attribute(body, TCA_STATS2).and_then(|stats| attribute(stats, TCA_STATS_BASIC));
        (word(payload, 4)? == index).then_some(())?;
        Some(Qdisc {
            kind: text(body, TCA_KIND)?,
            handle: word(payload, 8)?,
            parent: word(payload, 12)?,
            options: attribute(body, TCA_OPTIONS).unwrap_or_default().to_vec(),
            packets: u64::from(basic.and_then(|basic| word(basic, 8)).unwrap_or_default()),
        })
    };
    Ok(answers.iter().filter_map(|answer| parse(&answer.payload)).collect())
}

#[cfg(test)]
mod tests;
