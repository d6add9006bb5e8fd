//! What the driver says to the centre of the cluster as a whole: inventory, authored objects, and what Hello carries.

use proto::cluster::{InventorySummary, NodeSummary};
use proto::wire::{Authored, AuthoredRef, Held};

use crate::cluster::{AuthoredSet, CeilingSeen};
use crate::engine::State;
use crate::link::outbox::{Facts, Outbox};

const MAX_NODES_SAID: usize = 100;

/// What the next Hello carries.
pub(super) fn facts(state: &State) -> Facts {
    let held = state.runs.values().map(|run| Held {
        run: run.desired.run.clone(),
        generation: run.desired.generation,
        intent: run.desired.intent,
    });
    Facts {
        held: held.collect(),
        halts: state.halts.latched.halts.clone(),
        cluster_uid: state.inventory.as_ref().map(|i| i.cluster_uid.clone()).unwrap_or_default(),
        accepts_starts: state.accepts_starts,
    }
}

/// Says what is new in `set`, what is gone from it, and then all that exists.
pub(super) fn authored(outbox: &Outbox, before: &AuthoredSet, set: &AuthoredSet) {
    for (object, authored) in set.iter().filter(|(object, authored)| before.get(object) != Some(authored)) {
        tracing::debug!(kind = object.kind.as_str(), name = %object.name, "authored");
        outbox.authored(authored.clone());
    }
    for object in before.keys().filter(|object| !set.contains_key(object)) {
        outbox.authored(gone(object.clone()));
    }
    outbox.authored_list(set.keys().cloned().collect());
}

fn gone(object: AuthoredRef) -> Authored {
    Authored { object, generation: 0, author: String::new(), body: Vec::new() }
}

/// What is seen here, in short.
pub(super) fn inventory(state: &State) -> InventorySummary {
    let inventory = state.inventory.clone().unwrap_or_default();
    let nodes = inventory.nodes.keys().take(MAX_NODES_SAID).map(|name| {
        let node = state.nodes.get(name);
        let capabilities = node.into_iter().flat_map(|n| &n.capabilities.capabilities);
        NodeSummary {
            name: name.clone(),
            daemon: state.connected(name),
            missing: capabilities.filter(|(_, c)| !c.present).map(|(name, _)| name.clone()).collect(),
        }
    });
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    InventorySummary {
        pods: number(inventory.pods.len()),
        nodes: nodes.collect(),
        node_count: number(inventory.nodes.len()),
        daemons: number(state.nodes.values().filter(|n| n.connected).count()),
        has_ceiling: matches!(state.ceiling, CeilingSeen::Present(_)),
        accepts_starts: state.accepts_starts,
    }
}
