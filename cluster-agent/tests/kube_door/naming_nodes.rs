//! A node daemon's token names its node, and nothing else does. The tokens are real ones.

use cluster_agent::cluster::{Error, NodeAuth};
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::json;

use super::member::{Member, token};

const AUDIENCE: Option<&str> = Some("faultline-agent");

async fn daemon(member: &Member, namespace: &str, name: &str, node: &str, account: &str) -> Pod {
    member.pod(namespace, name, node, json!({ "spec": { "serviceAccountName": account } })).await
}

#[tokio::test]
async fn a_daemons_token_names_its_node_until_its_pod_is_gone() {
    let Some(member) = Member::start().await else {
        return;
    };
    let door = member.door("agent-0");
    let own = member.own.as_str();
    let pod = daemon(&member, own, "daemon", "node-7", "faultline-node").await;
    let good = token(&member.admin, own, "faultline-node", AUDIENCE, Some(&pod)).await;
    assert_eq!(door.node_of(&good).await, Ok("node-7".to_owned()));

    // Another pod of the same name, even on the same node, is not the one it was given to.
    let pods = member.api::<Pod>(own);
    pods.delete("daemon", &DeleteParams::default().grace_period(0)).await.unwrap();
    refused(&door.node_of(&good).await);
    daemon(&member, own, "daemon", "node-7", "faultline-node").await;
    refused(&door.node_of(&good).await);
}

fn refused(answer: &Result<String, Error>) {
    assert!(matches!(answer, Err(Error::Refused { .. })), "{answer:?}");
}

#[tokio::test]
async fn any_other_token_is_refused() {
    let Some(member) = Member::start().await else {
        return;
    };
    let door = member.door("agent-0");
    let (own, shop) = (member.own.as_str(), member.shop.as_str());
    let pod = daemon(&member, own, "daemon", "node-7", "faultline-node").await;
    let unscheduled = daemon(&member, own, "waiting", "", "faultline-node").await;
    let other = daemon(&member, own, "other", "node-7", "other").await;
    let accounts: kube::Api<k8s_openapi::api::core::v1::ServiceAccount> = member.api(shop);
    let account = super::member::named(json!({ "metadata": { "name": "faultline-node" } }));
    accounts.create(&kube::api::PostParams::default(), &account).await.unwrap();
    let abroad = daemon(&member, shop, "daemon", "node-7", "faultline-node").await;

    let admin = &member.admin;
    let tokens = [
        ("for the apiserver", token(admin, own, "faultline-node", None, Some(&pod)).await),
        ("for somebody else", token(admin, own, "faultline-node", Some("vault"), Some(&pod)).await),
        ("of no pod", token(admin, own, "faultline-node", AUDIENCE, None).await),
        ("of a pod on no node", token(admin, own, "faultline-node", AUDIENCE, Some(&unscheduled)).await),
        ("of another account", token(admin, own, "other", AUDIENCE, Some(&other)).await),
        ("of another namespace", token(admin, shop, "faultline-node", AUDIENCE, Some(&abroad)).await),
        ("no token", String::new()),
        ("junk", "e30.e30.e30".to_owned()),
        ("endless junk", "x".repeat(1 << 20)),
    ];
    for (what, token) in tokens {
        let answer = door.node_of(&token).await;
        assert!(matches!(answer, Err(Error::Refused { .. })), "{what}: {answer:?}");
    }
}
