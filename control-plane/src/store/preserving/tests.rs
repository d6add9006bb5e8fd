//! A newer version writes through the store, an older one through the wrapper around it.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;
use crate::store::memory::MemoryStore;

/// What this version knows of a value.
#[derive(Serialize, Deserialize)]
struct Known {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
}

fn rewrite(key: &str, value: &[u8]) -> Option<Bytes> {
    let known: Known = key.starts_with("things/").then(|| serde_json::from_slice(value).ok())??;
    serde_json::to_vec(&known).ok().map(Bytes::from)
}

fn stores() -> (Arc<dyn Store>, Preserving) {
    let newer: Arc<dyn Store> = Arc::new(MemoryStore::new());
    (newer.clone(), Preserving::new(newer, rewrite))
}

async fn put(store: &dyn Store, txn: Txn, value: &Value) -> Revision {
    store
        .txn(txn.put("things/a", value.to_string()))
        .await
        .expect("no error")
        .committed()
        .expect("no conflict")
}

async fn get(store: &dyn Store) -> Value {
    let entry = store.get("things/a").await.expect("no error").expect("it is there");
    serde_json::from_slice(&entry.value).expect("JSON")
}

#[tokio::test]
async fn what_was_read_comes_back_however_it_was_read() {
    for way in ["get", "list", "watch"] {
        let (newer, older) = stores();
        let at = put(&*newer, Txn::new(), &json!({ "name": "a", "owner": "x", "new": [1] })).await;
        match way {
            "get" => drop(older.get("things/a").await.expect("no error")),
            "list" => drop(older.list("things/", PageRequest::first(9)).await.expect("no error")),
            _ => drop(older.watch("things/", 1).await.expect("no error").next().await.expect("an event")),
        }
        let at = put(&older, Txn::new().unchanged("things/a", at), &json!({ "name": "b" })).await;
        assert_eq!(get(&*newer).await, json!({ "name": "b", "new": [1] }), "{way}");
        // Its own write needs no reading.
        put(&older, Txn::new().unchanged("things/a", at), &json!({ "name": "c" })).await;
        assert_eq!(get(&*newer).await, json!({ "name": "c", "new": [1] }), "{way}");
    }
}

#[tokio::test]
async fn a_key_that_was_made_anew_has_nothing_of_the_one_before() {
    let (newer, older) = stores();
    put(&*newer, Txn::new(), &json!({ "name": "a", "new": 1 })).await;
    get(&older).await;
    let gone = older.txn(Txn::new().delete("things/a")).await;
    gone.expect("no error").committed().expect("no conflict");
    put(&older, Txn::new().absent("things/a"), &json!({ "name": "b" })).await;
    assert_eq!(get(&*newer).await, json!({ "name": "b" }));

    let (newer, older) = stores();
    put(&*newer, Txn::new(), &json!({ "name": "a", "new": 1 })).await;
    get(&older).await;
    let gone = newer.txn(Txn::new().delete_prefix("things/")).await;
    gone.expect("no error").committed().expect("no conflict");
    assert_eq!(older.get("things/a").await.expect("no error"), None);
    put(&older, Txn::new(), &json!({ "name": "b" })).await;
    assert_eq!(get(&*newer).await, json!({ "name": "b" }));
}

#[tokio::test]
async fn nothing_is_kept_of_what_is_known() {
    let (newer, older) = stores();
    put(&*newer, Txn::new(), &json!({ "name": "a", "owner": null })).await;
    get(&older).await;
    assert!(older.seen.keys().is_empty());
    put(&*newer, Txn::new(), &json!({ "name": "a", "new": 1 })).await;
    get(&older).await;
    assert_eq!(older.seen.keys().len(), 1);
    put(&*newer, Txn::new(), &json!({ "name": "a" })).await;
    get(&older).await;
    assert!(older.seen.keys().is_empty());
    // Nor of what is never read in parts.
    let other = newer.txn(Txn::new().put("other/a", r#"{"name":"a","new":1}"#)).await;
    other.expect("no error").committed().expect("no conflict");
    older.get("other/a").await.expect("no error");
    assert!(older.seen.keys().is_empty());
}

#[tokio::test]
async fn what_hangs_on_a_lease_is_its_holders_own_word() {
    let (newer, older) = stores();
    put(&*newer, Txn::new(), &json!({ "name": "a", "new": 1 })).await;
    get(&older).await;
    let lease = older.lease_grant(Duration::from_mins(1)).await.expect("no error");
    let txn = Txn::new().put_leased("things/a", r#"{"name":"b"}"#, lease.id);
    older.txn(txn).await.expect("no error").committed().expect("no conflict");
    assert_eq!(get(&*newer).await, json!({ "name": "b" }));
}

#[tokio::test]
async fn a_value_that_would_grow_too_large_is_written_without() {
    let (newer, older) = stores();
    put(&*newer, Txn::new(), &json!({ "name": "a", "new": "x".repeat(15_000) })).await;
    get(&older).await;
    put(&older, Txn::new(), &json!({ "name": "b".repeat(5000) })).await;
    assert_eq!(get(&*newer).await, json!({ "name": "b".repeat(5000) }));
}
