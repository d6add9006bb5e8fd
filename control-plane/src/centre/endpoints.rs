//! Where agents find the centre: a list that an admin sets and this replica signs once, for all agents and replicas.
//! Sessions send it to agents, enrolment and join tokens use it, server certificates name its hosts.

use proto::endpoints::{EndpointList, EndpointsView, PutEndpoints, SignedEndpoints};

use super::expected::{Change, Expected, tag_of};
use super::{Caller, Centre, Error, Role};
use crate::cache::Cache;
use crate::driver::codec;
use crate::engine::object::{Object, ObjectKey, StoredEndpoints};
use crate::store::Entry;

fn stored(entry: &Entry) -> Option<StoredEndpoints> {
    serde_json::from_slice(&entry.value).ok()
}

/// Where joining clusters enrol and agents dial, as far as somebody said so.
pub(crate) fn listed(cache: &Cache) -> Option<EndpointList> {
    cache.read(|state| state.endpoints.as_ref().map(|stored| stored.signed.list.clone()))
}

impl Centre {
    /// The list in force; without one, the addresses that this replica was started with. Needs viewer.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn endpoints(&self, caller: &Caller) -> Result<EndpointsView, Error> {
        caller.require(Role::Viewer)?;
        let stored = self.inner.cache.read(|state| state.endpoints.clone());
        Ok(self.endpoints_view(stored.as_ref()))
    }

    fn endpoints_view(&self, stored: Option<&StoredEndpoints>) -> EndpointsView {
        let Some(StoredEndpoints { signed, by }) = stored else {
            let given = |address: &String| Some(address.clone()).filter(|text| !text.is_empty());
            return EndpointsView {
                sequence: 0,
                link_endpoints: given(&self.inner.link_advertise).into_iter().collect(),
                enrol_endpoints: given(&self.inner.enrol_advertise).into_iter().collect(),
                at: None,
                by: String::new(),
            };
        };
        EndpointsView {
            sequence: signed.list.sequence,
            link_endpoints: signed.list.link_endpoints.clone(),
            enrol_endpoints: signed.list.enrol_endpoints.clone(),
            at: Some(signed.list.at),
            by: by.clone(),
        }
    }

    /// Tells every agent where the centre is from now on, where the list is as expected. The list that is there
    /// already is not signed again. Needs admin.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every mistake; [`Error::Precondition`].
    pub async fn put_endpoints(
        &self,
        caller: &Caller,
        put: PutEndpoints,
        expected: &Expected,
    ) -> Result<EndpointsView, Error> {
        let subject: String = put.link_endpoints.join(",").chars().take(256).collect();
        let result = self.put_endpoints_inner(caller, put, expected).await;
        self.note(caller, "endpoints.put", &subject, &result);
        result
    }

    async fn put_endpoints_inner(
        &self,
        caller: &Caller,
        put: PutEndpoints,
        expected: &Expected,
    ) -> Result<EndpointsView, Error> {
        caller.require(Role::Admin)?;
        put.check()?;
        let path = codec::path(&ObjectKey::Endpoints)?;
        self.change_key(&path, |entry| {
            let old = entry.and_then(stored);
            expected.check(Some(&tag_of(&self.endpoints_view(old.as_ref()))))?;
            let same = old.as_ref().map(|old| &old.signed.list).is_some_and(|list| {
                list.link_endpoints == put.link_endpoints && list.enrol_endpoints == put.enrol_endpoints
            });
            if same {
                return Ok((Change::Keep, self.endpoints_view(old.as_ref())));
            }
            let last = old.map_or(0, |old| old.signed.list.sequence);
            let new =
                StoredEndpoints { signed: self.sign(&put, last)?, by: format!("operator:{}", caller.name) };
            let view = self.endpoints_view(Some(&new));
            Ok((Change::Put(codec::encode(&Object::Endpoints(Box::new(new)))?), view))
        })
        .await
    }

    /// The list that comes after `last`. Its number is at least the time, so that a store which was restored from
    /// before `last` does not give another list the number of one that agents keep.
    fn sign(&self, put: &PutEndpoints, last: u64) -> Result<SignedEndpoints, Error> {
        let at = self.inner.clock.now();
        let list = EndpointList {
            trust_domain: self.inner.signer.trust_domain().as_str().to_owned(),
            sequence: last.saturating_add(1).max(u64::try_from(at.as_second()).unwrap_or_default()),
            link_endpoints: put.link_endpoints.clone(),
            enrol_endpoints: put.enrol_endpoints.clone(),
            at,
        };
        let signed = self.inner.signer.sign_endpoints(&list.statement(), at)?;
        Ok(SignedEndpoints { list, chain_pem: signed.chain_pem, signature: signed.signature })
    }
}
