//! The cluster door on a real apiserver. `run` makes one [`Kube`], hands its [`Kube::doors`] to the driver and
//! the link, and keeps [`Kube::run`] going: the watches, the Lease and the node bundle.
//!
//! What it asks of the apiserver, and nothing else (helm/member renders the Roles from the same list):
//!
//! | where | resource | verbs |
//! |---|---|---|
//! | cluster | pods | get list watch |
//! | cluster | nodes, runtimeclasses.node.k8s.io | list watch |
//! | cluster | replicasets.apps, jobs.batch (metadata only) | list watch |
//! | cluster | namespaces `kube-system` | get |
//! | cluster | experiments, runs, halts | get list watch |
//! | cluster | ceilings `default` | list watch |
//! | cluster | experiments/status, runs/status, halts/status | patch |
//! | cluster | tokenreviews, events | create |
//! | `default` | services and endpointslices named `kubernetes` | get |
//! | target namespaces | pods | delete |
//! | own namespace | faultrecords | get list create update delete |
//! | own namespace | the Lease, two Secrets, one ConfigMap, by name | get create update |
//! | own namespace | pods | patch |

mod acts;
mod answer;
mod authored;
mod basics;
mod client;
mod events;
mod follow;
mod inventory;
mod leadership;
mod limits;
mod records;
mod secrets;
mod slim;
#[cfg(test)]
mod stage;
mod status;
mod tokens;
mod uninstall;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::client::{connect, from_config};
pub use self::uninstall::{Drained, latch, lift};
use super::{AuthoredSet, CeilingSeen, Doors, Error, Inventory, Leadership, LocalHalt, Sight};

/// Audience that a node daemon's token must carry.
pub const NODE_TOKEN_AUDIENCE: &str = "faultline-agent";
/// Label of the pod that node daemons reach through the Service; its value is `true`.
pub const ACTIVE_LABEL: &str = "faultline.dev/active";
/// Annotation that names the author of an authored object.
pub const AUTHOR_ANNOTATION: &str = "faultline.dev/author";

const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "faultline");
/// A release of the Lease at shutdown takes no longer; without it another agent waits for the expiry.
const RELEASE_BOUND: Duration = Duration::from_secs(5);

/// Names of what is this agent's in its cluster.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The agent's own namespace.
    pub namespace: String,
    /// The agent's own pod: holder of the Lease.
    pub pod_name: String,
    /// Name of the Lease.
    pub lease_name: String,
    /// Name of the Secret behind `secret::IDENTITY`.
    pub identity_secret: String,
    /// Name of the Secret behind `secret::NODE_CA`.
    pub node_ca_secret: String,
    /// Name of the ConfigMap that node daemons mount, key `ca.crt`.
    pub node_bundle_configmap: String,
    /// Service account of the node daemons, in the same namespace.
    pub node_service_account: String,
    /// How long a lead lasts.
    pub lease: LeaseTiming,
    /// Installed without node daemons.
    pub api_faults_only: bool,
}

/// How long a lead lasts, and how often it is renewed (or watched by who stands by).
#[derive(Debug, Clone, Copy)]
pub struct LeaseTiming {
    /// Without a renewal for so long the lead is over.
    pub duration: Duration,
    /// Between two renewals, give or take a tenth.
    pub renew: Duration,
}

impl Default for LeaseTiming {
    fn default() -> Self {
        Self { duration: Duration::from_secs(15), renew: Duration::from_secs(5) }
    }
}

/// A real cluster. Clones share it.
#[derive(Clone)]
pub struct Kube(Arc<Inner>);

struct Inner {
    client: Client,
    api_host: Option<String>,
    settings: Settings,
    inventory: watch::Sender<Option<Arc<Inventory>>>,
    ceiling: watch::Sender<CeilingSeen>,
    halts: watch::Sender<Option<Arc<Vec<LocalHalt>>>>,
    authored: watch::Sender<Option<Arc<AuthoredSet>>>,
    leadership: watch::Sender<Leadership>,
    /// The bundle last published, to be put back where it is lost.
    bundle: watch::Sender<Option<String>>,
    /// Resource versions of the records as last seen.
    record_versions: Mutex<BTreeMap<String, String>>,
    /// Statuses as last written.
    statuses: status::Written,
    /// Secrets as last seen.
    secrets: Mutex<BTreeMap<String, secrets::Seen>>,
}

impl fmt::Debug for Kube {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kube").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kube {
    /// A door on the apiserver of `client`. Nothing is seen until [`Self::run`]; what is kept and done works at
    /// once. `api_host` is the apiserver's host as the client dials it, an address that probes must not reach.
    pub fn new(client: Client, api_host: Option<String>, settings: Settings) -> Self {
        Self(Arc::new(Inner {
            client,
            api_host,
            settings,
            inventory: watch::Sender::new(None),
            ceiling: watch::Sender::new(CeilingSeen::Unknown),
            halts: watch::Sender::new(None),
            authored: watch::Sender::new(None),
            leadership: watch::Sender::new(Leadership::Standby),
            bundle: watch::Sender::new(None),
            record_versions: Mutex::default(),
            statuses: status::Written::default(),
            secrets: Mutex::default(),
        }))
    }

    /// This cluster as every door.
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

    /// Watches, leads or stands by, and keeps the node bundle, until `shutdown`; then gives the Lease back. The
    /// apiserver may be away at any time, also at the start. An error is a part that ended by itself: fatal.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), Error> {
        let mut parts: JoinSet<&'static str> = JoinSet::new();
        let (seeing, limits, authored, bundle) = (self.clone(), self.clone(), self.clone(), self.clone());
        parts.spawn(async move {
            Box::pin(inventory::follow(&seeing)).await;
            "inventory"
        });
        parts.spawn(async move {
            tokio::join!(limits::follow_ceiling(&limits), limits::follow_halts(&limits));
            "limits"
        });
        parts.spawn(async move {
            authored::follow(&authored).await;
            "authored objects"
        });
        parts.spawn(async move {
            secrets::keep_bundle(&bundle).await;
            "node bundle"
        });
        let (leading, stop) = (self.clone(), shutdown.clone());
        parts.spawn(async move {
            leadership::campaign(&leading, stop).await;
            "leadership"
        });
        let ended = tokio::select! {
            ended = parts.join_next() => ended,
            () = shutdown.cancelled() => {
                // Only the campaign ends by itself now: it gives the Lease back.
                let _ = tokio::time::timeout(RELEASE_BOUND, parts.join_next()).await;
                return Ok(());
            }
        };
        if shutdown.is_cancelled() {
            return Ok(());
        }
        let why = match ended {
            Some(Ok(part)) => format!("{part} ended by itself"),
            Some(Err(broken)) => broken.to_string(),
            None => "nothing was started".to_owned(),
        };
        Err(Error::Refused { what: "follow the cluster".to_owned(), why })
    }

    fn client(&self) -> Client {
        self.0.client.clone()
    }

    fn settings(&self) -> &Settings {
        &self.0.settings
    }
}

impl Sight for Kube {
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
