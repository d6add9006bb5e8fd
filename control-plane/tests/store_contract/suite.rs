//! Keys, transactions, lists, watches and compaction.

use control_plane::store::{Compare, Error, Outcome, PageRequest, Store, Txn, WatchItem};

use crate::fixture::{Fixture, commit, delete, events, put, value, watch_error};

pub(crate) async fn a_put_reads_back_with_its_revisions(f: Fixture) {
    assert_eq!(f.store.get("a").await.unwrap(), None);
    let start = f.store.health().await.unwrap().revision;
    let first = put(&*f.store, "a", "1").await;
    assert_eq!(first, start + 1);
    let second = put(&*f.store, "a", "2").await;
    let entry = f.other.get("a").await.unwrap().unwrap();
    assert_eq!((entry.key.as_str(), entry.value.as_ref()), ("a", b"2".as_ref()));
    assert_eq!((entry.create_revision, entry.mod_revision, entry.version), (first, second, 2));
    assert_eq!(entry.lease, None);
    let gone = delete(&*f.store, "a").await;
    assert_eq!(f.other.get("a").await.unwrap(), None);
    assert_eq!(delete(&*f.store, "a").await, gone, "deleting nothing must not raise the revision");
    let again = put(&*f.store, "a", "3").await;
    let entry = f.other.get("a").await.unwrap().unwrap();
    assert_eq!((entry.create_revision, entry.mod_revision, entry.version), (again, again, 1));
    assert_eq!(f.other.health().await.unwrap().revision, again);
}

pub(crate) async fn compare_and_swap_lets_one_of_two_win(f: Fixture) {
    let base = put(&*f.store, "k", "base").await;
    let swap = |value: &'static str| Txn::new().unchanged("k", base).put("k", value);
    let (one, two) = tokio::join!(f.store.txn(swap("one")), f.other.txn(swap("two")));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_ne!(one.is_conflict(), two.is_conflict(), "{one:?} {two:?}");
    let winner = if two.is_conflict() { "one" } else { "two" };
    assert_eq!(value(&*f.store, "k").await.as_deref(), Some(winner));
    assert!(matches!(f.store.txn(swap("late")).await.unwrap().committed(), Err(Error::Conflict)));
}

pub(crate) async fn create_if_absent_succeeds_once(f: Fixture) {
    let create = |value: &'static str| Txn::new().absent("k").put("k", value);
    let outcome = f.store.txn(create("first")).await.unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }));
    assert!(f.other.txn(create("second")).await.unwrap().is_conflict());
    assert_eq!(value(&*f.store, "k").await.as_deref(), Some("first"));
    delete(&*f.store, "k").await;
    assert!(!f.other.txn(create("third")).await.unwrap().is_conflict());
}

pub(crate) async fn every_comparison_holds_and_fails_as_documented(f: Fixture) {
    let created = put(&*f.store, "k", "1").await;
    let changed = put(&*f.store, "k", "2").await;
    let key = || "k".to_owned();
    let none = || "none".to_owned();
    let cases = [
        (Compare::ModRevision(key(), changed), true),
        (Compare::ModRevision(key(), created), false),
        (Compare::ModRevision(none(), changed), false),
        (Compare::ModRevision(none(), 0), true),
        (Compare::CreateRevision(key(), created), true),
        (Compare::CreateRevision(key(), changed), false),
        (Compare::CreateRevision(none(), created), false),
        (Compare::Absent(key()), false),
        (Compare::Absent(none()), true),
        (Compare::Exists(key()), true),
        (Compare::Exists(none()), false),
    ];
    for (compare, holds) in cases {
        let outcome = f.store.txn(Txn::new().when(compare.clone()).put("probe", "x")).await.unwrap();
        assert_eq!(!outcome.is_conflict(), holds, "{compare:?}");
        // One that fails is enough.
        let both = Txn::new().exists("k").when(compare.clone()).put("probe", "y");
        assert_eq!(!f.store.txn(both).await.unwrap().is_conflict(), holds, "{compare:?}");
    }
}

pub(crate) async fn concurrent_increments_lose_nothing(f: Fixture) {
    const EACH: usize = 15;
    let count = async |store: &dyn Store| {
        for _ in 0..EACH {
            loop {
                let old = store.get("n").await.unwrap();
                let n: usize =
                    old.as_ref().map_or(0, |e| std::str::from_utf8(&e.value).unwrap().parse().unwrap());
                let revision = old.map_or(0, |entry| entry.mod_revision);
                let txn = Txn::new().unchanged("n", revision).put("n", (n + 1).to_string());
                if !store.txn(txn).await.unwrap().is_conflict() {
                    break;
                }
            }
        }
    };
    tokio::join!(count(&*f.store), count(&*f.other), count(&*f.store));
    assert_eq!(value(&*f.store, "n").await, Some((3 * EACH).to_string()));
}

pub(crate) async fn a_transaction_is_all_or_nothing_at_one_revision(f: Fixture) {
    for key in ["d/1", "d/2", "dd", "x"] {
        put(&*f.store, key, "old").await;
    }
    let before = f.store.health().await.unwrap().revision;
    let refused = Txn::new().absent("x").put("new", "1").delete_prefix("d/");
    assert_eq!(f.store.txn(refused).await.unwrap(), Outcome::Conflict { revision: before });
    assert_eq!(value(&*f.store, "new").await, None);
    let txn = Txn::new().exists("x").put("new", "1").put("newer", "2").delete("x").delete_prefix("d/");
    let revision = commit(&*f.store, txn).await;
    assert_eq!(revision, before + 1);
    let page = f.other.list("", PageRequest::first(100)).await.unwrap();
    let keys: Vec<_> = page.entries.iter().map(|e| (e.key.as_str(), e.mod_revision == revision)).collect();
    assert_eq!(keys, [("dd", false), ("new", true), ("newer", true)]);
    assert_eq!(page.revision, revision);
}

pub(crate) async fn bounds_are_refused_before_sending(f: Fixture) {
    let before = f.store.health().await.unwrap();
    let refusal = async |txn: Txn| f.store.txn(txn).await.unwrap_err();
    let many = |count: usize| (0..count).fold(Txn::new(), |txn, i| txn.put(format!("k{i}"), "v"));
    assert!(matches!(refusal(many(101)).await, Error::TooManyOps { count: 101, limit: 100 }));
    let compares = (0..101).fold(Txn::new(), |txn, i| txn.absent(format!("k{i}")));
    assert!(matches!(refusal(compares).await, Error::TooManyOps { count: 101, limit: 100 }));
    let big = Txn::new().put("k", vec![b'x'; 16 * 1024 + 1]);
    assert!(matches!(refusal(big).await, Error::ValueTooLarge { bytes: 16_385, limit: 16_384, .. }));
    let sum = (0..70).fold(Txn::new(), |txn, i| txn.put(format!("k{i}"), vec![b'x'; 16 * 1024]));
    assert!(matches!(refusal(sum).await, Error::TxnTooLarge { limit: 1_048_576, .. }));
    for twice in [
        Txn::new().put("k", "1").put("k", "2"),
        Txn::new().put("k", "1").delete("k"),
        Txn::new().delete_prefix("k/").put("k/1", "1"),
    ] {
        assert!(matches!(refusal(twice).await, Error::DuplicateKey { .. }));
    }
    assert!(matches!(refusal(Txn::new().delete_prefix("")).await, Error::EmptyPrefix));
    for key in ["", "a\nb", "a\0", &"x".repeat(1537)] {
        assert!(matches!(refusal(Txn::new().put(key, "v")).await, Error::InvalidKey { .. }), "{key:?}");
        assert!(matches!(f.store.get(key).await, Err(Error::InvalidKey { .. })), "{key:?}");
    }
    assert_eq!(f.store.health().await.unwrap(), before, "something was written");
}

pub(crate) async fn a_hundred_operations_are_accepted(f: Fixture) {
    let txn = (0..100).fold(Txn::new(), |txn, i| txn.absent(format!("k{i:02}")).put(format!("k{i:02}"), "v"));
    let revision = commit(&*f.store, txn).await;
    let page = f.other.list("k", PageRequest::first(1000)).await.unwrap();
    assert_eq!((page.entries.len(), page.more), (100, false));
    assert!(page.entries.iter().all(|entry| entry.mod_revision == revision));
    let largest = Txn::new().put("big", vec![b'x'; 16 * 1024]);
    commit(&*f.store, largest).await;
    assert_eq!(f.other.get("big").await.unwrap().unwrap().value.len(), 16 * 1024);
}

pub(crate) async fn paging_reads_one_revision(f: Fixture) {
    for i in 0..10 {
        put(&*f.store, &format!("p/{i}"), "old").await;
    }
    let mut request = PageRequest::first(4);
    let first = f.store.list("p/", request.clone()).await.unwrap();
    // What happens between the pages is not seen.
    put(&*f.store, "p/5", "new").await;
    put(&*f.store, "p/55", "new").await;
    delete(&*f.store, "p/7").await;
    let mut keys: Vec<String> = Vec::new();
    let mut pages = 1;
    let mut page = first.clone();
    loop {
        assert_eq!(page.revision, first.revision);
        assert!(page.entries.iter().all(|entry| entry.value.as_ref() == b"old"));
        keys.extend(page.entries.iter().map(|entry| entry.key.clone()));
        let Some(next) = request.next(&page) else { break };
        page = f.other.list("p/", next.clone()).await.unwrap();
        (request, pages) = (next, pages + 1);
    }
    assert_eq!(keys, (0..10).map(|i| format!("p/{i}")).collect::<Vec<_>>());
    assert_eq!(pages, 3);
    // An exact fit has no more.
    let now = f.store.list("p/", PageRequest::first(10)).await.unwrap();
    assert_eq!((now.entries.len(), now.more), (10, false));
    // The old revision is gone after compaction.
    f.store.compact(now.revision).await.unwrap();
    let old = PageRequest { revision: Some(first.revision), ..PageRequest::first(4) };
    assert!(matches!(f.store.list("p/", old).await, Err(Error::Compacted { .. })));
    let still = PageRequest { revision: Some(now.revision), ..PageRequest::first(4) };
    assert_eq!(f.store.list("p/", still).await.unwrap().entries, now.entries[..4]);
}

pub(crate) async fn prefixes_are_exact(f: Fixture) {
    for key in ["a", "a/", "a/b", "a0", "ab", "b", "é/1", "é0"] {
        put(&*f.store, key, "v").await;
    }
    let keys = async |prefix: &str, after: Option<&str>| {
        let request = PageRequest { after: after.map(str::to_owned), ..PageRequest::first(100) };
        let page = f.store.list(prefix, request).await.unwrap();
        page.entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>()
    };
    assert_eq!(keys("a/", None).await, ["a/", "a/b"]);
    assert_eq!(keys("a", Some("a/")).await, ["a/b", "a0", "ab"]);
    assert_eq!(keys("b", Some("a")).await, ["b"]);
    assert_eq!(keys("a", Some("b")).await, [""; 0]);
    assert_eq!(keys("é/", None).await, ["é/1"]);
    assert_eq!(keys("", None).await.len(), 8);
    let from = f.store.health().await.unwrap().revision + 1;
    let mut watch = f.store.watch("a/", from).await.unwrap();
    let revision = commit(&*f.store, Txn::new().put("a0", "n").put("a/c", "n").delete_prefix("é")).await;
    assert_eq!(events(&mut watch, 1).await, [format!("a/c=n@{revision}")]);
    assert_eq!(keys("é", None).await, [""; 0]);
}

pub(crate) async fn a_watch_from_the_past_sees_all_in_order(f: Fixture) {
    let r1 = put(&*f.store, "w/a", "1").await;
    let r2 = commit(&*f.store, Txn::new().put("w/b", "1").put("other", "x").delete("w/a")).await;
    let r3 = put(&*f.store, "w/a", "2").await;
    let mut watch = f.other.watch("w/", r2).await.unwrap();
    let mut all = f.other.watch("w/", 1).await.unwrap();
    let r4 = delete(&*f.store, "w/b").await;
    let expected = [
        format!("w/a=1@{r1}"),
        format!("w/b=1@{r2}"),
        format!("-w/a@{r2}"),
        format!("w/a=2@{r3}"),
        format!("-w/b@{r4}"),
    ];
    assert_eq!(events(&mut watch, 4).await, expected[1..]);
    assert_eq!(events(&mut all, 5).await, expected);
}

pub(crate) async fn a_live_watch_sees_transactions_whole(f: Fixture) {
    let from = f.store.health().await.unwrap().revision + 1;
    let mut watch = f.other.watch("t/", from).await.unwrap();
    for round in 0..20 {
        let txn = (0..10).fold(Txn::new(), |txn, i| txn.put(format!("t/{i}"), round.to_string()));
        commit(&*f.store, txn).await;
    }
    let mut seen = 0;
    let mut last = from - 1;
    while seen < 200 {
        let WatchItem::Events { revision, events } = watch.next().await.unwrap() else {
            continue;
        };
        assert_eq!(events.len() % 10, 0, "a transaction was split");
        assert!(events.is_sorted_by_key(control_plane::store::Event::revision));
        assert!(events[0].revision() > last);
        last = revision;
        assert_eq!(events.last().unwrap().revision(), revision);
        seen += events.len();
    }
}

pub(crate) async fn a_watch_from_a_compacted_revision_says_so(f: Fixture) {
    let r1 = put(&*f.store, "c/a", "1").await;
    put(&*f.store, "c/a", "2").await;
    let r3 = put(&*f.store, "c/a", "3").await;
    let r4 = put(&*f.store, "c/b", "4").await;
    f.store.compact(r3).await.unwrap();
    f.store.compact(r3).await.unwrap();
    f.store.compact(r1).await.unwrap();
    for from in [1, r1, r3] {
        let error = watch_error(&*f.other, "c/", from).await;
        assert!(
            matches!(error, Error::Compacted { compact_revision } if compact_revision == r3),
            "{error:?}"
        );
        assert!(!error.retryable());
    }
    let mut watch = f.other.watch("c/", r3 + 1).await.unwrap();
    assert_eq!(events(&mut watch, 1).await, [format!("c/b=4@{r4}")]);
    assert_eq!(value(&*f.store, "c/a").await.as_deref(), Some("3"), "compaction took a current value");
}

pub(crate) async fn a_deletion_at_the_compacted_revision_is_not_lost_silently(f: Fixture) {
    let r1 = put(&*f.store, "c/a", "1").await;
    let gone = delete(&*f.store, "c/a").await;
    put(&*f.store, "c/b", "1").await;
    f.store.compact(gone).await.unwrap();
    let error = watch_error(&*f.other, "c/", r1 + 1).await;
    assert!(matches!(error, Error::Compacted { .. }), "{error:?}");
}

pub(crate) async fn the_future_is_refused(f: Fixture) {
    let now = put(&*f.store, "k", "v").await;
    let error = watch_error(&*f.store, "k", now + 2).await;
    assert!(
        matches!(error, Error::Rewound { seen, current } if seen == now + 1 && current == now),
        "{error:?}"
    );
    let page = PageRequest { revision: Some(now + 1), ..PageRequest::first(1) };
    let error = f.store.list("", page).await.unwrap_err();
    assert!(
        matches!(error, Error::Rewound { seen, current } if seen == now + 1 && current == now),
        "{error:?}"
    );
    let error = f.store.compact(now + 1).await.unwrap_err();
    assert!(matches!(error, Error::Rewound { current, .. } if current == now), "{error:?}");
    let mut watch = f.store.watch("k", now + 1).await.unwrap();
    let next = put(&*f.other, "k", "w").await;
    assert_eq!(events(&mut watch, 1).await, [format!("k=w@{next}")]);
}
