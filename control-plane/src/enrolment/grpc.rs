//! The gRPC shell of enrolment.

use std::sync::Arc;

use proto::api::enrolment as pb;
use proto::api::enrolment::enrolment_server::Enrolment;
use tonic::{Request, Response, Status};

use super::tokens::{EnrolRequest, Enroller, Refused};
use crate::centre::Error;

/// Serves `Enrolment`.
#[derive(Debug, Clone)]
pub struct EnrolmentService {
    enroller: Arc<Enroller>,
    link_endpoints: Vec<String>,
}

impl EnrolmentService {
    /// Enrols and sends agents on to these `host:port`s.
    pub fn new(enroller: Arc<Enroller>, link_endpoints: Vec<String>) -> Self {
        Self { enroller, link_endpoints }
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

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn enrol(&self, request: Request<pb::EnrolRequest>) -> Result<Response<pb::EnrolReply>, Status> {
        let request = request.into_inner();
        let request = EnrolRequest {
            token: request.token,
            csr_pem: request.csr_pem,
            kube_system_uid: request.kube_system_uid,
            version: request.version,
        };
        let enrolled = self.enroller.enrol(&request).await.map_err(|refused| status_of(&refused))?;
        Ok(Response::new(pb::EnrolReply {
            cluster: enrolled.cluster.to_string(),
            chain_pem: enrolled.chain_pem,
            bundle_pem: self.enroller.signer().bundle_pem().to_owned(),
            trust_domain: self.enroller.signer().trust_domain().as_str().to_owned(),
            link_endpoints: self.link_endpoints.clone(),
        }))
    }
}
