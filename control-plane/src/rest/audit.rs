//! `/v1/audit`: who did what, and what is signed of it; and the CA that it is signed under.

use axum::Json;
use axum::extract::{FromRequestParts, Query, State};
use http::request::Parts;
use jiff::Timestamp;
use proto::audit::AuditCheckpoint;
use proto::problem::ProblemDetails;
use proto::rest::{AuditRecord, CaView, Page};
use serde::Deserialize;

use super::Rest;
use super::auth::Known;
use super::page::Wanted;
use super::problem::Refused;
use crate::centre::AuditFilter;

/// The longest text that is looked for: that of a record.
const TEXT_MAX: usize = 512;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WantedRecords {
    /// `next` of the page before.
    after: Option<String>,
    /// At most so many, 1 to 500; 100 where absent.
    limit: Option<usize>,
    /// Noted at this instant or later, RFC 3339.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    /// By them, as in `operator:ann`; `operator:*` is everybody who begins so.
    by: Option<String>,
    /// What was done, as in `run.create`; `run.*` is everything that begins so.
    action: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for WantedRecords {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let Query(wanted) = Query::<Self>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Refused::at("query", rejection.body_text()))?;
        for (path, text) in [("query.by", &wanted.by), ("query.action", &wanted.action)] {
            if text.as_ref().is_some_and(|text| text.chars().count() > TEXT_MAX) {
                return Err(Refused::at(path, "no record has so long a text"));
            }
        }
        cursor(wanted.after.as_ref(), "audit/")?;
        Ok(wanted)
    }
}

fn cursor(after: Option<&String>, prefix: &str) -> Result<(), Refused> {
    let ours = |after: &String| {
        after.len() <= 1024 && after.starts_with(prefix) && !after.contains(char::is_control)
    };
    if after.is_none_or(ours) { Ok(()) } else { Err(Refused::at("query.after", "this is no cursor of ours")) }
}

/// Who did what, by replica and number. A page may be short, or empty, and still have a next one.
#[utoipa::path(get, path = "/v1/audit", params(WantedRecords), tag = "audit",
    responses((status = 200, body = Page<AuditRecord>), (status = "default", body = ProblemDetails)))]
pub(crate) async fn list_audit(
    State(rest): State<Rest>,
    Known(caller): Known,
    wanted: WantedRecords,
) -> Result<Json<Page<AuditRecord>>, Refused> {
    let WantedRecords { after, limit, since, by, action } = wanted;
    let filter = AuditFilter { since, by, action };
    Ok(Json(rest.centre.audit_where(&caller, after, limit.unwrap_or(100), &filter).await?))
}

/// What is signed of the audit, by replica and number.
#[utoipa::path(get, path = "/v1/audit/checkpoints", params(Wanted), tag = "audit",
    responses((status = 200, body = Page<AuditCheckpoint>), (status = "default", body = ProblemDetails)))]
pub(crate) async fn list_checkpoints(
    State(rest): State<Rest>,
    Known(caller): Known,
    wanted: Wanted,
) -> Result<Json<Page<AuditCheckpoint>>, Refused> {
    cursor(wanted.after.as_ref(), "audit-checkpoints/")?;
    let limit = wanted.limit();
    Ok(Json(rest.centre.audit_checkpoints(&caller, wanted.after, limit).await?))
}

/// The root that every certificate and signature of this control plane leads to.
#[utoipa::path(get, path = "/v1/ca", tag = "audit",
    responses((status = 200, body = CaView), (status = "default", body = ProblemDetails)))]
pub(crate) async fn get_ca(State(rest): State<Rest>, Known(caller): Known) -> Result<Json<CaView>, Refused> {
    Ok(Json(rest.centre.ca(&caller)?))
}
