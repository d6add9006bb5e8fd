//! Messages survive the round trip, and junk on the wire is refused by a
//! field's name, never by a panic.

use proptest::prelude::*;
use prost::Message;
use proto::api;
use proto::assignment::{ClusterPhase, Desired, Intent, Observed, Origin, StopReason};
use proto::cluster::NodeCapabilities;
use proto::endpoints::{EndpointList, SignedEndpoints};
use proto::grant::Principal;
use proto::halt::{Halt, HaltScope};
use proto::injection::{Action, EndReason, Injection, InjectionPhase, InjectionStatus, TargetRef};
use proto::run::StopRequest;
use proto::trace::TraceContext;
use proto::wire::{
    Authored, AuthoredKind, AuthoredRef, Down, HaltState, Halts, Held, Hello, Inject, Latched, Mirror, Nack,
    NodeDown, NodeHaltState, NodeHello, NodeUp, Up, Welcome,
};

#[path = "wire/frozen.rs"]
mod frozen;
#[path = "wire/levels.rs"]
mod levels;
#[path = "wire/lost.rs"]
mod lost;
#[path = "wire/newer.rs"]
mod newer;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn now() -> jiff::Timestamp {
    "2026-01-02T03:04:05.678Z".parse().expect("valid")
}

fn halt() -> Halt {
    Halt {
        id: "stop-all".parse().expect("valid"),
        scope: HaltScope::Fleet,
        reason: "drill gone wrong".into(),
        by: "operator:ada".into(),
        at: now(),
        origin: None,
    }
}

fn desired() -> Desired {
    Desired {
        run: "r-1".parse().expect("valid"),
        generation: 3,
        intent: Intent::Start,
        spec_hash: "ab".repeat(32),
        principal: Principal::Operator { name: "ada".into() },
        origin: Origin { cluster: None, labels: std::collections::BTreeMap::default(), namespace: None },
        plan_hash: Some("cd".repeat(32)),
        plan_expires: Some(now()),
        envelope: None,
        peers: [("db".to_owned(), vec!["10.0.0.1".parse().expect("valid")])].into(),
        start_before: Some(now()),
        run_deadline: None,
        stop_reason: None,
        trace: TraceContext::parse(TRACEPARENT),
    }
}

fn injection() -> Injection {
    Injection {
        id: "r-1.late.0".parse().expect("valid"),
        run: "r-1".parse().expect("valid"),
        target: TargetRef {
            namespace: "shop".into(),
            pod: "p".into(),
            uid: "u".into(),
            node: "n".into(),
            ips: vec![],
        },
        container: None,
        action: Action::CpuStress { workers: 2, load_percent: 50 },
        backend: "cgroup-worker".into(),
        link_loss_after_ms: 60_000,
        link_loss: proto::experiment::LinkLossAction::Revert,
        trace: TraceContext::parse(TRACEPARENT),
    }
}

fn status() -> InjectionStatus {
    InjectionStatus {
        id: "r-1.late.0".parse().expect("valid"),
        run: "r-1".parse().expect("valid"),
        phase: InjectionPhase::Reverted,
        reason: Some(EndReason::Deadline),
        message: String::new(),
        effect: None,
        backend: "nfqueue".into(),
        injected_at_unix_ms: Some(1),
        reverted_at_unix_ms: Some(2),
        resolves_at_unix_ms: None,
    }
}

fn authored_ref() -> AuthoredRef {
    AuthoredRef {
        kind: AuthoredKind::Run,
        namespace: "shop".parse().expect("valid"),
        name: "slow-1".parse().expect("valid"),
        uid: "u1".into(),
    }
}

fn nack() -> Nack {
    Nack { run: "r-1".into(), generation: 2, code: "Unknown".into(), detail: "no such kind".into() }
}

fn endpoints() -> SignedEndpoints {
    let list = EndpointList {
        trust_domain: "td.test".into(),
        sequence: 4,
        link_endpoints: vec!["hub:7444".into()],
        enrol_endpoints: vec!["hub:7445".into()],
        at: now(),
    };
    SignedEndpoints { list, chain_pem: "x".into(), signature: "y".into() }
}

/// One of every kind.
fn ups() -> Vec<Up> {
    let hello = Hello {
        protocol_min: 1,
        protocol_max: 1,
        version: "0.1.0".into(),
        agent_epoch: 7,
        store_epoch: "e1".into(),
        held: vec![Held { run: "r-1".parse().expect("valid"), generation: 3, intent: Intent::Start }],
        halts: vec![halt()],
        kube_system_uid: "u".into(),
        accepts_starts: true,
        endpoints_sequence: Some(4),
    };
    let observed = Observed::new("r-1".parse().expect("valid"), 3, ClusterPhase::Running);
    let authored = Authored {
        object: authored_ref(),
        generation: 2,
        author: "ann".into(),
        body: b"{}".to_vec(),
        trace: TraceContext::parse(TRACEPARENT),
    };
    let id = || "stop-all".parse().expect("valid");
    vec![
        Up::Hello(hello),
        Up::Heartbeat { at: now(), seq: 9 },
        Up::Observed { observed: Box::new(observed), epoch: 7, seq: 2 },
        Up::ClockProbe { id: 3 },
        Up::Nack(nack()),
        Up::SpecRequest { hash: "ab".repeat(32) },
        Up::Authored(authored),
        Up::AuthoredList(vec![authored_ref()]),
        Up::HaltState(HaltState { latched: vec![id()], clean: vec![id()], local: vec![halt()] }),
        Up::Inventory(Box::default()),
        Up::EndpointsKept { sequence: 4 },
        Up::Renew { csr_pem: "x".into(), identity_csr_pem: "y".into() },
    ]
}

/// One of every kind.
fn downs() -> Vec<Down> {
    let welcome = Welcome {
        protocol: 1,
        version: "0.1.0".into(),
        store_epoch: "e1".into(),
        accepted: true,
        heartbeat_interval_ms: 5000,
        cluster: "c-1".parse().expect("valid"),
        session: "s-1".into(),
    };
    vec![
        Down::Welcome(welcome),
        Down::HeartbeatAck { at: now(), seq: 9, accepted: true },
        Down::Desired { desired: Box::new(desired()), start_within_ms: 1000 },
        Down::DesiredList(vec!["r-1".parse().expect("valid")]),
        Down::ObservedAck { run: "r-1".parse().expect("valid"), epoch: 7, seq: 2 },
        Down::ClockReply { id: 4, at: now() },
        Down::Spec { hash: "ab".repeat(32), body: b"{}".to_vec() },
        Down::Halts(Halts { halts: vec![halt()], resumed: vec!["old".parse().expect("valid")] }),
        Down::Mirror(Mirror { object: authored_ref(), status: b"{}".to_vec() }),
        Down::Renewed { chain_pem: "x".into(), bundle_pem: "y".into() },
        Down::GoAway { reason: "Draining".into(), reconnect_in_ms: 100 },
        Down::Nack(nack()),
        Down::Endpoints(Box::new(endpoints())),
    ]
}

/// One of every kind.
fn node_ups() -> Vec<NodeUp> {
    let hello = NodeHello {
        node: "n1".into(),
        version: "0.1.0".into(),
        boot_id: "b".into(),
        highest_epoch: 7,
        capabilities: NodeCapabilities::default(),
        held: vec![status()],
    };
    let id = || "stop-all".parse().expect("valid");
    let halts = NodeHaltState { latched: vec![id()], clean: vec![id()], local: vec![halt()] };
    vec![
        NodeUp::Hello(Box::new(hello)),
        NodeUp::Heartbeat { seq: 2 },
        NodeUp::State(Box::new(status())),
        NodeUp::ClockProbe { id: 5 },
        NodeUp::HaltState(halts),
        NodeUp::Draining,
    ]
}

/// One of every kind.
fn node_downs() -> Vec<NodeDown> {
    let inject = Inject {
        injection: injection(),
        agent_epoch: 7,
        remaining_ms: 60_000,
        deadline: now(),
        start_before: now(),
    };
    vec![
        NodeDown::Welcome { agent_epoch: 7, heartbeat_interval_ms: 5000 },
        NodeDown::Heartbeat { seq: 2 },
        NodeDown::Inject(Box::new(inject)),
        NodeDown::Revert { injection: "r-1.late.0".parse().expect("valid"), reason: "Stopped".into() },
        NodeDown::ClockReply { id: 5, at: now() },
        NodeDown::Halts { halts: vec![halt()], resumed: vec!["old".parse().expect("valid")] },
    ]
}

fn latched() -> Latched {
    let stop = StopRequest { reason: StopReason::Requested, by: "ann".into(), at: now() };
    Latched { stops: vec![("r-1".parse().expect("valid"), stop)], halts: vec![halt()] }
}

#[test]
fn every_message_survives_the_round_trip() {
    for up in ups() {
        let bytes = api::link::Up::from(up.clone()).encode_to_vec();
        assert_eq!(Up::try_from(api::link::Up::decode(bytes.as_slice()).expect("valid")), Ok(up));
    }
    for down in downs() {
        let bytes = api::link::Down::from(down.clone()).encode_to_vec();
        assert_eq!(Down::try_from(api::link::Down::decode(bytes.as_slice()).expect("valid")), Ok(down));
    }
    for up in node_ups() {
        let bytes = api::node::NodeUp::from(up.clone()).encode_to_vec();
        assert_eq!(NodeUp::try_from(api::node::NodeUp::decode(bytes.as_slice()).expect("valid")), Ok(up));
    }
    for down in node_downs() {
        let bytes = api::node::NodeDown::from(down.clone()).encode_to_vec();
        assert_eq!(
            NodeDown::try_from(api::node::NodeDown::decode(bytes.as_slice()).expect("valid")),
            Ok(down)
        );
    }
    let bytes = api::peer::TakeRequest::from(latched()).encode_to_vec();
    let back = api::peer::TakeRequest::decode(bytes.as_slice()).expect("valid");
    assert_eq!(Latched::try_from(back), Ok(latched()));
}

/// A new kind of message belongs into the lists above.
#[test]
fn the_lists_are_complete() {
    let count = |text: &str, message: &str| {
        let body = text.split_once(&format!("message {message} {{")).expect("the message").1;
        let kinds = body.split_once("oneof kind {").expect("its kinds").1.split_once('}').expect("an end").0;
        kinds.lines().filter(|line| line.contains(" = ") && !line.trim_start().starts_with("//")).count()
    };
    let (link, node) = (include_str!("../protos/link.proto"), include_str!("../protos/node.proto"));
    assert_eq!((ups().len(), downs().len()), (count(link, "Up"), count(link, "Down")));
    assert_eq!((node_ups().len(), node_downs().len()), (count(node, "NodeUp"), count(node, "NodeDown")));
}

#[test]
fn the_trace_goes_along_and_its_absence_is_none() {
    let down = Down::Desired { desired: Box::new(desired()), start_within_ms: 1 };
    let Ok(Down::Desired { desired, .. }) = Down::try_from(api::link::Down::from(down)) else {
        unreachable!()
    };
    assert_eq!(desired.trace.as_str(), TRACEPARENT);
    let inject = Inject {
        injection: injection(),
        agent_epoch: 7,
        remaining_ms: 60_000,
        deadline: now(),
        start_before: now(),
    };
    let pb = api::node::NodeDown::from(NodeDown::Inject(Box::new(inject)));
    let Ok(NodeDown::Inject(inject)) = NodeDown::try_from(pb) else { unreachable!() };
    assert_eq!(inject.injection.trace.as_str(), TRACEPARENT);
    for (given, wanted) in [(TRACEPARENT, TRACEPARENT), ("", ""), ("junk\u{0}", "")] {
        let authored = api::link::Authored {
            kind: "Run".into(),
            namespace: "shop".into(),
            name: "x".into(),
            uid: "u".into(),
            traceparent: given.into(),
            ..Default::default()
        };
        let up = api::link::Up { kind: Some(api::link::up::Kind::Authored(authored)) };
        let Ok(Up::Authored(authored)) = Up::try_from(up) else { unreachable!() };
        assert_eq!(authored.trace.as_str(), wanted);
    }
}

#[test]
fn an_envelope_that_disagrees_with_its_document_is_refused() {
    let down = Down::Desired { desired: Box::new(desired()), start_within_ms: 1 };
    let mut pb = api::link::Down::from(down);
    let Some(api::link::down::Kind::Desired(d)) = &mut pb.kind else { unreachable!() };
    d.generation += 1;
    assert_eq!(Down::try_from(pb).unwrap_err().field, "desired.document");
}

#[test]
fn names_that_could_escape_are_refused_by_field() {
    let authored = api::link::Authored {
        kind: "Run".into(),
        namespace: "../other".into(),
        name: "x".into(),
        uid: "u".into(),
        ..Default::default()
    };
    let up = api::link::Up { kind: Some(api::link::up::Kind::Authored(authored)) };
    assert_eq!(Up::try_from(up).unwrap_err().field, "authored.namespace");
}

/// Reads bytes as every message that a process takes from another one.
fn read_as_everything(bytes: &[u8]) {
    if let Ok(message) = api::link::Up::decode(bytes) {
        let _ = Up::try_from(message);
    }
    if let Ok(message) = api::link::Down::decode(bytes) {
        let _ = Down::try_from(message);
    }
    if let Ok(message) = api::node::NodeUp::decode(bytes) {
        let _ = NodeUp::try_from(message);
    }
    if let Ok(message) = api::node::NodeDown::decode(bytes) {
        let _ = NodeDown::try_from(message);
    }
    if let Ok(message) = api::peer::TakeRequest::decode(bytes) {
        let _ = Latched::try_from(message);
    }
    let _ = api::enrolment::EnrolRequest::decode(bytes);
    let _ = api::node::NodeEnrolRequest::decode(bytes);
}

/// Every message, encoded.
fn encoded() -> Vec<Vec<u8>> {
    let ups = ups().into_iter().map(|up| api::link::Up::from(up).encode_to_vec());
    let downs = downs().into_iter().map(|down| api::link::Down::from(down).encode_to_vec());
    let node_ups = node_ups().into_iter().map(|up| api::node::NodeUp::from(up).encode_to_vec());
    let node_downs = node_downs().into_iter().map(|down| api::node::NodeDown::from(down).encode_to_vec());
    let peer = std::iter::once(api::peer::TakeRequest::from(latched()).encode_to_vec());
    ups.chain(downs).chain(node_ups).chain(node_downs).chain(peer).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn junk_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        read_as_everything(&bytes);
    }

    /// Bytes changed, the end cut off, something of another message behind it.
    #[test]
    fn mangled_messages_never_panic(
        (which, other) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        tail in any::<bool>(),
    ) {
        let all = encoded();
        let mut bytes = which.get(&all).clone();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if tail {
            bytes.extend(other.get(&all));
        }
        read_as_everything(&bytes);
    }
}
