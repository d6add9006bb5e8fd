//! The Jobs around an uninstall, with the rights that the chart's hooks give them: the halt is set, waited for, not
//! waited for for ever, and lifted.

use std::time::Duration;

use cluster_agent::cluster::Error;
use cluster_agent::cluster::kube::{Drained, latch, lift};
use kube::api::PostParams;
use proto::halt::HaltLevel;
use serde_json::json;
use tokio::task::JoinSet;

use super::apiserver::Apiserver;
use super::member::{Member, may, object, shown};

const HALT: &str = "faultline-uninstall";

#[tokio::test]
async fn an_uninstall_waits_for_clean_and_no_longer_than_it_may() {
    // Halts are the cluster's: not on the apiserver that others share.
    let Some(server) = Apiserver::start().await else {
        return;
    };
    let member = Member::on(&server).await;
    let job = member.client_of(&server, "faultline-uninstall").await;
    let to = |verb, name| (None, "faultline.dev", "halts", name, verb);
    may(&job, &[to("create", ""), to("get", HALT), to("delete", HALT)]).await;
    let agent = member.run("agent-0");
    let mut halts = agent.doors.sight.local_halts();

    // Nobody acknowledges: the uninstall goes on all the same, and the halt stays.
    let drained = latch(job.clone(), HALT, Duration::from_secs(1)).await;
    assert_eq!(drained, Ok(Drained::NotInTime { level: None }));
    shown(&mut halts, "the halt", |halts| halts.iter().any(|h| h.name == HALT && h.namespace.is_none()))
        .await;

    // The next try finds it there, and waits for Clean: Latched is not enough.
    let mut waiting = JoinSet::new();
    let halting = job.clone();
    waiting.spawn(async move { latch(halting, HALT, Duration::from_mins(1)).await });
    agent.doors.acts.set_halt_status(HALT, HaltLevel::Latched).await.unwrap();
    let early = tokio::time::timeout(Duration::from_secs(2), waiting.join_next()).await;
    assert!(early.is_err(), "{early:?}");
    agent.doors.acts.set_halt_status(HALT, HaltLevel::Clean).await.unwrap();
    assert_eq!(waiting.join_next().await.unwrap().unwrap(), Ok(Drained::Clean));

    for _ in 0..2 {
        lift(job.clone(), HALT).await.unwrap();
    }
    shown(&mut halts, "no halt", std::vec::Vec::is_empty).await;

    // Its rights are good for this halt only: it lifts nobody else's.
    member.write("Halt", None, "fire", &json!({})).await;
    let refused = lift(job.clone(), "fire").await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    let runs = Member::ours_as(job, "Run", Some(&member.shop));
    let run = object("Run", "r1", &json!({ "experimentRef": { "name": "e" } }));
    let refused = runs.create(&PostParams::default(), &run).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 403));
    agent.stop().await;
}
