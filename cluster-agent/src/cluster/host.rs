//! A machine without Kubernetes as a cluster: workloads declared in a file stand for pods, files in a folder for
//! records, secrets, halts and authored objects. Everything is read again every [`LOOK_EVERY`]; everything written
//! is a new file, synced, then renamed.
//!
//! Folder `state`: `records/<run>.json`, `latched.json`, `secrets/<name>.json`, `node-bundle.pem`, `epoch`,
//! `machine-uid`, `lock`; `halts/<name>` is a Halt (any file; optional YAML `reason`, `namespace`), its level is
//! written to `halt-status/<name>`.

mod authored;
mod files;
mod workloads;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use proto::ceiling::CeilingSpec;
use proto::halt::{HaltLevel, HaltObjectSpec};
use proto::ids::RunId;
use proto::injection::TargetRef;
use proto::wire::Mirror;
use proto::workloads::WorkloadsFile;
use tokio::sync::watch;

use self::files::Folder;
use super::{
    Acts, Announcement, AuthoredSet, CeilingSeen, Doors, Error, Inventory, LatchedHalts, Leadership,
    LocalHalt, NodeSeen, PodDeletion, Records, RunRecordHeld, Secrets, Sight,
};

/// How often the files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Where things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    /// Folder of the agent's own state; made if absent. Two agents never share one.
    pub state_dir: PathBuf,
    /// The workloads file, shared with the node daemon.
    pub workloads: PathBuf,
    /// A CeilingSpec in YAML, or a whole Ceiling manifest; absent file = no Ceiling.
    pub ceiling: PathBuf,
    /// Folder of Experiment and Run manifests (`*.yaml`, `*.yml`, `*.json`); made if absent.
    pub authored_dir: PathBuf,
    /// Name of this machine as a node; the daemon must use the same.
    pub node_name: String,
    /// Addresses that probes never dial, for example of the centre.
    pub denied: Vec<IpAddr>,
}

/// The door. Clones share it.
#[derive(Debug, Clone)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: HostConfig,
    state: Folder,
    machine_uid: String,
    inventory: watch::Sender<Option<Arc<Inventory>>>,
    ceiling: watch::Sender<CeilingSeen>,
    halts: watch::Sender<Option<Arc<Vec<LocalHalt>>>>,
    authored: watch::Sender<Option<Arc<AuthoredSet>>>,
    leadership: watch::Sender<Leadership>,
    /// Held as long as this door lives.
    _lock: nix::fcntl::Flock<std::fs::File>,
}

impl Host {
    /// Opens the state folder (refused while another agent has it), counts the epoch up, and looks once.
    pub async fn open(config: HostConfig) -> anyhow::Result<Self> {
        for folder in [&config.state_dir, &config.authored_dir] {
            tokio::fs::create_dir_all(folder).await?;
        }
        let state = Folder::new(config.state_dir.clone());
        let lock = state.lock("lock")?;
        let epoch = state.read("epoch").await?.and_then(|b| String::from_utf8(b).ok());
        let epoch = epoch.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0) + 1;
        state.write("epoch", epoch.to_string().as_bytes()).await?;
        let machine_uid = if let Some(uid) = state.read("machine-uid").await? {
            String::from_utf8_lossy(&uid).trim().to_owned()
        } else {
            let uid = format!("{:032x}", fastrand::u128(..));
            state.write("machine-uid", uid.as_bytes()).await?;
            uid
        };
        let door = Self(Arc::new(Inner {
            config,
            state,
            machine_uid,
            inventory: watch::Sender::new(None),
            ceiling: watch::Sender::new(CeilingSeen::Unknown),
            halts: watch::Sender::new(None),
            authored: watch::Sender::new(None),
            leadership: watch::Sender::new(Leadership::Active { epoch }),
            _lock: lock,
        }));
        door.look().await;
        Ok(door)
    }

    /// This door as every door; node links come over channels.
    pub fn doors(&self) -> Doors {
        let this = Arc::new(self.clone());
        Doors {
            sight: this.clone(),
            records: this.clone(),
            secrets: this.clone(),
            acts: this,
            node_auth: None,
        }
    }

    /// Looks at the files until it is dropped.
    pub async fn watch(&self) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look().await;
        }
    }

    /// Looks once. What cannot be read keeps its last state, but for the Ceiling, which then denies.
    pub async fn look(&self) {
        let inner = &self.0;
        match workloads::read(&inner.config.workloads).await {
            Ok(file) => publish(&inner.inventory, Some(Arc::new(self.inventory_of(&file)))),
            Err(error) => complain("workloads", &error),
        }
        publish(&inner.ceiling, ceiling(&inner.config.ceiling).await);
        match self.halts_now().await {
            Ok(halts) => publish(&inner.halts, Some(Arc::new(halts))),
            Err(error) => complain("halts", &error.to_string()),
        }
        match authored::read(&inner.config.authored_dir).await {
            Ok(set) => publish(&inner.authored, Some(Arc::new(set))),
            Err(error) => complain("authored", &error.to_string()),
        }
    }

    fn inventory_of(&self, file: &WorkloadsFile) -> Inventory {
        let config = &self.0.config;
        let pods = file
            .workloads
            .iter()
            .map(|w| workloads::seen(w, &config.node_name))
            .map(|pod| (pod.uid.clone(), pod));
        Inventory {
            cluster_uid: self.0.machine_uid.clone(),
            own_namespace: String::new(),
            nodes: BTreeMap::from([(config.node_name.clone(), NodeSeen { ready: true })]),
            pods: pods.collect(),
            api_addresses: config.denied.clone(),
            ..Inventory::default()
        }
    }

    async fn halts_now(&self) -> Result<Vec<LocalHalt>, Error> {
        let folder = self.0.state.folder("halts");
        let mut halts = Vec::new();
        for name in folder.names().await? {
            let (Some(text), Some(at)) = (folder.read(&name).await?, folder.modified(&name).await?) else {
                continue; // lifted meanwhile
            };
            // A halt is a halt even if its text cannot be read: the widest on doubt.
            let text = String::from_utf8_lossy(&text).into_owned();
            let spec: HaltObjectSpec = if text.trim().is_empty() {
                HaltObjectSpec::default()
            } else {
                serde_saphyr::from_str(&text).unwrap_or_default()
            };
            let reason = spec.reason.unwrap_or_default();
            halts.push(LocalHalt { name, reason, namespace: spec.namespace, at });
        }
        Ok(halts)
    }
}

fn publish<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|now| {
        let changed = *now != value;
        if changed {
            *now = value;
        }
        changed
    });
}

fn complain(what: &str, error: &str) {
    tracing::warn!(what, error, "not read; the last state stays");
}

/// Absent file: no Ceiling. Anything unreadable: unknown, which denies.
async fn ceiling(path: &Path) -> CeilingSeen {
    let text = match tokio::fs::read_to_string(path).await {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return CeilingSeen::Absent,
        Err(error) => {
            complain("ceiling", &error.to_string());
            return CeilingSeen::Unknown;
        }
    };
    match parse_ceiling(&text) {
        Ok(spec) => CeilingSeen::Present(Arc::new(spec)),
        Err(error) => {
            complain("ceiling", &error);
            CeilingSeen::Unknown
        }
    }
}

fn parse_ceiling(text: &str) -> Result<CeilingSpec, String> {
    let value: serde_json::Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    let spec = value.get("spec").filter(|_| value.get("kind").is_some()).cloned().unwrap_or(value);
    serde_json::from_value(spec).map_err(|e| e.to_string())
}

impl Sight for Host {
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
impl Records for Host {
    async fn put(&self, record: &RunRecordHeld) -> Result<(), Error> {
        let (folder, name) = (self.0.state.folder("records"), format!("{}.json", record.run()));
        if let Some(there) = folder.read(&name).await? {
            files::parse::<RunRecordHeld>(&name, &there)?;
        }
        folder.write(&name, &files::json(record)?).await
    }
    async fn list(&self) -> Result<Vec<RunRecordHeld>, Error> {
        let folder = self.0.state.folder("records");
        let mut records: Vec<RunRecordHeld> = Vec::new();
        for name in &folder.names().await? {
            let Some(bytes) = folder.read(name).await? else { continue };
            match files::parse(name, &bytes) {
                Ok(record) => records.push(record),
                // It is not forgotten: `put` does not write over it, so that run never starts here.
                Err(error) => {
                    tracing::error!(record = name, %error, "left out: delete it when its faults are gone");
                }
            }
        }
        records.sort_by(|a, b| a.run().cmp(b.run()));
        Ok(records)
    }
    async fn delete(&self, run: &RunId) -> Result<(), Error> {
        self.0.state.folder("records").remove(&format!("{run}.json")).await
    }
    async fn latched(&self) -> Result<LatchedHalts, Error> {
        match self.0.state.read("latched.json").await? {
            Some(bytes) => files::parse("latched.json", &bytes),
            None => Ok(LatchedHalts::default()),
        }
    }
    async fn put_latched(&self, halts: &LatchedHalts) -> Result<(), Error> {
        self.0.state.write("latched.json", &files::json(halts)?).await
    }
}

#[async_trait]
impl Secrets for Host {
    async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let name = files::name(name)?;
        self.0.state.folder("secrets").read(&format!("{name}.json")).await
    }
    async fn put(&self, name: &str, value: &[u8]) -> Result<(), Error> {
        let name = files::name(name)?;
        self.0.state.folder("secrets").write(&format!("{name}.json"), value).await
    }
    async fn publish_node_bundle(&self, bundle_pem: &str) -> Result<(), Error> {
        self.0.state.write("node-bundle.pem", bundle_pem.as_bytes()).await
    }
}

#[async_trait]
impl Acts for Host {
    async fn delete_pod(&self, target: &TargetRef, _grace_s: Option<u64>) -> Result<PodDeletion, Error> {
        let known = self.0.inventory.borrow().as_ref().is_some_and(|i| i.pods.contains_key(&target.uid));
        if !known {
            return Ok(PodDeletion::Gone);
        }
        let why = "a declared workload cannot be deleted".to_owned();
        Err(Error::Refused { what: format!("delete {}/{}", target.namespace, target.pod), why })
    }
    async fn write_status(&self, mirror: &Mirror) -> Result<(), Error> {
        let exists = self.0.authored.borrow().as_ref().is_some_and(|set| set.contains_key(&mirror.object));
        if exists {
            authored::write_status(&self.0.config.authored_dir, mirror).await?;
        }
        Ok(())
    }
    async fn set_halt_status(&self, name: &str, level: HaltLevel) -> Result<(), Error> {
        let name = files::name(name)?;
        let exists = self.0.halts.borrow().as_ref().is_some_and(|halts| halts.iter().any(|h| h.name == name));
        if exists {
            self.0.state.folder("halt-status").write(&name, format!("{level:?}\n").as_bytes()).await?;
        }
        Ok(())
    }
    async fn announce(&self, announcement: &Announcement) -> Result<(), Error> {
        // A machine without Kubernetes has no objects that people would look at.
        tracing::info!(
            reason = announcement.reason,
            on = announcement.on.name,
            announcement.message,
            "event"
        );
        Ok(())
    }
}

/// The time a file was last changed.
fn timestamp(time: std::time::SystemTime) -> Option<Timestamp> {
    Timestamp::try_from(time).ok()
}
