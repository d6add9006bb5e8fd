//! The latched stop, as seen by one cluster. Halts of the centre are latched durably and lifted only by their id;
//! Halt objects and halt files last as long as they exist. Nothing that a halt covers starts, and what runs under
//! it is ended by `runs`.

use std::collections::{BTreeMap, BTreeSet};

use proto::halt::{Halt, HaltLevel, HaltScope};
use proto::hash::sha256_hex;
use proto::ids::{ClusterId, HaltId};
use proto::wire::{HaltState, Halts, NodeHaltState};

use super::state::RunState;
use super::{Effect, Now, State};
use crate::cluster::LocalHalt;

/// Lifted ids are remembered, so that a late message cannot latch them again.
const RESUMED_KEPT: usize = 256;

/// Latches what is new, lifts what is resumed, and passes both on.
pub fn received(state: &mut State, halts: Halts, out: &mut Vec<Effect>) {
    let latched = &mut state.halts.latched;
    let before = latched.clone();
    for id in halts.resumed {
        latched.halts.retain(|h| h.id != id);
        if !latched.resumed.contains(&id) {
            latched.resumed.push(id);
        }
    }
    let surplus = latched.resumed.len().saturating_sub(RESUMED_KEPT);
    latched.resumed.drain(..surplus);
    for halt in halts.halts {
        if !latched.resumed.contains(&halt.id) && latched.halts.iter().all(|h| h.id != halt.id) {
            latched.halts.push(halt);
        }
    }
    if *latched != before {
        out.push(Effect::PersistHalts(latched.clone()));
        pass_on(state, &[], out);
    }
}

/// Takes the Halt objects that exist now.
pub fn local(state: &mut State, objects: &[LocalHalt], out: &mut Vec<Effect>) {
    let ids = |list: &[LocalHalt]| list.iter().filter_map(object_id).collect::<BTreeSet<_>>();
    let before = state.halts.objects.as_deref().map(ids).unwrap_or_default();
    let lifted: Vec<HaltId> = before.difference(&ids(objects)).cloned().collect();
    let changed = state.halts.objects.as_deref() != Some(objects);
    state.halts.objects = Some(objects.to_vec());
    state.halts.said_objects.retain(|name, _| objects.iter().any(|h| &h.name == name));
    if changed {
        pass_on(state, &lifted, out);
    }
}

/// Takes what a node says of its own halts.
pub fn node(state: &mut State, node: &str, halts: NodeHaltState, _out: &mut Vec<Effect>) {
    state.nodes.entry(node.to_owned()).or_default().halts = halts;
}

/// Tells one node everything that applies.
pub fn tell(state: &State, node: &str, out: &mut Vec<Effect>) {
    out.push(Effect::NodeHalts {
        node: node.to_owned(),
        halts: all(state),
        resumed: state.halts.latched.resumed.clone(),
    });
}

fn pass_on(state: &State, lifted: &[HaltId], out: &mut Vec<Effect>) {
    let mut resumed = state.halts.latched.resumed.clone();
    resumed.extend_from_slice(lifted);
    for (node, _) in state.nodes.iter().filter(|(_, n)| n.connected) {
        out.push(Effect::NodeHalts { node: node.clone(), halts: all(state), resumed: resumed.clone() });
    }
}

/// Halts of the centre and of this cluster's objects; those of single nodes are not in it.
pub fn all(state: &State) -> Vec<Halt> {
    let objects = state.halts.objects.iter().flatten();
    let objects = objects.filter_map(|object| object_halt(&state.settings.cluster, object));
    state.halts.latched.halts.iter().cloned().chain(objects).collect()
}

/// A Halt object's id: its name and when it was made, so that the next object of that name is another halt.
fn object_id(object: &LocalHalt) -> Option<HaltId> {
    let hash = sha256_hex(format!("{}/{}", object.name, object.at).as_bytes());
    let name: String = object.name.chars().take(40).collect();
    HaltId::try_from(format!("object-{}-{}", name.trim_end_matches(['.', '-']), &hash[..8])).ok()
}

fn object_halt(cluster: &ClusterId, object: &LocalHalt) -> Option<Halt> {
    let scope = match &object.namespace {
        Some(namespace) => HaltScope::Namespace { cluster: cluster.clone(), namespace: namespace.clone() },
        None => HaltScope::Cluster { cluster: cluster.clone() },
    };
    Some(Halt {
        id: object_id(object)?,
        scope,
        reason: object.reason.clone(),
        by: format!("object {}", object.name),
        at: object.at,
        origin: Some(cluster.clone()),
    })
}

/// Whether a halt stops anything in these namespaces. The centre sends only what applies to this cluster, so any
/// scope but a namespace stops all of it; not knowing the namespaces counts as covered.
fn covers(halt: &Halt, namespaces: Option<&BTreeSet<&str>>) -> bool {
    match &halt.scope {
        HaltScope::Namespace { namespace, .. } => {
            namespaces.is_none_or(|all| all.contains(namespace.as_str()))
        }
        _ => true,
    }
}

/// The id of a halt in force that covers these namespaces or one of these nodes.
pub fn in_force(
    state: &State,
    namespaces: Option<&BTreeSet<&str>>,
    nodes: &BTreeSet<&str>,
) -> Option<HaltId> {
    let here = all(state).into_iter().find(|h| covers(h, namespaces)).map(|h| h.id);
    here.or_else(|| {
        let local = nodes.iter().filter_map(|n| state.nodes.get(*n)).flat_map(|n| &n.halts.local);
        local.map(|h| h.id.clone()).next()
    })
}

/// The id of a halt in force that covers a run.
pub fn over(state: &State, run: &RunState) -> Option<HaltId> {
    let nodes = run.injections.iter().map(|t| t.recorded.target.node.as_str()).collect();
    in_force(state, namespaces(run).as_ref(), &nodes)
}

fn namespaces(run: &RunState) -> Option<BTreeSet<&str>> {
    if !run.injections.is_empty() {
        return Some(run.injections.iter().map(|t| t.recorded.target.namespace.as_str()).collect());
    }
    let spec = run.spec.as_ref()?;
    let victims = spec.targets.iter().filter(|t| !t.is_peer_only());
    Some(victims.flat_map(|t| t.pods.namespaces.iter().map(String::as_str)).collect())
}

/// Says Latched once it is durable, and Clean once nothing that it covers may be active; only what is new.
pub fn acknowledge(state: &mut State, now: Now, out: &mut Vec<Effect>) {
    let durable = state.halts.durable.as_ref().map(|d| d.halts.as_slice()).unwrap_or_default();
    let latched: Vec<&Halt> = state.halts.latched.halts.iter().filter(|h| durable.contains(h)).collect();
    let nodes = state.nodes.values().flat_map(|n| n.halts.local.iter().cloned());
    let objects = state.halts.objects.iter().flatten();
    let local = objects.filter_map(|o| object_halt(&state.settings.cluster, o)).chain(nodes).collect();
    let word = HaltState {
        latched: latched.iter().map(|h| h.id.clone()).collect(),
        clean: latched.iter().filter(|h| is_clean(state, h, now)).map(|h| h.id.clone()).collect(),
        local,
    };
    let mut levels = BTreeMap::new();
    for object in state.halts.objects.iter().flatten() {
        let Some(halt) = object_halt(&state.settings.cluster, object) else {
            continue;
        };
        let level = if is_clean(state, &halt, now) { HaltLevel::Clean } else { HaltLevel::Latched };
        levels.insert(object.name.clone(), level);
    }
    for (name, level) in levels {
        if state.halts.said_objects.get(&name) != Some(&level) {
            state.halts.said_objects.insert(name.clone(), level);
            out.push(Effect::HaltObjectLevel { name, level });
        }
    }
    let open = state.link.up && state.link.accepted;
    if open && state.halts.said.as_ref() != Some(&word) {
        state.halts.said = Some(word.clone());
        out.push(Effect::SendHaltState(word));
    }
}

fn is_clean(state: &State, halt: &Halt, now: Now) -> bool {
    let covered = |run: &&RunState| covers(halt, namespaces(run).as_ref());
    !state.runs.values().filter(covered).any(|run| super::nodes::holds_any(run, now))
}
