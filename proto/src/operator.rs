//! Operators of the centre: people and pipelines that call its REST API with a bearer token, and
//! what each role may. Used by `rest`, the control plane and the CLI.

use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an operator may. Each includes the ones before; all within Grants.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads and watches.
    Viewer,
    /// Stores Experiments, plans, stops and halts.
    Author,
    /// Starts runs, releases halts, removes finished runs.
    Operator,
    /// As an operator; kept for the approval of plans, which there is not yet.
    Approver,
    /// Members, Grants, operators.
    Admin,
}

impl Role {
    /// Every role, the least first.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Author, Self::Operator, Self::Approver, Self::Admin];

    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Author => "author",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `POST /v1/operators`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateOperator {
    /// Its name: what Grants, runs and the audit say.
    #[schema(min_length = 1, max_length = 63)]
    pub name: String,
    /// What it may.
    pub role: Role,
    /// Life of the token, for example `720h`; it does not end where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
}

/// `POST /v1/operators/{name}/rotate`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RotateOperator {
    /// Life of the new token; it does not end where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
}

/// An operator, without anything secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorView {
    /// Its name.
    pub name: String,
    /// What it may.
    pub role: Role,
    /// When its token was made.
    #[schema(value_type = String)]
    pub created_at: Timestamp,
    /// After this the token opens nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub expires_at: Option<Timestamp>,
}

/// A token, shown once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorToken {
    /// Whose.
    pub operator: OperatorView,
    /// For `faultline login --token-file`.
    pub token: String,
}
