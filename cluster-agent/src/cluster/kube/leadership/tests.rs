//! A lead without renewals, in paused time.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;

use super::judge::Candidate;
use super::{Campaign, expiry};
use crate::cluster::Leadership;
use crate::cluster::kube::{LeaseTiming, stage};

#[tokio::test(start_paused = true)]
async fn a_lead_that_is_not_renewed_is_stop_only_at_its_end_also_with_a_call_under_way() {
    // Takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let door = stage::agent(&format!("http://{}", silent.local_addr().unwrap()));
    door.0.leadership.send_replace(Leadership::Active { epoch: 7 });
    let mut candidate = Candidate::new("agent-0".to_owned());
    candidate.set_leads(Some(7));
    let began = Instant::now();
    let duration = Duration::from_secs(3);
    let timing = LeaseTiming { duration, renew: Duration::from_mins(1) };
    let valid_until = Some((began + duration).into_std());
    let mut campaign = Campaign { door: &door, timing, candidate, valid_until, labelled: None };
    let mut seen = door.0.leadership.subscribe();
    tokio::select! {
        pause = campaign.turn() => panic!("the turn is over: {pause:?}"),
        found = seen.wait_for(|now| *now == Leadership::StopOnly { epoch: 7 }) => drop(found.unwrap()),
    }
    // Timers go by whole milliseconds.
    let lasted = began.elapsed();
    assert!((duration..=duration + Duration::from_millis(1)).contains(&lasted), "{lasted:?}");
    let once = tokio::time::timeout(Duration::from_mins(1), expiry(&door, valid_until)).await;
    assert!(once.is_err(), "there is nothing left to expire");
}
