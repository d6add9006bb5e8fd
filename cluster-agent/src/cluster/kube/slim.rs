//! Pods, nodes and owners, read no further than is needed: no environment, no volumes, no annotations are ever
//! kept, and nothing that a pod may hold can fail to be read. Called by `inventory`.

use std::net::IpAddr;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::metadata::PartialObjectMeta;
use proto::plan::Owner;
use serde::Deserialize;

use crate::cluster::{NodeSeen, PodSeen};

/// What is read of a Pod.
#[derive(Debug, Clone, Deserialize, Resource)]
#[resource(inherit = Pod)]
pub(super) struct SlimPod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: SlimPodSpec,
    #[serde(default)]
    status: SlimPodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimPodSpec {
    node_name: String,
    host_network: bool,
    containers: Vec<Named>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimPodStatus {
    phase: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<Address>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Address {
    ip: String,
}

/// What is read of a Node.
#[derive(Debug, Clone, Deserialize, Resource)]
#[resource(inherit = Node)]
pub(super) struct SlimNode {
    metadata: ObjectMeta,
    #[serde(default)]
    status: SlimNodeStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct SlimNodeStatus {
    conditions: Vec<NodeCondition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct NodeCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// Metadata of a ReplicaSet.
pub(super) type SlimReplicaSet = PartialObjectMeta<ReplicaSet>;
/// Metadata of a Job.
pub(super) type SlimJob = PartialObjectMeta<Job>;

/// A pod by its uid; its owner is the next above it. One without a uid is none.
pub(super) fn pod(pod: SlimPod) -> Option<(String, PodSeen)> {
    let SlimPod { metadata, spec, status } = pod;
    let owner = controller(&metadata);
    let (uid, name) = (metadata.uid?, metadata.name?);
    let namespace = metadata.namespace?;
    let itself = || Owner {
        kind: "Pod".to_owned(),
        namespace: namespace.clone(),
        name: name.clone(),
        uid: uid.clone(),
    };
    let ips = status.pod_ips.iter().filter_map(|address| address.ip.parse::<IpAddr>().ok()).collect();
    let seen = PodSeen {
        owner: owner.unwrap_or_else(itself),
        namespace,
        name,
        uid: uid.clone(),
        node: spec.node_name,
        ips,
        labels: metadata.labels.unwrap_or_default(),
        containers: spec.containers.into_iter().map(|container| container.name).collect(),
        host_network: spec.host_network,
        running: status.phase == "Running",
        terminating: metadata.deletion_timestamp.is_some(),
    };
    Some((uid, seen))
}

/// A node by its name.
pub(super) fn node(node: SlimNode) -> Option<(String, NodeSeen)> {
    let ready = node.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True");
    Some((node.metadata.name?, NodeSeen { ready }))
}

/// What controls the object of these metadata, by the object's uid.
pub(super) fn above(metadata: ObjectMeta) -> Option<(String, Option<Owner>)> {
    let owner = controller(&metadata);
    Some((metadata.uid?, owner))
}

fn controller(metadata: &ObjectMeta) -> Option<Owner> {
    let references = metadata.owner_references.iter().flatten();
    let controller = references.into_iter().find(|reference| reference.controller == Some(true))?;
    Some(Owner {
        kind: controller.kind.clone(),
        namespace: metadata.namespace.clone()?,
        name: controller.name.clone(),
        uid: controller.uid.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_read_whatever_else_it_holds() {
        let raw = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "a", "namespace": "shop", "uid": "u1", "labels": { "app": "a" },
                "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 3,
                "ownerReferences": [
                    { "apiVersion": "x/v1", "kind": "Other", "name": "o", "uid": "u9" },
                    { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "u2", "controller": true }] },
            "spec": { "nodeName": "n1", "hostNetwork": true, "volumes": 7,
                "containers": [{ "name": "app", "env": "not even a list" }, { "name": "side" }] },
            "status": { "phase": "Running", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "no" }, { "ip": "fd00::1" }] },
        });
        let (uid, seen) = pod(serde_json::from_value(raw).unwrap()).unwrap();
        assert_eq!(uid, "u1");
        assert_eq!((seen.owner.kind.as_str(), seen.owner.uid.as_str()), ("ReplicaSet", "u2"));
        assert_eq!(seen.containers, ["app", "side"]);
        assert_eq!(seen.ips, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert!(seen.running && seen.terminating && seen.host_network);
    }

    #[test]
    fn a_bare_pod_owns_itself() {
        let raw = json!({ "metadata": { "name": "a", "namespace": "shop", "uid": "u1" } });
        let (_, seen) = pod(serde_json::from_value(raw).unwrap()).unwrap();
        assert_eq!((seen.owner.kind.as_str(), seen.owner.uid.as_str()), ("Pod", "u1"));
        assert!(seen.node.is_empty() && !seen.running && !seen.terminating);
    }

    #[test]
    fn a_node_is_ready_only_when_it_says_true() {
        for (status, ready) in [("True", true), ("False", false), ("Unknown", false)] {
            let raw = json!({ "metadata": { "name": "n" },
                "status": { "conditions": [{ "type": "Ready", "status": status }, { "type": "Other", "status": "True" }] } });
            assert_eq!(
                node(serde_json::from_value(raw).unwrap()),
                Some(("n".to_owned(), NodeSeen { ready }))
            );
        }
    }
}
