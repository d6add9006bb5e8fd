//! What an agent sees: inventory with owner chains, Ceiling, Halt objects, authored objects as they are.

use cluster_agent::cluster::{CeilingSeen, PodSeen, Sight};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
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

#[tokio::test]
async fn the_inventory_follows_pods_to_the_top_of_their_owners() {
    let Some(member) = Member::start().await else { return };
    let nodes: Api<Node> = Api::all(member.admin.clone());
    let node = format!("node-of-{}", member.own);
    nodes.create(&PostParams::default(), &named(json!({ "metadata": { "name": node } }))).await.unwrap();
    let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
    nodes.patch_status(&node, &PatchParams::default(), &Patch::Merge(&ready)).await.unwrap();

    let sets: Api<ReplicaSet> = member.api(&member.shop);
    let template = json!({ "metadata": { "labels": { "app": "a" } },
        "spec": { "containers": [{ "name": "app", "image": "none" }] } });
    let set = sets.create(&PostParams::default(), &named(json!({
        "metadata": { "name": "web-1", "ownerReferences": [
            { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d-1", "controller": true }] },
        "spec": { "selector": { "matchLabels": { "app": "a" } }, "template": template } }))).await.unwrap();
    let jobs: Api<Job> = member.api(&member.shop);
    let mut job_template = template.clone();
    job_template["spec"]["restartPolicy"] = json!("Never");
    let job = jobs.create(&PostParams::default(), &named(json!({
        "metadata": { "name": "nightly-1", "ownerReferences": [
            { "apiVersion": "batch/v1", "kind": "CronJob", "name": "nightly", "uid": "c-1", "controller": true }] },
        "spec": { "template": job_template } }))).await.unwrap();

    let agent = member.run("agent-0");
    let mut seen = agent.doors.sight.inventory();
    let mut owned = controlled("ReplicaSet", "web-1", set.metadata.uid.as_deref().unwrap());
    owned["metadata"]["labels"] = json!({ "app": "a" });
    let web = member.pod(&member.shop, "web-1-x", &node, owned).await.metadata.uid.unwrap();
    let owned = controlled("Job", "nightly-1", job.metadata.uid.as_deref().unwrap());
    let nightly = member.pod(&member.shop, "nightly-1-x", "", owned).await.metadata.uid.unwrap();
    let bare = member.pod(&member.shop, "bare", &node, json!({})).await.metadata.uid.unwrap();
    let all = [&web, &nightly, &bare];
    let inventory = shown(&mut seen, "three pods", |now| all.iter().all(|uid| now.pods.contains_key(*uid))).await;

    let owner = |uid: &str| -> (String, String) {
        let owner = &inventory.pods[uid].owner;
        (owner.kind.clone(), owner.uid.clone())
    };
    assert_eq!(owner(&web), ("Deployment".into(), "d-1".into()));
    assert_eq!(owner(&nightly), ("CronJob".into(), "c-1".into()));
    assert_eq!(owner(&bare), ("Pod".into(), bare.clone()));
    assert_eq!((inventory.pods[&web].node.as_str(), inventory.pods[&nightly].node.as_str()), (node.as_str(), ""));
    assert_eq!(inventory.pods[&web].labels["app"], "a");
    assert_eq!(inventory.pods[&web].containers, ["app"]);
    assert!(inventory.nodes[&node].ready);
    assert_eq!(inventory.own_namespace, member.own);
    let system = Api::<Namespace>::all(member.admin.clone()).get("kube-system").await.unwrap();
    assert_eq!(Some(&inventory.cluster_uid), system.metadata.uid.as_ref());
    for address in ["127.0.0.1", "10.250.0.1", ADVERTISED] {
        assert!(inventory.api_addresses.contains(&address.parse().unwrap()), "{:?}", inventory.api_addresses);
    }

    // The deployment goes, its ReplicaSet first: the pod that is still there is still the deployment's.
    sets.delete("web-1", &DeleteParams::default()).await.unwrap();
    let pods: Api<Pod> = member.api(&member.shop);
    let running = json!({ "status": { "phase": "Running", "podIP": "10.1.2.3", "podIPs": [{ "ip": "10.1.2.3" }] } });
    pods.patch_status("web-1-x", &PatchParams::default(), &Patch::Merge(&running)).await.unwrap();
    let inventory = shown(&mut seen, "a running pod", |now| now.pods[&web].running).await;
    assert_eq!(inventory.pods[&web].owner.kind, "Deployment");
    assert_eq!(inventory.pods[&web].ips, ["10.1.2.3".parse::<std::net::IpAddr>().unwrap()]);

    // On a node nobody removes a pod but the kubelet, and there is none.
    pods.delete("web-1-x", &DeleteParams::default().grace_period(30)).await.unwrap();
    let ends = |pod: &PodSeen| pod.terminating;
    shown(&mut seen, "a terminating pod", |now| now.pods.get(&web).is_some_and(ends)).await;
    pods.delete("web-1-x", &DeleteParams::default().grace_period(0)).await.unwrap();
    shown(&mut seen, "no such pod", |now| !now.pods.contains_key(&web)).await;
    nodes.delete(&node, &DeleteParams::default()).await.unwrap();
    shown(&mut seen, "no such node", |now| !now.nodes.contains_key(&node)).await;
    agent.stop().await;
}

#[tokio::test]
async fn the_ceiling_is_there_or_absent_or_not_understood() {
    let Some(member) = Member::start().await else { return };
    let agent = member.run("agent-0");
    let mut seen = agent.doors.sight.ceiling();
    eventually(&mut seen, "no ceiling", |seen| *seen == CeilingSeen::Absent).await;
    member.write("Ceiling", None, "default", &json!({ "namespaces": ["shop"], "maxTargets": 3 })).await;
    eventually(&mut seen, "a ceiling", |seen| matches!(seen, CeilingSeen::Present(spec) if spec.max_targets() == 3)).await;
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
    let Some(member) = Member::start().await else { return };
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

#[tokio::test]
async fn authored_objects_arrive_as_they_are_right_or_wrong() {
    let Some(member) = Member::start().await else { return };
    let shop = Some(member.shop.as_str());
    // Before the agent is there: part of the first list.
    let run = json!({ "experimentRef": { "name": "slow" }, "set": [{ "path": "x", "value": 7 }] });
    member.write("Run", shop, "r1", &run).await;
    let agent = member.run("agent-0");
    let mut seen = agent.doors.sight.authored();
    let of = |set: &cluster_agent::cluster::AuthoredSet, kind, name: &str| -> Option<Authored> {
        let mut all = set.values().filter(|a| a.object.namespace.as_str() == member.shop);
        all.find(|a| a.object.kind == kind && a.object.name.as_str() == name).cloned()
    };
    let set = shown(&mut seen, "the run", |set| of(set, AuthoredKind::Run, "r1").is_some()).await;
    let r1 = of(&set, AuthoredKind::Run, "r1").unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&r1.body).unwrap(), run);

    // Nothing that validation would say yes to, yet nothing of it may get lost.
    let wrong = json!({ "targets": [{ "name": "a", "podz": { "namespaces": [] }, "atMost": { "perCluster": 1 } }],
        "faults": [{ "name": "f", "target": "b", "for": "1m", "network": { "delai": { "latency": "1s" } } }],
        "later": { "version": { "of": ["this"] } } });
    assert!(proto::validate::experiment(&wrong).is_err());
    let experiments = member.ours("Experiment", shop);
    let mut object = super::member::object("Experiment", "slow", &wrong);
    object.metadata.annotations = Some([("faultline.dev/author".to_owned(), "ada".to_owned())].into());
    let stored = experiments.create(&PostParams::default(), &object).await.unwrap();
    let set = shown(&mut seen, "the experiment", |set| of(set, AuthoredKind::Experiment, "slow").is_some()).await;
    let first = of(&set, AuthoredKind::Experiment, "slow").unwrap();
    let body: Value = serde_json::from_slice(&first.body).unwrap();
    assert_eq!(body, stored.data["spec"], "as the apiserver holds it");
    for path in ["/targets/0/podz/namespaces", "/faults/0/network/delai/latency", "/later/version/of/0"] {
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
    let Some(member) = Member::start().await else { return };
    let door = member.door("agent-0");
    assert!(door.inventory().borrow().is_none() && door.authored().borrow().is_none());
    assert!(door.local_halts().borrow().is_none());
    assert_eq!(*door.ceiling().borrow(), CeilingSeen::Unknown);
}
