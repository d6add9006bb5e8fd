//! Watches that never end: a broken one is taken up again with growing pauses, and what it delivered before
//! stays. Called by whatever publishes a snapshot.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use backon::ExponentialBuilder;
use futures::{Stream, StreamExt};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event, ExponentialBackoff};
use kube::runtime::{WatchStreamExt, watcher as watched};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until};

/// The apiserver ends a watch after so many seconds and it goes on from there: a connection that died without a
/// word is noticed this soon (plus a margin), also by who waits for a Halt.
const WATCH_S: u32 = 30;

/// Changes closer together than this are published as one.
pub(super) const COALESCE: Duration = Duration::from_millis(100);

/// When changes are published: the first after some quiet at once, for somebody waits for it; those that follow
/// within [`COALESCE`] together.
#[derive(Debug)]
pub(super) struct Pace {
    due: Option<Instant>,
    quiet_from: Instant,
}

impl Pace {
    /// Nothing was published yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { due: None, quiet_from: now }
    }

    /// Something changed that is to be published from `at` on.
    pub(super) fn changed(&mut self, at: Instant) {
        let at = self.quiet_from.max(at);
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// All that changed is published.
    pub(super) fn published(&mut self, now: Instant) {
        (self.due, self.quiet_from) = (None, now + COALESCE);
    }

    /// Whether something changed that is not published.
    pub(super) fn is_due(&self) -> bool {
        self.due.is_some()
    }

    /// Waits until something is due; for ever where nothing changed.
    pub(super) async fn due(&self) {
        match self.due {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

/// Every event of a kind, for ever. `fields` narrows it, for example `metadata.name=default`.
pub(super) fn events<K>(
    api: Api<K>,
    what: &'static str,
    fields: Option<&str>,
) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(300))
        .with_max_delay(Duration::from_secs(10))
        .with_factor(2.0)
        .with_jitter()
        .without_max_times();
    let config = watcher::Config::default().timeout(WATCH_S);
    let config = fields.iter().fold(config, |config, fields| config.fields(fields));
    let events = watched(api, config).backoff(ExponentialBackoff::from(pauses));
    events.filter_map(move |event| {
        let event = event.inspect_err(|error| {
            tracing::warn!(what, %error, "watch broke; what was seen stays, and is listed again");
        });
        std::future::ready(event.ok())
    })
}

/// A kind of ours, read without a type: nothing in it can fail to be read, and nothing is lost.
pub(super) fn untyped(client: Client, kind: &str, plural: &str) -> Api<DynamicObject> {
    Api::all_with(client, &resource(kind, plural))
}

/// The resource of a kind of ours.
pub(super) fn resource(kind: &str, plural: &str) -> ApiResource {
    let gvk = GroupVersionKind::gvk(proto::experiment::GROUP, proto::experiment::VERSION, kind);
    ApiResource::from_gvk_with_plural(&gvk, plural)
}

/// What one watch delivered, whole after each list.
#[derive(Debug)]
pub(super) struct Listed<V> {
    now: BTreeMap<String, V>,
    coming: BTreeMap<String, V>,
    complete: bool,
}

impl<V> Default for Listed<V> {
    fn default() -> Self {
        Self { now: BTreeMap::new(), coming: BTreeMap::new(), complete: false }
    }
}

impl<V: PartialEq> Listed<V> {
    /// Takes an event in. Objects that `read` makes nothing of are left out. True where what is to be seen has
    /// changed.
    pub(super) fn take<K>(&mut self, event: Event<K>, read: impl FnOnce(K) -> Option<(String, V)>) -> bool {
        match event {
            Event::Init => {
                self.coming.clear();
                false
            }
            Event::InitApply(object) => {
                self.coming.extend(read(object));
                false
            }
            Event::InitDone => {
                let coming = std::mem::take(&mut self.coming);
                let changed = !self.complete || coming != self.now;
                self.now = coming;
                self.complete = true;
                changed
            }
            Event::Apply(object) => {
                let Some((key, value)) = read(object) else {
                    return false;
                };
                if self.now.get(&key) == Some(&value) {
                    return false;
                }
                self.now.insert(key, value);
                self.complete
            }
            Event::Delete(object) => read(object).is_some_and(|(key, _)| self.now.remove(&key).is_some()),
        }
    }

    /// Everything, once it was listed completely.
    pub(super) fn all(&self) -> Option<&BTreeMap<String, V>> {
        self.complete.then_some(&self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "as `Listed::take` wants it")]
    fn same(object: (&str, u32)) -> Option<(String, u32)> {
        Some((object.0.to_owned(), object.1))
    }

    #[test]
    fn nothing_is_shown_before_a_complete_list_and_a_new_list_replaces_at_once() {
        let mut listed = Listed::default();
        assert!(!listed.take(Event::Init, same));
        assert!(!listed.take(Event::InitApply(("a", 1)), same));
        assert_eq!(listed.all(), None);
        assert!(listed.take(Event::InitDone, same));
        assert!(listed.take(Event::Apply(("b", 1)), same));
        assert!(!listed.take(Event::Apply(("b", 1)), same), "equal");

        assert!(!listed.take(Event::Init, same));
        assert!(!listed.take(Event::InitApply(("b", 1)), same));
        assert_eq!(listed.all().unwrap().len(), 2, "the old list stays until the new one is complete");
        assert!(listed.take(Event::InitDone, same));
        assert_eq!(listed.all().unwrap().keys().collect::<Vec<_>>(), ["b"]);

        assert!(listed.take(Event::Delete(("b", 9)), same));
        assert!(!listed.take(Event::Delete(("b", 9)), same), "gone already");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_change_goes_at_once_and_a_flood_ten_times_a_second() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        let mut published = Vec::new();
        for change in 0..50 {
            // A change every 7 ms.
            let at = begun + Duration::from_millis(7) * change;
            while tokio::time::timeout_at(at, pace.due()).await.is_ok() {
                published.push(begun.elapsed().as_millis());
                pace.published(Instant::now());
            }
            pace.changed(Instant::now());
        }
        pace.due().await;
        assert_eq!(published, [0, 100, 200, 300]);
        pace.published(Instant::now());
        assert!(tokio::time::timeout(Duration::from_hours(1), pace.due()).await.is_err(), "nothing is left");
        pace.changed(Instant::now());
        assert!(tokio::time::timeout(Duration::ZERO, pace.due()).await.is_ok(), "quiet again");
    }

    #[test]
    fn an_empty_cluster_is_a_complete_list_too() {
        let mut listed = Listed::<u32>::default();
        assert!(listed.take(Event::InitDone, same));
        assert!(listed.all().is_some());
    }
}
