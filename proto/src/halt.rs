//! Halt: the latched stop. A set of (id, scope); only Resume of that id lifts
//! it.

use jiff::Timestamp;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, HaltId};
use crate::selector::ClusterSelector;

/// A halt in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Halt {
    /// Its id; lifted by this id only.
    pub id: HaltId,
    /// What it stops.
    pub scope: HaltScope,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Who set it.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// The cluster it was set in, without the centre; absent = at the centre.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<ClusterId>,
}

/// What a halt stops. The widest is the default on doubt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type")]
pub enum HaltScope {
    /// Every cluster.
    Fleet,
    /// Clusters by name or labels.
    Clusters {
        /// Which.
        #[schema(value_type = Object)]
        selector: ClusterSelector,
    },
    /// One cluster.
    Cluster {
        /// Its id.
        #[schema(value_type = String)]
        cluster: ClusterId,
    },
    /// One namespace of one cluster.
    Namespace {
        /// The cluster's id.
        #[schema(value_type = String)]
        cluster: ClusterId,
        /// The namespace.
        namespace: String,
    },
}

/// How far a halt has come on one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub enum HaltLevel {
    /// Not acknowledged yet.
    Pending,
    /// Nothing new starts there.
    Latched,
    /// And what ran there was reverted and read back.
    Clean,
}

/// A Halt applied with kubectl: stops this cluster, without any centre, until
/// the object is deleted.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "faultline.dev",
    version = "v1alpha1",
    kind = "Halt",
    root = "HaltObject",
    plural = "halts",
    shortname = "flhalt",
    category = "faultline",
    status = "HaltObjectStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Level","type":"string","jsonPath":".status.level"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default)]
pub struct HaltObjectSpec {
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub reason: Option<String>,
    /// Only this namespace; the whole cluster where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// What the agent says of a Halt object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HaltObjectStatus {
    /// Latched, then Clean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
}

impl Halt {
    /// Whether it stops this namespace of this cluster.
    pub fn covers(
        &self,
        cluster: &ClusterId,
        name: &str,
        labels: &std::collections::BTreeMap<String, String>,
        namespace: Option<&str>,
    ) -> bool {
        match &self.scope {
            HaltScope::Fleet => true,
            HaltScope::Clusters { selector } => selector.matches(name, labels),
            HaltScope::Cluster { cluster: c } => c == cluster,
            HaltScope::Namespace { cluster: c, namespace: n } => {
                c == cluster && namespace.is_none_or(|ns| ns == n)
            }
        }
    }
}
