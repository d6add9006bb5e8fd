//! What the API says of itself and of its caller: whoami, the fault catalogue and the OpenAPI
//! description.

use std::sync::LazyLock;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use proto::catalogue::{ENTRIES, Entry};
use proto::problem::{ErrorCode, ProblemDetails};
use proto::rest::{Page, WhoAmI};
use serde_json::Value;

use super::Rest;
use super::auth::Known;
use super::page::Wanted;
use super::problem::Refused;

/// Who the caller is.
#[utoipa::path(get, path = "/v1/whoami", tag = "about",
    responses((status = 200, body = WhoAmI), (status = "default", body = ProblemDetails)))]
pub(crate) async fn whoami(State(rest): State<Rest>, Known(caller): Known) -> Json<WhoAmI> {
    Json(rest.centre.whoami(&caller))
}

/// Every kind of fault: parameters, backends, how it is read back and taken away.
#[utoipa::path(get, path = "/v1/faults", params(Wanted), tag = "about",
    responses((status = 200, body = Page<Value>), (status = "default", body = ProblemDetails)))]
pub(crate) async fn list_faults(_: Known, wanted: Wanted) -> Json<Page<Entry>> {
    Json(wanted.page(ENTRIES.to_vec(), |entry| entry.kind.to_owned()))
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "about", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Value)))]
pub(crate) async fn describe() -> Result<Response, Refused> {
    static DESCRIPTION: LazyLock<Option<String>> = LazyLock::new(|| super::openapi().to_pretty_json().ok());
    let Some(text) = DESCRIPTION.as_ref() else {
        return Err(Refused::new(ErrorCode::Internal, "the description cannot be written"));
    };
    Ok(([(CONTENT_TYPE, "application/json")], text.as_str()).into_response())
}
