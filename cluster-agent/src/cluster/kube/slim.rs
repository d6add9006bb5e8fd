//! Pods, nodes and owners, read no further than is needed: no environment, no volumes, no annotations are ever
//! kept, and nothing that a pod may hold can fail to be read. Called by `inventory`.

use std::net::IpAddr;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
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
    runtime_class_name: String,
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
    spec: SlimNodeSpec,
    #[serde(default)]
    status: SlimNodeStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct SlimNodeSpec {
    taints: Vec<Taint>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Taint {
    key: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimNodeStatus {
    conditions: Vec<NodeCondition>,
    node_info: NodeInfo,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeInfo {
    operating_system: String,
}

/// What is read of a RuntimeClass.
#[derive(Debug, Clone, Deserialize, Resource)]
#[resource(inherit = RuntimeClass)]
pub(super) struct SlimRuntimeClass {
    metadata: ObjectMeta,
    #[serde(default)]
    handler: String,
}

/// A pod, and the runtime class that it asks for (empty: the node's own).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodOfClass {
    pub(super) pod: PodSeen,
    pub(super) class: String,
}

/// A node, and why no daemon can work on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeOrNot {
    pub(super) node: NodeSeen,
    pub(super) skipped: Option<&'static str>,
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
pub(super) fn pod(pod: SlimPod) -> Option<(String, PodOfClass)> {
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
    Some((uid, PodOfClass { pod: seen, class: spec.runtime_class_name }))
}

/// A node by its name.
pub(super) fn node(node: SlimNode) -> Option<(String, NodeOrNot)> {
    let ready = node.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True");
    let labels = node.metadata.labels.unwrap_or_default();
    let label = |name: &str, value: &str| labels.get(name).is_some_and(|held| held == value);
    let windows = node.status.node_info.operating_system.eq_ignore_ascii_case("windows")
        || label("kubernetes.io/os", "windows");
    let tainted = node.spec.taints.iter().any(|taint| taint.key == "virtual-kubelet.io/provider");
    let is_virtual =
        tainted || label("type", "virtual-kubelet") || label("eks.amazonaws.com/compute-type", "fargate");
    let skipped = match (windows, is_virtual) {
        (_, true) => Some("is virtual: it has no kernel that a daemon could reach"),
        (true, _) => Some("runs Windows"),
        _ => None,
    };
    Some((node.metadata.name?, NodeOrNot { node: NodeSeen { ready }, skipped }))
}

/// A runtime class by its name: its handler.
pub(super) fn runtime_class(class: SlimRuntimeClass) -> Option<(String, String)> {
    Some((class.metadata.name?, class.handler))
}

/// Why a pod under this handler cannot be reached into from the node.
pub(super) fn sandbox(handler: &str) -> Option<&'static str> {
    let handler = handler.to_ascii_lowercase();
    if handler.contains("runsc") || handler.contains("gvisor") {
        return Some("is in a gVisor sandbox, with a kernel of its own");
    }
    handler.contains("kata").then_some("is in a Kata virtual machine, with a kernel of its own")
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
            "spec": { "nodeName": "n1", "hostNetwork": true, "volumes": 7, "runtimeClassName": "sandboxed",
                "containers": [{ "name": "app", "env": "not even a list" }, { "name": "side" }] },
            "status": { "phase": "Running", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "no" }, { "ip": "fd00::1" }] },
        });
        let (uid, seen) = pod(serde_json::from_value(raw).unwrap()).unwrap();
        assert_eq!((uid.as_str(), seen.class.as_str()), ("u1", "sandboxed"));
        let seen = seen.pod;
        assert_eq!((seen.owner.kind.as_str(), seen.owner.uid.as_str()), ("ReplicaSet", "u2"));
        assert_eq!(seen.containers, ["app", "side"]);
        assert_eq!(seen.ips, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert!(seen.running && seen.terminating && seen.host_network);
    }

    #[test]
    fn a_bare_pod_owns_itself() {
        let raw = json!({ "metadata": { "name": "a", "namespace": "shop", "uid": "u1" } });
        let (_, PodOfClass { pod: seen, .. }) = pod(serde_json::from_value(raw).unwrap()).unwrap();
        assert_eq!((seen.owner.kind.as_str(), seen.owner.uid.as_str()), ("Pod", "u1"));
        assert!(seen.node.is_empty() && !seen.running && !seen.terminating);
    }

    #[test]
    fn a_node_is_ready_only_when_it_says_true() {
        for (status, ready) in [("True", true), ("False", false), ("Unknown", false)] {
            let raw = json!({ "metadata": { "name": "n" },
                "status": { "conditions": [{ "type": "Ready", "status": status }, { "type": "Other", "status": "True" }] } });
            let seen = NodeOrNot { node: NodeSeen { ready }, skipped: None };
            assert_eq!(node(serde_json::from_value(raw).unwrap()), Some(("n".to_owned(), seen)));
        }
    }

    #[test]
    fn nodes_without_a_linux_kernel_are_told_apart() {
        for (raw, word) in [
            (
                json!({ "metadata": { "name": "n" }, "status": { "nodeInfo": { "operatingSystem": "windows" } } }),
                "Windows",
            ),
            (json!({ "metadata": { "name": "n", "labels": { "kubernetes.io/os": "windows" } } }), "Windows"),
            (json!({ "metadata": { "name": "n", "labels": { "type": "virtual-kubelet" } } }), "virtual"),
            (
                json!({ "metadata": { "name": "n", "labels": { "eks.amazonaws.com/compute-type": "fargate" } } }),
                "virtual",
            ),
            (
                json!({ "metadata": { "name": "n" }, "spec": { "taints": [{ "key": "virtual-kubelet.io/provider" }] } }),
                "virtual",
            ),
        ] {
            let (_, seen) = node(serde_json::from_value(raw.clone()).unwrap()).unwrap();
            assert!(seen.skipped.is_some_and(|why| why.contains(word)), "{raw}: {seen:?}");
        }
        let linux = json!({ "metadata": { "name": "n", "labels": { "type": "big" } }, "spec": { "taints": [{ "key": "dedicated" }] },
            "status": { "nodeInfo": { "operatingSystem": "linux" } } });
        assert_eq!(node(serde_json::from_value(linux).unwrap()).unwrap().1.skipped, None);
    }

    #[test]
    fn sandboxes_are_known_by_their_handler() {
        for (handler, word) in
            [("runsc", "gVisor"), ("gvisor", "gVisor"), ("kata", "Kata"), ("kata-qemu", "Kata")]
        {
            assert!(sandbox(handler).is_some_and(|why| why.contains(word)), "{handler}");
        }
        for plain in ["", "runc", "crun", "nvidia"] {
            assert_eq!(sandbox(plain), None, "{plain}");
        }
    }
}
