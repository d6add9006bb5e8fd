//! Deleting pods: that very pod, where the owner's Roles allow it.

use cluster_agent::cluster::{Acts, Error, PodDeletion};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Api;
use kube::api::PostParams;
use proto::injection::TargetRef;
use serde_json::json;

use super::member::{Member, named, shown};

fn target(pod: &Pod) -> TargetRef {
    TargetRef {
        namespace: pod.metadata.namespace.clone().unwrap(),
        pod: pod.metadata.name.clone().unwrap(),
        uid: pod.metadata.uid.clone().unwrap(),
        node: String::new(),
        ips: Vec::new(),
    }
}

#[tokio::test]
async fn only_the_pod_of_that_uid_is_deleted() {
    let Some(member) = Member::start().await else {
        return;
    };
    let agent = member.run("agent-0");
    let acts = agent.doors.acts.clone();
    let first = target(&member.pod(&member.shop, "web", "", json!({})).await);
    assert_eq!(acts.delete_pod(&first, None).await, Ok(PodDeletion::Accepted));
    assert_eq!(acts.delete_pod(&first, None).await, Ok(PodDeletion::Gone));

    // A successor under the same name is none of ours.
    let second = target(&member.pod(&member.shop, "web", "nowhere", json!({})).await);
    assert_eq!(acts.delete_pod(&first, Some(0)).await, Ok(PodDeletion::Gone));
    let mut seen = agent.doors.sight.inventory();
    shown(&mut seen, "the successor", |now| now.pods.get(&second.uid).is_some_and(|pod| !pod.terminating))
        .await;

    // With a grace and a node, it is the kubelet's to end; asking again is fine.
    for _ in 0..2 {
        assert_eq!(acts.delete_pod(&second, Some(20)).await, Ok(PodDeletion::Accepted));
    }
    shown(&mut seen, "its end", |now| now.pods.get(&second.uid).is_some_and(|pod| pod.terminating)).await;
    assert_eq!(acts.delete_pod(&second, Some(0)).await, Ok(PodDeletion::Accepted));
    shown(&mut seen, "no pod", |now| !now.pods.contains_key(&second.uid)).await;
    agent.stop().await;
}

#[tokio::test]
async fn the_apiserver_refuses_what_the_ceiling_does_not_cover() {
    let Some(member) = Member::start().await else {
        return;
    };
    let elsewhere = format!("{}-elsewhere", member.own);
    let namespaces: Api<Namespace> = Api::all(member.admin.clone());
    let namespace = named(json!({ "metadata": { "name": elsewhere } }));
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    for namespace in [&elsewhere, &member.own] {
        let pod = target(&member.pod(namespace, "web", "", json!({})).await);
        let answer = member.door("agent-0").delete_pod(&pod, None).await;
        assert!(matches!(answer, Err(Error::Refused { .. })), "{namespace}: {answer:?}");
    }
}
