//! The gRPC shell of enrolment. A request that has its turn is carried on though its caller is gone: whoever breaks off
//! pays for it, and what it unmasked is noted.

use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::Arc;

use certs::{ConnInfo, Source};
use proto::api::enrolment as pb;
use proto::api::enrolment::enrolment_server::Enrolment;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::recovery::{NotRecovered, RecoverRequest};
use super::tokens::{EnrolRequest, Enroller, Refused};
use crate::centre::Error;

/// Serves `Enrolment`.
#[derive(Debug, Clone)]
pub struct EnrolmentService {
    enroller: Arc<Enroller>,
    link_endpoints: Vec<String>,
    /// Requests that have their turn.
    at_work: TaskTracker,
}

impl EnrolmentService {
    /// Enrols and sends agents on to these `host:port`s, unless an admin said where the centre is.
    pub fn new(enroller: Arc<Enroller>, link_endpoints: Vec<String>) -> Self {
        Self { enroller, link_endpoints, at_work: TaskTracker::new() }
    }

    /// Waits for the requests that are carried on without their callers. For the end: none comes after it.
    pub async fn drained(&self) {
        self.at_work.close();
        self.at_work.wait().await;
    }

    /// Does it in a task of its own. Each call to the store has its bound, and how many come the turns.
    async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Status> {
        let task = self.at_work.spawn(work.in_current_span());
        task.await.map_err(|_| Status::internal("the request broke off"))
    }

    /// Where a request comes from, if it is its turn.
    fn turn<T>(&self, request: &Request<T>, too_many: impl FnOnce() -> Status) -> Result<Source, Status> {
        let addr = request.extensions().get::<ConnInfo>().map(|info| info.remote_addr.ip());
        let source = Source::from(addr.unwrap_or(Ipv4Addr::UNSPECIFIED.into()));
        if self.enroller.take_turn(source) { Ok(source) } else { Err(too_many()) }
    }
}

fn status_of(refused: &Refused) -> Status {
    let text = refused.to_string();
    match refused {
        Refused::Malformed | Refused::Csr(_) => Status::invalid_argument(text),
        Refused::Foreign | Refused::Expired(_) => Status::unauthenticated(text),
        Refused::Used | Refused::Gone | Refused::OtherCluster => Status::permission_denied(text),
        Refused::TooMany => Status::resource_exhausted(text),
        Refused::Centre(Error::Store(_) | Error::Conflict(_)) => Status::unavailable(text),
        Refused::Centre(_) => Status::internal(text),
    }
}

fn status_of_recovery(refused: &NotRecovered) -> Status {
    let text = refused.to_string();
    match refused {
        NotRecovered::Malformed | NotRecovered::Csr(_) => Status::invalid_argument(text),
        NotRecovered::Foreign => Status::unauthenticated(text),
        NotRecovered::Revoked
        | NotRecovered::OtherCluster
        | NotRecovered::Clone { .. }
        | NotRecovered::Quarantined(_) => Status::permission_denied(text),
        NotRecovered::Skewed(_)
        | NotRecovered::NoKey
        | NotRecovered::StillValid(_)
        | NotRecovered::TooOften(_)
        | NotRecovered::TooLate(_) => Status::failed_precondition(text),
        NotRecovered::TooMany => Status::resource_exhausted(text),
        NotRecovered::Centre(Error::Store(_) | Error::Conflict(_)) => Status::unavailable(text),
        NotRecovered::Centre(_) => Status::internal(text),
    }
}

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn enrol(&self, request: Request<pb::EnrolRequest>) -> Result<Response<pb::EnrolReply>, Status> {
        let source = self.turn(&request, || status_of(&Refused::TooMany))?;
        let request = request.into_inner();
        let request = EnrolRequest {
            token: request.token,
            csr_pem: request.csr_pem,
            kube_system_uid: request.kube_system_uid,
            version: request.version,
            identity_csr_pem: request.identity_csr_pem,
        };
        let enroller = self.enroller.clone();
        let work = async move { enroller.enrol_from(Some(source), &request).await };
        let enrolled = self.to_its_end(work).await?.map_err(|refused| status_of(&refused))?;
        Ok(Response::new(pb::EnrolReply {
            cluster: enrolled.cluster.to_string(),
            chain_pem: enrolled.chain_pem,
            bundle_pem: self.enroller.signer().bundle_pem().to_owned(),
            trust_domain: self.enroller.signer().trust_domain().as_str().to_owned(),
            link_endpoints: self.enroller.link_endpoints().unwrap_or_else(|| self.link_endpoints.clone()),
        }))
    }

    async fn recover(
        &self,
        request: Request<pb::RecoverRequest>,
    ) -> Result<Response<pb::RecoverReply>, Status> {
        let source = self.turn(&request, || status_of_recovery(&NotRecovered::TooMany))?;
        let request = request.into_inner();
        let request = RecoverRequest {
            cluster: request.cluster,
            counter: request.counter,
            csr_pem: request.csr_pem,
            at_unix_ms: request.at_unix_ms,
            kube_system_uid: request.kube_system_uid,
            signature: request.signature,
        };
        let enroller = self.enroller.clone();
        let work = async move { enroller.recover_from(Some(source), &request).await };
        let recovered = self.to_its_end(work).await?.map_err(|refused| status_of_recovery(&refused))?;
        let bundle_pem = self.enroller.signer().bundle_pem().to_owned();
        Ok(Response::new(pb::RecoverReply { chain_pem: recovered.chain_pem, bundle_pem }))
    }
}
