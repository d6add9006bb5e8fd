//! What authors in a member cluster write.

use control_plane::authored::Quota;
use control_plane::centre::Expected;
use proto::assignment::{Intent, Outcome, StopReason};
use proto::status::{AuthoredStatus, RunPhase};
use proto::wire::{Authored, AuthoredKind, AuthoredRef, Down, Up};
use serde_json::json;

use super::agent::Agent;
use super::fixture::{Centre, admin, eventually, experiment_spec};

fn reference(kind: AuthoredKind, name: &str, uid: &str) -> AuthoredRef {
    AuthoredRef { kind, namespace: "shop".parse().unwrap(), name: name.parse().unwrap(), uid: uid.to_owned() }
}

fn experiment(spec: &serde_json::Value) -> Up {
    written("e-1", 1, spec.to_string().into_bytes())
}

/// An Experiment, whatever somebody wrote.
fn written(uid: &str, generation: i64, body: Vec<u8>) -> Up {
    let object = reference(AuthoredKind::Experiment, "slow", uid);
    let trace = proto::trace::TraceContext::NONE;
    Up::Authored(Authored { object, generation, author: String::new(), body, trace })
}

fn run(name: &str, uid: &str) -> Up {
    let body = json!({ "experimentRef": { "name": "slow" } }).to_string().into_bytes();
    let object = reference(AuthoredKind::Run, name, uid);
    Up::Authored(Authored {
        object,
        generation: 1,
        author: "ann".to_owned(),
        body,
        trace: proto::trace::TraceContext::NONE,
    })
}

/// The next status of an object that is as wanted.
async fn status(agent: &mut Agent, uid: &str, wanted: impl Fn(&AuthoredStatus) -> bool) -> AuthoredStatus {
    let read = |down: &Down| match down {
        Down::Mirror(mirror) if mirror.object.uid == uid => serde_json::from_slice(&mirror.status).ok(),
        _ => None,
    };
    let down = agent.until(uid, |down| read(down).is_some_and(|status| wanted(&status))).await;
    read(&down).unwrap()
}

fn condition(status: &AuthoredStatus, kind: &str) -> (String, String) {
    let found = status.conditions.iter().find(|condition| condition.kind == kind).unwrap();
    (found.status.clone(), found.reason.clone())
}

#[tokio::test]
async fn an_author_runs_in_its_own_namespace_and_sees_the_status() {
    let centre = Centre::start(1).await;
    let mut agent = centre.connected("west").await;
    // The Run comes first: it waits for its Experiment.
    agent.send(run("slow-1", "u-1")).await;
    status(&mut agent, "u-1", |status| status.phase.as_deref() == Some("Planning")).await;
    agent.send(experiment(&experiment_spec(&["west"]))).await;
    let accepted = status(&mut agent, "e-1", |_| true).await;
    assert_eq!(condition(&accepted, "Accepted"), ("True".to_owned(), "Stored".to_owned()));
    agent.planned(1).await;
    let (start, _) = agent.desired(Intent::Start).await;
    assert_eq!(start.origin.cluster.as_deref(), Some("west"));
    agent.finish(&start, Outcome::Completed).await;
    let done = status(&mut agent, "u-1", |status| status.phase.as_deref() == Some("Finished")).await;
    assert_eq!(condition(&done, "Complete").0, "True");
    assert_eq!(condition(&done, "Failed").0, "False");
    assert_eq!(
        (done.outcome.as_deref(), done.run_id.as_deref()),
        (Some("Completed"), Some(start.run.as_str()))
    );
    // The same object again is the same run; the name again, by another object, never runs.
    agent.send(run("slow-1", "u-1")).await;
    status(&mut agent, "u-1", |again| again.run_id == done.run_id).await;
    agent.send(run("slow-1", "u-2")).await;
    let denied = status(&mut agent, "u-2", |_| true).await;
    assert_eq!(condition(&denied, "Accepted"), ("False".to_owned(), "AlreadyRan".to_owned()));
    let runs = centre.api().runs(&admin(), None, 100).unwrap().items;
    assert_eq!(runs.len(), 2);
    // Its spec is not stored with it, so it names none.
    let second = runs.iter().find(|run| run.record.uid == "u-2").unwrap();
    assert_eq!(second.record.spec_hash, "");
    centre.stop().await;
}

/// What it is to do is on record with it: no second write stands between the author and the plan.
#[tokio::test]
async fn a_run_of_a_known_experiment_is_recorded_whole() {
    let centre = Centre::start(1).await;
    let mut agent = centre.connected("west").await;
    agent.send(experiment(&experiment_spec(&["west"]))).await;
    agent.send(run("slow-1", "u-1")).await;
    agent.planned(1).await;
    let (start, _) = agent.desired(Intent::Start).await;
    let record = centre.store.get(&format!("runs/{}/spec", start.run)).await.unwrap().unwrap();
    assert_eq!(record.version, 1);
    let record: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
    assert_eq!(record["specHash"], start.spec_hash);
    centre.stop().await;
}

#[tokio::test]
async fn another_cluster_needs_a_grant() {
    let centre = Centre::start(1).await;
    let (mut east, mut west) = (centre.connected("east").await, centre.connected("west").await);
    east.send(experiment(&experiment_spec(&["west"]))).await;
    east.send(run("slow-1", "u-1")).await;
    west.planned(1).await;
    let denied = status(&mut east, "u-1", |status| status.outcome.is_some()).await;
    let accepted = denied.conditions.iter().find(|condition| condition.kind == "Accepted").unwrap();
    assert_eq!((accepted.status.as_str(), accepted.reason.as_str()), ("False", "NoGrant"));
    assert!(accepted.message.contains("faultline grant west-shop --from-cluster east --from-namespace shop"));
    let grant = json!({
        "from": { "clusters": { "names": ["east"] }, "namespaces": ["shop"] },
        "to": { "clusters": { "names": ["west"] }, "namespaces": ["shop"], "kinds": ["network.*"], "maxTargets": 5 }
    });
    centre.api().put_grant(&admin(), "east-west", grant, &Expected::Anything).await.unwrap();
    east.send(run("slow-2", "u-2")).await;
    west.planned(1).await;
    let (start, _) = west.desired(Intent::Start).await;
    assert_eq!(start.origin.cluster.as_deref(), Some("east"));
    centre.stop().await;
}

#[tokio::test]
async fn mistakes_are_told_and_store_nothing() {
    let centre = Centre::start(1).await;
    let mut agent = centre.connected("west").await;
    for (at, body) in mistakes().into_iter().enumerate() {
        let uid = format!("e-{at}");
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        agent.send(written(&uid, 1, body.clone())).await;
        let refused = status(&mut agent, &uid, |_| true).await;
        assert_eq!(condition(&refused, "Accepted"), ("False".to_owned(), "Invalid".to_owned()), "{shown}");
        let uid = format!("u-{at}");
        let trace = proto::trace::TraceContext::NONE;
        let object = reference(AuthoredKind::Run, &uid, &uid);
        agent
            .send(Up::Authored(Authored { object, generation: 1, author: String::new(), body, trace }))
            .await;
        let refused = status(&mut agent, &uid, |_| true).await;
        assert_eq!(condition(&refused, "Accepted"), ("False".to_owned(), "Invalid".to_owned()), "{shown}");
    }
    assert!(centre.api().experiments(&admin()).unwrap().is_empty());
    assert!(centre.api().runs(&admin(), None, 10).unwrap().items.is_empty());
    centre.stop().await;
}

/// Bodies that are neither an Experiment nor a Run.
fn mistakes() -> Vec<Vec<u8>> {
    vec![
        json!({ "targets": 1, "experimentRef": 1 }).to_string().into_bytes(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"{".to_vec(),
        b"{\"hypothesis\": \"\xff\xfe\"}".to_vec(),
        format!("{{\"hypothesis\": {}1{}}}", "[".repeat(20_000), "]".repeat(20_000)).into_bytes(),
        json!({ "hypothesis": "x".repeat(1024 * 1024) }).to_string().into_bytes(),
    ]
}

#[tokio::test]
async fn an_edit_that_is_refused_leaves_nothing_of_the_old_form_to_run() {
    let centre = Centre::start(1).await;
    let mut agent = centre.connected("west").await;
    let good = experiment_spec(&["west"]);
    // Allowed for itself, but not with what is stored beside it.
    let mut large = good.clone();
    let names: Vec<String> = (0..81).map(|at| format!("{}{at:03}", "x".repeat(190))).collect();
    large["targets"][0]["pods"]["names"] = json!(names);
    // To the last byte: how long the rest is depends on the digits of a timestamp.
    let room = proto::experiment::MAX_SPEC_BYTES - large.to_string().len();
    let widest = large["targets"][0]["pods"]["names"].as_array_mut().unwrap();
    for at in 0..room {
        let name = &mut widest[at % 81];
        *name = json!(format!("x{}", name.as_str().unwrap()));
    }
    assert_eq!(large.to_string().len(), proto::experiment::MAX_SPEC_BYTES);
    proto::validate::experiment(&large).unwrap();
    let large = (large.to_string().into_bytes(), "TooLarge");
    let bad = mistakes().into_iter().map(|body| (body, "Invalid")).chain([large]);
    for (at, (body, reason)) in (0..).zip(bad) {
        agent.send(written("e-1", 2 * at + 1, good.to_string().into_bytes())).await;
        let stored = |status: &AuthoredStatus| status.observed_generation == Some(2 * at + 1);
        assert_eq!(condition(&status(&mut agent, "e-1", stored).await, "Accepted").1, "Stored");
        agent.send(written("e-1", 2 * at + 2, body)).await;
        let refused = |status: &AuthoredStatus| status.observed_generation == Some(2 * at + 2);
        assert_eq!(condition(&status(&mut agent, "e-1", refused).await, "Accepted").1, reason);
        eventually("the old form is gone", || {
            let left = centre.api().experiments(&admin()).unwrap();
            if left.is_empty() { Ok(()) } else { Err(left) }
        })
        .await;
    }
    centre.stop().await;
}

/// One cluster cannot fill the centre: what is above its share is refused, and what is there goes on.
#[tokio::test]
async fn a_cluster_has_so_many_live_runs_and_no_more() {
    let centre = Centre::start(1).await;
    let mut agent = centre.connected("west").await;
    let most = Quota::default().live_runs;
    // Without their Experiment they wait.
    for at in 0..most {
        let uid = format!("u-{at}");
        agent.send(run(&uid, &uid)).await;
        status(&mut agent, &uid, |status| status.phase.as_deref() == Some("Planning")).await;
    }
    agent.send(run("more", "more")).await;
    let refused = status(&mut agent, "more", |_| true).await;
    assert_eq!(condition(&refused, "Accepted"), ("False".to_owned(), "QuotaExceeded".to_owned()));
    assert_eq!(centre.api().runs(&admin(), None, 500).unwrap().items.len(), most);
    centre.stop().await;
}

#[tokio::test]
async fn a_run_whose_object_is_gone_is_stopped() {
    let centre = Centre::start(1).await;
    let mut agent = centre.connected("west").await;
    agent.send(experiment(&experiment_spec(&["west"]))).await;
    for (name, uid) in [("a", "u-1"), ("b", "u-2")] {
        agent.send(run(name, uid)).await;
    }
    for _ in 0..2 {
        agent.planned(1).await;
    }
    agent.desired(Intent::Start).await;
    eventually("two live runs", || {
        let runs = centre.api().runs(&admin(), None, 10).unwrap().items;
        if runs.iter().filter(|run| run.summary.dispatched_at.is_some()).count() == 2 {
            Ok(())
        } else {
            Err(runs)
        }
    })
    .await;
    // One by its deletion, the other because a complete list does not name it.
    let object = reference(AuthoredKind::Run, "a", "u-1");
    agent
        .send(Up::Authored(Authored {
            object,
            generation: 1,
            author: String::new(),
            body: vec![],
            trace: proto::trace::TraceContext::NONE,
        }))
        .await;
    agent.desired(Intent::Stop).await;
    agent.send(Up::AuthoredList(vec![reference(AuthoredKind::Experiment, "slow", "e-1")])).await;
    agent.desired(Intent::Stop).await;
    let runs = centre.api().runs(&admin(), None, 10).unwrap().items;
    let reason = |run: &proto::rest::RunView| run.record.stop.as_ref().map(|stop| stop.reason);
    assert!(runs.iter().all(|run| reason(run) == Some(StopReason::Deleted)), "{runs:#?}");
    assert!(runs.iter().all(|run| run.summary.phase != RunPhase::Planning));
    assert_eq!(centre.api().experiments(&admin()).unwrap().len(), 1);
    centre.stop().await;
}
