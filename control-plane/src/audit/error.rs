//! What can go wrong with the audit in the store.

use crate::store::{self, keys};

/// Why the audit could not be read, signed or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error("the store is not available")]
    Store(#[from] store::Error),
    /// A replica's name that fits no key.
    #[error(transparent)]
    Key(#[from] keys::KeyError),
    /// A value without a JSON form.
    #[error("write an audit value")]
    Json(#[from] serde_json::Error),
    /// The CA did not sign.
    #[error("sign a checkpoint")]
    Sign(#[from] crate::centre::Error),
    /// The CA's certificate is none.
    #[error("read the CA's certificate")]
    Bundle(#[from] certs::bundle::Error),
}
