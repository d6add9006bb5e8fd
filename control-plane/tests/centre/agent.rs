//! A scripted agent over channels: it answers as told, and keeps everything it was sent.

use std::collections::BTreeMap;
use std::time::Duration;

use control_plane::link::{End, serve};
use control_plane::replica::Started;
use proto::assignment::{ClusterPhase, Desired, Intent, Observed, Outcome, Verdict};
use proto::ids::{ClusterId, RunId};
use proto::plan::{ClusterPlan, Envelope, Owner, TargetEnvelope};
use proto::wire::{Down, Halts, Hello, PROTOCOL, Up, Welcome, WireError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::fixture::PATIENCE;

pub(crate) struct Agent {
    pub(crate) id: ClusterId,
    pub(crate) epoch: u64,
    seq: u64,
    up: mpsc::Sender<Result<Up, WireError>>,
    down: mpsc::Receiver<Down>,
    session: JoinSet<End>,
    pub(crate) welcome: Option<Welcome>,
}

pub(crate) fn hello(epoch: u64) -> Hello {
    Hello {
        protocol_min: PROTOCOL,
        protocol_max: PROTOCOL,
        version: "0.1.0".to_owned(),
        agent_epoch: epoch,
        store_epoch: String::new(),
        held: Vec::new(),
        halts: Vec::new(),
        kube_system_uid: String::new(),
        accepts_starts: true,
        endpoints_sequence: None,
    }
}

impl Agent {
    /// Connects and expects Welcome.
    pub(crate) async fn connect(replica: &Started, id: &ClusterId, epoch: u64) -> Self {
        let mut agent = Self::dial(replica, id, hello(epoch)).await;
        match agent.recv().await {
            Down::Welcome(welcome) => agent.welcome = Some(welcome),
            other => panic!("expected Welcome, got {other:?}"),
        }
        agent
    }

    /// Only says Hello.
    pub(crate) async fn dial(replica: &Started, id: &ClusterId, hello: Hello) -> Self {
        let (up, up_end) = mpsc::channel(8);
        let (down_end, down) = mpsc::channel(1);
        let mut session = JoinSet::new();
        session.spawn(serve(replica.hub.clone(), id.clone(), up_end, down_end));
        let epoch = hello.agent_epoch;
        let agent = Self { id: id.clone(), epoch, seq: 0, up, down, session, welcome: None };
        agent.send(Up::Hello(hello)).await;
        agent
    }

    pub(crate) async fn send(&self, message: Up) {
        tokio::time::timeout(PATIENCE, self.up.send(Ok(message))).await.expect("the reader drains").unwrap();
    }

    /// The next message, while saying that we are alive.
    pub(crate) async fn recv(&mut self) -> Down {
        self.until("any message", |_| true).await
    }

    /// Reads until a message is what is wanted; everything else is dropped.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&Down) -> bool) -> Down {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut last = None;
        let mut beat = 0;
        loop {
            match tokio::time::timeout(Duration::from_millis(100), self.down.recv()).await {
                Ok(Some(message)) if wanted(&message) => return message,
                Ok(Some(message)) => last = Some(message),
                Ok(None) => {
                    let end = self.session.join_next().await;
                    panic!("{what}: the session ended ({end:?}), last message {last:?}")
                }
                Err(_) => {
                    assert!(tokio::time::Instant::now() < deadline, "{what}: last message {last:?}");
                    beat += 1;
                    let at = jiff::Timestamp::now();
                    let _ = self.up.try_send(Ok(Up::Heartbeat { at, seq: beat }));
                }
            }
        }
    }

    pub(crate) async fn desired(&mut self, intent: Intent) -> (Desired, u64) {
        let found = self
            .until(
                intent.as_str(),
                |down| matches!(down, Down::Desired { desired, .. } if desired.intent == intent),
            )
            .await;
        match found {
            Down::Desired { desired, start_within_ms } => (*desired, start_within_ms),
            _ => unreachable!(),
        }
    }

    pub(crate) async fn halts(&mut self, wanted: impl Fn(&Halts) -> bool) -> Halts {
        match self.until("Halts", |down| matches!(down, Down::Halts(halts) if wanted(halts))).await {
            Down::Halts(halts) => halts,
            _ => unreachable!(),
        }
    }

    /// Says something of a run, without waiting for the acknowledgement.
    pub(crate) async fn observe(&mut self, observed: Observed) -> u64 {
        self.seq += 1;
        self.send(Up::Observed { observed: Box::new(observed), epoch: self.epoch, seq: self.seq }).await;
        self.seq
    }

    /// Answers a question with a plan of so many pods.
    pub(crate) async fn plan(&mut self, desired: &Desired, pods: u32) {
        let mut observed = Observed::new(desired.run.clone(), desired.generation, ClusterPhase::Planned);
        observed.plan = Some(plan(&desired.spec_hash, pods));
        self.observe(observed).await;
    }

    /// Waits for a question and answers it.
    pub(crate) async fn planned(&mut self, pods: u32) -> Desired {
        let (desired, _) = self.desired(Intent::Plan).await;
        self.plan(&desired, pods).await;
        desired
    }

    pub(crate) async fn phase(&mut self, desired: &Desired, phase: ClusterPhase) {
        self.observe(progress(desired, phase)).await;
    }

    pub(crate) async fn finish(&mut self, desired: &Desired, outcome: Outcome) {
        let mut observed = progress(desired, ClusterPhase::Finished);
        observed.outcome = Some(outcome);
        observed.verdict = Verdict::Held;
        self.observe(observed).await;
    }

    /// Goes away without a word.
    pub(crate) async fn vanish(mut self) {
        drop(self.up);
        self.session.join_next().await;
    }

    /// How the session ended.
    pub(crate) async fn end(&mut self) -> End {
        tokio::time::timeout(PATIENCE, self.session.join_next()).await.unwrap().unwrap().unwrap()
    }
}

pub(crate) fn progress(desired: &Desired, phase: ClusterPhase) -> Observed {
    let now = jiff::Timestamp::now();
    let at = |least: ClusterPhase| (phase >= least).then_some(now);
    let mut observed = Observed::new(desired.run.clone(), desired.generation, phase);
    observed.started_at = at(ClusterPhase::Running);
    observed.injected_at = at(ClusterPhase::Running);
    observed.reverted_at = at(ClusterPhase::Settling);
    observed.finished_at = at(ClusterPhase::Finished);
    observed
}

pub(crate) fn plan(spec_hash: &str, pods: u32) -> ClusterPlan {
    let owner = Owner {
        kind: "Deployment".to_owned(),
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        uid: "u-1".to_owned(),
    };
    let target = TargetEnvelope { owners: vec![owner], max_count: pods, ..TargetEnvelope::default() };
    ClusterPlan {
        spec_hash: spec_hash.to_owned(),
        planned_at: jiff::Timestamp::now(),
        envelope: Envelope { targets: BTreeMap::from([("web".to_owned(), target)]) },
        sample: BTreeMap::new(),
        faults: Vec::new(),
        refusals: Vec::new(),
        warnings: Vec::new(),
    }
}

pub(crate) fn run_of(down: &Down) -> Option<&RunId> {
    match down {
        Down::Desired { desired, .. } => Some(&desired.run),
        Down::ObservedAck { run, .. } => Some(run),
        _ => None,
    }
}
