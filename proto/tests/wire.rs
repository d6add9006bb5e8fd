//! Messages survive the round trip, and junk on the wire is refused by a
//! field's name, never by a panic.

use proptest::prelude::*;
use prost::Message;
use proto::api;
use proto::assignment::{ClusterPhase, Desired, Intent, Observed, Origin};
use proto::grant::Principal;
use proto::halt::{Halt, HaltScope};
use proto::injection::{Action, EndReason, Injection, InjectionPhase, InjectionStatus, TargetRef};
use proto::trace::TraceContext;
use proto::wire::{Down, Halts, Held, Hello, Inject, NodeDown, NodeUp, Up};

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

#[test]
fn agent_messages_round_trip() {
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
    };
    let observed = Observed::new("r-1".parse().expect("valid"), 3, ClusterPhase::Running);
    for up in [
        Up::Hello(hello),
        Up::Heartbeat { at: now(), seq: 9 },
        Up::Observed { observed: Box::new(observed), epoch: 7, seq: 2 },
        Up::Renew { csr_pem: "x".into() },
    ] {
        let bytes = api::link::Up::from(up.clone()).encode_to_vec();
        let back = Up::try_from(api::link::Up::decode(bytes.as_slice()).expect("valid")).expect("valid");
        assert_eq!(back, up);
    }
}

#[test]
fn centre_messages_round_trip() {
    for down in [
        Down::Desired { desired: Box::new(desired()), start_within_ms: 1000 },
        Down::Halts(Halts { halts: vec![halt()], resumed: vec!["old".parse().expect("valid")] }),
        Down::DesiredList(vec!["r-1".parse().expect("valid")]),
        Down::ClockReply { id: 4, at: now() },
    ] {
        let bytes = api::link::Down::from(down.clone()).encode_to_vec();
        let back = Down::try_from(api::link::Down::decode(bytes.as_slice()).expect("valid")).expect("valid");
        assert_eq!(back, down);
    }
}

#[test]
fn node_messages_round_trip() {
    let up = NodeUp::State(Box::new(status()));
    assert_eq!(NodeUp::try_from(api::node::NodeUp::from(up.clone())).expect("valid"), up);
    let inject = Inject {
        injection: injection(),
        agent_epoch: 7,
        remaining_ms: 60_000,
        deadline: now(),
        start_before: now(),
    };
    let down = NodeDown::Inject(Box::new(inject));
    assert_eq!(NodeDown::try_from(api::node::NodeDown::from(down.clone())).expect("valid"), down);
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

proptest! {
    #[test]
    fn junk_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(m) = api::link::Up::decode(bytes.as_slice()) { let _ = Up::try_from(m); }
        if let Ok(m) = api::link::Down::decode(bytes.as_slice()) { let _ = Down::try_from(m); }
        if let Ok(m) = api::node::NodeUp::decode(bytes.as_slice()) { let _ = NodeUp::try_from(m); }
        if let Ok(m) = api::node::NodeDown::decode(bytes.as_slice()) { let _ = NodeDown::try_from(m); }
    }

    #[test]
    fn mangled_messages_never_panic(at in 0usize..400, byte in any::<u8>()) {
        let down = Down::Desired { desired: Box::new(desired()), start_within_ms: 1000 };
        let mut bytes = api::link::Down::from(down).encode_to_vec();
        let len = bytes.len();
        bytes[at % len] = byte;
        if let Ok(m) = api::link::Down::decode(bytes.as_slice()) { let _ = Down::try_from(m); }
    }
}
