//! Just enough netlink to talk to nf_tables, nfnetlink_queue and rtnetlink: building messages with nested
//! attributes, reading them, and a socket with bounded waits. Used by `nft`, `tc` and the nfqueue worker.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;
/// The kernel never dumps more than this into one read.
const READ_BYTES: usize = 64 * 1024;
/// Room for the largest transaction and its acknowledgements.
const BUFFER_BYTES: usize = 1 << 20;
/// Longest wait for one answer of the kernel.
const ANSWER_SECONDS: i64 = 5;

/// One or several messages under construction.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    /// Appends one message whose payload (family header included) `fill` writes.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        fill(&mut Attributes { bytes: &mut self.bytes });
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The place where attributes are appended.
#[derive(Debug)]
pub(crate) struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl<'a> Attributes<'a> {
    pub(crate) fn over(bytes: &'a mut Vec<u8>) -> Self {
        Self { bytes }
    }

    /// Raw bytes, for family headers; padded to four.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    pub(crate) fn put_str(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes);
    }

    /// nf_tables numbers are big-endian.
    pub(crate) fn put_be32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    pub(crate) fn put_be64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        fill(&mut Attributes { bytes: self.bytes });
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

/// Attributes of a message or of a nested attribute; stops at the first malformed one.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of that kind.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

pub(crate) fn be32(bytes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(attribute(bytes, kind)?.try_into().ok()?))
}

pub(crate) fn be64(bytes: &[u8], kind: u16) -> Option<u64> {
    Some(u64::from_be_bytes(attribute(bytes, kind)?.try_into().ok()?))
}

pub(crate) fn text(bytes: &[u8], kind: u16) -> Option<String> {
    let value = attribute(bytes, kind)?;
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    Some(String::from_utf8_lossy(&value[..end]).into_owned())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// One message of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) kind: u16,
    /// Family header and attributes.
    pub(crate) payload: Vec<u8>,
}

/// One netlink socket. It belongs to the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
        setsockopt(&fd, sockopt::RcvBuf, &BUFFER_BYTES)?;
        // A transaction is one message: above the system's limit where we may, else up to it.
        if setsockopt(&fd, sockopt::SndBufForce, &BUFFER_BYTES).is_err() {
            setsockopt(&fd, sockopt::SndBuf, &BUFFER_BYTES)?;
        }
        Ok(Self { fd, sequence: 0 })
    }

    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.sequence
    }

    pub(crate) fn send(&self, buffer: &Buffer) -> io::Result<()> {
        let sent =
            sendto(self.fd.as_raw_fd(), buffer.as_bytes(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        if sent == buffer.as_bytes().len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// One read: every message in it.
    pub(crate) fn receive(&self, flags: MsgFlags) -> io::Result<Vec<(u32, Answer)>> {
        let mut bytes = vec![0; READ_BYTES];
        let length = loop {
            match recv(self.fd.as_raw_fd(), &mut bytes, flags) {
                Err(nix::Error::EINTR) => {}
                other => break other?,
            }
        };
        let mut rest = bytes.get(..length).unwrap_or_default();
        let mut messages = Vec::new();
        while let (Some(size), Some(kind), Some(sequence)) =
            (u32_at(rest, 0), u16_at(rest, 4), u32_at(rest, 8))
        {
            let Some(payload) = rest.get(HEADER..size as usize) else {
                break;
            };
            messages.push((sequence, Answer { kind, payload: payload.to_vec() }));
            rest = rest.get((size as usize).next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(messages)
    }

    /// Sends, then reads until the answer to `last` (an acknowledgement, an error or the end of a dump).
    /// The first error of any message since `first` is returned.
    pub(crate) fn exchange(&mut self, buffer: &Buffer, first: u32, last: u32) -> io::Result<Vec<Answer>> {
        self.send(buffer)?;
        let mut answers = Vec::new();
        loop {
            for (sequence, answer) in self.receive(MsgFlags::empty())? {
                if sequence < first || sequence > last {
                    continue;
                }
                match answer.kind {
                    NLMSG_ERROR => match u32_at(&answer.payload, 0).unwrap_or_default() as i32 {
                        0 if sequence == last => return Ok(answers),
                        0 => {}
                        code => return Err(io::Error::from_raw_os_error(-code)),
                    },
                    NLMSG_DONE => return Ok(answers),
                    _ => answers.push(answer),
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
