//! The session and the outbox without a driver.

use proto::injection::InjectionPhase;

use super::*;

fn status(id: &str, message: &str) -> InjectionStatus {
    InjectionStatus {
        id: id.parse().unwrap(),
        run: "r1".parse().unwrap(),
        phase: InjectionPhase::Injected,
        reason: None,
        message: message.into(),
        effect: None,
        backend: String::new(),
        injected_at_unix_ms: None,
        reverted_at_unix_ms: None,
        resolves_at_unix_ms: None,
    }
}

fn hello() -> NodeUp {
    NodeUp::Hello(Box::new(proto::wire::NodeHello {
        node: "n1".into(),
        version: "0".into(),
        boot_id: "b".into(),
        highest_epoch: 0,
        capabilities: proto::cluster::NodeCapabilities::default(),
        held: vec![],
    }))
}

#[test]
fn the_outbox_holds_the_latest_of_each_and_nothing_without_a_session() {
    let outbox = Outbox::default();
    outbox.push(NodeUp::State(Box::new(status("r1.a.0", "lost"))));
    assert!(outbox.is_empty() && outbox.pop().is_none());
    outbox.push(NodeUp::Draining);
    assert!(outbox.is_empty());
    outbox.push(hello());
    outbox.push(NodeUp::Draining);
    for n in 0..1000 {
        outbox.push(NodeUp::State(Box::new(status("r1.a.0", &n.to_string()))));
        outbox.push(NodeUp::State(Box::new(status("r1.a.1", &n.to_string()))));
    }
    assert!(matches!(outbox.pop(), Some(NodeUp::Hello(_))), "Hello goes first");
    assert_eq!(outbox.pop(), Some(NodeUp::Draining));
    for id in ["r1.a.0", "r1.a.1"] {
        let Some(NodeUp::State(told)) = outbox.pop() else { panic!() };
        assert_eq!((told.id.as_str(), told.message.as_str()), (id, "999"));
    }
    assert!(outbox.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_read_is_heard_all_the_same() {
    let outbox = Arc::<Outbox>::default();
    let (events_in, mut events) = mpsc::channel(16);
    let ((up, _unread), (down, down_out)) = (mpsc::channel(1), mpsc::channel(16));
    let session = Session { outbox: outbox.clone(), events: events_in };
    let mut running = tokio::task::JoinSet::new();
    running.spawn(async move { session.run(Channels { up, down: down_out }).await });
    assert!(matches!(events.recv().await, Some(Event::Connected)));
    outbox.push(hello());
    for n in 0..50 {
        outbox.push(NodeUp::State(Box::new(status(&format!("r1.a.{n}"), ""))));
    }
    let revert = NodeDown::Revert { injection: "r1.a.0".parse().unwrap(), reason: "Stopped".into() };
    down.send(revert.clone()).await.unwrap();
    assert!(matches!(events.recv().await, Some(Event::Down(heard)) if heard == revert));
    // And with no word from it the session ends.
    let lost = Instant::now();
    let ended = running.join_next().await.unwrap().unwrap();
    assert_eq!(ended, (SessionEnd::Silent, false));
    let silent = lost.elapsed();
    assert!(silent >= HEARTBEAT_DEFAULT * MISSES && silent < HEARTBEAT_DEFAULT * (MISSES + 2), "{silent:?}");
    assert!(matches!(events.recv().await, Some(Event::Disconnected)));
    assert!(outbox.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_closed_session_says_whether_it_was_welcome() {
    let (events_in, mut events) = mpsc::channel(16);
    let ((up, _up_out), (down, down_out)) = (mpsc::channel(4), mpsc::channel(16));
    let session = Session { outbox: Arc::default(), events: events_in };
    down.send(NodeDown::Welcome { agent_epoch: 1, heartbeat_interval_ms: 100 }).await.unwrap();
    drop(down);
    assert_eq!(session.run(Channels { up, down: down_out }).await, (SessionEnd::Closed, true));
    assert!(matches!(events.recv().await, Some(Event::Connected)));
}

/// As under SIGSTOP, or where a virtual machine is paused: time has passed, nothing was done in it.
#[tokio::test(start_paused = true)]
async fn its_own_sleep_is_not_taken_for_the_agents_silence() {
    let (events_in, mut events) = mpsc::channel(16);
    let ((up, mut ups), (down, down_out)) = (mpsc::channel(4), mpsc::channel(16));
    let session = Session { outbox: Arc::default(), events: events_in };
    let mut running = tokio::task::JoinSet::new();
    running.spawn(async move { session.run(Channels { up, down: down_out }).await });
    assert!(matches!(events.recv().await, Some(Event::Connected)));
    down.send(NodeDown::Welcome { agent_epoch: 1, heartbeat_interval_ms: 1000 }).await.unwrap();
    assert!(matches!(events.recv().await, Some(Event::Down(_))));
    for round in 0..20 {
        // A word waits when it wakes up, or, where the agent slept as well, comes only as the answer to its own.
        if round % 2 == 0 {
            down.try_send(NodeDown::Heartbeat { seq: round }).unwrap();
        }
        tokio::time::advance(Duration::from_mins(1)).await;
        let beat = ups.recv().await;
        assert!(matches!(beat, Some(NodeUp::Heartbeat { .. })), "round {round}: {beat:?}");
        if round % 2 == 1 {
            down.try_send(NodeDown::Heartbeat { seq: round }).unwrap();
        }
        assert!(matches!(events.recv().await, Some(Event::Down(_))), "round {round}");
    }
    let ended = running.join_next().await.unwrap().unwrap();
    assert_eq!(ended, (SessionEnd::Silent, true), "silence is still heard");
}
