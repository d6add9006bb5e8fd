//! A cluster's first contact: a one-use token and a key become a certificate; and its return after that expired, by
//! its identity key. Also keeps the centre's CA: made by the first replica, sealed with the key-encryption key, loaded
//! by the others.

mod authority;
mod grpc;
mod recovery;
mod tokens;
mod turns;

pub use authority::Signer;
pub(crate) use authority::{AGENT_TTL, CertRecord};
pub use grpc::EnrolmentService;
pub use recovery::{NotRecovered, RecoverRequest, RecoveryConfig};
pub use tokens::{EnrolRequest, Enrolled, Enroller, Refused, TokenRecord};
