//! The key space, typed: the only place that builds or takes apart a key. Segments come from
//! clusters and from people, so each is checked: none can name a key outside its place.
//! Called by everything that reads or writes the store.

use std::fmt::Write as _;

/// The longest segment, in bytes.
pub const MAX_SEGMENT_BYTES: usize = 253;

/// Why a key could not be built or taken apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A segment may not be empty.
    #[error("empty segment in a key of {0}")]
    Empty(&'static str),
    /// A segment is longer than [`MAX_SEGMENT_BYTES`].
    #[error("segment of {bytes} bytes in a key of {family}, at most 253 are allowed")]
    TooLong {
        /// The first segment of the key.
        family: &'static str,
        /// The segment's size.
        bytes: usize,
    },
    /// A segment has a slash or a control character.
    #[error("segment {segment:?} in a key of {family} has a slash or a control character")]
    BadSegment {
        /// The first segment of the key.
        family: &'static str,
        /// The segment.
        segment: String,
    },
    /// No key of ours looks like this.
    #[error("unknown key {0:?}")]
    Unknown(String),
}

/// One segment of a key, or several, as written.
#[derive(Debug)]
struct Path {
    family: &'static str,
    text: String,
}

impl Path {
    fn new(family: &'static str) -> Self {
        Self { family, text: family.to_owned() }
    }

    fn name(mut self, segment: &str) -> Result<Self, KeyError> {
        if segment.is_empty() {
            return Err(KeyError::Empty(self.family));
        }
        if segment.len() > MAX_SEGMENT_BYTES {
            return Err(KeyError::TooLong { family: self.family, bytes: segment.len() });
        }
        if segment.chars().any(|c| c == '/' || c.is_control()) {
            return Err(KeyError::BadSegment { family: self.family, segment: segment.to_owned() });
        }
        self.text.push('/');
        self.text.push_str(segment);
        Ok(self)
    }

    fn fixed(mut self, segment: &'static str) -> Self {
        self.text.push('/');
        self.text.push_str(segment);
        self
    }

    /// Numbers have 20 digits, so that they sort as text.
    fn number(mut self, number: u64) -> Self {
        let _ = write!(self.text, "/{number:020}");
        self
    }

    fn text(self) -> String {
        self.text
    }

    fn prefix(mut self) -> String {
        self.text.push('/');
        self.text
    }
}

/// A key of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the fields are the segments of the path in the variant's comment")]
pub enum Key<'a> {
    /// `clusters/<cluster>/spec`
    ClusterSpec { cluster: &'a str },
    /// `clusters/<cluster>/status`
    ClusterStatus { cluster: &'a str },
    /// `experiments/<origin>/<namespace>/<name>`
    Experiment { origin: &'a str, namespace: &'a str, name: &'a str },
    /// `specs/<sha256>`
    Spec { sha256: &'a str },
    /// `runs/<run>/spec`
    RunSpec { run: &'a str },
    /// `runs/<run>/plan/<cluster>`
    RunPlan { run: &'a str, cluster: &'a str },
    /// `runs/<run>/summary`
    RunSummary { run: &'a str },
    /// `desired/<cluster>/<run>`
    Desired { cluster: &'a str, run: &'a str },
    /// `observed/<cluster>/<run>`
    Observed { cluster: &'a str, run: &'a str },
    /// `grants/<name>`
    Grant { name: &'a str },
    /// `halts/<id>`
    Halt { id: &'a str },
    /// `session/<cluster>`
    Session { cluster: &'a str },
    /// `replicas/<id>`
    Replica { id: &'a str },
    /// `leader`
    Leader,
    /// `tokens/<id>`
    Token { id: &'a str },
    /// `certs/<cluster>`
    Cert { cluster: &'a str },
    /// `revoked/<cluster>/<serial>`
    Revoked { cluster: &'a str, serial: &'a str },
    /// `ca/<epoch>`
    Ca { epoch: u64 },
    /// `epoch`
    Epoch,
    /// `endpoints`
    Endpoints,
    /// `format`
    Format,
    /// `audit/<replica>/<seq>`
    Audit { replica: &'a str, seq: u64 },
    /// `audit-checkpoints/<replica>/<seq>`
    AuditCheckpoint { replica: &'a str, seq: u64 },
    /// `audit-cursor/<sink>/<replica>`
    AuditCursor { sink: &'a str, replica: &'a str },
    /// `revision-marks`
    RevisionMarks,
    /// `results/<run>/<cluster>/<chunk>`
    RunResult { run: &'a str, cluster: &'a str, chunk: u64 },
    /// `tombstones/<origin>/<namespace>/<name>/<uid>`
    Tombstone { origin: &'a str, namespace: &'a str, name: &'a str, uid: &'a str },
}

impl<'a> Key<'a> {
    /// The key as the store knows it.
    ///
    /// # Errors
    /// [`KeyError`] when a segment is not fit to be one.
    pub fn path(&self) -> Result<String, KeyError> {
        let path = match *self {
            Self::ClusterSpec { cluster } => Path::new("clusters").name(cluster)?.fixed("spec"),
            Self::ClusterStatus { cluster } => Path::new("clusters").name(cluster)?.fixed("status"),
            Self::Experiment { origin, namespace, name } => {
                Path::new("experiments").name(origin)?.name(namespace)?.name(name)?
            }
            Self::Spec { sha256 } => Path::new("specs").name(sha256)?,
            Self::RunSpec { run } => Path::new("runs").name(run)?.fixed("spec"),
            Self::RunPlan { run, cluster } => Path::new("runs").name(run)?.fixed("plan").name(cluster)?,
            Self::RunSummary { run } => Path::new("runs").name(run)?.fixed("summary"),
            Self::Desired { cluster, run } => Path::new("desired").name(cluster)?.name(run)?,
            Self::Observed { cluster, run } => Path::new("observed").name(cluster)?.name(run)?,
            Self::Grant { name } => Path::new("grants").name(name)?,
            Self::Halt { id } => Path::new("halts").name(id)?,
            Self::Session { cluster } => Path::new("session").name(cluster)?,
            Self::Replica { id } => Path::new("replicas").name(id)?,
            Self::Leader => Path::new("leader"),
            Self::Token { id } => Path::new("tokens").name(id)?,
            Self::Cert { cluster } => Path::new("certs").name(cluster)?,
            Self::Revoked { cluster, serial } => Path::new("revoked").name(cluster)?.name(serial)?,
            Self::Ca { epoch } => Path::new("ca").number(epoch),
            Self::Epoch => Path::new("epoch"),
            Self::Endpoints => Path::new("endpoints"),
            Self::Format => Path::new("format"),
            Self::Audit { replica, seq } => Path::new("audit").name(replica)?.number(seq),
            Self::AuditCheckpoint { replica, seq } => {
                Path::new("audit-checkpoints").name(replica)?.number(seq)
            }
            Self::AuditCursor { sink, replica } => Path::new("audit-cursor").name(sink)?.name(replica)?,
            Self::RevisionMarks => Path::new("revision-marks"),
            Self::RunResult { run, cluster, chunk } => {
                Path::new("results").name(run)?.name(cluster)?.number(chunk)
            }
            Self::Tombstone { origin, namespace, name, uid } => {
                Path::new("tombstones").name(origin)?.name(namespace)?.name(name)?.name(uid)?
            }
        };
        Ok(path.text())
    }

    /// Takes a key apart. The inverse of [`Key::path`]: what it accepts, `path` writes alike.
    ///
    /// # Errors
    /// [`KeyError::Unknown`] for anything else.
    pub fn parse(path: &'a str) -> Result<Self, KeyError> {
        let unknown = || KeyError::Unknown(path.chars().take(120).collect());
        let segments: Vec<&str> = path.split('/').collect();
        let key = match *segments.as_slice() {
            ["clusters", cluster, "spec"] => Self::ClusterSpec { cluster },
            ["clusters", cluster, "status"] => Self::ClusterStatus { cluster },
            ["experiments", origin, namespace, name] => Self::Experiment { origin, namespace, name },
            ["specs", sha256] => Self::Spec { sha256 },
            ["runs", run, "spec"] => Self::RunSpec { run },
            ["runs", run, "plan", cluster] => Self::RunPlan { run, cluster },
            ["runs", run, "summary"] => Self::RunSummary { run },
            ["desired", cluster, run] => Self::Desired { cluster, run },
            ["observed", cluster, run] => Self::Observed { cluster, run },
            ["grants", name] => Self::Grant { name },
            ["halts", id] => Self::Halt { id },
            ["session", cluster] => Self::Session { cluster },
            ["replicas", id] => Self::Replica { id },
            ["leader"] => Self::Leader,
            ["tokens", id] => Self::Token { id },
            ["certs", cluster] => Self::Cert { cluster },
            ["revoked", cluster, serial] => Self::Revoked { cluster, serial },
            ["ca", epoch] => Self::Ca { epoch: number(epoch).ok_or_else(unknown)? },
            ["epoch"] => Self::Epoch,
            ["endpoints"] => Self::Endpoints,
            ["format"] => Self::Format,
            ["audit", replica, seq] => Self::Audit { replica, seq: number(seq).ok_or_else(unknown)? },
            ["audit-checkpoints", replica, seq] => {
                Self::AuditCheckpoint { replica, seq: number(seq).ok_or_else(unknown)? }
            }
            ["audit-cursor", sink, replica] => Self::AuditCursor { sink, replica },
            ["revision-marks"] => Self::RevisionMarks,
            ["results", run, cluster, chunk] => {
                Self::RunResult { run, cluster, chunk: number(chunk).ok_or_else(unknown)? }
            }
            ["tombstones", origin, namespace, name, uid] => Self::Tombstone { origin, namespace, name, uid },
            _ => return Err(unknown()),
        };
        // Building it again checks the segments.
        key.path().map(|_| key)
    }
}

fn number(segment: &str) -> Option<u64> {
    let digits = segment.len() == 20 && segment.bytes().all(|byte| byte.is_ascii_digit());
    segment.parse().ok().filter(|_| digits)
}

/// A part of the key space to list or watch. Its text ends in a slash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the fields are the segments of the path in the variant's comment")]
pub enum Prefix<'a> {
    /// `clusters/`
    Clusters,
    /// `clusters/<cluster>/`
    Cluster { cluster: &'a str },
    /// `experiments/`
    Experiments,
    /// `experiments/<origin>/`
    ExperimentsOf { origin: &'a str },
    /// `experiments/<origin>/<namespace>/`
    ExperimentsIn { origin: &'a str, namespace: &'a str },
    /// `specs/`
    Specs,
    /// `runs/`
    Runs,
    /// `runs/<run>/`
    Run { run: &'a str },
    /// `runs/<run>/plan/`
    RunPlans { run: &'a str },
    /// `desired/`
    Desired,
    /// `desired/<cluster>/`
    DesiredOf { cluster: &'a str },
    /// `observed/`
    Observed,
    /// `observed/<cluster>/`
    ObservedOf { cluster: &'a str },
    /// `grants/`
    Grants,
    /// `halts/`
    Halts,
    /// `session/`
    Sessions,
    /// `replicas/`
    Replicas,
    /// `tokens/`
    Tokens,
    /// `certs/`
    Certs,
    /// `revoked/`
    Revoked,
    /// `revoked/<cluster>/`
    RevokedOf { cluster: &'a str },
    /// `ca/`
    Cas,
    /// `audit/`
    Audit,
    /// `audit/<replica>/`
    AuditOf { replica: &'a str },
    /// `audit-checkpoints/`
    AuditCheckpoints,
    /// `audit-checkpoints/<replica>/`
    AuditCheckpointsOf { replica: &'a str },
    /// `audit-cursor/`
    AuditCursors,
    /// `results/<run>/`
    ResultsOf { run: &'a str },
    /// `tombstones/`
    Tombstones,
    /// `tombstones/<origin>/<namespace>/<name>/`
    TombstonesOf { origin: &'a str, namespace: &'a str, name: &'a str },
}

impl Prefix<'_> {
    /// The prefix as the store knows it.
    ///
    /// # Errors
    /// [`KeyError`] when a segment is not fit to be one.
    pub fn path(&self) -> Result<String, KeyError> {
        let path = match *self {
            Self::Clusters => Path::new("clusters"),
            Self::Cluster { cluster } => Path::new("clusters").name(cluster)?,
            Self::Experiments => Path::new("experiments"),
            Self::ExperimentsOf { origin } => Path::new("experiments").name(origin)?,
            Self::ExperimentsIn { origin, namespace } => {
                Path::new("experiments").name(origin)?.name(namespace)?
            }
            Self::Specs => Path::new("specs"),
            Self::Runs => Path::new("runs"),
            Self::Run { run } => Path::new("runs").name(run)?,
            Self::RunPlans { run } => Path::new("runs").name(run)?.fixed("plan"),
            Self::Desired => Path::new("desired"),
            Self::DesiredOf { cluster } => Path::new("desired").name(cluster)?,
            Self::Observed => Path::new("observed"),
            Self::ObservedOf { cluster } => Path::new("observed").name(cluster)?,
            Self::Grants => Path::new("grants"),
            Self::Halts => Path::new("halts"),
            Self::Sessions => Path::new("session"),
            Self::Replicas => Path::new("replicas"),
            Self::Tokens => Path::new("tokens"),
            Self::Certs => Path::new("certs"),
            Self::Revoked => Path::new("revoked"),
            Self::RevokedOf { cluster } => Path::new("revoked").name(cluster)?,
            Self::Cas => Path::new("ca"),
            Self::Audit => Path::new("audit"),
            Self::AuditOf { replica } => Path::new("audit").name(replica)?,
            Self::AuditCheckpoints => Path::new("audit-checkpoints"),
            Self::AuditCheckpointsOf { replica } => Path::new("audit-checkpoints").name(replica)?,
            Self::AuditCursors => Path::new("audit-cursor"),
            Self::ResultsOf { run } => Path::new("results").name(run)?,
            Self::Tombstones => Path::new("tombstones"),
            Self::TombstonesOf { origin, namespace, name } => {
                Path::new("tombstones").name(origin)?.name(namespace)?.name(name)?
            }
        };
        Ok(path.prefix())
    }
}

#[cfg(test)]
mod tests;
