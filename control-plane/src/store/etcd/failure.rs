//! What etcd's errors mean to us. etcd tells some of them apart only by its words, which are
//! part of its API (`api/v3rpc/rpctypes`).

use etcd_client::Error as EtcdError;

use crate::store::{Error, LeaseId};

/// Revisions and lease ids are not in etcd's answers: the caller fills them in.
pub(super) fn translate(operation: &'static str, error: EtcdError) -> Error {
    match error {
        EtcdError::GRpcStatus(status) => status_error(operation, status),
        EtcdError::LeaseKeepAliveError(words) if words.contains("lease not found") => {
            Error::LeaseNotFound(LeaseId(0))
        }
        EtcdError::InvalidArgs(words) => Error::Config(words),
        EtcdError::InvalidUri(error) => Error::Config(error.to_string()),
        error => Error::Unavailable { operation, source: Box::new(error) },
    }
}

fn status_error(operation: &'static str, status: tonic::Status) -> Error {
    use tonic::Code;
    let words = status.message();
    match status.code() {
        Code::OutOfRange if words.contains("has been compacted") => Error::Compacted { compact_revision: 0 },
        Code::OutOfRange if words.contains("future revision") => Error::Rewound { seen: 0, current: 0 },
        Code::NotFound if words.contains("lease not found") => Error::LeaseNotFound(LeaseId(0)),
        Code::ResourceExhausted if words.contains("space exceeded") => Error::NoSpace { operation },
        Code::OutOfRange
        | Code::NotFound
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => Error::Refused { operation, source: Box::new(status) },
        _ => Error::Unavailable { operation, source: Box::new(status) },
    }
}
