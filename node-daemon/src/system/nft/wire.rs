//! nf_tables over netlink, in the namespace of the calling thread: one transaction to install a table,
//! one to delete it, dumps to read it. Protocol: linux/netfilter/nf_tables.h and nfnetlink.h.

use std::collections::BTreeMap;
use std::io;

use nix::sys::socket::SockProtocol;

use super::expr::{Expr, QueueBy};
use super::ruleset::{Chain, Element, Ruleset, Set};
use super::{Hook, TableState};
use crate::system::netlink::{
    Answer, Attributes, Buffer, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, Socket,
    attribute, attributes, be32, be64, text,
};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const FAMILY_INET: u8 = 1;
/// Bytes of the family header before the attributes.
const FAMILY_HEADER: usize = 4;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const NEW_SET: u16 = 9;
const GET_SET: u16 = 10;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const SET_INTERVAL_TIMEOUT_CONCAT: u32 = 0x4 | 0x10 | 0x80;
const POLICY_ACCEPT: u32 = 1;
/// Keeps one list attribute far below its 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 200;

/// A transaction under construction.
struct Batch {
    buffer: Buffer,
    first: u32,
    last: u32,
}

impl Batch {
    fn begin(socket: &mut Socket) -> Self {
        let first = socket.next_sequence();
        let mut buffer = Buffer::default();
        buffer.message(BATCH_BEGIN, NLM_F_REQUEST, first, |body| {
            body.raw(&[0, 0, 0, SUBSYSTEM as u8]);
        });
        Self { buffer, first, last: first }
    }

    fn add(&mut self, socket: &mut Socket, kind: u16, flags: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.last = socket.next_sequence();
        // Every message is acknowledged: an error of any of them undoes them all.
        self.buffer.message(SUBSYSTEM << 8 | kind, NLM_F_REQUEST | NLM_F_ACK | flags, self.last, |body| {
            body.raw(&[FAMILY_INET, 0, 0, 0]);
            fill(body);
        });
    }

    fn commit(mut self, socket: &mut Socket) -> io::Result<()> {
        let sequence = socket.next_sequence();
        self.buffer.message(BATCH_END, NLM_F_REQUEST, sequence, |body| {
            body.raw(&[0, 0, 0, SUBSYSTEM as u8]);
        });
        socket.exchange(&self.buffer, self.first, self.last).map(|_| ())
    }
}

/// Replaces the table of that name by this one; all elements end after `lifetime_ms`.
pub(crate) fn install(name: &str, ruleset: &Ruleset, lifetime_ms: u64, queue_by: QueueBy) -> io::Result<()> {
    let mut socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
    let socket = &mut socket;
    let mut batch = Batch::begin(socket);
    // Created first so that deleting what may not exist cannot fail.
    for (kind, flags) in [(NEW_TABLE, NLM_F_CREATE), (DELETE_TABLE, 0), (NEW_TABLE, NLM_F_CREATE)] {
        batch.add(socket, kind, flags, |body| body.put_str(1, name));
    }
    for (id, (set_name, set)) in (1u32..).zip(&ruleset.sets) {
        batch.add(socket, NEW_SET, NLM_F_CREATE, |body| {
            put_set(body, name, set_name, id, set);
        });
        let elements: Vec<&Element> = set.elements.iter().collect();
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            batch.add(socket, NEW_ELEMENT, NLM_F_CREATE, |body| {
                body.put_str(1, name);
                body.put_str(2, set_name);
                body.put_be32(4, id);
                body.nest(3, |list| {
                    for element in chunk {
                        put_element(list, element, lifetime_ms);
                    }
                });
            });
        }
    }
    for (chain_name, chain) in &ruleset.chains {
        batch.add(socket, NEW_CHAIN, NLM_F_CREATE, |body| {
            put_chain(body, name, chain_name, chain);
        });
    }
    for (chain_name, rules) in &ruleset.rules {
        for rule in rules {
            batch.add(socket, NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, |body| {
                body.put_str(1, name);
                body.put_str(2, chain_name);
                body.nest(4, |list| {
                    for expression in rule {
                        expression.encode(list, queue_by);
                    }
                });
            });
        }
    }
    batch.commit(socket)
}

fn put_set(body: &mut Attributes<'_>, table: &str, name: &str, id: u32, set: &Set) {
    body.put_str(1, table);
    body.put_str(2, name);
    body.put_be32(3, SET_INTERVAL_TIMEOUT_CONCAT);
    body.put_be32(4, display_type(&set.fields));
    body.put_be32(5, set.key_bytes());
    body.nest(9, |description| {
        description.nest(2, |concat| {
            for length in &set.fields {
                concat.nest(1, |field| field.put_be32(1, *length));
            }
        });
    });
    body.put_be32(10, id);
}

/// The number by which the `nft` program shows the key: six bits a field.
fn display_type(fields: &[u32]) -> u32 {
    let one = |length: &u32| match *length {
        4 => 7,
        16 => 8,
        1 => 12,
        _ => 13,
    };
    fields.iter().fold(0, |sum, length| (sum << 6) | one(length))
}

fn put_element(list: &mut Attributes<'_>, element: &Element, lifetime_ms: u64) {
    list.nest(1, |body| {
        body.nest(1, |key| key.put(1, &element.first));
        body.nest(10, |key| key.put(1, &element.last));
        body.put_be64(4, lifetime_ms);
    });
}

fn put_chain(body: &mut Attributes<'_>, table: &str, name: &str, chain: &Chain) {
    body.put_str(1, table);
    body.put_str(3, name);
    body.nest(4, |hook| {
        hook.put_be32(1, chain.hook.map_or(0, Hook::number));
        hook.put(2, &chain.priority.to_be_bytes());
    });
    body.put_be32(5, POLICY_ACCEPT);
    body.put_str(7, "filter");
}

/// Deletes the table; absent is success.
pub(crate) fn remove(name: &str) -> io::Result<()> {
    let mut socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
    let mut batch = Batch::begin(&mut socket);
    batch.add(&mut socket, DELETE_TABLE, 0, |body| body.put_str(1, name));
    absent_is(batch.commit(&mut socket).map(Some)).map(|_| ())
}

/// Reads the whole table, or `None`.
pub(crate) fn read(name: &str) -> io::Result<Option<TableState>> {
    let mut socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
    absent_is(read_present(&mut socket, name).map(Some))
}

fn absent_is<T>(result: io::Result<Option<T>>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        other => other,
    }
}

fn read_present(socket: &mut Socket, name: &str) -> io::Result<TableState> {
    ask(socket, GET_TABLE, NLM_F_ACK, |body| body.put_str(1, name))?;
    let mut state =
        TableState { ruleset: Ruleset::default(), counters: Vec::new(), remaining_ms: BTreeMap::new() };
    let ours = |body: &[u8]| text(body, 1).as_deref() == Some(name);

    for body in dump(socket, GET_CHAIN, |body| body.put_str(1, name))?.iter().filter(|body| ours(body)) {
        let hook = attribute(body, 4).unwrap_or_default();
        let number = be32(hook, 1);
        let at = Hook::ALL.into_iter().find(|hook| Some(hook.number()) == number);
        let priority = be32(hook, 2).unwrap_or_default() as i32;
        state.ruleset.chains.insert(text(body, 3).unwrap_or_default(), Chain { hook: at, priority });
    }
    for body in dump(socket, GET_RULE, |body| body.put_str(1, name))?.iter().filter(|body| ours(body)) {
        let (expressions, counter) = Expr::decode_list(attribute(body, 4).unwrap_or_default());
        state.ruleset.rules.entry(text(body, 2).unwrap_or_default()).or_default().push(expressions);
        state.counters.push(counter);
    }
    for body in dump(socket, GET_SET, |body| body.put_str(1, name))?.iter().filter(|body| ours(body)) {
        let set_name = text(body, 2).unwrap_or_default();
        let concat = attribute(body, 9).and_then(|description| attribute(description, 2)).unwrap_or_default();
        let fields = attributes(concat).filter_map(|(_, field)| be32(field, 1)).collect();
        let mut set = Set { fields, ..Set::default() };
        let remaining = read_elements(socket, name, &set_name, &mut set)?;
        state.remaining_ms.insert(set_name.clone(), remaining);
        state.ruleset.sets.insert(set_name, set);
    }
    Ok(state)
}

/// Adds the elements that still match; returns the time each has left. An element that ended stays in
/// dumps until it is collected: it does not count.
fn read_elements(socket: &mut Socket, table: &str, set_name: &str, set: &mut Set) -> io::Result<Vec<u64>> {
    let messages = dump(socket, GET_ELEMENT, |body| {
        body.put_str(1, table);
        body.put_str(2, set_name);
    })?;
    let mut remaining = Vec::new();
    for body in &messages {
        for (_, element) in attributes(attribute(body, 3).unwrap_or_default()) {
            let key = |kind| attribute(element, kind).and_then(|key| attribute(key, 1)).map(<[u8]>::to_vec);
            let left_ms = be64(element, 5);
            if left_ms == Some(0) {
                continue;
            }
            // One without a timeout is not of our making; the empty corner makes it differ.
            let first = key(1).filter(|_| left_ms.is_some()).unwrap_or_default();
            set.elements.insert(Element { first, last: key(10).unwrap_or_default() });
            remaining.extend(left_ms);
        }
    }
    Ok(remaining)
}

fn dump(socket: &mut Socket, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) -> io::Result<Vec<Vec<u8>>> {
    let answers = ask(socket, kind, NLM_F_DUMP, fill)?;
    Ok(answers
        .into_iter()
        .map(|answer| answer.payload.get(FAMILY_HEADER..).unwrap_or_default().to_vec())
        .collect())
}

fn ask(
    socket: &mut Socket,
    kind: u16,
    flags: u16,
    fill: impl FnOnce(&mut Attributes<'_>),
) -> io::Result<Vec<Answer>> {
    let sequence = socket.next_sequence();
    let mut buffer = Buffer::default();
    buffer.message(SUBSYSTEM << 8 | kind, NLM_F_REQUEST | flags, sequence, |body| {
        body.raw(&[FAMILY_INET, 0, 0, 0]);
        fill(body);
    });
    socket.exchange(&buffer, sequence, sequence)
}

/// Names of all tables of ours in this namespace, for recovery.
pub(crate) fn list() -> io::Result<Vec<String>> {
    let mut socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
    let bodies = dump(&mut socket, GET_TABLE, |_| {})?;
    Ok(bodies
        .iter()
        .filter_map(|body| text(body, 1))
        .filter(|name| name.starts_with(super::TABLE_PREFIX))
        .collect())
}
