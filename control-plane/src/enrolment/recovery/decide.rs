//! What a recovery gets: pure, from the request and what the store holds. The order matters: who asks first, then
//! whether two ask, then whether it is time.

use certs::recovery::Recovery;
use jiff::{SignedDuration, Timestamp};
use proto::cluster::{ClusterSpec, ClusterStatus};

use super::{IdentityRecord, NotRecovered, RecoverRequest, RecoveryConfig};
use crate::enrolment::CertRecord;

/// How far the clocks may be apart.
pub(super) const SKEW: SignedDuration = SignedDuration::from_mins(5);
/// In which the recoveries of one cluster are counted.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A request with what it is judged by.
pub(super) struct Asked<'a> {
    pub(super) request: &'a RecoverRequest,
    /// Ours.
    pub(super) trust_domain: &'a str,
    /// Of the key to be certified.
    pub(super) key_hash: &'a str,
    pub(super) now: Timestamp,
}

/// What is to be done.
pub(super) enum Decision {
    /// The retry of an answered recovery: this chain again.
    Again(String),
    /// A new certificate; keep this with the answer.
    Certify(IdentityRecord),
    /// Nothing, and keep that a second holder showed up.
    Suspect(IdentityRecord),
}

pub(super) fn decide(
    config: &RecoveryConfig,
    asked: &Asked<'_>,
    spec: &ClusterSpec,
    status: &ClusterStatus,
    record: &CertRecord,
) -> Result<Decision, NotRecovered> {
    let Asked { request, now, .. } = asked;
    let identity = record.identity.as_ref().ok_or(NotRecovered::NoKey)?;
    let said = Recovery {
        trust_domain: asked.trust_domain,
        cluster: spec.id.as_str(),
        kube_system_uid: &request.kube_system_uid,
        counter: request.counter,
        key_hash: asked.key_hash,
        at_unix_ms: request.at_unix_ms,
    };
    said.verify(&identity.key, &request.signature).map_err(|_| NotRecovered::Foreign)?;
    let at = Timestamp::from_millisecond(request.at_unix_ms).map_err(|_| NotRecovered::Malformed)?;
    let skew = at.duration_since(*now);
    if skew.abs() > SKEW {
        return Err(NotRecovered::Skewed(skew));
    }
    if spec.revoked {
        return Err(NotRecovered::Revoked);
    }
    let (ours, theirs) = (&status.kube_system_uid, &request.kube_system_uid);
    if !ours.is_empty() && !theirs.is_empty() && ours != theirs {
        return Err(NotRecovered::OtherCluster);
    }
    if let Some(at) = identity.clone_suspected_at {
        return Err(NotRecovered::Quarantined(at));
    }
    if request.counter <= identity.counter {
        let answered = identity.answered.as_ref();
        let same = answered.filter(|a| request.counter == identity.counter && a.key_hash == asked.key_hash);
        return Ok(match same {
            Some(answered) => Decision::Again(answered.chain_pem.clone()),
            None => Decision::Suspect(IdentityRecord { clone_suspected_at: Some(*now), ..identity.clone() }),
        });
    }
    certify(config, request, *now, identity, record.not_after)
}

/// Whether it is time for a certificate. The counter may skip: a store that was restored forgot some.
fn certify(
    config: &RecoveryConfig,
    request: &RecoverRequest,
    now: Timestamp,
    identity: &IdentityRecord,
    not_after: Timestamp,
) -> Result<Decision, NotRecovered> {
    if now <= not_after {
        return Err(NotRecovered::StillValid(not_after));
    }
    if now.duration_since(not_after) > SignedDuration::try_from(config.within).unwrap_or(SignedDuration::MAX)
    {
        return Err(NotRecovered::TooLate(not_after));
    }
    let mut recovered_at = identity.recovered_at.clone();
    recovered_at.retain(|at| now.duration_since(*at) < DAY);
    if recovered_at.len() >= config.per_day {
        return Err(NotRecovered::TooOften(config.per_day));
    }
    recovered_at.push(now);
    Ok(Decision::Certify(IdentityRecord {
        counter: request.counter,
        answered: None,
        recovered_at,
        ..identity.clone()
    }))
}
