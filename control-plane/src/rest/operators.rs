//! `/v1/operators`: who may call this API, and as what.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use proto::operator::{CreateOperator, OperatorToken, OperatorView, RotateOperator};
use proto::problem::ProblemDetails;
use proto::rest::Page;

use super::Rest;
use super::auth::Known;
use super::body::Strict;
use super::etag::{IfMatch, tagged};
use super::once::{OnceKey, Seed};
use super::page::Wanted;
use super::problem::Refused;
use super::segment::Segment;

/// Every operator, without anything secret.
#[utoipa::path(get, path = "/v1/operators", params(Wanted), tag = "operators",
    responses((status = 200, body = Page<OperatorView>), (status = "default", body = ProblemDetails)))]
pub(crate) async fn list_operators(
    State(rest): State<Rest>,
    Known(caller): Known,
    wanted: Wanted,
) -> Result<Json<Page<OperatorView>>, Refused> {
    Ok(Json(wanted.page(rest.centre.operators(&caller).await?, |operator| operator.name.clone())))
}

/// Makes an operator and its token, which is shown this once.
#[utoipa::path(post, path = "/v1/operators", request_body = CreateOperator, tag = "operators",
    params(OnceKey),
    responses((status = 201, body = OperatorToken), (status = "default", body = ProblemDetails)))]
pub(crate) async fn create_operator(
    State(rest): State<Rest>,
    Known(caller): Known,
    Seed(seed): Seed,
    Strict(request): Strict<CreateOperator>,
) -> Result<(StatusCode, Json<OperatorToken>), Refused> {
    let made = rest.centre.create_operator(&caller, request, seed.as_deref()).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// One operator.
#[utoipa::path(get, path = "/v1/operators/{name}", params(("name" = String, Path)), tag = "operators",
    responses((status = 200, body = OperatorView), (status = "default", body = ProblemDetails)))]
pub(crate) async fn get_operator(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(name): Segment,
) -> Result<Response, Refused> {
    let (operator, tag) = rest.centre.operator(&caller, &name).await?;
    // Another token is another tag, though it is not shown.
    tagged(&tag, operator)
}

/// Gives an operator another token, which is shown this once. The one before opens nothing any more.
#[utoipa::path(post, path = "/v1/operators/{name}/rotate", request_body = RotateOperator, tag = "operators",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header, description = "Only this ETag"),
        OnceKey),
    responses((status = 200, body = OperatorToken), (status = "default", body = ProblemDetails)))]
pub(crate) async fn rotate_operator(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(name): Segment,
    IfMatch(expected): IfMatch,
    Strict(request): Strict<RotateOperator>,
) -> Result<Json<OperatorToken>, Refused> {
    Ok(Json(rest.centre.rotate_operator(&caller, &name, request.ttl.as_deref(), &expected).await?))
}

/// Takes an operator away: its token opens nothing any more. The last admin stays.
#[utoipa::path(delete, path = "/v1/operators/{name}", tag = "operators",
    params(("name" = String, Path), ("If-Match" = Option<String>, Header, description = "Only this ETag")),
    responses((status = 204), (status = "default", body = ProblemDetails)))]
pub(crate) async fn revoke_operator(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(name): Segment,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Refused> {
    rest.centre.revoke_operator(&caller, &name, &expected).await?;
    Ok(StatusCode::NO_CONTENT)
}
