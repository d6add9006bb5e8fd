//! What an agent said and the store does not have yet: the latest of each thing, so that an
//! outage of the store costs a bounded amount of memory and nothing is lost that matters.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::assignment::Observed;
use proto::cluster::InventorySummary;
use proto::ids::RunId;
use proto::wire::{Authored, AuthoredRef, HaltState, Nack};
use tokio::sync::Notify;

/// Runs whose observation may wait.
const MAX_OBSERVED: usize = 10_000;
/// Authored objects that may wait.
const MAX_AUTHORED: usize = 4096;
const MAX_NACKS: usize = 256;

/// One thing to store.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Item {
    HaltState(HaltState),
    Observed(Box<Observed>, u64, u64),
    Nack(Nack),
    /// CSRs of the new key, and of the identity key (may be empty).
    Renew(String, String),
    Inventory(Box<InventorySummary>),
    Authored(Authored),
    AuthoredList(Vec<AuthoredRef>),
    /// The agent keeps the list of this sequence.
    EndpointsKept(u64),
    /// The agent has left this store for a newer copy.
    RefusedAsOld,
}

#[derive(Debug, Default)]
struct Inner {
    halt_state: Option<HaltState>,
    observed: BTreeMap<RunId, (Box<Observed>, u64, u64)>,
    nacks: VecDeque<Nack>,
    renew: Option<(String, String)>,
    inventory: Option<Box<InventorySummary>>,
    /// The order matters little, but Experiments sort before Runs, which need them.
    authored: BTreeMap<AuthoredRef, Authored>,
    list: Option<Vec<AuthoredRef>>,
    endpoints_kept: Option<u64>,
    refused_as_old: bool,
    /// The agent has refused us: nothing else of this session is stored.
    over: bool,
}

/// Filled by the session's reader, emptied by its writer.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    inner: Mutex<Inner>,
    wake: Notify,
}

impl Inbox {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes something in, over an older version of the same. `false`: no room.
    pub(super) fn put(&self, item: Item) -> bool {
        let taken = self.inner().put(item, true);
        self.wake.notify_one();
        taken
    }

    /// Brings back what could not be stored, unless something newer came meanwhile.
    pub(super) fn put_back(&self, item: Item) {
        self.inner().put(item, false);
        self.wake.notify_one();
    }

    /// Waits for the next thing to store. For one caller.
    pub(super) async fn next(&self) -> Item {
        loop {
            let woken = self.wake.notified();
            if let Some(item) = self.inner().take() {
                return item;
            }
            woken.await;
        }
    }
}

impl Inner {
    fn put(&mut self, item: Item, newer: bool) -> bool {
        fn keep<T>(slot: &mut Option<T>, value: T, newer: bool) {
            if newer || slot.is_none() {
                *slot = Some(value);
            }
        }
        match item {
            Item::RefusedAsOld => *self = Self { refused_as_old: true, over: true, ..Self::default() },
            _ if self.over => {}
            Item::HaltState(state) => keep(&mut self.halt_state, state, newer),
            Item::Renew(csr, identity) => keep(&mut self.renew, (csr, identity), newer),
            Item::Inventory(inventory) => keep(&mut self.inventory, inventory, newer),
            Item::AuthoredList(list) => keep(&mut self.list, list, newer),
            Item::EndpointsKept(sequence) => keep(&mut self.endpoints_kept, sequence, newer),
            Item::Nack(nack) => {
                if self.nacks.len() >= MAX_NACKS {
                    return false;
                }
                self.nacks.push_back(nack);
            }
            Item::Observed(observed, epoch, seq) => {
                let known = self.observed.get(&observed.run).map(|(_, epoch, seq)| (*epoch, *seq));
                if known.is_none() && self.observed.len() >= MAX_OBSERVED {
                    return false;
                }
                if known.is_none_or(|known| known < (epoch, seq)) {
                    self.observed.insert(observed.run.clone(), (observed, epoch, seq));
                }
            }
            Item::Authored(authored) => {
                let known = self.authored.contains_key(&authored.object);
                if !known && self.authored.len() >= MAX_AUTHORED {
                    return false;
                }
                if newer || !known {
                    self.authored.insert(authored.object.clone(), authored);
                }
            }
        }
        true
    }

    fn take(&mut self) -> Option<Item> {
        None.or_else(|| std::mem::take(&mut self.refused_as_old).then_some(Item::RefusedAsOld))
            .or_else(|| self.halt_state.take().map(Item::HaltState))
            .or_else(|| self.endpoints_kept.take().map(Item::EndpointsKept))
            .or_else(|| self.observed.pop_first().map(|(_, (o, epoch, seq))| Item::Observed(o, epoch, seq)))
            .or_else(|| self.nacks.pop_front().map(Item::Nack))
            .or_else(|| self.renew.take().map(|(csr, identity)| Item::Renew(csr, identity)))
            .or_else(|| self.inventory.take().map(Item::Inventory))
            .or_else(|| self.authored.pop_first().map(|(_, authored)| Item::Authored(authored)))
            // Only when everything it names was stored.
            .or_else(|| self.list.take().map(Item::AuthoredList))
    }
}
