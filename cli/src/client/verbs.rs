//! What is asked of a control plane, verb by verb, and how its lists are read to their end.

use anyhow::{Context as _, bail};
use http::Method;
use proto::rest::{RunView, Taken};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::asked::Asked;
use super::{Client, MAX_ANSWER, Refused, segment};

/// All pages of a list together are at most this large, in bytes.
const MAX_LIST: usize = 16 * MAX_ANSWER;
/// A list has at most so many pages.
const MAX_PAGES: usize = 10_000;

impl Client {
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.typed(Asked::new(Method::GET, path)).await
    }

    pub(crate) async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> anyhow::Result<T> {
        let key = Some(self.next_key());
        self.typed(Asked { key, ..Asked::new(Method::POST, path).with(body)? }).await
    }

    pub(crate) async fn put<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> anyhow::Result<T> {
        self.typed(Asked::new(Method::PUT, path).with(body)?).await
    }

    /// A thing and its tag, where there is one of this name.
    pub(crate) async fn tagged<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> anyhow::Result<Option<(T, String)>> {
        let (headers, body) = match self.exchange(Asked::new(Method::GET, path)).await {
            Ok(answer) => answer,
            Err(error) => match error.downcast_ref::<Refused>() {
                Some(Refused(details)) if details.status == 404 => return Ok(None),
                _ => return Err(error),
            },
        };
        let tag = headers.get(http::header::ETAG).and_then(|tag| tag.to_str().ok());
        let tag = tag.context("the control plane's answer has no ETag")?.to_owned();
        Ok(Some((self.read(&body)?, tag)))
    }

    /// Stores over the thing as it had this tag; without one, whatever is there.
    pub(crate) async fn put_if<B: Serialize>(
        &self,
        path: &str,
        body: &B,
        tag: Option<&str>,
    ) -> anyhow::Result<()> {
        let asked = Asked { if_match: tag, ..Asked::new(Method::PUT, path).with(body)? };
        let stored: serde_json::Map<String, Value> = self.typed(asked).await?;
        anyhow::ensure!(!stored.is_empty(), "the control plane does not say what it stored");
        Ok(())
    }

    /// Deletes the thing if it still has this tag.
    pub(crate) async fn delete_if(&self, path: &str, tag: &str) -> anyhow::Result<()> {
        self.deleted(Asked { if_match: Some(tag), ..Asked::new(Method::DELETE, path) }).await
    }

    pub(crate) async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.deleted(Asked::new(Method::DELETE, path)).await
    }

    /// Nothing is said of what is gone, and of a run that lives, that its stop was taken. Anything else is the answer
    /// of somebody else.
    async fn deleted(&self, asked: Asked<'_>) -> anyhow::Result<()> {
        let (_, body) = self.exchange(asked).await?;
        if body.is_empty() { Ok(()) } else { self.read::<Taken<RunView>>(&body).map(drop) }
    }

    /// Every item of a paged list.
    pub(crate) async fn list<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<Vec<T>> {
        self.list_where(path, "").await
    }

    /// The same of a list with a query, as in `&by=ann`. Ends whatever is answered: each page goes on after the one
    /// before, and all together are bounded.
    pub(crate) async fn list_where<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &str,
    ) -> anyhow::Result<Vec<T>> {
        let (mut items, mut after, mut size) = (Vec::new(), None::<String>, 0);
        for _ in 0..MAX_PAGES {
            let from = after.as_deref().map_or_else(String::new, |at| format!("&after={}", segment(at)));
            let (_, body) =
                self.exchange(Asked::new(Method::GET, &format!("{path}?limit=200{query}{from}"))).await?;
            size += body.len();
            anyhow::ensure!(size <= MAX_LIST, "the list {path} is larger than {} MiB", MAX_LIST >> 20);
            let page: proto::rest::Page<T> = self.read(&body)?;
            items.extend(page.items);
            if page.next.is_none() {
                return Ok(items);
            }
            anyhow::ensure!(
                page.next != after,
                "the list {path} of the control plane goes round in a circle"
            );
            after = page.next;
        }
        bail!("the list {path} of the control plane has more than {MAX_PAGES} pages")
    }
}
