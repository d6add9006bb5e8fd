//! The loop alone.

use std::collections::BTreeMap;

use certs::{Authority, TrustDomain};
use proto::assignment::Origin;
use proto::grant::Principal;
use proto::run::RunRecord;
use proto::status::RunSummary;
use serde_json::json;

use super::*;
use crate::audit::{self, AuditConfig, Sealer};
use crate::engine::summary;
use crate::enrolment::Signer;
use crate::store::Txn;
use crate::store::memory::MemoryStore;

/// One whose records nobody keeps.
pub(crate) fn auditor(store: &Arc<dyn Store>, clock: &Clock) -> Auditor {
    let authority = Authority::create(TrustDomain::new("test.local").unwrap(), clock.now()).unwrap();
    let signer = Arc::new(Signer::new(authority, "r0"));
    let sealer = Sealer::new(signer, clock.clone(), "r0").unwrap();
    audit::new(store.clone(), sealer, clock.clone(), Arc::default(), &AuditConfig::default()).0
}

fn driver() -> Driver {
    let (store, clock): (Arc<dyn Store>, _) = (Arc::new(MemoryStore::new()), Clock::new());
    let audit = auditor(&store, &clock);
    let (lease_ttl, follow) = (Duration::from_secs(3), FollowConfig::default());
    Driver {
        store,
        cache: Arc::default(),
        clock,
        audit,
        health: Arc::default(),
        revocations: Reloadable::new(Revocations::default()),
        lease: watch::Sender::new(None),
        leads: watch::Sender::new(None),
        config: DriverConfig { replica: "r0".to_owned(), lease_ttl, follow, peer_address: String::new() },
    }
}

/// A run whose Experiment never came, and whose patience is over.
fn overdue(now: Timestamp) -> [Object; 2] {
    let id: RunId = "run-1".parse().unwrap();
    let record = RunRecord {
        id: id.clone(),
        namespace: "central".to_owned(),
        name: "r".to_owned(),
        uid: "u".to_owned(),
        principal: Principal::Operator { name: "ann".to_owned() },
        author: None,
        origin: Origin { cluster: None, labels: BTreeMap::new(), namespace: None },
        spec: serde_json::from_value(json!({ "experimentRef": { "name": "x" } })).unwrap(),
        spec_hash: String::new(),
        plan_only: false,
        created_at: now - jiff::SignedDuration::from_hours(1),
        stop: None,
        trace: proto::trace::TraceContext::NONE,
    };
    [Object::Run(Box::new(record)), Object::Summary(Box::new(summary::initial(id)))]
}

#[tokio::test]
async fn what_is_due_is_done_however_much_changes_elsewhere() {
    let driver = driver();
    let now = driver.clock.now();
    for object in overdue(now) {
        let txn = Txn::new().put(codec::path(&object.key()).unwrap(), codec::encode(&object).unwrap());
        let revision = driver.store.txn(txn).await.unwrap().committed().unwrap();
        driver.cache.write(|state| engine::step(state, Event::Stored(Box::new(object), revision), now));
    }
    driver.cache.write(|state| {
        (state.leading, state.complete) = (true, true);
        state.runs.values_mut().for_each(|run| run.wake_at = Some(now));
    });
    let (sender, feed) = mpsc::channel(FEED);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let change = || Feed::Change(0, Ok(Change::Delete { key: "of/nobody".to_owned(), revision: 1 }));
        // There is always one more waiting.
        while sender.send(change()).await.is_ok() {}
    });
    let fence = Some(Compare::Absent("leader".to_owned()));
    let mut running = Running { driver: &driver, fence, unsynced: BTreeSet::new(), commits: JoinSet::new() };
    let shutdown = CancellationToken::new();
    let finished = async {
        loop {
            let entry = driver.store.get("runs/run-1/summary").await.unwrap().unwrap();
            let summary: RunSummary = serde_json::from_slice(&entry.value).unwrap();
            if summary.phase == RunPhase::Finished {
                return summary;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let summary = tokio::select! {
        ended = running.work(feed, &mut tasks, &shutdown) => panic!("{ended:?}"),
        found = tokio::time::timeout(Duration::from_mins(1), finished) => found.expect("it is denied"),
    };
    assert_eq!(summary.reason, proto::plan::refusal::NO_EXPERIMENT);
}
