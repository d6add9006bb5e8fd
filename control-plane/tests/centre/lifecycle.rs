//! From a run to its end: plan, dispatch, observe, finish, forget.

use std::collections::BTreeMap;

use control_plane::centre::Expected;
use control_plane::driver::codec;
use control_plane::engine::object::{Object, ObservedRecord};
use control_plane::store::Txn;
use proto::assignment::{ClusterPhase, Desired, Intent, Observed, Outcome, Verdict};
use proto::ids::ClusterId;
use proto::run::RunRecord;
use proto::status::RunPhase;
use proto::wire::{Down, Up};

use super::agent::run_of;
use super::fixture::{Centre, admin, create};

#[tokio::test]
async fn a_run_is_planned_dispatched_and_finished() {
    let centre = Centre::start(1).await;
    let mut agent = centre.connected("west").await;
    centre.experiment("slow", &["west"]).await;
    centre.grant_all().await;
    let run = centre.run("slow-1", "slow").await;
    let id = run.record.id.to_string();

    let asked = agent.planned(2).await;
    assert_eq!((asked.generation, asked.run.as_str()), (1, id.as_str()));
    let (start, within_ms) = agent.desired(Intent::Start).await;
    assert_eq!((start.generation, start.spec_hash.clone()), (2, asked.spec_hash.clone()));
    assert!(within_ms > 50_000 && within_ms <= 60_000, "{within_ms}");
    assert_eq!(start.envelope.as_ref().unwrap().targets["web"].max_count, 2);

    agent.send(Up::SpecRequest { hash: start.spec_hash.clone() }).await;
    let spec = agent.until("Spec", |down| matches!(down, Down::Spec { .. })).await;
    let Down::Spec { body, .. } = spec else { unreachable!() };
    assert_eq!(proto::hash::sha256_hex(&body), start.spec_hash);
    agent.send(Up::ClockProbe { id: 7 }).await;
    agent.until("ClockReply", |down| matches!(down, Down::ClockReply { id: 7, .. })).await;

    agent.phase(&start, ClusterPhase::Running).await;
    agent
        .until("ObservedAck", |down| {
            matches!(down, Down::ObservedAck { .. }) && run_of(down) == Some(&start.run)
        })
        .await;
    let view = centre.until(&id, "running", |view| view.summary.phase == RunPhase::Running).await;
    assert_eq!((view.summary.clusters.total, view.summary.clusters.running), (1, 1));
    assert_eq!(view.summary.plan_hash, start.plan_hash);
    assert!(view.summary.injected_at.is_some());

    agent.finish(&start, Outcome::Completed).await;
    let view = centre.finished(&id).await;
    assert_eq!((view.summary.outcome, view.summary.verdict), (Some(Outcome::Completed), Verdict::Held));
    assert_eq!(view.summary.clusters.completed, 1);
    assert!(view.clusters[0].plan.is_some() && view.clusters[0].observed.as_ref().unwrap().plan.is_none());
    let (forget, _) = agent.desired(Intent::Forget).await;
    assert_eq!(forget.generation, 3);
    centre.stop().await;
}

#[tokio::test]
async fn without_a_grant_it_is_denied_with_the_command_that_cures_it() {
    let centre = Centre::start(1).await;
    let mut agent = centre.connected("west").await;
    centre.experiment("slow", &["west"]).await;
    let id = centre.run("slow-1", "slow").await.record.id.to_string();
    agent.planned(1).await;
    let view = centre.finished(&id).await;
    assert_eq!(view.summary.outcome, Some(Outcome::Denied));
    assert_eq!(view.summary.reason, "NoGrant");
    let cure = &view.summary.refusals[0].cure;
    assert!(cure.starts_with("faultline grant ") && cure.contains("--to-cluster west"), "{cure}");
    agent.desired(Intent::Forget).await;
    centre.stop().await;
}

#[tokio::test]
async fn a_plan_only_ends_with_the_plan_and_uses_no_name_up() {
    let centre = Centre::start(1).await;
    let mut agent = centre.connected("west").await;
    centre.experiment("slow", &["west"]).await;
    centre.grant_all().await;
    let view = centre.api().create_run(&admin(), create("slow-1", "slow", true), None).await.unwrap();
    agent.planned(3).await;
    let view = centre.finished(view.record.id.as_str()).await;
    assert_eq!((view.summary.outcome, view.summary.reason.as_str()), (Some(Outcome::Completed), "PlanOnly"));
    assert!(view.summary.plan_hash.is_some() && view.summary.dispatched_at.is_none());
    assert_eq!(view.clusters[0].plan.as_ref().unwrap().envelope.targets["web"].max_count, 3);
    // The name is free for the run itself, once.
    centre.run("slow-1", "slow").await;
    let again = centre.api().create_run(&admin(), create("slow-1", "slow", false), None).await;
    assert!(again.unwrap_err().to_string().contains("was used"));
    centre.stop().await;
}

/// One transaction takes so many clusters; what is left over must not be forgotten.
#[tokio::test]
async fn one_delete_removes_a_finished_run_of_many_clusters() {
    let centre = Centre::start(1).await;
    centre.experiment("slow", &["nowhere"]).await;
    let run = centre.run("slow-1", "slow").await.record;
    centre.finished(run.id.as_str()).await;
    for at in 0..60 {
        let cluster: ClusterId = format!("c-{at:02}").parse().unwrap();
        let mut observed = Observed::new(run.id.clone(), 1, ClusterPhase::Finished);
        observed.outcome = Some(Outcome::Denied);
        let record = ObservedRecord { agent_epoch: 1, seq: 1, observed };
        let objects = [
            Object::Desired(cluster.clone(), Box::new(question(&run))),
            Object::Observed(cluster, Box::new(record)),
        ];
        for object in objects {
            let (path, value) = (codec::path(&object.key()).unwrap(), codec::encode(&object).unwrap());
            centre.store.txn(Txn::new().put(path, value)).await.unwrap().committed().unwrap();
        }
    }
    centre.until(run.id.as_str(), "60 clusters", |view| view.clusters.len() == 60).await;
    let left = centre.api().delete_run(&admin(), run.id.as_str(), &Expected::Anything).await.unwrap();
    assert!(left.is_none());
    for prefix in ["runs/", "desired/", "observed/"] {
        assert_eq!(centre.keys(prefix).await, Vec::<String>::new());
    }
    centre.stop().await;
}

fn question(run: &RunRecord) -> Desired {
    Desired {
        run: run.id.clone(),
        generation: 1,
        intent: Intent::Plan,
        spec_hash: run.spec_hash.clone(),
        principal: run.principal.clone(),
        origin: run.origin.clone(),
        plan_hash: None,
        plan_expires: None,
        envelope: None,
        peers: BTreeMap::new(),
        start_before: None,
        run_deadline: None,
        stop_reason: None,
        trace: run.trace.clone(),
    }
}
