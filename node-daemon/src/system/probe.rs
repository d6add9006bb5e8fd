//! What this node can do, tried instead of guessed: every kernel feature is used once in a private
//! network namespace that ends with the trial. Run at start and after a boot; the list is reported up, so
//! that a plan is refused where a node lacks what it needs.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::nft::expr::QueueBy;
use super::nft::ruleset::Ruleset;
use super::nft::{Hook, Peer, RuleSpec, Side, TableSpec, Verdict, wire as nft};
use super::target::Roots;
use super::tc::{NetemSpec, wire as tc};
use super::{Error, cgroup, clock, cri, netns, spoken};

/// nf_tables with sets whose elements end by themselves.
pub const NFT: &str = "nft-timed-sets";
/// Handing packets to a worker: by the native expression or the xtables target.
pub const QUEUE: &str = "nfqueue";
/// The netem qdisc.
pub const NETEM: &str = "netem";
/// The prio qdisc, the root netem hangs under.
pub const PRIO: &str = "prio";
/// A freezer, v1 or v2.
pub const FREEZER: &str = "cgroup-freezer";
/// Groups of our own outside every pod.
pub const KEEPER: &str = "keeper-cgroup";
/// A container runtime's socket.
pub const RUNTIME: &str = "runtime-socket";

/// How long trial elements would live.
const TRIAL: Duration = Duration::from_secs(1);

/// Everything learnt about the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeProbe {
    /// As `uname -r` says.
    pub kernel_release: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// In a fixed order, each name once.
    pub capabilities: Vec<Capability>,
}

/// One thing the node has or lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// One of the names of this module.
    pub name: &'static str,
    /// Whether faults may count on it.
    pub present: bool,
    /// Which variant was found, or what the trial gave.
    pub detail: String,
}

impl NodeProbe {
    /// Whether the node has it.
    pub fn has(&self, name: &str) -> bool {
        self.capabilities.iter().any(|capability| capability.name == name && capability.present)
    }
}

/// Tries everything. `runtime_socket` is the configured one, if any.
pub fn run(roots: &Roots, runtime_socket: Option<&Path>) -> NodeProbe {
    let read = |path: &str| fs::read_to_string(roots.proc.join(path)).unwrap_or_default().trim().to_owned();
    let mut capabilities = match netns::private(|| Ok(network())) {
        Ok(found) => found,
        Err(error) => {
            let missing = |name| Capability { name, present: false, detail: spoken(&error) };
            vec![missing(NFT), missing(QUEUE), missing(NETEM), missing(PRIO)]
        }
    };
    let group = trial_group();
    capabilities.push(freezer(roots, &group));
    capabilities.push(keeper(roots, &group));
    capabilities.push(match cri::find_socket(runtime_socket, Path::new("/")) {
        Ok(path) => Capability { name: RUNTIME, present: path.exists(), detail: path.display().to_string() },
        Err(error) => Capability { name: RUNTIME, present: false, detail: error.to_string() },
    });
    NodeProbe {
        kernel_release: read("sys/kernel/osrelease"),
        boot_id: clock::boot_id(&roots.proc).unwrap_or_default(),
        capabilities,
    }
}

/// Runs inside a private namespace.
fn network() -> Vec<Capability> {
    let timed = nft_trial(Verdict::Drop, QueueBy::Native);
    let queue = match nft_trial(Verdict::Queue { number: 1 }, QueueBy::Native) {
        Ok(()) => Ok("nft queue".to_owned()),
        Err(native) => nft_trial(Verdict::Queue { number: 1 }, QueueBy::Xtables)
            .map(|()| "xtables target through nft_compat".to_owned())
            .map_err(|compat| format!("nft queue: {}; xtables target: {}", spoken(&native), spoken(&compat))),
    };
    let spec = NetemSpec {
        device: "lo".to_owned(),
        latency_us: 1000,
        jitter_us: 0,
        correlation_percent: 0,
        limit_packets: 100,
    };
    let (present, detail) = match queue {
        Ok(by) => (true, by),
        Err(why) => (false, why),
    };
    let queue = Capability { name: QUEUE, present, detail };
    let timed = match timed {
        Ok(()) => {
            Capability { name: NFT, present: true, detail: "inet tables, intervals, timeouts".to_owned() }
        }
        Err(error) => Capability { name: NFT, present: false, detail: spoken(&error) },
    };
    vec![timed, queue, qdisc(NETEM, &tc::netem_options(&spec)), qdisc(PRIO, &tc::prio_options())]
}

fn qdisc(kind: &'static str, options: &[u8]) -> Capability {
    let (present, detail) = match tc::knows(kind, options) {
        Ok(true) => (true, format!("sch_{kind} accepted")),
        Ok(false) => (false, format!("sch_{kind} missing: the kernel does not know this qdisc")),
        Err(error) => (false, format!("sch_{kind}: {error}")),
    };
    Capability { name: kind, present, detail }
}

fn nft_trial(verdict: Verdict, queue_by: QueueBy) -> Result<(), Error> {
    let rule = RuleSpec {
        hook: Hook::Output,
        peer: Side::Destination,
        port: Side::Destination,
        peers: vec![Peer { cidr: ipnet::IpNet::V4(ipnet::Ipv4Net::default()), ports: vec![9] }],
        verdict,
        spare_loopback: true,
    };
    let spec = TableSpec { name: TableSpec::name_for("probe"), rules: vec![rule] };
    let ruleset = Ruleset::render(&spec)?;
    let refused = |error| Error::refused("install a trial table", error);
    nft::install(&spec.name, &ruleset, TRIAL.as_millis() as u64, queue_by).map_err(refused)
}

fn freezer(roots: &Roots, group: &str) -> Capability {
    let (present, detail) = match cgroup::try_freezer(roots, group) {
        Ok(version) => (true, version.to_owned()),
        Err(error) => (false, spoken(&error)),
    };
    Capability { name: FREEZER, present, detail }
}

/// The name of the groups made for one probe. Daemons of one process may probe at the same time.
fn trial_group() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("faultline.probe.{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Makes and removes a group in every hierarchy.
fn keeper(roots: &Roots, group: &str) -> Capability {
    let made = cgroup::make(roots, group);
    let removed = cgroup::disown(roots, group);
    let (present, detail) = match made.and_then(|tops| removed.map(|_| tops)) {
        Ok(tops) => (true, format!("{} hierarchies", tops.len())),
        Err(error) => (false, spoken(&error)),
    };
    Capability { name: KEEPER, present, detail }
}
