//! The link: slow, hostile and returning agents; stops and halts; two sessions at once.

use std::time::Duration;

use control_plane::centre::Expected;
use control_plane::link::End;
use proto::assignment::{ClusterPhase, Intent, Observed, Outcome};
use proto::cluster::{ClusterState, InventorySummary};
use proto::halt::{Halt, HaltLevel, HaltScope};
use proto::ids::HaltId;
use proto::rest::SetHalt;
use proto::status::RunPhase;
use proto::wire::{Down, HaltState, Held, Nack, Up};

use super::agent::{Agent, hello};
use super::fixture::{Centre, admin, eventually};

/// Of a centre that soon gives up.
const HEARTBEAT: Duration = Duration::from_millis(200);

fn fleet_halt(id: &str) -> SetHalt {
    SetHalt { id: Some(id.to_owned()), scope: HaltScope::Fleet, reason: "test".to_owned() }
}

fn is_go_away(down: &Down, wanted: &str) -> bool {
    matches!(down, Down::GoAway { reason, .. } if reason == wanted)
}

#[tokio::test]
async fn a_cluster_that_does_not_read_blocks_nobody() {
    let centre = Centre::start(1).await;
    let mut slow = centre.connected("slow").await;
    let mut west = centre.connected("west").await;
    centre.grant_all().await;
    centre.experiment("both", &["slow", "west"]).await;
    centre.experiment("west", &["west"]).await;
    // Ten runs that `slow` never reads a word of.
    let mut last = None;
    for n in 0..10 {
        last = Some(centre.run(&format!("b{n}"), "both").await);
    }
    let id = centre.run("w", "west").await.record.id;
    loop {
        let (desired, _) = west.desired(Intent::Plan).await;
        if desired.run == id {
            west.plan(&desired, 1).await;
            break;
        }
    }
    let (start, _) = west.desired(Intent::Start).await;
    assert_eq!(start.run, id);
    west.finish(&start, Outcome::Completed).await;
    centre.finished(id.as_str()).await;
    // The stop of the last one overtakes the other runs as soon as `slow` reads again.
    let last = last.unwrap().record.id;
    centre.until(last.as_str(), "asked", |view| view.clusters.len() == 2).await;
    centre.api().stop_run(&admin(), last.as_str()).await.unwrap();
    centre.finished(last.as_str()).await;
    let mut seen = 0;
    for _ in 0..11 {
        let down = slow.until("Desired", |down| matches!(down, Down::Desired { .. })).await;
        if matches!(&down, Down::Desired { desired, .. } if desired.run == last && desired.intent != Intent::Plan)
        {
            seen += 1;
            break;
        }
    }
    assert_eq!(seen, 1);
    centre.stop().await;
}

#[tokio::test]
async fn only_the_latest_of_a_run_is_sent_to_who_stalled() {
    let centre = Centre::start(1).await;
    let id = centre.member("west").await;
    centre.experiment("slow", &["west"]).await;
    centre.grant_all().await;
    let mut agent = centre.agent(0, &id).await;
    let run = centre.run("r", "slow").await.record.id;
    let (asked, _) = agent.desired(Intent::Plan).await;
    // From here on it does not read while the run goes through Start, Stop and Forget.
    agent.plan(&asked, 1).await;
    let view = centre.until(run.as_str(), "dispatched", |view| view.summary.dispatched_at.is_some()).await;
    centre.api().stop_run(&admin(), run.as_str()).await.unwrap();
    centre.until(run.as_str(), "stopping", |view| view.clusters[0].intent == Intent::Stop).await;
    let mut observed = Observed::new(run.clone(), 3, ClusterPhase::Finished);
    observed.outcome = Some(Outcome::Aborted);
    agent.observe(observed).await;
    centre.until(run.as_str(), "forgotten", |view| view.clusters[0].intent == Intent::Forget).await;
    let mut generations = Vec::new();
    while generations.last() != Some(&4) {
        let down = agent.until("Desired", |down| matches!(down, Down::Desired { .. })).await;
        if let Down::Desired { desired, .. } = down {
            generations.push(desired.generation);
        }
    }
    // What was in the channel already may come; of what was due only the latest.
    assert!(generations.len() <= 3, "{generations:?}");
    assert!(generations.is_sorted(), "{generations:?}");
    assert!(view.summary.plan_hash.is_some());
    centre.stop().await;
}

#[tokio::test]
async fn a_nack_rejects_that_target_only() {
    let centre = Centre::start(1).await;
    let (mut west, mut east) = (centre.connected("west").await, centre.connected("east").await);
    centre.experiment("both", &["west", "east"]).await;
    centre.grant_all().await;
    let id = centre.run("r", "both").await.record.id;
    west.planned(1).await;
    east.planned(1).await;
    let (refused, _) = west.desired(Intent::Start).await;
    let (start, _) = east.desired(Intent::Start).await;
    // One of another generation means nothing.
    let nack = |generation| Nack {
        run: id.to_string(),
        generation,
        code: "UnknownKind".to_owned(),
        detail: "of the future".to_owned(),
    };
    west.send(Up::Nack(nack(refused.generation - 1))).await;
    west.send(Up::Nack(nack(refused.generation))).await;
    let view = centre.until(id.as_str(), "rejected", |view| view.summary.clusters.denied == 1).await;
    let sample = view.summary.samples.iter().find(|sample| sample.name == "west").unwrap();
    assert_eq!((sample.reason.as_str(), sample.outcome), ("Rejected", Some(Outcome::Denied)));
    assert_ne!(view.summary.phase, RunPhase::Finished);
    east.finish(&start, Outcome::Completed).await;
    let view = centre.finished(id.as_str()).await;
    assert_eq!((view.summary.clusters.completed, view.summary.clusters.denied), (1, 1));
    centre.stop().await;
}

#[tokio::test]
async fn a_halt_reaches_everyone_refuses_runs_and_is_lifted_by_its_id_only() {
    let centre = Centre::start(1).await;
    let mut west = centre.connected("west").await;
    centre.experiment("slow", &["west"]).await;
    centre.grant_all().await;
    let taken = centre.api().set_halt(&admin(), fleet_halt("stop-all")).await.unwrap();
    assert!(taken.persisted);
    assert_eq!(taken.view.clusters["west"], HaltLevel::Pending);
    let halts = west.halts(|halts| !halts.halts.is_empty()).await;
    let id: HaltId = halts.halts[0].id.clone();
    assert_eq!(id.as_str(), "stop-all");
    let state = HaltState { latched: vec![id.clone()], clean: vec![id.clone()], local: vec![] };
    west.send(Up::HaltState(state)).await;
    eventually("clean", || {
        let view = &centre.api().halts(&admin()).unwrap()[0];
        if view.clusters["west"] == HaltLevel::Clean { Ok(()) } else { Err(view.clone()) }
    })
    .await;
    let run = centre.run("r", "slow").await.record.id;
    west.planned(1).await;
    let view = centre.finished(run.as_str()).await;
    assert_eq!(view.summary.reason, "Halted");
    // A restart of the agent finds it again; its absence would lift nothing.
    centre.api().resume_halt(&admin(), "stop-all", &Expected::Anything).await.unwrap();
    let halts = west.halts(|halts| halts.halts.is_empty()).await;
    assert_eq!(halts.resumed, vec![id.clone()]);
    let again = centre.api().set_halt(&admin(), fleet_halt("stop-all")).await;
    assert!(again.unwrap_err().to_string().contains("was resumed"));
    centre.stop().await;
}

#[tokio::test]
async fn halts_of_a_cluster_are_shown_and_stay_its_own() {
    let centre = Centre::start(1).await;
    let id = centre.member("west").await;
    let mut east = centre.connected("east").await;
    // It holds a fleet halt that the centre forgot: that comes back, for this cluster alone.
    let halt = |id: &str| Halt {
        id: id.parse().unwrap(),
        scope: HaltScope::Fleet,
        reason: String::new(),
        by: "somebody".to_owned(),
        at: jiff::Timestamp::now(),
        origin: None,
    };
    let mut hello = hello(1);
    hello.halts.push(halt("forgotten"));
    eventually("the replica knows the member", || {
        centre.api().cluster(&admin(), "west").map_err(|e| e.to_string())
    })
    .await;
    let west = Agent::dial(&centre.replicas[0], &id, hello).await;
    let state =
        HaltState { latched: vec!["node-n1".parse().unwrap()], clean: vec![], local: vec![halt("node-n1")] };
    west.send(Up::HaltState(state)).await;
    let views = eventually("both halts", || {
        let views = centre.api().halts(&admin()).unwrap();
        if views.len() == 2 { Ok(views) } else { Err(views) }
    })
    .await;
    assert!(views.iter().all(|view| view.clusters.keys().all(|name| name == "west")), "{views:#?}");
    let local = views.iter().find(|view| view.halt.origin.is_some()).unwrap();
    let refused =
        centre.api().resume_halt(&admin(), local.halt.id.as_str(), &Expected::Anything).await.unwrap_err();
    assert!(refused.to_string().contains("lifted there"), "{refused}");
    assert!(east.halts(|_| true).await.halts.is_empty());
    // Lifted where it was set.
    west.send(Up::HaltState(HaltState::default())).await;
    eventually("only the adopted one", || {
        let views = centre.api().halts(&admin()).unwrap();
        if views.len() == 1 { Ok(()) } else { Err(views) }
    })
    .await;
    centre.stop().await;
}

#[tokio::test]
async fn the_newest_session_wins_and_an_older_epoch_never() {
    let centre = Centre::start(2).await;
    let id = centre.member("west").await;
    let mut first = centre.agent(0, &id).await;
    let mut second = centre.agent(1, &id).await;
    first.until("GoAway", |down| is_go_away(down, "Superseded")).await;
    assert_eq!(first.end().await, End::Sent("Superseded"));
    let mut third = Agent::dial(&centre.replicas[0], &id, hello(5)).await;
    second.until("GoAway", |down| is_go_away(down, "Superseded")).await;
    third.until("Welcome", |down| matches!(down, Down::Welcome(_))).await;
    let mut old = Agent::dial(&centre.replicas[1], &id, hello(4)).await;
    assert!(is_go_away(&old.recv().await, "Superseded"));
    centre.stop().await;
}

#[tokio::test]
async fn until_accepted_only_heartbeats_and_inventory_are_taken() {
    let centre = Centre::start(1).await;
    let invite = proto::rest::InviteCluster {
        name: "new".to_owned(),
        labels: std::collections::BTreeMap::new(),
        auto_accept: false,
        ttl: None,
    };
    let id = centre.api().invite_cluster(&admin(), invite).await.unwrap().cluster;
    let mut agent = centre.agent(0, &id).await;
    assert!(!agent.welcome.as_ref().unwrap().accepted);
    agent.send(Up::SpecRequest { hash: "x".to_owned() }).await;
    let nack = agent.until("Nack", |down| matches!(down, Down::Nack(_))).await;
    assert!(matches!(nack, Down::Nack(nack) if nack.code == "NotAccepted"));
    let inventory = InventorySummary { pods: 7, ..InventorySummary::default() };
    agent.send(Up::Inventory(Box::new(inventory))).await;
    eventually("inventory", || {
        let view = centre.api().cluster(&admin(), "new").unwrap();
        if view.status.inventory.pods == 7 { Ok(()) } else { Err(view) }
    })
    .await;
    assert_eq!(centre.api().cluster(&admin(), "new").unwrap().state, ClusterState::Pending);
    centre.api().accept_cluster(&admin(), "new", &Expected::Anything).await.unwrap();
    agent.until("GoAway", |down| is_go_away(down, "Accepted")).await;
    let agent = centre.agent(0, &id).await;
    assert!(agent.welcome.as_ref().unwrap().accepted);
    centre.stop().await;
}

/// Labels decide who may be aimed at, so they are the centre's alone.
#[tokio::test]
async fn labels_that_an_agent_reports_gain_nothing() {
    let centre = Centre::start(1).await;
    let agent = centre.connected("west").await;
    let claimed = r#"{"pods":7,"name":"dev","labels":{"env":"dev"},"spec":{"labels":{"env":"dev"}}}"#;
    agent.send(Up::Inventory(Box::new(serde_json::from_str(claimed).unwrap()))).await;
    eventually("inventory", || {
        let view = centre.api().cluster(&admin(), "west").unwrap();
        if view.status.inventory.pods == 7 { Ok(()) } else { Err(view) }
    })
    .await;
    let view = centre.api().cluster(&admin(), "west").unwrap();
    assert_eq!(view.spec.labels.keys().collect::<Vec<_>>(), ["network"]);
    assert!(centre.api().cluster(&admin(), "dev").is_err());
    let kept = centre.keys("clusters/").await;
    for key in kept {
        let entry = centre.store.get(&key).await.unwrap().unwrap();
        assert!(!String::from_utf8_lossy(&entry.value).contains("env"), "{key} keeps a claim");
    }
    centre.stop().await;
}

#[tokio::test]
async fn a_revoked_cluster_is_cut_off_on_every_replica() {
    let centre = Centre::start(2).await;
    let id = centre.member("west").await;
    let mut agent = centre.agent(1, &id).await;
    centre.api().revoke_cluster(&admin(), "west").await.unwrap();
    agent.until("GoAway", |down| is_go_away(down, "Revoked")).await;
    assert_eq!(agent.end().await, End::Sent("Revoked"));
    for replica in &centre.replicas {
        eventually("denied in handshakes", || {
            let list = replica.revocations.load();
            if list.clusters.contains(id.as_str()) { Ok(()) } else { Err(list) }
        })
        .await;
    }
    let mut again = Agent::dial(&centre.replicas[0], &id, hello(1)).await;
    assert!(is_go_away(&again.recv().await, "Revoked"));
    centre.stop().await;
}

#[tokio::test]
async fn a_reconnect_is_a_difference() {
    let centre = Centre::start(1).await;
    let mut agent = centre.connected("west").await;
    let id = agent.id.clone();
    centre.experiment("slow", &["west"]).await;
    centre.grant_all().await;
    let run = centre.run("r", "slow").await.record.id;
    agent.planned(1).await;
    let (start, _) = agent.desired(Intent::Start).await;
    agent.phase(&start, ClusterPhase::Running).await;
    centre.until(run.as_str(), "running", |view| view.summary.phase == RunPhase::Running).await;
    agent.vanish().await;
    centre.until(run.as_str(), "unknown", |view| view.summary.clusters.unknown == 1).await;
    // It holds what is desired: it gets the list, and nothing of the run itself.
    let mut hello = hello(2);
    hello.held.push(Held { run: run.clone(), generation: start.generation, intent: Intent::Start });
    let mut agent = Agent::dial(&centre.replicas[0], &id, hello).await;
    let list = agent.until("DesiredList", |down| {
        assert!(!matches!(down, Down::Desired { .. }), "{down:?}");
        matches!(down, Down::DesiredList(_))
    });
    assert_eq!(list.await, Down::DesiredList(vec![run.clone()]));
    centre.until(run.as_str(), "known again", |view| view.summary.clusters.unknown == 0).await;
    centre.stop().await;
}

#[tokio::test]
async fn a_silent_agent_is_given_up() {
    let centre = Centre::with_heartbeat(HEARTBEAT).await;
    let mut agent = centre.connected("west").await;
    assert_eq!(agent.end().await, End::Silent);
    eventually("not connected", || {
        let view = centre.api().cluster(&admin(), "west").unwrap();
        if view.state == ClusterState::Unknown { Ok(()) } else { Err(view) }
    })
    .await;
    assert!(centre.keys("session/").await.is_empty());
    centre.stop().await;
}

/// As after a pause of its virtual machine: the time is over, and the words are not read yet.
#[tokio::test(start_paused = true)]
async fn a_pause_of_the_centre_gives_nobody_up() {
    let centre = Centre::with_heartbeat(HEARTBEAT).await;
    let mut west = centre.connected("west").await;
    tokio::time::advance(HEARTBEAT * 5).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    west.send(Up::Heartbeat { at: jiff::Timestamp::now(), seq: 77 }).await;
    west.until("its answer", |down| matches!(down, Down::HeartbeatAck { seq: 77, .. })).await;
    centre.stop().await;
}
