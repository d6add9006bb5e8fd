//! The nf_tables expressions that rules of ours are made of, to netlink and back. Decoding gives
//! [`Expr::Unknown`] for anything else, so that a rule somebody changed never compares equal.

use crate::system::netlink::{Attributes, attribute, be32, be64, text};

use super::{Counter, Side, ruleset::Family};

const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const REG_VERDICT: u32 = 0;
/// First of the sixteen 4-byte registers.
pub(super) const REG32_00: u32 = 8;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const META_PRIORITY: u32 = 2;
const META_IIFTYPE: u32 = 8;
const META_OIFTYPE: u32 = 9;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const REJECT_TCP_RST: u32 = 1;
const REJECT_ICMPX: u32 = 2;
const ICMPX_PORT_UNREACH: u8 = 1;
const QUEUE_BYPASS: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;
const XT_NFQUEUE_REVISION: u32 = 3;

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expr {
    /// Loads a fact about the packet.
    Meta { key: MetaKey, register: u32 },
    /// Goes on only if the register compares so.
    Compare { register: u32, equal: bool, value: Vec<u8> },
    /// Loads packet bytes.
    Payload { field: Field, register: u32 },
    /// Goes on only if the registers are in the set.
    Lookup { set: String, register: u32 },
    /// Counts.
    Counter,
    /// Drops.
    Drop,
    /// Resets a TCP connection, or answers port-unreachable.
    Reject { tcp_reset: bool },
    /// Loads a constant.
    Immediate { register: u32, value: Vec<u8> },
    /// Sets the packet's priority from a register.
    SetPriority { register: u32 },
    /// Hands to a queue with bypass; by the native expression or the xtables target, whichever the
    /// kernel has: equal for the comparison.
    Queue { number: u16 },
    /// Something else.
    Unknown { name: String },
}

/// A fact about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetaKey {
    NfProto,
    L4Proto,
    DeviceTypeIn,
    DeviceTypeOut,
}

/// A field of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Address(Family, Side),
    Port(Side),
}

/// How queues are reached on this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueBy {
    /// The nf_tables expression.
    Native,
    /// The xtables target through nft_compat.
    Xtables,
}

impl MetaKey {
    const ALL: [Self; 4] = [Self::NfProto, Self::L4Proto, Self::DeviceTypeIn, Self::DeviceTypeOut];

    const fn number(self) -> u32 {
        match self {
            Self::NfProto => META_NFPROTO,
            Self::L4Proto => META_L4PROTO,
            Self::DeviceTypeIn => META_IIFTYPE,
            Self::DeviceTypeOut => META_OIFTYPE,
        }
    }

    /// What the device type of loopback is, as the register holds it.
    pub(super) fn loopback() -> Vec<u8> {
        ARPHRD_LOOPBACK.to_ne_bytes().to_vec()
    }
}

impl Field {
    const ALL: [Self; 6] = [
        Self::Address(Family::V4, Side::Source),
        Self::Address(Family::V4, Side::Destination),
        Self::Address(Family::V6, Side::Source),
        Self::Address(Family::V6, Side::Destination),
        Self::Port(Side::Source),
        Self::Port(Side::Destination),
    ];

    /// Header base, offset and length in bytes.
    const fn location(self) -> (u32, u32, u32) {
        match self {
            Self::Address(Family::V4, Side::Source) => (BASE_NETWORK, 12, 4),
            Self::Address(Family::V4, Side::Destination) => (BASE_NETWORK, 16, 4),
            Self::Address(Family::V6, Side::Source) => (BASE_NETWORK, 8, 16),
            Self::Address(Family::V6, Side::Destination) => (BASE_NETWORK, 24, 16),
            Self::Port(Side::Source) => (BASE_TRANSPORT, 0, 2),
            Self::Port(Side::Destination) => (BASE_TRANSPORT, 2, 2),
        }
    }
}

impl Expr {
    /// Appends this expression to a rule's list.
    pub(crate) fn encode(&self, list: &mut Attributes<'_>, queue_by: QueueBy) {
        list.nest(LIST_ELEM, |element| {
            element.put_str(EXPR_NAME, self.name(queue_by));
            element.nest(EXPR_DATA, |data| self.encode_data(data, queue_by));
        });
    }

    const fn name(&self, queue_by: QueueBy) -> &'static str {
        match self {
            Self::Meta { .. } | Self::SetPriority { .. } => "meta",
            Self::Compare { .. } => "cmp",
            Self::Payload { .. } => "payload",
            Self::Lookup { .. } => "lookup",
            Self::Counter => "counter",
            Self::Drop | Self::Immediate { .. } => "immediate",
            Self::Reject { .. } => "reject",
            Self::Queue { .. } => match queue_by {
                QueueBy::Native => "queue",
                QueueBy::Xtables => "target",
            },
            Self::Unknown { .. } => "unknown",
        }
    }

    fn encode_data(&self, data: &mut Attributes<'_>, queue_by: QueueBy) {
        match self {
            Self::Meta { key, register } => {
                data.put_be32(2, key.number());
                data.put_be32(1, *register);
            }
            Self::SetPriority { register } => {
                data.put_be32(2, META_PRIORITY);
                data.put_be32(3, *register);
            }
            Self::Compare { register, equal, value } => {
                data.put_be32(1, *register);
                data.put_be32(2, if *equal { CMP_EQ } else { CMP_NEQ });
                data.nest(3, |nested| nested.put(DATA_VALUE, value));
            }
            Self::Payload { field, register } => {
                let (base, offset, length) = field.location();
                data.put_be32(1, *register);
                data.put_be32(2, base);
                data.put_be32(3, offset);
                data.put_be32(4, length);
            }
            Self::Lookup { set, register } => {
                data.put_str(1, set);
                data.put_be32(2, *register);
            }
            Self::Counter => {
                data.put_be64(1, 0);
                data.put_be64(2, 0);
            }
            Self::Drop => {
                data.put_be32(1, REG_VERDICT);
                data.nest(2, |nested| {
                    nested.nest(DATA_VERDICT, |verdict| verdict.put_be32(VERDICT_CODE, 0));
                });
            }
            Self::Immediate { register, value } => {
                data.put_be32(1, *register);
                data.nest(2, |nested| nested.put(DATA_VALUE, value));
            }
            Self::Reject { tcp_reset: true } => data.put_be32(1, REJECT_TCP_RST),
            Self::Reject { tcp_reset: false } => {
                data.put_be32(1, REJECT_ICMPX);
                data.put(2, &[ICMPX_PORT_UNREACH]);
            }
            Self::Queue { number } => encode_queue(data, *number, queue_by),
            Self::Unknown { .. } => {}
        }
    }

    /// Reads a rule's list; counters come back beside the expressions.
    pub(crate) fn decode_list(list: &[u8]) -> (Vec<Self>, Counter) {
        let mut counter = Counter::default();
        let mut expressions = Vec::new();
        for (_, element) in crate::system::netlink::attributes(list) {
            let name = text(element, EXPR_NAME).unwrap_or_default();
            let data = attribute(element, EXPR_DATA).unwrap_or_default();
            if name == "counter" {
                counter.bytes += be64(data, 1).unwrap_or_default();
                counter.packets += be64(data, 2).unwrap_or_default();
            }
            expressions.push(Self::decode(&name, data).unwrap_or(Self::Unknown { name }));
        }
        (expressions, counter)
    }

    fn decode(name: &str, data: &[u8]) -> Option<Self> {
        Some(match name {
            "meta" if be32(data, 2) == Some(META_PRIORITY) => {
                Self::SetPriority { register: register(data, 3)? }
            }
            "meta" => {
                let number = be32(data, 2)?;
                let key = MetaKey::ALL.into_iter().find(|key| key.number() == number)?;
                Self::Meta { key, register: register(data, 1)? }
            }
            "cmp" => {
                let equal = match be32(data, 2)? {
                    CMP_EQ => true,
                    CMP_NEQ => false,
                    _ => return None,
                };
                let value = attribute(attribute(data, 3)?, DATA_VALUE)?.to_vec();
                Self::Compare { register: register(data, 1)?, equal, value }
            }
            "payload" => {
                let location = (be32(data, 2)?, be32(data, 3)?, be32(data, 4)?);
                let field = Field::ALL.into_iter().find(|field| field.location() == location)?;
                Self::Payload { field, register: register(data, 1)? }
            }
            "lookup" if be32(data, 5).unwrap_or_default() == 0 => {
                Self::Lookup { set: text(data, 1)?, register: register(data, 2)? }
            }
            "counter" => Self::Counter,
            "immediate" => decode_immediate(data)?,
            "reject" => match (be32(data, 1)?, attribute(data, 2)) {
                (REJECT_TCP_RST, _) => Self::Reject { tcp_reset: true },
                (REJECT_ICMPX, Some([ICMPX_PORT_UNREACH])) => Self::Reject { tcp_reset: false },
                _ => return None,
            },
            "queue" => match (be16(data, 1)?, be16(data, 3)) {
                (number, Some(QUEUE_BYPASS)) => Self::Queue { number },
                _ => return None,
            },
            "target" if text(data, 1).as_deref() == Some("NFQUEUE") => {
                let info = attribute(data, 3)?;
                let number = u16::from_ne_bytes(info.get(..2)?.try_into().ok()?);
                let flags = u16::from_ne_bytes(info.get(4..6)?.try_into().ok()?);
                (flags == QUEUE_BYPASS).then_some(Self::Queue { number })?
            }
            _ => return None,
        })
    }
}

fn encode_queue(data: &mut Attributes<'_>, number: u16, queue_by: QueueBy) {
    match queue_by {
        QueueBy::Native => {
            data.put(1, &number.to_be_bytes());
            data.put(2, &1u16.to_be_bytes());
            data.put(3, &QUEUE_BYPASS.to_be_bytes());
        }
        QueueBy::Xtables => {
            data.put_str(1, "NFQUEUE");
            data.put_be32(2, XT_NFQUEUE_REVISION);
            // struct xt_NFQ_info_v3 { queuenum, queues_total, flags: u16 }, padded to 8.
            let mut info = Vec::with_capacity(8);
            for value in [number, 1, QUEUE_BYPASS, 0] {
                info.extend_from_slice(&value.to_ne_bytes());
            }
            data.put(3, &info);
        }
    }
}

fn decode_immediate(data: &[u8]) -> Option<Expr> {
    let register = register(data, 1)?;
    let value = attribute(data, 2)?;
    if register == REG_VERDICT {
        let code = be32(attribute(value, DATA_VERDICT)?, VERDICT_CODE)?;
        return (code == 0).then_some(Expr::Drop);
    }
    Some(Expr::Immediate { register, value: attribute(value, DATA_VALUE)?.to_vec() })
}

/// The kernel names the first register of a 16-byte group by its old number (1-4).
fn register(data: &[u8], kind: u16) -> Option<u32> {
    Some(match be32(data, kind)? {
        old @ 1..=4 => REG32_00 + (old - 1) * 4,
        other => other,
    })
}

fn be16(data: &[u8], kind: u16) -> Option<u16> {
    Some(u16::from_be_bytes(attribute(data, kind)?.try_into().ok()?))
}

#[cfg(test)]
mod tests;
