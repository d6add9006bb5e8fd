//! What both measurements stand beside: a put in the very etcd of the control
//! plane, with nothing of ours around it, until a watch shows it.

use std::time::Duration;

use anyhow::Result;
use control_plane::store::{Op, Store, Txn, WatchItem, WatchStream};
use tokio::time::{Instant, timeout};

/// Bytes of a bare put: about one desired state.
pub(super) const FLOOR_BYTES: usize = 300;
/// Bound of one put's way back.
const WITHIN: Duration = Duration::from_secs(30);

/// A watch that is open and caught up: etcd serves one that starts behind only
/// every 100 ms, which is nobody's cost here.
pub(super) async fn caught_up(store: &impl Store) -> Result<WatchStream> {
    let from = store.health().await?.revision + 1;
    let mut watch = store.watch("", from).await?;
    put_to_watch(store, &mut watch, "caught-up").await?;
    Ok(watch)
}

/// One bare put until an open watch shows it.
pub(super) async fn put_to_watch(store: &impl Store, watch: &mut WatchStream, key: &str) -> Result<Duration> {
    let put = Op::Put(key.to_owned(), vec![b'x'; FLOOR_BYTES].into(), None);
    let begun = Instant::now();
    store.txn(Txn { compare: Vec::new(), ops: vec![put] }).await?.committed()?;
    loop {
        if let WatchItem::Events { events, .. } = timeout(WITHIN, watch.next()).await??
            && events.iter().any(|event| event.key() == key)
        {
            return Ok(begun.elapsed());
        }
    }
}
