//! How the driver carries out what the engine asks: what blocks goes to a blocking thread and comes back as an event.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument;

use super::{Done, Driver, Waiting, acts};
use crate::engine::{Effect, Event, Failure, Remains, Unfit};
use crate::journal::{Record, Write};
use crate::system::spoken;
use crate::{fault, spans};

/// A runtime that does not say who a target is within this is not waited for.
const RESOLVE_WITHIN: Duration = Duration::from_secs(15);
/// Writes confirmed together at most.
const GROUP_MAX: usize = 256;

impl Driver {
    pub(super) fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(up) => self.outbox.push(up),
                Effect::WriteMeta { revision, meta } => {
                    self.writes.push((Write::Meta(meta), Waiting::Meta(revision)));
                }
                Effect::WriteRecord(record) => {
                    let id = record.injection.id.clone();
                    self.writes.push((Write::Record(record), Waiting::Recorded(id)));
                }
                Effect::WriteEnded(ended) => {
                    tracing::info!(injection = %ended.status.id, phase = ?ended.status.phase, reason = ?ended.status.reason, message = ended.status.message, "ended");
                    self.metrics.ended(ended.status.phase);
                    self.writes.push((Write::End(ended), Waiting::Nobody));
                }
                Effect::Forget(id) => self.writes.push((Write::Forget(id), Waiting::Nobody)),
                Effect::Resolve(injection) => self.resolve(injection),
                Effect::Apply { record, start_before_ms } => self.apply(record, start_before_ms),
                Effect::Look(record) => {
                    let (id, doors) = (record.injection.id.clone(), self.doors.clone());
                    let lost = crate::engine::Look::Failed("the look did not end".to_owned());
                    self.act(
                        false,
                        move || acts::watch(&doors, &record),
                        lost,
                        move |look| Event::Looked { id, look },
                    );
                }
                Effect::Undo(record) => self.undo(record),
            }
        }
    }

    fn apply(&mut self, record: Arc<Record>, start_before_ms: u64) {
        let (id, doors, metrics) = (record.injection.id.clone(), self.doors.clone(), self.metrics.clone());
        let lost = Err(Failure::Residue(Remains {
            what: "the apply broke off, its undo was not tried yet".to_owned(),
            command: "restart the daemon".to_owned(),
        }));
        let work = move || {
            let begun = Instant::now();
            let result = acts::apply(&doors, &record, start_before_ms);
            if result.is_ok() {
                metrics.injected(record.injection.action.kind(), begun.elapsed());
            }
            result
        };
        self.act(false, work, lost, move |result| Event::Applied { id, result });
    }

    fn undo(&mut self, record: Arc<Record>) {
        let (id, doors, metrics) = (record.injection.id.clone(), self.doors.clone(), self.metrics.clone());
        let what = "the undo did not end".to_owned();
        let lost = Err(Remains { what, command: "restart the daemon".to_owned() });
        let work = move || {
            let begun = Instant::now();
            let result = acts::undo(&doors, &record);
            metrics.undone(record.injection.action.kind(), begun.elapsed(), result.is_ok());
            result
        };
        self.act(true, work, lost, move |result| Event::Undone { id, result });
    }

    /// Runs on a blocking thread, within the bound; `lost` stands for a thread that panicked.
    fn act<T: Send + 'static>(
        &mut self,
        is_undo: bool,
        work: impl FnOnce() -> T + Send + 'static,
        lost: T,
        event: impl FnOnce(T) -> Event + Send + 'static,
    ) {
        let permits = if is_undo { &self.undo_permits } else { &self.act_permits };
        let permits = Arc::clone(permits);
        self.acts.spawn(async move {
            // Never closed.
            let _permit = permits.acquire_owned().await;
            let result = tokio::task::spawn_blocking(work).await;
            Done::Event(event(result.unwrap_or(lost)))
        });
    }

    fn resolve(&mut self, injection: Arc<proto::injection::Injection>) {
        let (doors, permits) = (self.doors.clone(), Arc::clone(&self.act_permits));
        let span = spans::of(&injection, "resolve");
        let resolving = async move {
            let _permit = permits.acquire_owned().await;
            let asked = async {
                let (target, container) = (&injection.target, injection.container.as_deref());
                if injection.action.is_of_container() {
                    doors.resolver.resolve(target, container).await
                } else {
                    doors.resolver.resolve_sandbox(target).await
                }
            };
            let found = match tokio::time::timeout(RESOLVE_WITHIN, asked).await {
                Ok(found) => found,
                Err(_) => {
                    Err(Unfit::Refused("the runtime did not say who the target is within 15 s".to_owned()))
                }
            };
            let result = found.and_then(|found| fault::plan(&injection, found, &doors.roots));
            Done::Event(Event::Resolved { id: injection.id.clone(), result })
        };
        self.acts.spawn(resolving.instrument(span));
    }

    /// All writes that came up while the group before was on its way are the next group.
    pub(super) fn write_group(&mut self) {
        let is_held_back = self.write_after.is_some_and(|at| Instant::now() < at);
        if self.is_writing || self.writes.is_empty() || is_held_back {
            return;
        }
        self.is_writing = true;
        let count = self.writes.len().min(GROUP_MAX);
        let group: Vec<_> = self.writes.drain(..count).collect();
        let (journal, metrics) = (Arc::clone(&self.doors.journal), self.metrics.clone());
        self.acts.spawn(async move {
            let writes: Vec<Write> = group.iter().map(|(write, _)| write.clone()).collect();
            let begun = Instant::now();
            let result = tokio::task::spawn_blocking(move || journal.commit(&writes)).await;
            metrics.journalled(begun.elapsed(), matches!(result, Ok(Ok(()))));
            let result = match result {
                Ok(result) => result.map_err(|error| spoken(&error)),
                Err(error) => Err(error.to_string()),
            };
            Done::Written(group, result)
        });
    }
}
