//! What the driver says to people who look at objects of this cluster with kubectl: injections on the pods that
//! they hit, conditions on the Runs and Experiments that were written here. Each is said once, no more often than
//! the apiserver likes, and what does not fit is left out: status, not events, is the record.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proto::experiment::{GROUP, VERSION};
use proto::injection::InjectionPhase;
use proto::status::{AuthoredStatus, Condition};
use proto::wire::Mirror;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cluster::{Acts, Announcement, ObjectRef};
use crate::engine::state::{RunState, Tracked};

/// Waiting to be said; more are left out.
const QUEUE: usize = 256;
/// Said without a pause; then one per [`PAUSE`].
const BURST: u32 = 100;
const PAUSE: Duration = Duration::from_millis(200);
/// Between the first word after a silence and its saying: the status of the same run is written meanwhile.
const GIVE_WAY: Duration = Duration::from_millis(300);
/// What was said is remembered, so many; the apiserver remembers for an hour.
const REMEMBERED: usize = 4096;
/// Older news (an agent that has just started is told of every Run) are not said again.
const FRESH: SignedDuration = SignedDuration::from_mins(30);

/// The driver's end.
#[derive(Debug)]
pub(super) struct Announcer {
    queue: mpsc::Sender<Announcement>,
    said: BTreeSet<[String; 3]>,
    left_out: u64,
}

impl Announcer {
    /// The driver's end, and the end that [`carry`] empties.
    pub(super) fn new() -> (Self, mpsc::Receiver<Announcement>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        (Self { queue, said: BTreeSet::new(), left_out: 0 }, waiting)
    }

    /// What was observed of a run, on each pod that it hits.
    pub(super) fn injections(&mut self, run: &RunState, at: Timestamp) {
        for tracked in run.injections.iter().filter(|tracked| tracked.sent) {
            if tracked.status.injected_at_unix_ms.is_some() {
                self.say(on_pod(run, tracked, InjectionPhase::Injected, at));
            }
            if !matches!(tracked.status.phase, InjectionPhase::Accepted | InjectionPhase::Reverting) {
                self.say(on_pod(run, tracked, tracked.status.phase, at));
            }
        }
    }

    /// The status that was written to an object, on that object.
    pub(super) fn mirrored(&mut self, mirror: &Mirror, now: Timestamp) {
        // One that is not a status is told by who writes it.
        let status: AuthoredStatus = serde_json::from_slice(&mirror.status).unwrap_or_default();
        for condition in &status.conditions {
            let at: Option<Timestamp> = condition.last_transition_time.parse().ok();
            let Some(at) = at.filter(|at| now.duration_since(*at) < FRESH) else { continue };
            if let Some((reason, warning)) = word(condition, &status) {
                let message = match (condition.reason.as_str(), condition.message.as_str()) {
                    (code, "") => code.to_owned(),
                    (code, message) => format!("{code}: {message}"),
                };
                let object = &mirror.object;
                let on = ObjectRef {
                    api_version: format!("{GROUP}/{VERSION}"),
                    kind: object.kind.as_str().to_owned(),
                    namespace: object.namespace.to_string(),
                    name: object.name.to_string(),
                    uid: object.uid.clone(),
                };
                let key = format!("{}/{}", condition.kind, status.observed_generation.unwrap_or_default());
                self.say(Announcement { on, key, reason, message, warning, at });
            }
        }
    }

    fn say(&mut self, announcement: Announcement) {
        let Announcement { on, key, reason, .. } = &announcement;
        let id = [on.uid.clone(), key.clone(), reason.clone()];
        if self.said.contains(&id) {
            return;
        }
        if self.said.len() >= REMEMBERED {
            self.said.clear();
        }
        self.said.insert(id);
        if self.queue.try_send(announcement).is_err() {
            self.left_out += 1;
            if self.left_out.is_power_of_two() {
                tracing::warn!(left_out = self.left_out, "more events than can be said");
            }
        }
    }
}

fn on_pod(run: &RunState, tracked: &Tracked, phase: InjectionPhase, at: Timestamp) -> Announcement {
    let target = &tracked.recorded.target;
    let on = ObjectRef {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        namespace: target.namespace.clone(),
        name: target.pod.clone(),
        uid: target.uid.clone(),
    };
    let mut message = format!("fault {} of run {}", tracked.recorded.fault, run.desired.run);
    if phase == tracked.status.phase && !tracked.status.message.is_empty() {
        message = format!("{message}: {}", tracked.status.message);
    }
    let well =
        matches!(phase, InjectionPhase::Injected | InjectionPhase::Reverted | InjectionPhase::TargetGone);
    Announcement {
        on,
        key: tracked.recorded.id.to_string(),
        reason: format!("{phase:?}"),
        message,
        warning: !well,
        at,
    }
}

/// The reason under which a condition is an event, and whether a person should look; what has not come true yet
/// is none.
fn word(condition: &Condition, status: &AuthoredStatus) -> Option<(String, bool)> {
    match (condition.kind.as_str(), condition.status.as_str()) {
        ("Accepted", "False") => Some(("NotAccepted".to_owned(), true)),
        ("Failed", "True") => Some((status.outcome.clone().unwrap_or_else(|| "Failed".to_owned()), true)),
        (kind, "True") => Some((kind.to_owned(), false)),
        _ => None,
    }
}

/// Says for ever, the oldest first. Words give way to what they tell of: the first waits a little.
pub(super) async fn carry(acts: Arc<dyn Acts>, mut waiting: mpsc::Receiver<Announcement>) {
    let mut left = BURST;
    let mut since = Instant::now();
    while let Some(first) = waiting.recv().await {
        let mut early = VecDeque::from([first]);
        let giving_way = tokio::time::sleep(GIVE_WAY);
        tokio::pin!(giving_way);
        loop {
            tokio::select! {
                () = &mut giving_way => break,
                Some(next) = waiting.recv(), if early.len() < QUEUE => early.push_back(next),
            }
        }
        while let Some(announcement) = early.pop_front().or_else(|| waiting.try_recv().ok()) {
            let gained = u32::try_from(since.elapsed().as_millis() / PAUSE.as_millis()).unwrap_or(BURST);
            if gained > 0 {
                left = left.saturating_add(gained).min(BURST);
                since = Instant::now();
            }
            if left == 0 {
                tokio::time::sleep(PAUSE).await;
                left = 1;
                since = Instant::now();
            }
            left -= 1;
            if let Err(error) = acts.announce(&announcement).await {
                tracing::debug!(%error, reason = announcement.reason, "an event was not said");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::wire::{AuthoredKind, AuthoredRef};
    use serde_json::json;

    use super::*;
    use crate::cluster::memory::Memory;

    const NOW: &str = "2026-01-01T00:10:00Z";

    fn mirror(uid: &str, status: &serde_json::Value) -> Mirror {
        let object = AuthoredRef {
            kind: AuthoredKind::Run,
            namespace: "shop".parse().unwrap(),
            name: "r1".parse().unwrap(),
            uid: uid.to_owned(),
        };
        Mirror { object, status: status.to_string().into_bytes() }
    }

    fn condition(kind: &str, status: &str, reason: &str, at: &str) -> serde_json::Value {
        json!({ "type": kind, "status": status, "reason": reason, "message": "why", "lastTransitionTime": at })
    }

    fn said(waiting: &mut mpsc::Receiver<Announcement>) -> Vec<(String, String, bool)> {
        let all = std::iter::from_fn(|| waiting.try_recv().ok());
        all.map(|a| (a.reason, a.message, a.warning)).collect()
    }

    #[test]
    fn what_came_true_is_said_once_and_old_news_not_at_all() {
        let (mut announcer, mut waiting) = Announcer::new();
        let now: Timestamp = NOW.parse().unwrap();
        let status = json!({ "outcome": "Aborted", "conditions": [
            condition("Accepted", "True", "Recorded", "2025-12-31T00:00:00Z"),
            condition("Injected", "True", "ReadBack", "2026-01-01T00:09:00Z"),
            condition("Complete", "False", "NotYet", "2026-01-01T00:09:00Z"),
            condition("Failed", "True", "SteadyStateBroken", "2026-01-01T00:09:30Z"),
        ] });
        announcer.mirrored(&mirror("u1", &status), now);
        announcer.mirrored(&mirror("u1", &status), now);
        let word = |reason: &str, message: &str, warning| (reason.to_owned(), message.to_owned(), warning);
        assert_eq!(
            said(&mut waiting),
            [word("Injected", "ReadBack: why", false), word("Aborted", "SteadyStateBroken: why", true)]
        );
        announcer.mirrored(&mirror("u2", &status), now);
        assert_eq!(said(&mut waiting).len(), 2, "another object of that name");
        let denied = json!({ "conditions": [condition("Accepted", "False", "NoGrant", NOW)] });
        announcer.mirrored(&mirror("u3", &denied), now);
        assert_eq!(said(&mut waiting), [word("NotAccepted", "NoGrant: why", true)]);
        announcer.mirrored(&mirror("u4", &json!("junk")), now);
        assert!(said(&mut waiting).is_empty());
    }

    fn announcement(n: usize) -> Announcement {
        let on = ObjectRef {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: "shop".into(),
            name: "p".into(),
            uid: format!("u{n}"),
        };
        let (key, reason, message) = ("i".to_owned(), "Injected".to_owned(), String::new());
        Announcement { on, key, reason, message, warning: false, at: NOW.parse().unwrap() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_while_words_give_way_is_not_left_out() {
        let (mut announcer, waiting) = Announcer::new();
        let memory = Memory::new();
        let mut carrying = tokio::task::JoinSet::new();
        carrying.spawn(carry(Arc::new(memory.clone()), waiting));
        for n in 0..QUEUE {
            announcer.say(announcement(n));
        }
        tokio::time::sleep(GIVE_WAY / 2).await;
        for n in QUEUE..QUEUE + 200 {
            announcer.say(announcement(n));
        }
        assert_eq!(announcer.left_out, 0);
        tokio::time::sleep(Duration::from_mins(2)).await;
        assert_eq!(memory.snapshot().announced.len(), QUEUE + 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_bounded_in_memory_and_in_time() {
        let (mut announcer, waiting) = Announcer::new();
        for n in 0..1000 {
            announcer.say(announcement(n));
        }
        assert_eq!(announcer.left_out, 1000 - QUEUE as u64);
        let memory = Memory::new();
        let acts: Arc<dyn Acts> = Arc::new(memory.clone());
        let mut carrying = tokio::task::JoinSet::new();
        carrying.spawn(carry(acts, waiting));
        tokio::time::sleep(GIVE_WAY / 2).await;
        assert_eq!(memory.snapshot().announced.len(), 0, "first the status, then words about it");
        tokio::time::sleep(GIVE_WAY / 2 + Duration::from_millis(100)).await;
        assert_eq!(memory.snapshot().announced.len(), BURST as usize);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let after = memory.snapshot().announced.len();
        assert!((140..=151).contains(&after), "5 a second after the burst: {after}");
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(memory.snapshot().announced.len(), QUEUE);
    }
}
