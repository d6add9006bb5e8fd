//! Why an agent does not come back by its identity key. Every text says what to do.

use jiff::{SignedDuration, Timestamp};

use super::decide::SKEW;
use crate::centre::Error;
use crate::driver::codec;
use crate::enrolment::turns::Standing;

/// Why a recovery was refused; each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NotRecovered {
    /// Not a recovery at all.
    #[error("this is no request for a recovery: upgrade the agent")]
    Malformed,
    /// The CSR is none.
    #[error("the signing request cannot be used: {0}")]
    Csr(#[from] certs::csr::Error),
    /// Too many at once.
    #[error("too many enrolments at once: the agent tries again")]
    TooMany,
    /// One of the two clocks is wrong.
    #[error(
        "the agent's clock is {0:#} off the control plane's, more than {SKEW:#}: set the clock; the agent tries again"
    )]
    Skewed(SignedDuration),
    /// Enrolled by an earlier version, and no renewal since told the key.
    #[error(
        "the identity key of this cluster was never registered: run `faultline clusters replace` and give its agent the new token"
    )]
    NoKey,
    /// An unknown cluster, or a signature of another key or trust domain: not told apart on purpose.
    #[error(
        "this control plane does not know this identity: invite the cluster, or run `faultline clusters replace`, and give its agent the new token"
    )]
    Foreign,
    /// Revoked.
    #[error("the cluster of this identity was revoked")]
    Revoked,
    /// The identity came into another cluster.
    #[error(
        "this identity belongs to a cluster with another kube-system namespace: if it was copied here, invite this cluster on its own; if the cluster was rebuilt, run `faultline clusters replace`"
    )]
    OtherCluster,
    /// A counter that was used already, with another key.
    #[error(
        "recovery {asked} of this identity was used already, the last was {kept}: two hold one identity, or an old copy of it was put back; find out, then run `faultline clusters replace`"
    )]
    Clone {
        /// The one that came.
        asked: u64,
        /// The last one used.
        kept: u64,
    },
    /// After a clone was suspected.
    #[error(
        "a second holder of this identity showed up at {0}: nobody recovers with it; find out, then run `faultline clusters replace`"
    )]
    Quarantined(Timestamp),
    /// There is nothing to recover from.
    #[error(
        "the cluster's last certificate is valid until {0}: if the agent does not hold it, the answer to its last renewal may have been lost; it can recover at {0}. Else the identity is an old copy, or another agent uses it, too"
    )]
    StillValid(Timestamp),
    /// Away for too long.
    #[error(
        "the cluster's last certificate expired at {0}, too long ago: run `faultline clusters replace` and give its agent the new token"
    )]
    TooLate(Timestamp),
    /// The day's recoveries are used up.
    #[error("the cluster recovered {0} times in 24 hours: the agent tries again")]
    TooOften(usize),
    /// The centre cannot.
    #[error(transparent)]
    Centre(#[from] Error),
}

impl NotRecovered {
    /// What the request showed.
    pub(super) fn standing(&self) -> Standing {
        match self {
            Self::Malformed | Self::Csr(_) | Self::TooMany | Self::NoKey | Self::Foreign => {
                Standing::Stranger
            }
            Self::Skewed(_)
            | Self::Revoked
            | Self::OtherCluster
            | Self::Clone { .. }
            | Self::Quarantined(_)
            | Self::StillValid(_)
            | Self::TooLate(_)
            | Self::TooOften(_) => Standing::Holder,
            Self::Centre(_) => Standing::Unjudged,
        }
    }
}

impl From<crate::store::Error> for NotRecovered {
    fn from(error: crate::store::Error) -> Self {
        Self::Centre(error.into())
    }
}

impl From<codec::Error> for NotRecovered {
    fn from(error: codec::Error) -> Self {
        Self::Centre(error.into())
    }
}
