//! After a backup was restored: what came after it is forgotten here and not elsewhere. Nothing may start before an
//! operator has looked, so the fleet is halted by an id that no agent has seen lifted; everything that can still be
//! used against us, the join tokens, is burnt; and agents are told by a new store epoch that what they knew of this
//! store no longer holds. Called offline, by `faultline store`.

use jiff::Timestamp;
use proto::halt::{Halt, HaltScope};
use proto::ids::HaltId;
use proto::status::{RunPhase, RunSummary};
use serde::Serialize;

use crate::centre::Error;
use crate::driver::clock::Clock;
use crate::driver::codec;
use crate::engine::object::{Object, ObjectKey};
use crate::format;
use crate::store::keys::Key;
use crate::store::{Entry, PageRequest, Store, Txn};

/// What to look at before the halt is released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// The store's epoch from now on.
    pub epoch: String,
    /// The halt to release.
    pub halt: HaltId,
    /// Join tokens that were burnt.
    pub tokens_burnt: usize,
    /// Clusters that are revoked as far as this store knows. One that was revoked later is not here: revoke it again.
    pub revoked: Vec<String>,
    /// Every member, by name: one that was invited later is not here, its agent is refused.
    pub clusters: Vec<String>,
    /// Runs that this store does not know the end of, by id.
    pub unfinished: Vec<String>,
}

/// Marks the store as restored. Done again it makes one more epoch and one more halt.
///
/// # Errors
/// [`Error::Format`]; [`Error::Store`]: nothing is changed then, or everything.
pub async fn mark(store: &dyn Store, clock: &Clock) -> Result<Restored, Error> {
    format::check(store).await?;
    let epoch = clock.new_session();
    let text = format!(
        "restored-{}",
        epoch.chars().filter(char::is_ascii_alphanumeric).take(12).collect::<String>()
    );
    let id: HaltId = text.parse().map_err(|_| Error::Internal(format!("{text} is no id")))?;
    let halt = halt(id.clone(), clock.now());
    let tokens = all(store, "tokens/").await?.len();
    let epoch_path = Key::Epoch.path().map_err(|error| Error::Internal(error.to_string()))?;
    let txn = Txn::new()
        .put(codec::path(&halt.key())?, codec::encode(&halt)?)
        .put(codec::path(&ObjectKey::HaltsRevision)?, codec::encode(&Object::HaltsRevision)?)
        .delete_prefix("tokens/")
        .put(epoch_path, epoch.clone());
    let _ = store.txn(txn).await?.committed()?;
    let (clusters, revoked) = members(store).await?;
    let unfinished = unfinished(store).await?;
    Ok(Restored { epoch, halt: id, tokens_burnt: tokens, revoked, clusters, unfinished })
}

fn halt(id: HaltId, at: Timestamp) -> Object {
    Object::Halt(Halt {
        id,
        scope: HaltScope::Fleet,
        reason: "the centre's store was restored from a backup: look at revocations and unfinished runs, then release"
            .to_owned(),
        by: "restore".to_owned(),
        at,
        origin: None,
    })
}

async fn all(store: &dyn Store, prefix: &str) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    let mut request = Some(PageRequest::first(500));
    while let Some(asked) = request {
        let page = store.list(prefix, asked.clone()).await?;
        request = asked.next(&page);
        entries.extend(page.entries);
    }
    Ok(entries)
}

/// Names of all members, and of those that are revoked.
async fn members(store: &dyn Store) -> Result<(Vec<String>, Vec<String>), Error> {
    let (mut names, mut revoked) = (Vec::new(), Vec::new());
    for entry in all(store, "clusters/").await? {
        let Some(key @ ObjectKey::ClusterSpec(_)) = codec::parse(&entry.key) else { continue };
        match codec::decode(&key, &entry.value) {
            Ok(Object::ClusterSpec(spec)) => {
                if spec.revoked {
                    revoked.push(spec.name.clone());
                }
                names.push(spec.name);
            }
            // One more thing to look at.
            _ => names.push(entry.key),
        }
    }
    names.sort();
    revoked.sort();
    Ok((names, revoked))
}

async fn unfinished(store: &dyn Store) -> Result<Vec<String>, Error> {
    let mut ids = Vec::new();
    for entry in all(store, "runs/").await? {
        let Some(ObjectKey::Summary(id)) = codec::parse(&entry.key) else { continue };
        // A summary that cannot be read is one more thing to look at.
        let finished = serde_json::from_slice::<RunSummary>(&entry.value)
            .is_ok_and(|summary| summary.phase == RunPhase::Finished);
        if !finished {
            ids.push(id.to_string());
        }
    }
    Ok(ids)
}
