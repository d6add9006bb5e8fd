//! A watch on etcd. Its answers are read as fast as they come into a bounded queue: a slow
//! consumer loses its watch and never stalls the connection that all calls share.

use etcd_client::{EventType, WatchOptions, WatchResponse};
use futures::stream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{EtcdStore, MAX_ANSWER_BYTES, entry, failure, range_end, revision, stripped};
use crate::store::{Error, Event, Revision, Store, WatchItem, WatchStream};

/// Answers that may wait for the consumer.
const QUEUE: usize = 256;

impl EtcdStore {
    pub(super) async fn open_watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, Error> {
        let start = self.full(prefix);
        // One revision early: etcd calls a watch from the compacted revision itself fine, yet
        // forgets a deletion made at it. This way it says compacted whenever that may be.
        let early = from.saturating_sub(1).max(1);
        let options = WatchOptions::new()
            .with_range(range_end(&start))
            .with_start_revision(early as i64)
            .with_progress_notify();
        let mut client = self.client.watch_client().max_decoding_message_size(MAX_ANSWER_BYTES);
        let (answers, first) = self
            .call("watch", async {
                let mut answers = client.watch(start, Some(options)).await?;
                let first = answers.message().await?;
                Ok((answers, first))
            })
            .await?;
        let first = first.ok_or_else(|| ended("etcd closed the stream"))?;
        if first.canceled() {
            return Err(cancellation(&first));
        }
        if revision(first.header()) + 1 < from {
            self.check_not_rewound(from).await?;
        }
        let (items, queue) = mpsc::channel(QUEUE);
        let mut pump = JoinSet::new();
        let reader = Reader { prefix: self.config.prefix.clone(), from };
        pump.spawn(reader.pump(answers, items));
        Ok(WatchStream::new(stream::unfold((queue, pump), |(mut queue, mut pump)| async {
            if let Some(item) = queue.recv().await {
                return Some((Ok(item), (queue, pump)));
            }
            // The reader has ended: give its reason, once.
            match pump.join_next().await? {
                Ok(error) => Some((Err(error), (queue, pump))),
                Err(error) => Some((Err(ended(&error.to_string())), (queue, pump))),
            }
        })))
    }

    /// A member may lag behind what another told us; a quorum may not.
    async fn check_not_rewound(&self, from: Revision) -> Result<(), Error> {
        let current = self.health().await?.revision;
        if current + 1 < from {
            return Err(Error::Rewound { seen: from - 1, current });
        }
        Ok(())
    }
}

fn ended(reason: &str) -> Error {
    Error::WatchCanceled { reason: reason.to_owned() }
}

fn cancellation(answer: &WatchResponse) -> Error {
    match answer.compact_revision() {
        0 => ended(answer.cancel_reason()),
        compact_revision => Error::Compacted { compact_revision: compact_revision as u64 },
    }
}

struct Reader {
    prefix: String,
    from: Revision,
}

impl Reader {
    /// Reads until the watch ends and returns why.
    async fn pump(self, mut answers: etcd_client::WatchStream, items: mpsc::Sender<WatchItem>) -> Error {
        loop {
            let answer = tokio::select! {
                () = items.closed() => return Error::Closed,
                answer = answers.message() => answer,
            };
            let item = match answer {
                Ok(Some(answer)) if answer.canceled() => return cancellation(&answer),
                Ok(Some(answer)) => self.item(&answer),
                Ok(None) => return ended("etcd closed the stream"),
                Err(error) => return failure::translate("watch", error),
            };
            match item {
                Ok(Some(item)) => {
                    if let Err(full) = items.try_send(item) {
                        return match full {
                            mpsc::error::TrySendError::Full(_) => Error::Lagged,
                            mpsc::error::TrySendError::Closed(_) => Error::Closed,
                        };
                    }
                }
                Ok(None) => {}
                Err(error) => return error,
            }
        }
    }

    fn item(&self, answer: &WatchResponse) -> Result<Option<WatchItem>, Error> {
        if answer.created() {
            return Ok(None);
        }
        if answer.events().is_empty() {
            let revision = revision(answer.header());
            return Ok((revision >= self.from).then_some(WatchItem::Progress { revision }));
        }
        let mut events = Vec::with_capacity(answer.events().len());
        for event in answer.events() {
            let kv = event.kv().ok_or_else(|| Error::Corrupt("event without a key".to_owned()))?;
            let at = kv.mod_revision() as u64;
            if at < self.from {
                continue;
            }
            events.push(match event.event_type() {
                EventType::Put => Event::Put(entry(&self.prefix, kv)?),
                EventType::Delete => Event::Delete { key: stripped(&self.prefix, kv)?, revision: at },
            });
        }
        // Not the header's revision: while a watch catches up, that one is ahead of the events.
        let revision = events.iter().map(Event::revision).max();
        Ok(revision.map(|revision| WatchItem::Events { revision, events }))
    }
}
