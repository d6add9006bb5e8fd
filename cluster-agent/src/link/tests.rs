//! The link as a whole while the centre moves: over channels, by the addresses that are kept, in paused time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use certs::{Csr, Role};
use proto::wire::{Down, Halts, Up, Welcome};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, timeout};

use super::dial::{Dial, DialError};
use super::identity::Credentials;
use super::outbox::Outbox;
use super::renewal::Renewal;
use super::session::{Connection, LinkEvent};
use super::stage::{Stage, signed_by};
use super::{Backoff, Link, refused_wait};
use crate::clock::SystemClock;
use crate::driver::Input;

/// In paused time.
const PATIENCE: Duration = Duration::from_hours(2);

/// Centres at some of the addresses.
#[derive(Debug, Clone)]
struct Net {
    credentials: Credentials,
    up: Arc<Mutex<BTreeSet<&'static str>>>,
    taken: mpsc::Sender<Far>,
}

/// The centre's end of a connection.
#[derive(Debug)]
struct Far {
    address: String,
    up: mpsc::Receiver<Up>,
    down: mpsc::Sender<Down>,
}

#[async_trait]
impl Dial for Net {
    async fn dial(&self, attempt: usize) -> Result<Connection, DialError> {
        let endpoints = self.credentials.endpoints();
        let address = endpoints[attempt % endpoints.len()].clone();
        if !self.up.lock().unwrap().contains(address.as_str()) {
            return Err(DialError(format!("nobody at {address}")));
        }
        let (up, ups) = mpsc::channel(64);
        let (downs, down) = mpsc::channel(64);
        let far = Far { address: address.clone(), up: ups, down: downs };
        self.taken.send(far).await.map_err(|_| DialError("the test is over".to_owned()))?;
        Ok(Connection { up, down, pumps: JoinSet::new(), address: Some(address) })
    }
}

impl Far {
    async fn next(&mut self) -> Option<Up> {
        timeout(PATIENCE, self.up.recv()).await.expect("the agent says something")
    }

    /// Hello and Welcome; the sequence that the agent keeps.
    async fn welcome(&mut self, store_epoch: &str) -> Option<u64> {
        let hello = self.next().await;
        let Some(Up::Hello(hello)) = hello else { panic!("no Hello: {hello:?}") };
        let welcome = Welcome {
            protocol: 1,
            version: "0".into(),
            store_epoch: store_epoch.into(),
            accepted: true,
            heartbeat_interval_ms: 5000,
            cluster: "c2".parse().unwrap(),
            session: "s".into(),
        };
        self.down.send(Down::Welcome(welcome)).await.unwrap();
        hello.endpoints_sequence
    }

    /// Answers heartbeats until something else is said.
    async fn other(&mut self) -> Option<Up> {
        loop {
            match self.next().await? {
                // It may have hung up since.
                Up::Heartbeat { seq, .. } => drop(self.down.send(ack(seq)).await),
                other => return Some(other),
            }
        }
    }

    /// The next heartbeat; `None` where the session is over.
    async fn beat(&mut self) -> Option<u64> {
        match self.next().await? {
            Up::Heartbeat { seq, .. } => Some(seq),
            other => panic!("no heartbeat: {other:?}"),
        }
    }
}

fn ack(seq: u64) -> Down {
    Down::HeartbeatAck { at: jiff::Timestamp::now(), seq, accepted: true }
}

struct World {
    stage: Stage,
    net: Net,
    taken: mpsc::Receiver<Far>,
    /// What the driver was told by the centre.
    obeyed: mpsc::Receiver<Down>,
    driver: mpsc::Sender<Down>,
    tasks: JoinSet<()>,
}

impl World {
    async fn start(up: &[&'static str]) -> Self {
        let stage = Stage::of(None).await;
        let (sender, taken) = mpsc::channel(4);
        let credentials = stage.credentials.clone();
        let net = Net { credentials, up: Arc::new(Mutex::new(up.iter().copied().collect())), taken: sender };
        let (driver, obeyed) = mpsc::channel(16);
        let mut world = Self { stage, net, taken, obeyed, driver, tasks: JoinSet::new() };
        world.run();
        world
    }

    fn run(&mut self) {
        let (tell, mut heard) = mpsc::channel(16);
        let link = Link {
            dial: Arc::new(self.net.clone()),
            outbox: Arc::new(Outbox::new(1, 0)),
            epoch: 1,
            renewal: Renewal::of(self.net.credentials.clone(), 0.5),
            backoff: Backoff::default(),
            clock: Arc::new(SystemClock),
            tell,
        };
        self.tasks.spawn(link.run());
        let driver = self.driver.clone();
        self.tasks.spawn(async move {
            while let Some(input) = heard.recv().await {
                if let Input::Link(LinkEvent::Message(message)) = input {
                    driver.send(message).await.unwrap();
                }
            }
        });
    }

    async fn next(&mut self) -> Far {
        timeout(PATIENCE, self.taken.recv()).await.expect("it dials").expect("it lives")
    }

    fn listens(&self, addresses: &[&'static str]) {
        *self.net.up.lock().unwrap() = addresses.iter().copied().collect();
    }
}

#[tokio::test(start_paused = true)]
async fn the_agent_goes_over_when_the_new_address_answers_and_never_lets_go_before() {
    let mut world = World::start(&["a:1"]).await;
    let mut old = world.next().await;
    assert_eq!((old.welcome("e1").await, old.address.as_str()), (Some(0), "a:1"));
    let role = Role::endpoints("r1");
    let signed = signed_by(&world.stage.ca.authority, &role, world.stage.list(7, "b:1"));
    old.down.send(Down::Endpoints(Box::new(signed))).await.unwrap();
    assert_eq!(old.other().await, Some(Up::EndpointsKept { sequence: 7 }));
    // Nobody is at the new address for a while: the session goes on.
    let quiet = timeout(Duration::from_mins(5), old.other()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert_eq!(world.stage.again().await.endpoints(), ["b:1", "a:1"], "not proved yet");

    world.listens(&["a:1", "b:1"]);
    assert_eq!(old.other().await, None, "given up for the new one");
    let mut new = world.taken.try_recv().expect("which was reached before");
    assert_eq!((new.welcome("e1").await, new.address.as_str()), (Some(7), "b:1"));
    let lively = timeout(Duration::from_mins(4), new.other()).await;
    assert!(lively.is_err(), "{lively:?}");
    assert_eq!(world.stage.again().await.endpoints(), ["b:1", "a:1"], "not proved yet");
    let lively = timeout(Duration::from_mins(2), new.other()).await;
    assert!(lively.is_err(), "{lively:?}");
    assert_eq!(world.stage.again().await.endpoints(), ["b:1"], "proved");
    // An agent that starts now knows the new address only.
    world.tasks.shutdown().await;
    world.run();
    let mut again = world.next().await;
    assert_eq!((again.welcome("e1").await, again.address.as_str()), (Some(7), "b:1"));
}

#[tokio::test(start_paused = true)]
async fn an_address_that_never_answers_costs_nothing_and_the_way_back_is_kept() {
    let mut world = World::start(&["a:1"]).await;
    let mut old = world.next().await;
    old.welcome("e1").await;
    let role = Role::endpoints("r1");
    let signed = signed_by(&world.stage.ca.authority, &role, world.stage.list(7, "typo:1"));
    old.down.send(Down::Endpoints(Box::new(signed))).await.unwrap();
    assert_eq!(old.other().await, Some(Up::EndpointsKept { sequence: 7 }));
    drop(old);
    let mut back = world.next().await;
    assert_eq!((back.welcome("e1").await, back.address.as_str()), (Some(7), "a:1"));
    // The list after it is taken, and what was never reached is forgotten once that is proved.
    let signed = signed_by(&world.stage.ca.authority, &role, world.stage.list(8, "b:1"));
    world.listens(&["a:1", "b:1"]);
    back.down.send(Down::Endpoints(Box::new(signed))).await.unwrap();
    assert_eq!(back.other().await, Some(Up::EndpointsKept { sequence: 8 }));
    assert_eq!(back.other().await, None);
    let mut new = world.next().await;
    assert_eq!((new.welcome("e1").await, new.address.as_str()), (Some(8), "b:1"));
    let lively = timeout(Duration::from_mins(6), new.other()).await;
    assert!(lively.is_err(), "{lively:?}");
    assert_eq!(world.stage.again().await.endpoints(), ["b:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_outlives_a_freeze_and_ends_after_three_beats_that_nobody_answers() {
    let mut world = World::start(&["a:1"]).await;
    let mut centre = world.next().await;
    centre.welcome("e1").await;
    let longer_than_three_beats = Duration::from_secs(20);
    for _ in 0..20 {
        // Nothing runs meanwhile; then the answer waits beside everything that is overdue,
        let seq = centre.beat().await.expect("the session goes on");
        centre.down.try_send(ack(seq)).unwrap();
        advance(longer_than_three_beats).await;
        // or comes a moment after it.
        let seq = centre.beat().await.expect("the session goes on");
        advance(longer_than_three_beats).await;
        let overdue = centre.beat().await.expect("the session goes on");
        for seq in [seq, overdue] {
            centre.down.send(ack(seq)).await.unwrap();
        }
    }
    let mut unanswered = 0;
    while centre.beat().await.is_some() {
        unanswered += 1;
    }
    assert_eq!(unanswered, 3);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_not_believed_is_answered_and_the_session_goes_on() {
    let mut world = World::start(&["a:1"]).await;
    let mut centre = world.next().await;
    centre.welcome("e1").await;
    let signed = signed_by(&world.stage.ca.authority, &Role::audit("r1"), world.stage.list(7, "b:1"));
    centre.down.send(Down::Endpoints(Box::new(signed))).await.unwrap();
    match centre.other().await {
        Some(Up::Nack(nack)) => assert_eq!((nack.code.as_str(), nack.run.as_str()), ("BadSignature", "")),
        other => panic!("{other:?}"),
    }
    let lively = timeout(Duration::from_mins(5), centre.other()).await;
    assert!(lively.is_err(), "{lively:?}");
    assert_eq!(world.stage.again().await.endpoints(), ["a:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_centre_on_a_store_that_was_left_is_refused_and_not_obeyed() {
    let mut world = World::start(&["a:1"]).await;
    for epoch in ["e1", "e2"] {
        let mut centre = world.next().await;
        centre.welcome(epoch).await;
        assert!(matches!(centre.next().await, Some(Up::Heartbeat { .. })));
    }
    for _ in 0..3 {
        let mut old = world.next().await;
        old.welcome("e1").await;
        // Halts and desired states of an old store.
        old.down.send(Down::Halts(Halts::default())).await.unwrap();
        old.down.send(Down::DesiredList(Vec::new())).await.unwrap();
        match old.next().await {
            Some(Up::Nack(nack)) => {
                assert_eq!(nack.code, "OldStore");
                assert!(nack.detail.contains("faultline store mark-restored"), "{}", nack.detail);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(old.next().await, None, "it hangs up by itself");
    }
    // Marked as restored, the same store is a new one.
    let mut centre = world.next().await;
    centre.welcome("e3").await;
    assert!(matches!(centre.next().await, Some(Up::Heartbeat { .. })));
    assert!(world.obeyed.try_recv().is_err(), "none of it got through");
}

#[tokio::test(start_paused = true)]
async fn halts_and_stops_do_not_wait_for_an_apiserver_that_is_away() {
    let mut world = World::start(&["a:1"]).await;
    world.stage.memory.stall_secrets(true);
    let mut centre = world.next().await;
    centre.welcome("e1").await;
    let role = Role::endpoints("r1");
    let signed = signed_by(&world.stage.ca.authority, &role, world.stage.list(7, "b:1"));
    let begun = Instant::now();
    centre.down.send(Down::Endpoints(Box::new(signed))).await.unwrap();
    for message in [Down::Halts(Halts::default()), Down::DesiredList(Vec::new())] {
        centre.down.send(message.clone()).await.unwrap();
        assert_eq!(timeout(PATIENCE, world.obeyed.recv()).await.unwrap(), Some(message));
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());

    // Heartbeats go both ways, and nothing is acknowledged that is not on disk.
    let lively = timeout(Duration::from_mins(20), centre.other()).await;
    assert!(lively.is_err(), "{lively:?}");
    assert_eq!(world.stage.again().await.centre().store_epoch, "");
    assert_eq!(world.net.credentials.endpoints(), ["a:1"]);
    world.stage.memory.stall_secrets(false);
    assert_eq!(centre.other().await, Some(Up::EndpointsKept { sequence: 7 }));
    let kept = world.stage.again().await.centre();
    assert_eq!((kept.sequence, kept.store_epoch.as_str()), (7, "e1"));
}

#[tokio::test(start_paused = true)]
async fn a_new_certificate_is_kept_beside_the_session() {
    let stage = Stage::of(None).await;
    let mut renewal = Renewal::of(stage.credentials.clone(), 0.5);
    let (csr_pem, _) = renewal.request().unwrap();
    let (csr, ttl) = (Csr::from_pem(&csr_pem).unwrap(), Duration::from_hours(2));
    let now = jiff::Timestamp::now();
    let leaf = stage.ca.authority.sign_client(&csr, &Role::agent("c2"), now, ttl).unwrap();
    stage.memory.stall_secrets(true);
    renewal.take(leaf.chain_pem, stage.ca.authority.bundle_pem().to_owned());
    assert!(timeout(Duration::from_mins(1), renewal.taken()).await.is_err());
    assert!(renewal.request().is_none(), "one at a time");
    let not_after = stage.credentials.lifetime().unwrap().not_after;
    stage.memory.stall_secrets(false);
    renewal.taken().await.unwrap();
    for credentials in [stage.credentials.clone(), stage.again().await] {
        assert!(credentials.lifetime().unwrap().not_after > not_after);
    }
    assert!(renewal.request().is_some());
}

#[test]
fn after_refusals_of_a_recovery_the_waits_are_long_and_grow() {
    let mins = |refusals, spread| refused_wait(refusals, spread).as_secs_f64() / 60.0;
    let least: Vec<f64> = (1..=6).map(|refusals| mins(refusals, 0.0)).collect();
    assert_eq!(least, [5.0, 10.0, 20.0, 40.0, 40.0, 40.0]);
    assert!((mins(u32::MAX, 1.0) - 60.0).abs() < 0.001);
}
