//! Who calls: a bearer token on every route but the description of the API. The caller is put
//! beside the request; what they may is the centre's to say.

use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::AUTHORIZATION;
use http::request::Parts;

use super::Rest;
use super::problem::Refused;
use crate::centre::{self, Caller};

/// Lets a request with a good token through, as its caller.
pub(crate) async fn authenticate(
    State(rest): State<Rest>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refused> {
    let bearer = bearer(&request).ok_or(centre::Error::Unauthenticated)?;
    let caller = rest.centre.authenticate(bearer).await?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

fn bearer(request: &Request) -> Option<&str> {
    let (scheme, token) = request.headers().get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The caller of a route. One that was reached past [`authenticate`] is refused, not served to
/// nobody.
#[derive(Debug)]
pub(crate) struct Known(pub(crate) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Known {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let caller = parts.extensions.get::<Caller>().cloned();
        Ok(Self(caller.ok_or(centre::Error::Unauthenticated)?))
    }
}
