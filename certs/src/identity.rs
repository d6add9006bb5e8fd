//! SPIFFE ids as a type, so that nothing downstream compares strings. The CA writes them into certificates, the
//! verifiers and the acceptor read them back, and services match on [`Role`].
//!
//! Accepted forms, and no others (no escapes, no empty or dot segments, no query, no port):
//! `spiffe://<trust-domain>/cluster/<cluster>/agent`, `.../cluster/<cluster>/node/<node>`,
//! `.../control-plane/<replica>`, `.../control-plane/<replica>/audit`, `.../control-plane/<replica>/endpoints`,
//! `.../operator/<name>`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const SCHEME: &str = "spiffe://";
/// The longest SPIFFE id, in bytes, that the SPIFFE standard lets an implementation rely on.
const MAX_ID_BYTES: usize = 2048;
const MAX_SEGMENT_BYTES: usize = 253;

/// Why a text is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text does not begin with `spiffe://`.
    #[error("identity does not start with {SCHEME}")]
    Scheme,
    /// More than 2048 bytes.
    #[error("identity is longer than {MAX_ID_BYTES} bytes")]
    TooLong,
    /// The trust domain is empty, too long, or has a character other than a-z 0-9 . - _
    #[error("trust domain {0:?} must be 1 to 253 characters of a-z 0-9 . - _")]
    TrustDomain(String),
    /// A name in the path is empty, too long, `.`, `..`, or has a character other than A-Z a-z 0-9 . - _
    #[error("name {0:?} must be 1 to 253 characters of A-Z a-z 0-9 . - _ and not a dot or two")]
    Segment(String),
    /// The path is none of the known forms.
    #[error(
        "identity path {0:?} names no agent, node, control-plane replica, its audit or endpoints, or operator"
    )]
    Path(String),
}

/// The name under which one control plane's identities live, for example `faultline.local`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Checks the characters and the length (1 to 253 bytes).
    pub fn new(name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
        if name.is_empty() || name.len() > MAX_SEGMENT_BYTES || !name.bytes().all(allowed) {
            return Err(Error::TrustDomain(name));
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the holder of an identity is. Cluster, node, replica and operator names are one path segment each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The agent of a member cluster.
    Agent {
        /// Cluster id.
        cluster: String,
    },
    /// The node daemon on one node of a member cluster.
    Node {
        /// Cluster id.
        cluster: String,
        /// Node name, as in `spec.nodeName`.
        node: String,
    },
    /// One replica of the control plane.
    ControlPlane {
        /// Replica id.
        replica: String,
    },
    /// What one replica of the control plane signs its audit with; it dials nobody.
    Audit {
        /// Replica id.
        replica: String,
    },
    /// What one replica of the control plane signs its lists of addresses with; it dials nobody.
    Endpoints {
        /// Replica id.
        replica: String,
    },
    /// A person or a pipeline.
    Operator {
        /// Operator name.
        name: String,
    },
}

impl Role {
    /// The agent of `cluster`.
    pub fn agent(cluster: impl Into<String>) -> Self {
        Self::Agent { cluster: cluster.into() }
    }

    /// The daemon on `node` of `cluster`.
    pub fn node(cluster: impl Into<String>, node: impl Into<String>) -> Self {
        Self::Node { cluster: cluster.into(), node: node.into() }
    }

    /// The control-plane replica `replica`.
    pub fn control_plane(replica: impl Into<String>) -> Self {
        Self::ControlPlane { replica: replica.into() }
    }

    /// The audit of the control-plane replica `replica`.
    pub fn audit(replica: impl Into<String>) -> Self {
        Self::Audit { replica: replica.into() }
    }

    /// The lists of addresses of the control-plane replica `replica`.
    pub fn endpoints(replica: impl Into<String>) -> Self {
        Self::Endpoints { replica: replica.into() }
    }

    /// The operator `name`.
    pub fn operator(name: impl Into<String>) -> Self {
        Self::Operator { name: name.into() }
    }

    fn segments(&self) -> [&str; 2] {
        match self {
            // A role with one name repeats it: the check below wants a fixed number.
            Self::Agent { cluster } => [cluster, cluster],
            Self::Node { cluster, node } => [cluster, node],
            Self::ControlPlane { replica } | Self::Audit { replica } | Self::Endpoints { replica } => {
                [replica, replica]
            }
            Self::Operator { name } => [name, name],
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent { cluster } => write!(f, "cluster/{cluster}/agent"),
            Self::Node { cluster, node } => write!(f, "cluster/{cluster}/node/{node}"),
            Self::ControlPlane { replica } => write!(f, "control-plane/{replica}"),
            Self::Audit { replica } => write!(f, "control-plane/{replica}/audit"),
            Self::Endpoints { replica } => write!(f, "control-plane/{replica}/endpoints"),
            Self::Operator { name } => write!(f, "operator/{name}"),
        }
    }
}

/// A validated SPIFFE id. Its text form is unique: two equal identities have equal text and the reverse.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity {
    trust_domain: TrustDomain,
    role: Role,
}

impl Identity {
    /// Checks every name of `role`.
    pub fn new(trust_domain: TrustDomain, role: Role) -> Result<Self, Error> {
        for segment in role.segments() {
            check_segment(segment)?;
        }
        let identity = Self { trust_domain, role };
        if identity.to_string().len() > MAX_ID_BYTES {
            return Err(Error::TooLong);
        }
        Ok(identity)
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What the holder is.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// The cluster the holder belongs to, for agents and nodes.
    pub fn cluster(&self) -> Option<&str> {
        match &self.role {
            Role::Agent { cluster } | Role::Node { cluster, .. } => Some(cluster),
            Role::ControlPlane { .. }
            | Role::Audit { .. }
            | Role::Endpoints { .. }
            | Role::Operator { .. } => None,
        }
    }
}

fn check_segment(segment: &str) -> Result<(), Error> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    let dots = segment == "." || segment == "..";
    if segment.is_empty() || segment.len() > MAX_SEGMENT_BYTES || dots || !segment.bytes().all(allowed) {
        return Err(Error::Segment(segment.to_owned()));
    }
    Ok(())
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.trust_domain, self.role)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Identity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_ID_BYTES {
            return Err(Error::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(Error::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or_else(|| Error::Path(String::new()))?;
        let trust_domain = TrustDomain::new(domain)?;
        let segments: Vec<&str> = path.split('/').collect();
        let role = match segments.as_slice() {
            ["cluster", cluster, "agent"] => Role::agent(*cluster),
            ["cluster", cluster, "node", node] => Role::node(*cluster, *node),
            ["control-plane", replica] => Role::control_plane(*replica),
            ["control-plane", replica, "audit"] => Role::audit(*replica),
            ["control-plane", replica, "endpoints"] => Role::endpoints(*replica),
            ["operator", name] => Role::operator(*name),
            _ => return Err(Error::Path(path.to_owned())),
        };
        Self::new(trust_domain, role)
    }
}

impl TryFrom<String> for Identity {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.to_string()
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        Self::new(text)
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0
    }
}

#[cfg(test)]
mod tests;
