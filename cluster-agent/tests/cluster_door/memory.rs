//! The contract on the in-memory twin. A restart keeps what the cluster holds and counts the epoch up, as a Lease
//! does.

use std::collections::BTreeMap;

use async_trait::async_trait;
use cluster_agent::cluster::memory::Memory;
use cluster_agent::cluster::{AuthoredSet, Doors, Inventory, Leadership, LocalHalt};
use jiff::Timestamp;
use proto::wire::{Authored, AuthoredKind, AuthoredRef};

use super::contract::{Stage, all};

struct InMemory {
    memory: Memory,
    epoch: u64,
}

impl InMemory {
    fn fresh() -> Self {
        let memory = Memory::new();
        memory.set_inventory(Inventory::default());
        memory.set_local_halts(vec![]);
        memory.set_authored(AuthoredSet::new());
        memory.set_leadership(Leadership::Active { epoch: 1 });
        Self { memory, epoch: 1 }
    }

    fn halts(&self) -> Vec<LocalHalt> {
        let halts = self.doors().sight.local_halts().borrow().clone();
        halts.map(|h| h.to_vec()).unwrap_or_default()
    }

    fn set(&self) -> AuthoredSet {
        let set = self.doors().sight.authored().borrow().clone();
        set.map(|s| AuthoredSet::clone(&s)).unwrap_or_default()
    }
}

fn object(name: &str) -> AuthoredRef {
    AuthoredRef {
        kind: AuthoredKind::Run,
        namespace: "shop".parse().unwrap(),
        name: name.parse().unwrap(),
        uid: format!("uid-{name}"),
    }
}

#[async_trait]
impl Stage for InMemory {
    fn doors(&self) -> Doors {
        self.memory.doors()
    }
    async fn reopen(self) -> Self {
        let epoch = self.epoch + 1;
        self.memory.set_leadership(Leadership::Active { epoch });
        Self { epoch, ..self }
    }
    async fn halt(&self, name: &str, namespace: Option<&str>) {
        let mut halts = self.halts();
        let (name, namespace) = (name.to_owned(), namespace.map(str::to_owned));
        halts.push(LocalHalt { name, reason: String::new(), namespace, at: Timestamp::UNIX_EPOCH });
        self.memory.set_local_halts(halts);
    }
    async fn lift(&self, name: &str) {
        let halts = self.halts().into_iter().filter(|h| h.name != name).collect();
        self.memory.set_local_halts(halts);
    }
    async fn author(&self, name: &str) {
        let body = br#"{"experimentRef":{"name":"e"}}"#.to_vec();
        let authored = Authored {
            object: object(name),
            generation: 1,
            author: String::new(),
            body,
            trace: proto::trace::TraceContext::NONE,
        };
        let mut set: BTreeMap<_, _> = self.set();
        set.insert(object(name), authored);
        self.memory.set_authored(set);
    }
    async fn unauthor(&self, name: &str) {
        let mut set = self.set();
        set.remove(&object(name));
        self.memory.set_authored(set);
    }
    async fn status(&self, name: &str) -> Option<serde_json::Value> {
        let statuses = self.memory.snapshot().statuses;
        statuses.get(&object(name)).and_then(|bytes| serde_json::from_slice(bytes).ok())
    }
}

#[tokio::test]
async fn the_twin_keeps_the_contract() {
    all(async || InMemory::fresh()).await;
}
