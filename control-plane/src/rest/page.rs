//! Cursor pages: `?after=&limit=` over what is listed in a fixed order. Used by every list.

use axum::extract::{FromRequestParts, Query};
use http::request::Parts;
use proto::rest::Page;
use serde::Deserialize;

use super::problem::Refused;

const LIMIT: usize = 100;
const LIMIT_MAX: usize = 500;
/// The longest cursor of ours is a key of the store.
const CURSOR_MAX_BYTES: usize = 1024;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// `next` of the page before.
    pub(crate) after: Option<String>,
    /// At most so many, 1 to 500; 100 where absent.
    limit: Option<usize>,
}

impl<S: Send + Sync> FromRequestParts<S> for Wanted {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let Query(wanted) = Query::<Self>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Refused::at("query", rejection.body_text()))?;
        if wanted.after.as_ref().is_some_and(|after| after.len() > CURSOR_MAX_BYTES) {
            return Err(Refused::at("query.after", "this is no cursor of ours"));
        }
        Ok(wanted)
    }
}

impl Wanted {
    pub(crate) fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX)
    }

    /// The page of these items, in the order of their cursors.
    pub(crate) fn page<T>(&self, mut items: Vec<T>, cursor: impl Fn(&T) -> String) -> Page<T> {
        items.sort_by_cached_key(&cursor);
        let after = self.after.as_deref();
        let mut items: Vec<T> = items
            .into_iter()
            .filter(|item| after.is_none_or(|after| cursor(item).as_str() > after))
            .take(self.limit() + 1)
            .collect();
        let more = items.len() > self.limit();
        items.truncate(self.limit());
        let next = items.last().filter(|_| more).map(&cursor);
        Page { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_everything_once() {
        let all: Vec<String> = ["a-b/x", "a/x", "b", "c", "d"].map(str::to_owned).to_vec();
        for limit in 1..=6 {
            let (mut seen, mut after) = (Vec::new(), None);
            let shuffled: Vec<String> = all.iter().rev().cloned().collect();
            loop {
                let page = Wanted { after, limit: Some(limit) }.page(shuffled.clone(), Clone::clone);
                assert!(page.items.len() <= limit, "{limit}");
                seen.extend(page.items);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen, all, "{limit}");
        }
    }
}
