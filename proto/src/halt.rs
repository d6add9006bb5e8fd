//! Halt: the latched stop. A set of (id, scope); only Resume of that id lifts
//! it.

use jiff::Timestamp;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

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

/// A halt as it was sent or kept. One of a scope that this version does not know is one of the fleet: it stops
/// everything that its reader can stop.
///
/// # Errors
/// What is wrong with anything but the scope.
pub fn read(value: Value) -> Result<Halt, serde_json::Error> {
    Halt::deserialize(&value).or_else(|error| {
        let mut value = value;
        let Some(scope) = value.get_mut("scope") else { return Err(error) };
        *scope = serde_json::json!({ "type": "Fleet" });
        Halt::deserialize(value)
    })
}

/// For fields: several halts by [`read`].
///
/// # Errors
/// As [`read`].
pub fn read_all<'de, D: Deserializer<'de>>(halts: D) -> Result<Vec<Halt>, D::Error> {
    let halts = Vec::<Value>::deserialize(halts)?;
    halts.into_iter().map(|halt| read(halt).map_err(D::Error::custom)).collect()
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
