//! The contract of every cluster door, on a real apiserver. It wants a cluster to itself, so it has an apiserver
//! of its own, swept clean between the promises.

use std::sync::Arc;

use async_trait::async_trait;
use cluster_agent::cluster::Doors;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use super::apiserver::Apiserver;
use super::contract::{Stage, all};
use super::member::{Member, Running, shown};

struct OnKube {
    member: Member,
    agent: Running,
}

impl OnKube {
    async fn open(member: Member) -> Self {
        let agent = member.run("agent-0");
        agent.active().await;
        shown(&mut agent.doors.sight.authored(), "a first list", |_| true).await;
        Self { member, agent }
    }

    async fn fresh(server: &Apiserver) -> Self {
        let member = Member::aiming_at(server, "shop").await;
        for (kind, namespace) in [("Halt", None), ("Run", Some("shop"))] {
            let api = member.ours(kind, namespace);
            for object in api.list(&ListParams::default()).await.unwrap() {
                api.delete(&object.name_any(), &DeleteParams::default()).await.unwrap();
            }
        }
        Self::open(member).await
    }
}

#[async_trait]
impl Stage for OnKube {
    fn doors(&self) -> Doors {
        self.agent.doors.clone()
    }
    async fn reopen(self) -> Self {
        drop(self.agent);
        Self::open(self.member).await
    }
    async fn halt(&self, name: &str, namespace: Option<&str>) {
        self.member.write("Halt", None, name, &json!({ "reason": "test", "namespace": namespace })).await;
    }
    async fn lift(&self, name: &str) {
        self.member.ours("Halt", None).delete(name, &DeleteParams::default()).await.unwrap();
    }
    async fn author(&self, name: &str) {
        self.member.write("Run", Some("shop"), name, &json!({ "experimentRef": { "name": "e" } })).await;
    }
    async fn unauthor(&self, name: &str) {
        self.member.ours("Run", Some("shop")).delete(name, &DeleteParams::default()).await.unwrap();
    }
    async fn status(&self, name: &str) -> Option<Value> {
        self.member.ours("Run", Some("shop")).get(name).await.unwrap().data.get("status").cloned()
    }
}

#[tokio::test]
async fn kubernetes_keeps_the_contract() {
    let Some(server) = Apiserver::start().await else {
        return;
    };
    let server = Arc::new(server);
    all(async || OnKube::fresh(&server).await).await;
}
