//! The in-memory twin of the cluster door. Tests of the driver and of whole agents set what is seen and look at
//! what was done; nothing here touches a disk or a network.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use proto::halt::HaltLevel;
use proto::ids::RunId;
use proto::injection::TargetRef;
use proto::wire::{AuthoredRef, Mirror};
use tokio::sync::watch;

use super::{
    Acts, Announcement, AuthoredSet, CeilingSeen, Doors, Error, Inventory, LatchedHalts, Leadership,
    LocalHalt, NodeAuth, PodDeletion, Records, RunRecordHeld, Secrets, Sight,
};

/// What was kept and done so far.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// Records by run.
    pub records: BTreeMap<RunId, RunRecordHeld>,
    /// Latched halts.
    pub latched: LatchedHalts,
    /// Secret documents by name.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// The published bundle.
    pub node_bundle: Option<String>,
    /// Statuses written, by object.
    pub statuses: BTreeMap<AuthoredRef, Vec<u8>>,
    /// Levels of Halt objects.
    pub halt_levels: BTreeMap<String, HaltLevel>,
    /// Announcements, in order.
    pub announced: Vec<Announcement>,
    /// Uids of deleted pods, in order.
    pub deleted: Vec<String>,
    /// Tokens and the node each stands for.
    pub tokens: BTreeMap<String, String>,
}

/// A cluster that exists in memory only. Clones share it.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    inventory: watch::Sender<Option<Arc<Inventory>>>,
    ceiling: watch::Sender<CeilingSeen>,
    halts: watch::Sender<Option<Arc<Vec<LocalHalt>>>>,
    authored: watch::Sender<Option<Arc<AuthoredSet>>>,
    leadership: watch::Sender<Leadership>,
    kept: Mutex<Kept>,
    broken: Mutex<BTreeSet<&'static str>>,
    /// Secrets are not kept until this is false.
    stalled: watch::Sender<bool>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty cluster of which nothing is known yet, led by another.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            inventory: watch::Sender::new(None),
            ceiling: watch::Sender::new(CeilingSeen::Unknown),
            halts: watch::Sender::new(None),
            authored: watch::Sender::new(None),
            leadership: watch::Sender::new(Leadership::Standby),
            kept: Mutex::default(),
            broken: Mutex::default(),
            stalled: watch::Sender::new(false),
        }))
    }

    /// This twin as every door.
    pub fn doors(&self) -> Doors {
        let this = Arc::new(self.clone());
        Doors {
            sight: this.clone(),
            records: this.clone(),
            secrets: this.clone(),
            acts: this.clone(),
            node_auth: Some(this),
        }
    }

    /// Shows another inventory.
    pub fn set_inventory(&self, inventory: Inventory) {
        self.0.inventory.send_replace(Some(Arc::new(inventory)));
    }

    /// Shows another Ceiling.
    pub fn set_ceiling(&self, ceiling: CeilingSeen) {
        self.0.ceiling.send_replace(ceiling);
    }

    /// Shows other Halt objects.
    pub fn set_local_halts(&self, halts: Vec<LocalHalt>) {
        self.0.halts.send_replace(Some(Arc::new(halts)));
    }

    /// Shows other authored objects.
    pub fn set_authored(&self, set: AuthoredSet) {
        self.0.authored.send_replace(Some(Arc::new(set)));
    }

    /// Gains or loses the lead.
    pub fn set_leadership(&self, leadership: Leadership) {
        self.0.leadership.send_replace(leadership);
    }

    /// Lets `token` stand for a daemon on `node`.
    pub fn set_token(&self, token: &str, node: &str) {
        self.kept().tokens.insert(token.to_owned(), node.to_owned());
    }

    /// Makes one method unavailable until [`Self::mend`]: `put`, `list`, `delete_pod`, ...
    pub fn break_method(&self, method: &'static str) {
        self.broken().insert(method);
    }

    /// Makes a broken method work again.
    pub fn mend(&self, method: &'static str) {
        self.broken().remove(method);
    }

    /// Leaves every `put` of a secret without an answer for as long as this is so, as an apiserver that is away does.
    pub fn stall_secrets(&self, stalled: bool) {
        self.0.stalled.send_replace(stalled);
    }

    /// A copy of all that was kept and done.
    pub fn snapshot(&self) -> Kept {
        self.kept().clone()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.0.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn working(&self, method: &'static str) -> Result<MutexGuard<'_, Kept>, Error> {
        if self.broken().contains(method) {
            return Err(Error::Unavailable { what: method.to_owned(), why: "made so".to_owned() });
        }
        Ok(self.kept())
    }
}

impl Sight for Memory {
    fn inventory(&self) -> watch::Receiver<Option<Arc<Inventory>>> {
        self.0.inventory.subscribe()
    }
    fn ceiling(&self) -> watch::Receiver<CeilingSeen> {
        self.0.ceiling.subscribe()
    }
    fn local_halts(&self) -> watch::Receiver<Option<Arc<Vec<LocalHalt>>>> {
        self.0.halts.subscribe()
    }
    fn authored(&self) -> watch::Receiver<Option<Arc<AuthoredSet>>> {
        self.0.authored.subscribe()
    }
    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.subscribe()
    }
}

#[async_trait]
impl Records for Memory {
    async fn put(&self, record: &RunRecordHeld) -> Result<(), Error> {
        self.working("put")?.records.insert(record.run().clone(), record.clone());
        Ok(())
    }
    async fn list(&self) -> Result<Vec<RunRecordHeld>, Error> {
        Ok(self.working("list")?.records.values().cloned().collect())
    }
    async fn delete(&self, run: &RunId) -> Result<(), Error> {
        self.working("delete")?.records.remove(run);
        Ok(())
    }
    async fn latched(&self) -> Result<LatchedHalts, Error> {
        Ok(self.working("latched")?.latched.clone())
    }
    async fn put_latched(&self, halts: &LatchedHalts) -> Result<(), Error> {
        self.working("put_latched")?.latched = halts.clone();
        Ok(())
    }
}

#[async_trait]
impl Secrets for Memory {
    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.working("get")?.secrets.get(name).cloned())
    }
    async fn put(&self, name: &str, value: &[u8]) -> Result<(), Error> {
        // The sender is as old as the receiver.
        let _ = self.0.stalled.subscribe().wait_for(|stalled| !stalled).await;
        self.working("put_secret")?.secrets.insert(name.to_owned(), value.to_vec());
        Ok(())
    }
    async fn publish_node_bundle(&self, bundle_pem: &str) -> Result<(), Error> {
        self.working("publish_node_bundle")?.node_bundle = Some(bundle_pem.to_owned());
        Ok(())
    }
}

#[async_trait]
impl Acts for Memory {
    async fn delete_pod(&self, target: &TargetRef, _grace_s: Option<u64>) -> Result<PodDeletion, Error> {
        drop(self.working("delete_pod")?);
        let mut deletion = PodDeletion::Gone;
        self.0.inventory.send_if_modified(|seen| {
            let Some(now) = seen.as_ref().filter(|i| i.pods.contains_key(&target.uid)) else {
                return false;
            };
            let mut next = Inventory::clone(now);
            next.pods.remove(&target.uid);
            *seen = Some(Arc::new(next));
            deletion = PodDeletion::Accepted;
            true
        });
        if deletion == PodDeletion::Accepted {
            self.kept().deleted.push(target.uid.clone());
        }
        Ok(deletion)
    }
    async fn write_status(&self, mirror: &Mirror) -> Result<(), Error> {
        let mut kept = self.working("write_status")?;
        let exists = self.0.authored.borrow().as_ref().is_some_and(|set| set.contains_key(&mirror.object));
        if exists {
            kept.statuses.insert(mirror.object.clone(), mirror.status.clone());
        }
        Ok(())
    }
    async fn set_halt_status(&self, name: &str, level: HaltLevel) -> Result<(), Error> {
        let mut kept = self.working("set_halt_status")?;
        if self.0.halts.borrow().as_ref().is_some_and(|halts| halts.iter().any(|h| h.name == name)) {
            kept.halt_levels.insert(name.to_owned(), level);
        }
        Ok(())
    }
    async fn announce(&self, announcement: &Announcement) -> Result<(), Error> {
        self.working("announce")?.announced.push(announcement.clone());
        Ok(())
    }
}

#[async_trait]
impl NodeAuth for Memory {
    async fn node_of(&self, token: &str) -> Result<String, Error> {
        let refused = || Error::Refused { what: "review the token".into(), why: "not authenticated".into() };
        self.working("node_of")?.tokens.get(token).cloned().ok_or_else(refused)
    }
}
