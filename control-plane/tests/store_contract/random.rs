//! The same random operations give the same results on every kind of store, revisions included.

use std::sync::Arc;

use control_plane::store::memory::MemoryStore;
use control_plane::store::redb::RedbStore;
use control_plane::store::{Compare, Limits, Op, PageRequest, Store, Txn};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::fixture::{Fixture, bounded, describe};

#[derive(Debug, Clone)]
enum Step {
    Txn(Txn),
    Get(String),
    List { prefix: String, limit: usize, back: u64 },
    Compact { back: u64 },
    Watch { prefix: String, back: u64 },
}

fn key() -> impl Strategy<Value = String> {
    "[ab]/[a-d]|[ab]"
}

fn compare() -> impl Strategy<Value = Compare> {
    prop_oneof![
        key().prop_map(Compare::Absent),
        key().prop_map(Compare::Exists),
        (key(), 0..12u64).prop_map(|(key, revision)| Compare::ModRevision(key, revision)),
        (key(), 0..12u64).prop_map(|(key, revision)| Compare::CreateRevision(key, revision)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (key(), "[x-z]{0,3}").prop_map(|(key, value)| Op::Put(key, value.into(), None)),
        2 => key().prop_map(Op::Delete),
        1 => "[ab]/|[ab]|a/[a-d]".prop_map(Op::DeletePrefix),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let txn = (prop::collection::vec(compare(), 0..2), prop::collection::vec(op(), 0..4));
    prop_oneof![
        8 => txn.prop_map(|(compare, ops)| Step::Txn(Txn { compare, ops })),
        2 => key().prop_map(Step::Get),
        2 => ("[ab]?/?", 0..5usize, 0..8u64).prop_map(|(prefix, limit, back)| Step::List { prefix, limit, back }),
        1 => (0..10u64).prop_map(|back| Step::Compact { back }),
        2 => ("[ab]?/?", 0..12u64).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
    ]
}

/// Does the steps and writes down every answer.
async fn transcript(store: &dyn Store, steps: &[Step]) -> Vec<String> {
    let mut lines = Vec::new();
    for step in steps {
        let now = store.health().await.unwrap().revision;
        let answer = match step {
            Step::Txn(txn) => format!("{:?}", store.txn(txn.clone()).await),
            Step::Get(key) => format!("{:?}", store.get(key).await),
            Step::List { prefix, limit, back } => {
                let revision = back.checked_sub(1).map(|back| now.saturating_sub(back).max(1));
                let page = store.list(prefix, PageRequest { revision, ..PageRequest::first(*limit) }).await;
                // Which revision etcd compacted to, it does not tell here.
                page.map_or_else(|error| error_kind(&error), |page| format!("{page:?}"))
            }
            Step::Compact { back } => format!("{:?}", store.compact(now.saturating_sub(*back).max(1)).await),
            Step::Watch { prefix, back } => watch(store, prefix, now, *back).await,
        };
        lines.push(format!("{step:?} -> {answer}"));
    }
    lines
}

fn error_kind(error: &control_plane::store::Error) -> String {
    format!("{error:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

/// Watches the last revisions up to a mark of its own.
async fn watch(store: &dyn Store, prefix: &str, now: u64, back: u64) -> String {
    let mark = format!("{prefix}mark");
    let put = store.txn(Txn::new().put(mark.clone(), now.to_string())).await;
    let end = put.unwrap().committed().unwrap();
    let mut watch = match store.watch(prefix, (now + 1).saturating_sub(back)).await {
        Ok(watch) => watch,
        Err(error) => return format!("{error:?}"),
    };
    let mut seen = Vec::new();
    loop {
        match watch.next().await {
            Ok(control_plane::store::WatchItem::Events { events, revision }) => {
                seen.extend(events.iter().map(describe));
                if revision >= end {
                    return seen.join(" ");
                }
            }
            Ok(control_plane::store::WatchItem::Progress { .. }) => {}
            Err(error) => return format!("{error:?}"),
        }
    }
}

async fn redb() -> (Arc<dyn Store>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open(dir.path().join("store.redb"), Limits::default()).await.unwrap();
    (Arc::new(store), dir)
}

proptest! {
    #![proptest_config(Config { cases: 48, ..Config::default() })]

    #[test]
    fn memory_and_redb_answer_alike(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (memory, disk) = runtime.block_on(async {
            let (redb, _dir) = redb().await;
            (transcript(&MemoryStore::new(), &steps).await, transcript(&*redb, &steps).await)
        });
        prop_assert_eq!(memory, disk);
    }
}

/// Few and long sequences, as each needs an etcd of its own; fixed, so that a failure comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_etcd_answer_alike() {
    let mut runner = TestRunner::deterministic();
    for _ in 0..3 {
        let steps = prop::collection::vec(step(), 300).new_tree(&mut runner).unwrap().current();
        bounded(async {
            let Some(fixture) = Fixture::etcd().await else {
                return;
            };
            let memory = transcript(&MemoryStore::new(), &steps).await;
            let etcd = transcript(&*fixture.store, &steps).await;
            for (memory, etcd) in memory.iter().zip(&etcd) {
                assert_eq!(memory, etcd);
            }
        })
        .await;
    }
}
