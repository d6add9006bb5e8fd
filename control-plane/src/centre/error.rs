//! What the service answers when it cannot; mapped once to the REST API's closed set of codes.

use proto::problem::{ErrorCode, Problem, ProblemDetails, Problems};

use crate::store;

/// Why a call to the centre failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The document has mistakes.
    #[error("the document is not valid")]
    Invalid(#[source] Problems),
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// No or bad credentials.
    #[error("no valid credentials: send a bearer token of this control plane")]
    Unauthenticated,
    /// Not with this role.
    #[error("this needs the role {needs}, you have {has}")]
    Forbidden {
        /// The least role that may.
        needs: super::Role,
        /// The caller's.
        has: super::Role,
    },
    /// No such thing.
    #[error("no {what} named {name:?}")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// It exists, or somebody was faster.
    #[error("{0}")]
    Conflict(String),
    /// What the request expected of the thing does not hold.
    #[error("it is not what If-Match or If-None-Match says: read it again")]
    Precondition,
    /// Too much waits already.
    #[error("{0}: try again")]
    Full(String),
    /// The store cannot be reached.
    #[error("the store is not available")]
    Store(#[source] store::Error),
    /// The store belongs to a newer version.
    #[error(transparent)]
    Format(#[from] crate::format::TooNew),
    /// A defect of ours.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    #[expect(clippy::needless_pass_by_value, reason = "borrowed and owned names are given alike")]
    pub(crate) fn not_found(what: &'static str, name: impl ToString) -> Self {
        Self::NotFound { what, name: name.to_string() }
    }

    /// The code of the REST API.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_) | Self::BadRequest(_) => ErrorCode::Invalid,
            Self::Unauthenticated => ErrorCode::Unauthenticated,
            Self::Forbidden { .. } => ErrorCode::Forbidden,
            Self::NotFound { .. } => ErrorCode::NotFound,
            Self::Conflict(_) | Self::Store(store::Error::Conflict) => ErrorCode::Conflict,
            Self::Precondition => ErrorCode::PreconditionFailed,
            Self::Store(
                store::Error::ValueTooLarge { .. }
                | store::Error::TxnTooLarge { .. }
                | store::Error::TooManyOps { .. },
            ) => ErrorCode::TooLarge,
            Self::Full(_) => ErrorCode::Unavailable,
            Self::Store(error) if error.retryable() => ErrorCode::Unavailable,
            Self::Store(_) | Self::Format(_) | Self::Internal(_) => ErrorCode::Internal,
        }
    }

    /// As `application/problem+json`, with every mistake of the document.
    pub fn details(&self) -> ProblemDetails {
        let details = ProblemDetails::new(self.code(), self.to_string());
        match self {
            Self::Invalid(Problems(problems)) => details.with_problems(problems.clone()),
            Self::BadRequest(text) => details.with_problems(vec![Problem::new("", text.clone())]),
            _ => details,
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::Invalid(problems)
    }
}

impl From<store::keys::KeyError> for Error {
    fn from(error: store::keys::KeyError) -> Self {
        Self::BadRequest(error.to_string())
    }
}

impl From<crate::driver::codec::Error> for Error {
    fn from(error: crate::driver::codec::Error) -> Self {
        Self::BadRequest(error.to_string())
    }
}
