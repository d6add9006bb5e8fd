//! Grant: the centre's half of the authority. From whom, at what.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::ClusterId;
use crate::selector::ClusterSelector;

/// Who asks: an operator of the centre, or an author in a member cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Principal {
    /// A person or pipeline with a token or certificate of the centre.
    #[serde(rename_all = "camelCase")]
    Operator {
        /// The token's or certificate's name.
        name: String,
    },
    /// Whoever may write objects in this namespace of this cluster.
    #[serde(rename_all = "camelCase")]
    Namespace {
        /// The member's id.
        cluster: ClusterId,
        /// The namespace there.
        namespace: String,
    },
}

impl std::fmt::Display for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Principal::Operator { name } => write!(f, "operator:{name}"),
            Principal::Namespace { cluster, namespace } => {
                write!(f, "cluster:{cluster}/namespace:{namespace}")
            }
        }
    }
}

/// From (clusters x namespaces, or operators) may aim at (clusters x
/// namespaces x kinds, at most n targets per cluster).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantSpec {
    /// Who.
    pub from: GrantFrom,
    /// At what.
    pub to: GrantTo,
}

/// Who a grant is for; `operators` or `clusters` with `namespaces`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GrantFrom {
    /// Names of operators; `*` is every operator.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<String>,
    /// Authors in these clusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub clusters: Option<ClusterSelector>,
    /// And in these namespaces; `*` is every namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
}

/// What a grant allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantTo {
    /// In these clusters.
    #[schema(value_type = Object)]
    pub clusters: ClusterSelector,
    /// In these namespaces; `*` is every namespace.
    pub namespaces: Vec<String>,
    /// These kinds: dotted, `network.*`, or `*`.
    pub kinds: Vec<String>,
    /// At most so many targets per cluster and run.
    pub max_targets: u32,
}

/// Whether a dotted kind is covered by a pattern (`*`, `network.*`, or equal).
pub fn kind_matches(pattern: &str, kind: &str) -> bool {
    pattern == "*"
        || pattern == kind
        || pattern
            .strip_suffix(".*")
            .is_some_and(|p| kind.strip_prefix(p).is_some_and(|r| r.starts_with('.')))
}

/// Namespaces of Kubernetes itself and of our own: `*` of a Grant or a Ceiling does not cover them, they must be named.
pub const PROTECTED_NAMESPACES: &[&str] = &["kube-system", "faultline", "faultline-system"];

/// Whether a namespace is covered by the names of a Grant or a Ceiling, where `*` covers all but the protected.
pub fn covers_namespace(names: &[String], namespace: &str) -> bool {
    names.iter().any(|name| name == namespace)
        || (name_matches(names, namespace) && !PROTECTED_NAMESPACES.contains(&namespace))
}

/// Whether a name is covered by a list of names, where `*` covers all.
pub fn name_matches(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|p| p == "*" || p == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_leaves_out_what_is_protected() {
        let covers = |names: &[&str], namespace: &str| {
            covers_namespace(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(), namespace)
        };
        assert!(covers(&["*"], "shop") && covers(&["shop"], "shop") && !covers(&["shop"], "pay"));
        for namespace in PROTECTED_NAMESPACES {
            assert!(!covers(&["*"], namespace) && covers(&["*", namespace], namespace), "{namespace}");
        }
    }

    #[test]
    fn kind_patterns() {
        for (pattern, kind, expected) in [
            ("*", "pod.kill", true),
            ("network.*", "network.delay", true),
            ("network.*", "networks.delay", false),
            ("net.*", "network.delay", false),
            ("network.delay", "network.delay", true),
            ("network", "network.delay", false),
        ] {
            assert_eq!(kind_matches(pattern, kind), expected, "{pattern} {kind}");
        }
    }
}
