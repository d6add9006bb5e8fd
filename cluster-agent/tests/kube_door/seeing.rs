//! What an agent sees: inventory with owner chains, Ceiling, Halt objects, authored objects as they are.

use cluster_agent::cluster::{AuthoredSet, CeilingSeen, Inventory, Sight};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use proto::wire::{Authored, AuthoredKind};
use serde_json::{Value, json};

use super::apiserver::ADVERTISED;
use super::member::{Member, eventually, named, shown};

fn controlled(kind: &str, name: &str, uid: &str) -> Value {
    json!({ "metadata": { "ownerReferences": [
        { "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true }] } })
}

/// Makes a ready node, and gives back its name.
async fn node(member: &Member) -> String {
    let nodes: Api<Node> = Api::all(member.admin.clone());
    let name = format!("node-of-{}", member.own);
    let node = named(json!({ "metadata": { "name": name } }));
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
    nodes.patch_status(&name, &PatchParams::default(), &Patch::Merge(&ready)).await.unwrap();
    name
}

/// Makes the ReplicaSet `web-1` of the Deployment `web`, and a pod of it.
async fn web(member: &Member, node: &str) -> String {
    let mut set = controlled("Deployment", "web", "d-1");
    set["metadata"]["name"] = json!("web-1");
    set["spec"] = json!({ "selector": { "matchLabels": { "app": "a" } }, "template": {
        "metadata": { "labels": { "app": "a" } }, "spec": { "containers": [{ "name": "app", "image": "none" }] } } });
    let set =
        member.api::<ReplicaSet>(&member.shop).create(&PostParams::default(), &named(set)).await.unwrap();
    let mut owned = controlled("ReplicaSet", "web-1", set.metadata.uid.as_deref().unwrap());
    owned["metadata"]["labels"] = json!({ "app": "a" });
    member.pod(&member.shop, "web-1-x", node, owned).await.metadata.uid.unwrap()
}

/// Makes the Job `nightly-1` of the CronJob `nightly`, and a pod of it that is on no node.
async fn nightly(member: &Member) -> String {
    let mut job = controlled("CronJob", "nightly", "c-1");
    job["metadata"]["name"] = json!("nightly-1");
    job["spec"] = json!({ "template": { "spec": { "restartPolicy": "Never",
        "containers": [{ "name": "app", "image": "none" }] } } });
    let job = member.api::<Job>(&member.shop).create(&PostParams::default(), &named(job)).await.unwrap();
    let owned = controlled("Job", "nightly-1", job.metadata.uid.as_deref().unwrap());
    member.pod(&member.shop, "nightly-1-x", "", owned).await.metadata.uid.unwrap()
}

#[tokio::test]
async fn the_inventory_follows_pods_to_the_top_of_their_owners() {
    let Some(member) = Member::start().await else {
        return;
    };
    let node = node(&member).await;
    let agent = member.run("agent-0");
    let (web, nightly) = (web(&member, &node).await, nightly(&member).await);
    let bare = member.pod(&member.shop, "bare", &node, json!({})).await.metadata.uid.unwrap();
    let owner = |now: &Inventory, uid: &str| -> Option<(String, String)> {
        now.pods.get(uid).map(|pod| (pod.owner.kind.clone(), pod.owner.uid.clone()))
    };
    // A pod may be seen a moment before what owns it.
    let inventory = shown(&mut agent.doors.sight.inventory(), "owners of three pods", |now| {
        owner(now, &web) == Some(("Deployment".into(), "d-1".into()))
            && owner(now, &nightly) == Some(("CronJob".into(), "c-1".into()))
            && owner(now, &bare) == Some(("Pod".into(), bare.clone()))
    })
    .await;

    assert_eq!(inventory.pods[&web].node, node);
    assert_eq!(inventory.pods[&nightly].node, "");
    assert_eq!(inventory.pods[&web].labels["app"], "a");
    assert_eq!(inventory.pods[&web].containers, ["app"]);
    assert!(inventory.nodes[&node].ready);
    assert_eq!(inventory.own_namespace, member.own);
    let system = Api::<Namespace>::all(member.admin.clone()).get("kube-system").await.unwrap();
    assert_eq!(Some(&inventory.cluster_uid), system.metadata.uid.as_ref());
    for address in ["127.0.0.1", "10.250.0.1", ADVERTISED] {
        let known = &inventory.api_addresses;
        assert!(known.contains(&address.parse().unwrap()), "{address} in {known:?}");
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_pod_is_seen_through_its_life() {
    let Some(member) = Member::start().await else {
        return;
    };
    let node = node(&member).await;
    let web = web(&member, &node).await;
    let agent = member.run("agent-0");
    let mut seen = agent.doors.sight.inventory();
    shown(&mut seen, "the pod", |now| now.pods.contains_key(&web)).await;

    // The deployment goes, its ReplicaSet first: the pod that is still there is still the deployment's.
    let sets: Api<ReplicaSet> = member.api(&member.shop);
    sets.delete("web-1", &DeleteParams::default()).await.unwrap();
    let pods: Api<Pod> = member.api(&member.shop);
    let addresses = json!([{ "ip": "10.1.2.3" }]);
    let running = json!({ "status": { "phase": "Running", "podIP": "10.1.2.3", "podIPs": addresses } });
    pods.patch_status("web-1-x", &PatchParams::default(), &Patch::Merge(&running)).await.unwrap();
    let inventory = shown(&mut seen, "a running pod", |now| now.pods[&web].running).await;
    assert_eq!(inventory.pods[&web].owner.kind, "Deployment");
    assert_eq!(inventory.pods[&web].ips, ["10.1.2.3".parse::<std::net::IpAddr>().unwrap()]);

    // On a node nobody removes a pod but the kubelet, and there is none.
    pods.delete("web-1-x", &DeleteParams::default().grace_period(30)).await.unwrap();
    let ends = |now: &Inventory| now.pods.get(&web).is_some_and(|pod| pod.terminating);
    shown(&mut seen, "a terminating pod", ends).await;
    pods.delete("web-1-x", &DeleteParams::default().grace_period(0)).await.unwrap();
    shown(&mut seen, "no such pod", |now| !now.pods.contains_key(&web)).await;
    Api::<Node>::all(member.admin.clone()).delete(&node, &DeleteParams::default()).await.unwrap();
    shown(&mut seen, "no such node", |now| !now.nodes.contains_key(&node)).await;
    agent.stop().await;
}

#[tokio::test]
async fn what_no_daemon_can_reach_is_seen_as_such() {
    let Some(member) = Member::start().await else {
        return;
    };
    let nodes: Api<Node> = Api::all(member.admin.clone());
    let (windows, cloud) = (format!("win-{}", member.own), format!("cloud-{}", member.own));
    for (name, label) in [(&windows, ("kubernetes.io/os", "windows")), (&cloud, ("type", "virtual-kubelet"))]
    {
        let node = named(json!({ "metadata": { "name": name, "labels": { label.0: label.1 } } }));
        nodes.create(&PostParams::default(), &node).await.unwrap();
    }
    let classes: Api<RuntimeClass> = Api::all(member.admin.clone());
    let class = format!("safe-{}", member.own);
    let runsc = named(json!({ "metadata": { "name": class }, "handler": "runsc" }));
    classes.create(&PostParams::default(), &runsc).await.unwrap();
    let uid = async |name: &str, node: &str, extra: Value| {
        member.pod(&member.shop, name, node, extra).await.metadata.uid.unwrap()
    };
    let on_windows = uid("a", &windows, json!({})).await;
    let sandboxed = uid("b", "", json!({ "spec": { "runtimeClassName": class } })).await;
    let plain = uid("c", "", json!({})).await;

    let agent = member.run("agent-0");
    let mut seen = agent.doors.sight.inventory();
    let now = shown(&mut seen, "the pods", |now| now.pods.contains_key(&plain)).await;
    assert_eq!(now.skipped_nodes[&windows], "runs Windows");
    assert!(now.skipped_nodes[&cloud].starts_with("is virtual"), "{}", now.skipped_nodes[&cloud]);
    assert_eq!(now.skipped_pods[&on_windows], format!("its node {windows} runs Windows"));
    assert!(now.skipped_pods[&sandboxed].contains("gVisor"), "{}", now.skipped_pods[&sandboxed]);
    assert!(!now.skipped_pods.contains_key(&plain) && !now.api_faults_only);
    // A class that becomes an ordinary one: its pods can be reached.
    classes.delete(&class, &DeleteParams::default()).await.unwrap();
    shown(&mut seen, "no such class", |now| !now.skipped_pods.contains_key(&sandboxed)).await;
    for name in [&windows, &cloud] {
        nodes.delete(name, &DeleteParams::default()).await.unwrap();
    }
    agent.stop().await;
}

#[tokio::test]
async fn the_ceiling_is_there_or_absent_or_not_understood() {
    let Some(member) = Member::start().await else {
        return;
    };
    let agent = member.run("agent-0");
    let mut seen = agent.doors.sight.ceiling();
    eventually(&mut seen, "no ceiling", |seen| *seen == CeilingSeen::Absent).await;
    member.write("Ceiling", None, "default", &json!({ "namespaces": ["shop"], "maxTargets": 3 })).await;
    eventually(
        &mut seen,
        "a ceiling",
        |seen| matches!(seen, CeilingSeen::Present(spec) if spec.max_targets() == 3),
    )
    .await;
    let ceilings = member.ours("Ceiling", None);
    let typo = json!({ "spec": { "maxTargetz": 1 } });
    ceilings.patch("default", &PatchParams::default(), &Patch::Merge(&typo)).await.unwrap();
    eventually(&mut seen, "a ceiling not understood", |seen| *seen == CeilingSeen::Unknown).await;
    ceilings.delete("default", &DeleteParams::default()).await.unwrap();
    eventually(&mut seen, "no ceiling", |seen| *seen == CeilingSeen::Absent).await;
    let other = super::member::object("Ceiling", "other", &json!({}));
    let refused = ceilings.create(&PostParams::default(), &other).await.unwrap_err().to_string();
    assert!(refused.contains("the Ceiling is named default"), "{refused}");
    agent.stop().await;
}

#[tokio::test]
async fn a_halt_object_is_seen_told_how_far_it_has_come_and_lifted_by_deleting_it() {
    use proto::halt::HaltLevel;
    let Some(member) = Member::start().await else {
        return;
    };
    let agent = member.run("agent-0");
    let mut seen = agent.doors.sight.local_halts();
    let name = format!("stop-{}", member.own);
    let ours = |halt: &cluster_agent::cluster::LocalHalt| halt.name == name;
    shown(&mut seen, "a first list", |halts| !halts.iter().any(ours)).await;
    member.write("Halt", None, &name, &json!({ "reason": "fire", "namespace": "shop" })).await;
    let halts = shown(&mut seen, "a halt", |halts| halts.iter().any(ours)).await;
    let halt = halts.iter().find(|halt| ours(halt)).unwrap();
    assert_eq!((halt.reason.as_str(), halt.namespace.as_deref()), ("fire", Some("shop")));
    assert!(halt.at.as_second() > 1_600_000_000);

    let api = member.ours("Halt", None);
    for level in [HaltLevel::Latched, HaltLevel::Clean] {
        agent.doors.acts.set_halt_status(&name, level).await.unwrap();
        assert_eq!(api.get(&name).await.unwrap().data["status"]["level"], json!(level));
    }
    api.delete(&name, &DeleteParams::default()).await.unwrap();
    shown(&mut seen, "no halt", |halts| !halts.iter().any(ours)).await;
    agent.doors.acts.set_halt_status(&name, HaltLevel::Clean).await.unwrap();
    agent.stop().await;
}

fn of(set: &AuthoredSet, namespace: &str, kind: AuthoredKind, name: &str) -> Option<Authored> {
    let mut all = set.values().filter(|a| a.object.namespace.as_str() == namespace);
    all.find(|a| a.object.kind == kind && a.object.name.as_str() == name).cloned()
}

#[tokio::test]
async fn authored_objects_arrive_as_they_are_right_or_wrong() {
    let Some(member) = Member::start().await else {
        return;
    };
    let shop = Some(member.shop.as_str());
    // Before the agent is there: part of the first list.
    let run = json!({ "experimentRef": { "name": "slow" }, "set": [{ "path": "x", "value": 7 }] });
    member.write("Run", shop, "r1", &run).await;
    let agent = member.run("agent-0");
    let mut seen = agent.doors.sight.authored();
    let of = |set: &AuthoredSet, kind, name: &str| of(set, &member.shop, kind, name);
    let set = shown(&mut seen, "the run", |set| of(set, AuthoredKind::Run, "r1").is_some()).await;
    let r1 = of(&set, AuthoredKind::Run, "r1").unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&r1.body).unwrap(), run);

    // Nothing that validation would say yes to, yet nothing of it may get lost.
    let wrong = json!({ "targets": [{ "name": "a", "podz": { "namespaces": [] }, "atMost": { "perCluster": 1 } }],
        "faults": [{ "name": "f", "target": "b", "for": "1m", "network": { "delay": { "latency": "1s", "latensy": "2s" } } }],
        "later": { "version": { "of": ["this"] } } });
    assert!(proto::validate::experiment(&wrong).is_err());
    let experiments = member.ours("Experiment", shop);
    let mut object = super::member::object("Experiment", "slow", &wrong);
    object.metadata.annotations = Some([("faultline.dev/author".to_owned(), "ada".to_owned())].into());
    // The least strict client there is.
    let params = PatchParams::apply("test").validation_ignore();
    let stored = experiments.patch("slow", &params, &Patch::Apply(&object)).await.unwrap();
    let set =
        shown(&mut seen, "the experiment", |set| of(set, AuthoredKind::Experiment, "slow").is_some()).await;
    let first = of(&set, AuthoredKind::Experiment, "slow").unwrap();
    let body: Value = serde_json::from_slice(&first.body).unwrap();
    assert_eq!(body, stored.data["spec"], "as the apiserver holds it");
    for path in ["/targets/0/podz/namespaces", "/faults/0/network/delay/latensy", "/later/version/of/0"] {
        assert_eq!(body.pointer(path), wrong.pointer(path), "{path}");
    }
    assert_eq!((first.author.as_str(), first.generation), ("ada", 1));

    // Edited: another generation. Deleted and made again: another object.
    let patch = json!({ "spec": { "later": null } });
    experiments.patch("slow", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let edited = |a: Authored| a.generation == 2 && !String::from_utf8_lossy(&a.body).contains("later");
    shown(&mut seen, "the edit", |set| of(set, AuthoredKind::Experiment, "slow").is_some_and(edited)).await;
    experiments.delete("slow", &DeleteParams::default()).await.unwrap();
    shown(&mut seen, "the deletion", |set| of(set, AuthoredKind::Experiment, "slow").is_none()).await;
    experiments.create(&PostParams::default(), &object).await.unwrap();
    let set = shown(&mut seen, "another", |set| of(set, AuthoredKind::Experiment, "slow").is_some()).await;
    assert_ne!(of(&set, AuthoredKind::Experiment, "slow").unwrap().object.uid, first.object.uid);
    assert!(of(&set, AuthoredKind::Run, "r1").is_some());
    agent.stop().await;
}

#[tokio::test]
async fn nothing_is_shown_before_a_watch_has_delivered() {
    let Some(member) = Member::start().await else {
        return;
    };
    let door = member.door("agent-0");
    assert!(door.inventory().borrow().is_none() && door.authored().borrow().is_none());
    assert!(door.local_halts().borrow().is_none());
    assert_eq!(*door.ceiling().borrow(), CeilingSeen::Unknown);
}
