//! `/v1/clusters`: the members.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use proto::problem::ProblemDetails;
use proto::rest::{ClusterView, Invitation, InviteCluster, Page, ReplaceCluster};

use super::Rest;
use super::auth::Known;
use super::body::Strict;
use super::etag::IfMatch;
use super::once::OnceKey;
use super::page::Wanted;
use super::problem::Refused;
use super::segment::Segment;

/// Every member.
#[utoipa::path(get, path = "/v1/clusters", params(Wanted), tag = "clusters",
    responses((status = 200, body = Page<ClusterView>), (status = "default", body = ProblemDetails)))]
pub(crate) async fn list_clusters(
    State(rest): State<Rest>,
    Known(caller): Known,
    wanted: Wanted,
) -> Result<Json<Page<ClusterView>>, Refused> {
    Ok(Json(wanted.page(rest.centre.clusters(&caller)?, |view| view.spec.name.clone())))
}

/// Makes a member and its join token, which is shown this once.
#[utoipa::path(post, path = "/v1/clusters", request_body = InviteCluster, tag = "clusters",
    params(OnceKey),
    responses((status = 201, body = Invitation), (status = "default", body = ProblemDetails)))]
pub(crate) async fn invite_cluster(
    State(rest): State<Rest>,
    Known(caller): Known,
    Strict(request): Strict<InviteCluster>,
) -> Result<(StatusCode, Json<Invitation>), Refused> {
    let invitation = rest.centre.invite_cluster(&caller, request).await?;
    Ok((StatusCode::CREATED, Json(invitation)))
}

/// One member, by name or id.
#[utoipa::path(get, path = "/v1/clusters/{cluster}", params(("cluster" = String, Path)), tag = "clusters",
    responses((status = 200, body = ClusterView), (status = "default", body = ProblemDetails)))]
pub(crate) async fn get_cluster(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(cluster): Segment,
) -> Result<Json<ClusterView>, Refused> {
    Ok(Json(rest.centre.cluster(&caller, &cluster)?))
}

/// Accepts a member: from now on it may author and be aimed at.
#[utoipa::path(post, path = "/v1/clusters/{cluster}/accept", tag = "clusters",
    params(("cluster" = String, Path), ("If-Match" = Option<String>, Header, description = "Only this ETag")),
    responses((status = 200, body = ClusterView), (status = "default", body = ProblemDetails)))]
pub(crate) async fn accept_cluster(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(cluster): Segment,
    IfMatch(expected): IfMatch,
) -> Result<Json<ClusterView>, Refused> {
    Ok(Json(rest.centre.accept_cluster(&caller, &cluster, &expected).await?))
}

/// A new join token for a member that was built anew under its old name: its certificates are refused from now on,
/// what it was doing is stopped. The token is shown this once.
#[utoipa::path(post, path = "/v1/clusters/{cluster}/replace", request_body = ReplaceCluster, tag = "clusters",
    params(("cluster" = String, Path), ("If-Match" = Option<String>, Header, description = "Only this ETag"),
        OnceKey),
    responses((status = 201, body = Invitation), (status = "default", body = ProblemDetails)))]
pub(crate) async fn replace_cluster(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(cluster): Segment,
    IfMatch(expected): IfMatch,
    Strict(request): Strict<ReplaceCluster>,
) -> Result<(StatusCode, Json<Invitation>), Refused> {
    let invitation = rest.centre.replace_cluster(&caller, &cluster, request, &expected).await?;
    Ok((StatusCode::CREATED, Json(invitation)))
}

/// Refuses a member's certificates and closes its session. Like a stop it depends on no tag.
#[utoipa::path(post, path = "/v1/clusters/{cluster}/revoke", params(("cluster" = String, Path)), tag = "clusters",
    responses((status = 200, body = ClusterView), (status = "default", body = ProblemDetails)))]
pub(crate) async fn revoke_cluster(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(cluster): Segment,
) -> Result<Json<ClusterView>, Refused> {
    Ok(Json(rest.centre.revoke_cluster(&caller, &cluster).await?))
}

/// Forgets a member. Its certificates stay refused.
#[utoipa::path(delete, path = "/v1/clusters/{cluster}", tag = "clusters",
    params(("cluster" = String, Path), ("If-Match" = Option<String>, Header, description = "Only this ETag")),
    responses((status = 204), (status = "default", body = ProblemDetails)))]
pub(crate) async fn remove_cluster(
    State(rest): State<Rest>,
    Known(caller): Known,
    Segment(cluster): Segment,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Refused> {
    rest.centre.remove_cluster(&caller, &cluster, &expected).await?;
    Ok(StatusCode::NO_CONTENT)
}
