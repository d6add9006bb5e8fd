//! What a later version may send to this one, made from the frozen documents and messages: unknown fields at every
//! level, unknown words, unknown kinds of messages. Fields are ignored, words and kinds refused, and nothing panics;
//! but what stops is obeyed, and what is not understood about a fault is Unknown.

use prost::Message;
use proto::api;
use proto::assignment::Intent;
use proto::halt::HaltScope;
use proto::injection::InjectionPhase;
use proto::wire::{Down, Latched, NodeDown, NodeUp, Up};
use serde_json::{Map, Value, json};

use super::frozen::{documents, frozen_frames, read, reread, versions};
use super::levels::objects;

/// Objects whose keys are names of people, so that there is no unknown field in them.
const MAPS: [&str; 9] =
    ["labels", "peers", "sample", "targets", "stages", "capabilities", "halts", "matchLabels", "value"];

fn is_map(name: &str, object: &Map<String, Value>) -> bool {
    MAPS.contains(&name) || (name == "clusters" && object.values().all(Value::is_string))
}

#[test]
fn unknown_fields_are_ignored_at_every_level() {
    for (version, folder) in versions() {
        for (name, document) in documents(&folder) {
            let plain = reread(&name, &document).expect("read");
            for level in objects(&document, &is_map) {
                let mut more = document.clone();
                let object = more.pointer_mut(&level).and_then(Value::as_object_mut).expect("an object");
                object.insert("fromTheFuture".to_owned(), json!({ "a": [1, { "b": null }] }));
                assert_eq!(reread(&name, &more).as_ref(), Ok(&plain), "{name} of {version} at {level:?}");
            }
        }
    }
}

/// Every text in a document, as a pointer.
fn texts(value: &Value, at: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                texts(value, &format!("{at}/{name}"), out);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                texts(value, &format!("{at}/{index}"), out);
            }
        }
        Value::String(_) => out.push(at.to_owned()),
        _ => {}
    }
}

#[test]
fn an_unknown_word_is_read_as_nothing_else() {
    let mut refused = 0;
    for (_, folder) in versions() {
        for (name, document) in documents(&folder) {
            let mut places = Vec::new();
            texts(&document, "", &mut places);
            for place in places {
                let mut other = document.clone();
                *other.pointer_mut(&place).expect("a text") = json!("Unheard-of");
                match reread(&name, &other) {
                    Err(_) => refused += 1,
                    // A trace is no part of what is said.
                    Ok(_) if place.ends_with("traceparent") => {}
                    Ok(now) => {
                        assert_eq!(now.pointer(&place), Some(&json!("Unheard-of")), "{name} at {place}");
                    }
                }
            }
        }
    }
    assert!(refused > 40, "{refused}");
}

/// A field that no version has, in two wire types.
const UNKNOWN_FIELDS: [&[u8]; 2] = [&[0xb8, 0xf3, 0x04, 0x2a], &[0xb2, 0xf3, 0x04, 0x02, 0x68, 0x69]];

fn varint(mut bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (mut number, mut shift) = (0_usize, 0);
    while let Some((first, rest)) = bytes.split_first() {
        number |= usize::from(first & 0x7f) << shift;
        (bytes, shift) = (rest, shift + 7);
        if first & 0x80 == 0 {
            return Some((number, bytes));
        }
    }
    None
}

fn push_varint(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The frame with more in its one inner message.
fn with_more_inside(frame: &[u8], more: &[u8]) -> Vec<u8> {
    let (tag, rest) = varint(frame).expect("a tag");
    let (length, inner) = varint(rest).expect("a length");
    let (inner, behind) = inner.split_at(length);
    let mut out = Vec::new();
    push_varint(tag, &mut out);
    push_varint(length + more.len(), &mut out);
    [out.as_slice(), inner, more, behind].concat()
}

#[test]
fn unknown_fields_of_messages_are_ignored() {
    for (version, folder) in versions() {
        for (name, frame) in frozen_frames(&folder) {
            let plain = read(&name, &frame).expect("read");
            for more in UNKNOWN_FIELDS {
                for frame in [[frame.as_slice(), more].concat(), with_more_inside(&frame, more)] {
                    assert_eq!(read(&name, &frame).as_ref(), Ok(&plain), "{name} of {version}");
                }
            }
        }
    }
}

#[test]
fn unknown_kinds_of_messages_are_refused_by_name_on_every_stream() {
    // Field 500 with the text "hi": a kind of message from later.
    let later: &[u8] = &[0xa2, 0x1f, 0x02, 0x68, 0x69];
    let up = Up::try_from(api::link::Up::decode(later).expect("no junk"));
    let down = Down::try_from(api::link::Down::decode(later).expect("no junk"));
    let node_up = NodeUp::try_from(api::node::NodeUp::decode(later).expect("no junk"));
    let node_down = NodeDown::try_from(api::node::NodeDown::decode(later).expect("no junk"));
    let fields = [
        up.expect_err("refused").field,
        down.expect_err("refused").field,
        node_up.expect_err("refused").field,
        node_down.expect_err("refused").field,
    ];
    assert_eq!(fields, ["up.kind", "down.kind", "node_up.kind", "node_down.kind"]);
    let take = Latched::try_from(api::peer::TakeRequest::decode(later).expect("no junk"));
    assert!(take.expect("nothing else is in it").is_empty());
}

/// Changes the JSON in a field of bytes.
fn change(bytes: &mut Vec<u8>, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(bytes).expect("JSON");
    change(&mut value);
    *bytes = value.to_string().into_bytes();
}

fn region(halt: &mut Value) {
    halt["scope"] = json!({ "type": "Region", "region": "eu" });
}

#[test]
fn a_halt_of_a_scope_from_later_stops_everything_here_and_hides_no_other() {
    let mut halts = Vec::new();
    for down in super::downs() {
        let mut message = api::link::Down::from(down);
        if let Some(api::link::down::Kind::Halts(sent)) = &mut message.kind {
            sent.halts.push(sent.halts[0].clone());
            change(&mut sent.halts[1], region);
            let Ok(Down::Halts(read)) = Down::try_from(message) else { unreachable!() };
            halts.extend(read.halts);
        }
    }
    let mut node = api::node::NodeDown::from(
        super::node_downs().into_iter().find(|down| matches!(down, NodeDown::Halts { .. })).expect("one"),
    );
    let Some(api::node::node_down::Kind::Halts(sent)) = &mut node.kind else { unreachable!() };
    sent.halts.push(sent.halts[0].clone());
    change(&mut sent.halts[1], region);
    let Ok(NodeDown::Halts { halts: read, .. }) = NodeDown::try_from(node) else { unreachable!() };
    halts.extend(read);
    let mut take = api::peer::TakeRequest::from(super::latched());
    take.halts.push(take.halts[0].clone());
    change(&mut take.halts[1], region);
    halts.extend(Latched::try_from(take).expect("read").halts);
    assert_eq!(halts.len(), 6);
    for pair in halts.chunks(2) {
        assert_eq!((&pair[1].scope, &pair[1].id, pair[1].at), (&HaltScope::Fleet, &pair[0].id, pair[0].at));
    }
}

#[test]
fn a_stop_is_obeyed_whatever_its_document_says() {
    let desired = |intent: &str| {
        let down = super::downs().into_iter().find(|down| matches!(down, Down::Desired { .. })).expect("one");
        let mut message = api::link::Down::from(down);
        let Some(api::link::down::Kind::Desired(desired)) = &mut message.kind else { unreachable!() };
        desired.intent = intent.to_owned();
        change(&mut desired.document, |document| {
            document["intent"] = json!(intent);
            document["stopReason"] = json!("MoonPhase");
        });
        Down::try_from(message)
    };
    let Ok(Down::Desired { desired: stop, .. }) = desired("Stop") else { unreachable!() };
    assert_eq!((stop.run.as_str(), stop.generation, stop.intent), ("r-1", 3, Intent::Stop));
    // What does not stop is refused with its mistake.
    assert_eq!(desired("Start").expect_err("refused").field, "desired.document");
    assert_eq!(desired("Levitate").expect_err("refused").field, "desired.document");

    let mut take = api::peer::TakeRequest::from(super::latched());
    change(&mut take.stops[0].stop, |stop| stop["reason"] = json!("MoonPhase"));
    assert_eq!(Latched::try_from(take).expect("read").stops.len(), 1);
}

#[test]
fn a_daemon_that_speaks_of_later_things_is_heard_all_the_same() {
    let hello = super::node_ups().into_iter().find(|up| matches!(up, NodeUp::Hello(_))).expect("one");
    let mut message = api::node::NodeUp::from(hello);
    let Some(api::node::node_up::Kind::Hello(hello)) = &mut message.kind else { unreachable!() };
    change(&mut hello.held[0].document, |status| {
        status["phase"] = json!("Suspended");
        status["resolvesAtUnixMs"] = json!(77);
    });
    let Ok(NodeUp::Hello(hello)) = NodeUp::try_from(message) else { unreachable!() };
    let held = &hello.held[0];
    assert_eq!((held.phase, held.resolves_at_unix_ms), (InjectionPhase::Unknown, Some(77)));
    assert!(held.message.contains("Suspended"), "{}", held.message);
}

#[test]
fn an_agent_that_holds_something_by_a_later_intent_is_let_in() {
    let hello = super::ups().into_iter().find(|up| matches!(up, Up::Hello(_))).expect("one");
    let mut message = api::link::Up::from(hello);
    let Some(api::link::up::Kind::Hello(hello)) = &mut message.kind else { unreachable!() };
    let mut later = hello.held[0].clone();
    later.intent = "Levitate".to_owned();
    hello.held.insert(0, later);
    let Ok(Up::Hello(hello)) = Up::try_from(message) else { unreachable!() };
    assert_eq!(hello.held.len(), 1);
}

#[test]
fn a_fault_with_a_parameter_from_later_is_not_made_without_it() {
    let inject = |change_it: &dyn Fn(&mut Value)| {
        let sent =
            super::node_downs().into_iter().find(|down| matches!(down, NodeDown::Inject(_))).expect("one");
        let mut message = api::node::NodeDown::from(sent);
        let Some(api::node::node_down::Kind::Inject(inject)) = &mut message.kind else { unreachable!() };
        change(&mut inject.document, change_it);
        NodeDown::try_from(message)
    };
    assert!(inject(&|document| document["later"] = json!(1)).is_ok());
    assert!(inject(&|document| document["action"]["later"] = Value::Null).is_ok());
    let refused = inject(&|document| document["action"]["onlyOnCore"] = json!(1)).expect_err("refused");
    assert_eq!(
        refused.to_string(),
        "message field inject.document: this version of cpu.stress has no onlyOnCore"
    );
    let deep = json!({ "kind": "network.partition", "direction": "Both", "how": "Drop",
        "peers": [{ "nets": ["10.0.0.0/8"] }, { "nets": ["10.1.0.0/16"], "except": ["10.1.1.0/24"] }] });
    let refused = inject(&|document| document["action"] = deep.clone()).expect_err("refused");
    assert!(refused.why.ends_with("has no except"), "{refused}");
}
