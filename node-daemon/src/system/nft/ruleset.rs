//! What a table looks like in the kernel: chains, sets, rules. [`Ruleset::render`] makes it from the
//! intent, `wire` reads the same shape back from a dump, and [`Ruleset::differences`] compares the two.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::expr::{Expr, Field, MetaKey, REG32_00};
use super::{Hook, Peer, RuleSpec, TABLE_PREFIX, TableSpec, Verdict};
use crate::system::Error;

/// Before connection marks of meshes and before address translation of locally made packets.
const PRIORITY: i32 = -150;
const NAME_BYTES_MAX: usize = 31;
/// Bounds the size of one transaction and of its dump.
const ELEMENTS_MAX: usize = 4096;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// What `nfproto` gives in the register.
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// Address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

/// One base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    /// `None` for one that no hook leads to; never made by us.
    pub(crate) hook: Option<Hook>,
    pub(crate) priority: i32,
}

/// One set: its key fields in bytes, and its elements.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Set {
    /// Lengths of the key's fields; each takes a multiple of four bytes in the key.
    pub(crate) fields: Vec<u32>,
    pub(crate) elements: BTreeSet<Element>,
}

/// A box of keys, both corners included.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Element {
    pub(crate) first: Vec<u8>,
    pub(crate) last: Vec<u8>,
}

/// The content of one table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    pub(crate) chains: BTreeMap<String, Chain>,
    pub(crate) sets: BTreeMap<String, Set>,
    /// Rules by chain, in order.
    pub(crate) rules: BTreeMap<String, Vec<Vec<Expr>>>,
}

impl Family {
    const fn bytes(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
}

impl Hook {
    pub(crate) const ALL: [Self; 5] =
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];

    /// Number in the kernel's interface.
    pub(crate) const fn number(self) -> u32 {
        self as u32
    }

    const fn chain(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }

    /// Which device a loopback test looks at: the other one is unknown there.
    const fn device_type(self) -> MetaKey {
        match self {
            Self::Prerouting | Self::Input => MetaKey::DeviceTypeIn,
            Self::Forward | Self::Output | Self::Postrouting => MetaKey::DeviceTypeOut,
        }
    }
}

impl Ruleset {
    /// The chains, sets and rules of an intent.
    pub(crate) fn render(spec: &TableSpec) -> Result<Self, Error> {
        if !spec.name.starts_with(TABLE_PREFIX) || spec.name.len() > NAME_BYTES_MAX {
            return Err(Error::Invalid { what: format!("table name {:?} is not one of ours", spec.name) });
        }
        let mut ruleset = Self::default();
        for (index, rule) in spec.rules.iter().enumerate() {
            ruleset.add(index, rule);
        }
        let elements: usize = ruleset.sets.values().map(|set| set.elements.len()).sum();
        if elements == 0 || elements > ELEMENTS_MAX {
            let what = format!("a table takes 1 to {ELEMENTS_MAX} address ranges, this one has {elements}");
            return Err(Error::Invalid { what });
        }
        Ok(ruleset)
    }

    fn add(&mut self, index: usize, rule: &RuleSpec) {
        let chain = rule.hook.chain();
        self.chains.insert(chain.to_owned(), Chain { hook: Some(rule.hook), priority: PRIORITY });
        for (family, suffix) in [(Family::V4, "4"), (Family::V6, "6")] {
            for with_port in [false, true] {
                let set = Set::of(&rule.peers, family, with_port);
                if set.elements.is_empty() {
                    continue;
                }
                let name = format!("r{index}v{suffix}{}", if with_port { "p" } else { "" });
                let rules = self.rules.entry(chain.to_owned()).or_default();
                for verdict in verdicts(rule.verdict) {
                    let mut expressions = matches(rule, family, with_port, &name, verdict.only_tcp);
                    expressions.extend(verdict.expressions);
                    rules.push(expressions);
                }
                self.sets.insert(name, set);
            }
        }
    }

    /// Every difference of this, the observed, from what was wanted.
    pub(crate) fn differences(&self, wanted: &Self) -> Vec<String> {
        let mut found = Vec::new();
        compare("chain", &self.chains, &wanted.chains, &mut found);
        compare("rules of chain", &self.rules, &wanted.rules, &mut found);
        for (name, set) in &wanted.sets {
            let Some(own) = self.sets.get(name) else {
                found.push(format!("set {name} is missing"));
                continue;
            };
            let missing = set.elements.difference(&own.elements).count();
            let extra = own.elements.difference(&set.elements).count();
            if missing + extra > 0 || set.fields != own.fields {
                found.push(format!("set {name}: {missing} elements missing or ended, {extra} unknown"));
            }
        }
        found.extend(
            self.sets
                .keys()
                .filter(|name| !wanted.sets.contains_key(*name))
                .map(|name| format!("unknown set {name}")),
        );
        found
    }
}

fn compare<T: PartialEq>(
    what: &str,
    own: &BTreeMap<String, T>,
    wanted: &BTreeMap<String, T>,
    found: &mut Vec<String>,
) {
    for (name, value) in wanted {
        match own.get(name) {
            None => found.push(format!("{what} {name} is missing")),
            Some(other) if other != value => found.push(format!("{what} {name} was changed")),
            Some(_) => {}
        }
    }
    found.extend(
        own.keys().filter(|name| !wanted.contains_key(*name)).map(|name| format!("unknown {what} {name}")),
    );
}

/// One rule's end, and whether it is for TCP alone.
struct Ending {
    only_tcp: bool,
    expressions: Vec<Expr>,
}

fn verdicts(verdict: Verdict) -> Vec<Ending> {
    let counted = |expressions: Vec<Expr>| {
        let mut all = vec![Expr::Counter];
        all.extend(expressions);
        Ending { only_tcp: false, expressions: all }
    };
    match verdict {
        Verdict::Drop => vec![counted(vec![Expr::Drop])],
        Verdict::Count => vec![counted(vec![])],
        Verdict::Queue { number } => vec![counted(vec![Expr::Queue { number }])],
        Verdict::Priority { class } => vec![counted(vec![
            Expr::Immediate { register: REG32_00, value: class.to_ne_bytes().to_vec() },
            Expr::SetPriority { register: REG32_00 },
        ])],
        Verdict::Reject => vec![
            Ending { only_tcp: true, ..counted(vec![Expr::Reject { tcp_reset: true }]) },
            counted(vec![Expr::Reject { tcp_reset: false }]),
        ],
    }
}

/// The part of a rule before its verdict. The key's fields are loaded into consecutive registers.
fn matches(rule: &RuleSpec, family: Family, with_port: bool, set: &str, only_tcp: bool) -> Vec<Expr> {
    let nfproto = if family == Family::V4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
    let mut list = vec![
        Expr::Meta { key: MetaKey::NfProto, register: REG32_00 },
        Expr::Compare { register: REG32_00, equal: true, value: vec![nfproto] },
    ];
    if rule.spare_loopback {
        list.push(Expr::Meta { key: rule.hook.device_type(), register: REG32_00 });
        list.push(Expr::Compare { register: REG32_00, equal: false, value: MetaKey::loopback() });
    }
    if only_tcp {
        list.push(Expr::Meta { key: MetaKey::L4Proto, register: REG32_00 });
        list.push(Expr::Compare { register: REG32_00, equal: true, value: vec![TCP] });
    }
    let protocol = REG32_00 + family.bytes() / 4;
    list.push(Expr::Payload { field: Field::Address(family, rule.peer), register: REG32_00 });
    list.push(Expr::Meta { key: MetaKey::L4Proto, register: protocol });
    if with_port {
        list.push(Expr::Payload { field: Field::Port(rule.port), register: protocol + 1 });
    }
    list.push(Expr::Lookup { set: set.to_owned(), register: REG32_00 });
    list
}

impl Set {
    /// The peers of one family, with or without ports, as boxes that do not overlap (the kernel refuses
    /// some overlaps and accepts others).
    fn of(peers: &[Peer], family: Family, with_port: bool) -> Self {
        let chosen = peers.iter().filter(|peer| peer.ports.is_empty() != with_port);
        let mut by_port: BTreeMap<Option<u16>, Vec<(u128, u128)>> = BTreeMap::new();
        for peer in chosen {
            let Some(range) = range_of(&peer.cidr, family) else {
                continue;
            };
            if peer.ports.is_empty() {
                by_port.entry(None).or_default().push(range);
            }
            for port in &peer.ports {
                by_port.entry(Some(*port)).or_default().push(range);
            }
        }
        let mut elements = BTreeSet::new();
        for (port, ranges) in by_port {
            for range in merged(ranges) {
                match port {
                    None => {
                        elements.insert(Element::of(family, range, (0, u8::MAX), None));
                    }
                    Some(_) => elements.extend(
                        [TCP, UDP].map(|protocol| Element::of(family, range, (protocol, protocol), port)),
                    ),
                }
            }
        }
        let mut fields = vec![family.bytes(), 1];
        fields.extend(with_port.then_some(2));
        Self { fields, elements }
    }

    /// Bytes of the whole key.
    pub(crate) fn key_bytes(&self) -> u32 {
        self.fields.iter().map(|length| length.next_multiple_of(4)).sum()
    }
}

impl Element {
    fn of(family: Family, range: (u128, u128), protocols: (u8, u8), port: Option<u16>) -> Self {
        let key = |address: u128, protocol: u8| {
            let bytes = address.to_be_bytes();
            let mut key = bytes[16 - family.bytes() as usize..].to_vec();
            key.extend_from_slice(&[protocol, 0, 0, 0]);
            if let Some(port) = port {
                key.extend_from_slice(&port.to_be_bytes());
                key.extend_from_slice(&[0, 0]);
            }
            key
        };
        Self { first: key(range.0, protocols.0), last: key(range.1, protocols.1) }
    }
}

fn range_of(cidr: &IpNet, family: Family) -> Option<(u128, u128)> {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let matching = matches!((cidr, family), (IpNet::V4(_), Family::V4) | (IpNet::V6(_), Family::V6));
    matching.then(|| (number(cidr.network()), number(cidr.broadcast())))
}

fn merged(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut result: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges {
        match result.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
            _ => result.push((first, last)),
        }
    }
    result
}

#[cfg(test)]
mod tests;
