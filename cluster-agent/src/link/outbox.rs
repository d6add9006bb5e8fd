//! What is still to be said to the centre: the latest of everything, so that it cannot grow. The driver puts, the
//! session takes; neither ever waits for the other. What was said of a run is said again on every new session
//! until it is acknowledged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::assignment::Observed;
use proto::cluster::InventorySummary;
use proto::halt::Halt;
use proto::ids::RunId;
use proto::wire::{Authored, AuthoredRef, HaltState, Held, Nack, Up};
use tokio::sync::Notify;

/// Nacks and clock probes beyond so many are dropped, oldest first: the centre repeats its assignment.
const MAX_QUEUED: usize = 64;

/// The facts that the first message of a session carries, kept current by the driver.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// What is held.
    pub held: Vec<Held>,
    /// Halts in force.
    pub halts: Vec<Halt>,
    /// Uid of the cluster.
    pub cluster_uid: String,
    /// False: stop-only.
    pub accepts_starts: bool,
}

#[derive(Debug)]
struct Word {
    observed: Box<Observed>,
    seq: u64,
    said: bool,
}

#[derive(Debug, Default)]
struct Pending {
    facts: Facts,
    seq: u64,
    observed: BTreeMap<RunId, Word>,
    halt_state: Option<HaltState>,
    clock_probes: VecDeque<u64>,
    nacks: VecDeque<Nack>,
    specs: BTreeSet<String>,
    authored: BTreeMap<AuthoredRef, Authored>,
    authored_list: Option<Vec<AuthoredRef>>,
    inventory: Option<Box<InventorySummary>>,
}

/// Shared by the driver and the link.
#[derive(Debug)]
pub struct Outbox {
    epoch: u64,
    pending: Mutex<Pending>,
    more: Notify,
}

impl Outbox {
    /// Nothing to say yet, as this leader. Sequence numbers go on after `last_seq`: where the epoch stays the same
    /// over a restart, they must not begin anew, so the caller gives the time in milliseconds.
    pub fn new(epoch: u64, last_seq: u64) -> Self {
        let pending = Pending { seq: last_seq, ..Pending::default() };
        Self { epoch, pending: Mutex::new(pending), more: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, change: impl FnOnce(&mut Pending)) {
        change(&mut self.lock());
        self.more.notify_one();
    }

    /// Keeps the facts for the next Hello.
    pub fn set_facts(&self, facts: Facts) {
        self.lock().facts = facts;
    }

    /// The facts for Hello.
    pub fn facts(&self) -> Facts {
        self.lock().facts.clone()
    }

    /// The latest of a run.
    pub fn observed(&self, observed: Box<Observed>) {
        self.put(|p| {
            p.seq += 1;
            let word = Word { seq: p.seq, said: false, observed };
            p.observed.insert(word.observed.run.clone(), word);
        });
    }

    /// Committed at the centre: not said again.
    pub fn acknowledged(&self, run: &RunId, epoch: u64, seq: u64) {
        let mut pending = self.lock();
        if epoch == self.epoch && pending.observed.get(run).is_some_and(|word| word.seq <= seq) {
            pending.observed.remove(run);
        }
    }

    /// Nothing more is said of a run.
    pub fn forget(&self, run: &RunId) {
        self.lock().observed.remove(run);
    }

    /// Acknowledges halts.
    pub fn halt_state(&self, state: HaltState) {
        self.put(|p| p.halt_state = Some(state));
    }

    /// Asks for the centre's clock.
    pub fn clock_probe(&self, id: u64) {
        self.put(|p| bounded(&mut p.clock_probes, id));
    }

    /// Refuses one message.
    pub fn nack(&self, nack: Nack) {
        self.put(|p| bounded(&mut p.nacks, nack));
    }

    /// Asks for a spec.
    pub fn request_spec(&self, hash: String) {
        self.put(|p| {
            p.specs.insert(hash);
        });
    }

    /// An authored object, or that it is gone.
    pub fn authored(&self, authored: Authored) {
        self.put(|p| {
            p.authored.insert(authored.object.clone(), authored);
        });
    }

    /// Every authored object that exists; said after those still waiting.
    pub fn authored_list(&self, list: Vec<AuthoredRef>) {
        self.put(|p| p.authored_list = Some(list));
    }

    /// What is seen here.
    pub fn inventory(&self, inventory: InventorySummary) {
        self.put(|p| p.inventory = Some(Box::new(inventory)));
    }

    /// A new session: runs are said again; what only made sense on the old one is dropped.
    pub fn renew(&self) {
        let mut pending = self.lock();
        pending.clock_probes.clear();
        pending.nacks.clear();
        pending.specs.clear();
        pending.authored.clear();
        pending.authored_list = None;
        for word in pending.observed.values_mut() {
            word.said = false;
        }
    }

    /// Waits until something was put.
    pub async fn changed(&self) {
        self.more.notified().await;
    }

    /// Whether there is something to say.
    pub fn is_pending(&self, accepted: bool) -> bool {
        self.lock().has(accepted)
    }

    /// The next thing to say, the most urgent first. Before both opt-ins only the inventory is said.
    pub fn take(&self, accepted: bool) -> Option<Up> {
        let mut pending = self.lock();
        if !accepted {
            return pending.inventory.take().map(Up::Inventory);
        }
        let up = pending.next(self.epoch);
        if pending.has(accepted) {
            self.more.notify_one();
        }
        up
    }
}

impl Pending {
    fn has(&self, accepted: bool) -> bool {
        self.inventory.is_some()
            || (accepted
                && (self.halt_state.is_some()
                    || !self.clock_probes.is_empty()
                    || !self.nacks.is_empty()
                    || !self.specs.is_empty()
                    || !self.authored.is_empty()
                    || self.authored_list.is_some()
                    || self.observed.values().any(|word| !word.said)))
    }

    fn next(&mut self, epoch: u64) -> Option<Up> {
        if let Some(state) = self.halt_state.take() {
            return Some(Up::HaltState(state));
        }
        if let Some(id) = self.clock_probes.pop_front() {
            return Some(Up::ClockProbe { id });
        }
        if let Some(nack) = self.nacks.pop_front() {
            return Some(Up::Nack(nack));
        }
        if let Some(hash) = self.specs.pop_first() {
            return Some(Up::SpecRequest { hash });
        }
        if let Some(word) = self.observed.values_mut().filter(|w| !w.said).min_by_key(|w| w.seq) {
            word.said = true;
            return Some(Up::Observed { observed: word.observed.clone(), epoch, seq: word.seq });
        }
        if let Some((_, authored)) = self.authored.pop_first() {
            return Some(Up::Authored(authored));
        }
        if let Some(list) = self.authored_list.take() {
            return Some(Up::AuthoredList(list));
        }
        self.inventory.take().map(Up::Inventory)
    }
}

fn bounded<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() >= MAX_QUEUED {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use proto::assignment::ClusterPhase;

    use super::*;

    fn word(phase: ClusterPhase) -> Box<Observed> {
        Box::new(Observed::new("r1".parse().unwrap(), 1, phase))
    }

    fn seq(up: Option<Up>) -> u64 {
        match up {
            Some(Up::Observed { seq, .. }) => seq,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_the_latest_of_a_run_is_said_until_it_is_acknowledged() {
        let outbox = Outbox::new(7, 0);
        let run: RunId = "r1".parse().unwrap();
        for _ in 0..1000 {
            outbox.observed(word(ClusterPhase::Running));
        }
        let said = seq(outbox.take(true));
        assert_eq!(said, 1000);
        assert!(outbox.take(true).is_none());
        outbox.renew();
        assert_eq!(seq(outbox.take(true)), said, "said again on a new session");
        outbox.acknowledged(&run, 6, said);
        outbox.acknowledged(&run, 7, said - 1);
        outbox.renew();
        assert_eq!(seq(outbox.take(true)), said, "an older acknowledgement counts for nothing");
        outbox.acknowledged(&run, 7, said);
        outbox.renew();
        assert!(!outbox.is_pending(true));
    }

    #[test]
    fn before_both_opt_ins_only_the_inventory_is_said() {
        let outbox = Outbox::new(1, 0);
        outbox.observed(word(ClusterPhase::Planned));
        assert!(!outbox.is_pending(false) && outbox.take(false).is_none());
        outbox.inventory(InventorySummary::default());
        assert!(matches!(outbox.take(false), Some(Up::Inventory(_))));
        assert_eq!(seq(outbox.take(true)), 1);
    }

    #[test]
    fn stops_go_before_everything_and_the_list_after_its_objects() {
        let outbox = Outbox::new(1, 0);
        let object = AuthoredRef {
            kind: proto::wire::AuthoredKind::Run,
            namespace: "shop".parse().unwrap(),
            name: "r".parse().unwrap(),
            uid: "u".into(),
        };
        outbox.authored_list(vec![object.clone()]);
        outbox.authored(Authored {
            object,
            generation: 1,
            author: String::new(),
            body: b"{}".to_vec(),
            trace: proto::trace::TraceContext::NONE,
        });
        outbox.observed(word(ClusterPhase::Planned));
        outbox.halt_state(HaltState::default());
        let order: Vec<Up> = std::iter::from_fn(|| outbox.take(true)).collect();
        assert!(matches!(
            order.as_slice(),
            [Up::HaltState(_), Up::Observed { .. }, Up::Authored(_), Up::AuthoredList(_)]
        ));
    }
}
