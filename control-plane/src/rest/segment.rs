//! Names and ids in paths: whatever is written there, the answer is a thing or "not found".
//! Used by every route with a name in its path.

use axum::extract::{FromRequestParts, Path};
use http::request::Parts;
use proto::problem::ErrorCode;

use super::problem::Refused;

/// Longer than any name or id of ours, `origin/namespace/name` included.
const MAX_BYTES: usize = 600;

/// The name in the path, decoded.
#[derive(Debug)]
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let not_found = || Refused::new(ErrorCode::NotFound, "nothing can have such a name");
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(name) = path.map_err(|_| not_found())?;
        let fit = !name.is_empty() && name.len() <= MAX_BYTES && !name.chars().any(char::is_control);
        if fit { Ok(Self(name)) } else { Err(not_found()) }
    }
}
