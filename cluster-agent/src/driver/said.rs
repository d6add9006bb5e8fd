//! What the driver says to the centre of the cluster as a whole: inventory, authored objects, and what Hello carries.

use std::collections::BTreeMap;

use proto::cluster::{InventorySummary, NodeSummary};
use proto::ids::ClusterId;
use proto::trace::TraceContext;
use proto::wire::{Authored, AuthoredKind, AuthoredRef, Held};

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

/// The traces of the Runs authored here, so that one that is said again, on another session, is not another trace.
pub(super) type Traces = BTreeMap<AuthoredRef, TraceContext>;

/// Says what is new in `set`, what is gone from it, and then all that exists.
pub(super) fn authored(
    outbox: &Outbox,
    cluster: &ClusterId,
    traces: &mut Traces,
    before: &AuthoredSet,
    set: &AuthoredSet,
) {
    traces.retain(|object, _| set.contains_key(object));
    for (object, authored) in set.iter().filter(|(object, authored)| before.get(object) != Some(authored)) {
        tracing::debug!(kind = object.kind.as_str(), name = %object.name, "authored");
        let mut authored = authored.clone();
        if object.kind == AuthoredKind::Run {
            let traced = traces.entry(object.clone()).or_insert_with(|| trace(cluster, &authored));
            authored.trace = traced.clone();
        }
        outbox.authored(authored);
    }
    for object in before.keys().filter(|object| !set.contains_key(object)) {
        outbox.authored(gone(object.clone()));
    }
    outbox.authored_list(set.keys().cloned().collect());
}

/// A Run that was not seen before begins a trace, or goes on with the one that its author named.
fn trace(cluster: &ClusterId, run: &Authored) -> TraceContext {
    let span = tracing::info_span!(
        "authored",
        otel.kind = "producer",
        faultline.cluster = %cluster,
        k8s.namespace.name = %run.object.namespace,
        faultline.run.name = %run.object.name,
        faultline.run.uid = run.object.uid,
    );
    run.trace.within(&run.trace.child(span))
}

fn gone(object: AuthoredRef) -> Authored {
    Authored { object, generation: 0, author: String::new(), body: Vec::new(), trace: TraceContext::NONE }
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
            draining: node.is_some_and(|n| n.connected && n.draining),
            missing: capabilities.filter(|(_, c)| !c.present).map(|(name, _)| name.clone()).collect(),
            skipped: inventory.skipped_nodes.get(name).cloned().unwrap_or_default(),
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
        api_faults_only: inventory.api_faults_only,
        skipped_pods: number(inventory.skipped_pods.len()),
    }
}
