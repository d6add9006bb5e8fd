//! A daemon that is told to end: it takes nothing new, waits for what it holds as long as it may, and takes
//! the rest away.

use super::*;

const WAIT: Duration = Duration::from_mins(1);

/// A daemon that holds `all`, each for `lasts_ms`, and was just told to end.
async fn told_to_end(folder: &Path, system: &Arc<FakeSystem>, all: &[Injection], lasts_ms: u64) -> Rig {
    let mut rig = Rig::waiting(folder, system, WAIT).await;
    for one in all {
        system.add_target(one.target.uid.parse().unwrap());
        rig.agent.inject(one, lasts_ms).await;
        rig.agent.sees(one, InjectionPhase::Injected).await;
    }
    assert!(!rig.agent.is_draining);
    rig.shutdown.cancel();
    while !rig.agent.is_draining {
        rig.agent.listen().await;
    }
    rig
}

impl Rig {
    async fn ends(&mut self) -> bool {
        self.driving.join_next().await.unwrap().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn it_ends_once_its_faults_have_ended_by_themselves() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    let all = [pause("r1.a.0", 7), partition("r1.a.1", 8)];
    let mut rig = told_to_end(folder.path(), &system, &all, 30_000).await;
    let told = Instant::now();
    assert_eq!(system.things(), 2, "nothing is taken away");
    for one in &all {
        let status = rig.agent.sees(one, InjectionPhase::Reverted).await;
        assert_eq!(status.reason, Some(EndReason::Deadline));
    }
    assert!(rig.ends().await);
    assert!((29_000..32_000).contains(&told.elapsed().as_millis()), "{:?}", told.elapsed());
    assert_eq!(system.things(), 0);
}

#[tokio::test(start_paused = true)]
async fn it_waits_no_longer_than_it_may() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    let one = pause("r1.a.0", 7);
    let mut rig = told_to_end(folder.path(), &system, std::slice::from_ref(&one), 300_000).await;
    let told = Instant::now();
    let status = rig.agent.sees(&one, InjectionPhase::Reverted).await;
    assert_eq!(status.reason, Some(EndReason::DaemonDrain));
    assert!(rig.ends().await);
    assert!((59_000..62_000).contains(&told.elapsed().as_millis()), "{:?}", told.elapsed());
    assert_eq!(system.things(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_and_an_idle_node_do_not_wait() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    let one = pause("r1.a.0", 7);
    let mut rig = told_to_end(folder.path(), &system, std::slice::from_ref(&one), 300_000).await;
    let told = Instant::now();
    rig.at_once.cancel();
    let status = rig.agent.sees(&one, InjectionPhase::Reverted).await;
    assert_eq!(status.reason, Some(EndReason::DaemonDrain));
    assert!(rig.ends().await);
    drop(rig);
    let mut idle = Rig::waiting(folder.path(), &system, WAIT).await;
    idle.shutdown.cancel();
    assert!(idle.ends().await);
    assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
}

#[tokio::test(start_paused = true)]
async fn meanwhile_it_takes_nothing_new_says_so_in_every_session_and_obeys_stops() {
    let (folder, system) = (tempfile::tempdir().unwrap(), Arc::new(FakeSystem::new()));
    let one = pause("r1.a.0", 7);
    let mut rig = told_to_end(folder.path(), &system, std::slice::from_ref(&one), 300_000).await;
    let told = Instant::now();
    system.add_target(8);
    let two = pause("r2.a.0", 8);
    rig.agent.inject(&two, 30_000).await;
    let refused = rig.agent.sees(&two, InjectionPhase::Refused).await;
    assert_eq!(refused.reason, Some(EndReason::DaemonDrain));
    assert!(refused.message.starts_with("Draining"), "{}", refused.message);
    assert_eq!(system.things(), 1);
    rig.reconnect().await;
    while !rig.agent.is_draining {
        rig.agent.listen().await;
    }
    rig.agent.send(NodeDown::Revert { injection: one.id.clone(), reason: "Stopped".into() }).await;
    assert_eq!(rig.agent.sees(&one, InjectionPhase::Reverted).await.reason, Some(EndReason::Stopped));
    assert!(rig.ends().await);
    assert!(told.elapsed() < Duration::from_secs(20), "{:?}", told.elapsed());
}
