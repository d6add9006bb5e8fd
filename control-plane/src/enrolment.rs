//! A cluster's first contact: a one-use token and a key become a certificate. Also keeps the
//! centre's CA: made by the first replica, sealed with the key-encryption key, loaded by the others.

mod authority;
mod grpc;
mod tokens;

pub(crate) use authority::CertRecord;
pub use authority::Signer;
pub use grpc::EnrolmentService;
pub use tokens::{EnrolRequest, Enrolled, Enroller, Refused, TokenRecord};
