//! An enrolled agent and the CA of its centre, for tests of the link.

use std::sync::Arc;
use std::time::Duration;

use certs::throwaway::Throwaway;
use certs::{Authority, Csr, PrivateKey, Role};
use jiff::Timestamp;
use proto::endpoints::{EndpointList, SignedEndpoints};
use serde_json::json;

use super::home::Home;
use super::identity::{Credentials, StoredIdentity};
use crate::cluster::Secrets;
use crate::cluster::memory::Memory;

pub(super) struct Stage {
    pub(super) ca: Throwaway,
    /// Where it keeps what it knows.
    pub(super) memory: Memory,
    secrets: Arc<dyn Secrets>,
    pub(super) credentials: Credentials,
    pub(super) home: Home,
}

impl Stage {
    /// An agent that enrolled at `a:1`, in the trust domain of that CA or another.
    pub(super) async fn of(trust_domain: Option<&str>) -> Self {
        let ca = Throwaway::new(Timestamp::now()).unwrap();
        let key = PrivateKey::generate().unwrap();
        let csr = Csr::from_pem(&key.csr_pem().unwrap()).unwrap();
        let hour = Duration::from_hours(1);
        let leaf = ca.authority.sign_client(&csr, &Role::agent("c2"), Timestamp::now(), hour).unwrap();
        let own = ca.authority.trust_domain().as_str().to_owned();
        let enrolled = json!({ "chainPem": leaf.chain_pem, "bundlePem": ca.authority.bundle_pem(),
            "trustDomain": trust_domain.unwrap_or(&own), "linkEndpoints": ["a:1"] });
        let stored = json!({ "cluster": "c2", "tokenId": "t", "keyPem": key.to_pem(), "enrolled": enrolled });
        let stored: StoredIdentity = serde_json::from_value(stored).unwrap();
        let memory = Memory::new();
        let secrets = memory.doors().secrets;
        stored.save(&*secrets).await.unwrap();
        let credentials = Credentials::new(stored, secrets.clone()).unwrap();
        Self { ca, memory, secrets, home: Home::new(Some(credentials.clone())), credentials }
    }

    /// As after a restart.
    pub(super) async fn again(&self) -> Credentials {
        let stored = StoredIdentity::load(&*self.secrets).await.unwrap().unwrap();
        Credentials::new(stored, self.secrets.clone()).unwrap()
    }

    pub(super) fn list(&self, sequence: u64, link: &str) -> EndpointList {
        EndpointList {
            trust_domain: self.ca.authority.trust_domain().as_str().to_owned(),
            sequence,
            link_endpoints: vec![link.to_owned()],
            enrol_endpoints: vec!["e:1".to_owned()],
            at: Timestamp::now(),
        }
    }
}

pub(super) fn signed_by(authority: &Authority, role: &Role, list: EndpointList) -> SignedEndpoints {
    let signed = authority.sign_statement(role, &list.statement(), list.at).unwrap();
    SignedEndpoints { list, chain_pem: signed.chain_pem, signature: signed.signature }
}
