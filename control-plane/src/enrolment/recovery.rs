//! An agent's return after its certificate expired, by its identity key instead of a join token. A counter that only
//! grows unmasks clones: of two holders of one key, the second to recover comes with a counter that was used already.
//! Which of the two is the thief cannot be known here, so from then on nobody recovers until an operator decides.
//! Called by the gRPC shell.

mod decide;
mod refused;

use std::time::Duration;

use certs::recovery::IdentityKey;
use certs::{Csr, Source};
use jiff::Timestamp;
use proto::cluster::{ClusterSpec, ClusterStatus};
use proto::ids::ClusterId;
use serde::{Deserialize, Serialize};

pub use self::refused::NotRecovered;

use self::decide::{Asked, Decision, decide};
use super::authority::{CertRecord, cert_record};
use super::tokens::{Enrolled, Enroller};
use super::turns::Standing;
use crate::centre::Error;
use crate::driver::codec;
use crate::engine::object::{Object, ObjectKey};
use crate::store::{Revision, Txn};

/// Who may recover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryConfig {
    /// So long after its certificate expired; zero: nobody.
    pub within: Duration,
    /// So often in 24 hours, each cluster.
    pub per_day: usize,
}

impl Default for RecoveryConfig {
    fn default() -> Self {
        Self { within: Duration::from_hours(30 * 24), per_day: 3 }
    }
}

/// An agent's identity as the centre knows it; part of the certificate's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IdentityRecord {
    /// Never replaced but by enrolling again.
    pub key: IdentityKey,
    /// Of the last recovery; 0 before the first.
    pub counter: u64,
    /// What the last recovery got, for its retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<Answered>,
    /// When it recovered in the last 24 hours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovered_at: Vec<Timestamp>,
    /// When a second holder showed up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone_suspected_at: Option<Timestamp>,
    /// The other key that its agent showed when it last renewed: with that one it cannot recover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_taken: Option<IdentityKey>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answered {
    /// The key that it was for.
    pub key_hash: String,
    /// The certificate.
    pub chain_pem: String,
}

impl IdentityRecord {
    /// Of an agent that never recovered.
    pub(crate) fn new(key: IdentityKey) -> Self {
        Self {
            key,
            counter: 0,
            answered: None,
            recovered_at: Vec::new(),
            clone_suspected_at: None,
            not_taken: None,
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverRequest {
    /// Whose identity.
    pub cluster: String,
    /// How often it has recovered, this time included.
    pub counter: u64,
    /// For the new key.
    pub csr_pem: String,
    /// The agent's clock, milliseconds since 1970.
    pub at_unix_ms: i64,
    /// Checked attribute; may be empty.
    pub kube_system_uid: String,
    /// Of the identity key.
    pub signature: Vec<u8>,
}

/// What the store holds of a cluster, and at which revisions.
struct Known {
    spec: ClusterSpec,
    status: ClusterStatus,
    record: CertRecord,
    at: [(String, Revision); 3],
}

impl Enroller {
    /// Gives an agent whose certificate expired a new one, whoever asks.
    ///
    /// # Errors
    /// [`NotRecovered`].
    pub async fn recover(&self, request: &RecoverRequest) -> Result<Enrolled, NotRecovered> {
        self.recover_from(None, request).await
    }

    /// As [`Enroller::recover`], on account of a source that has its turn.
    pub(super) async fn recover_from(
        &self,
        source: Option<Source>,
        request: &RecoverRequest,
    ) -> Result<Enrolled, NotRecovered> {
        let result = self.recover_inner(request).await;
        let cluster: String = request.cluster.chars().take(64).collect();
        match &result {
            Ok(_) => {
                self.granted(source);
                self.health.recoveries.done.inc();
                self.audit.note(&format!("cluster:{cluster}"), "cluster.recover", &cluster, "ok");
            }
            Err(refused) => {
                self.health.recoveries.refused.inc();
                let standing = refused.standing();
                let of_holder = standing == Standing::Holder;
                let by = if of_holder { format!("cluster:{cluster}") } else { "unknown".to_owned() };
                let is_clone = matches!(refused, NotRecovered::Clone { .. });
                if self.refused(source, standing) || is_clone {
                    self.audit.note(&by, "cluster.recover", &cluster, &refused.to_string());
                }
                if is_clone {
                    self.health.recoveries.clones.inc();
                    let until = "nobody recovers until it is replaced";
                    self.audit.note(&by, "cluster.clone-suspected", &cluster, until);
                }
            }
        }
        result
    }

    async fn recover_inner(&self, request: &RecoverRequest) -> Result<Enrolled, NotRecovered> {
        let cluster: ClusterId = request.cluster.parse().map_err(|_| NotRecovered::Malformed)?;
        let csr = Csr::from_pem(&request.csr_pem)?;
        let key_hash = csr.key_hash();
        let trust_domain = self.signer().trust_domain().as_str();
        // Twice: the first may lose a race against the same agent's own retry.
        for _ in 0..2 {
            let now = self.clock.now();
            let asked = Asked { request, trust_domain, key_hash: &key_hash, now };
            let known = self.known(&cluster).await?;
            let changed = match decide(&self.recovery, &asked, &known.spec, &known.status, &known.record)? {
                Decision::Again(chain_pem) => return Ok(Enrolled { cluster, chain_pem }),
                Decision::Certify(identity) => {
                    let leaf = self.signer().sign_agent(&cluster, &csr, now)?;
                    let answered = Answered { key_hash: key_hash.clone(), chain_pem: leaf.chain_pem.clone() };
                    let identity = Some(IdentityRecord { answered: Some(answered), ..identity });
                    let record =
                        CertRecord { identity, ..cert_record(&csr, &leaf, Some(known.record.clone())) };
                    let certificate_not_after = Some(leaf.lifetime.not_after);
                    let status = ClusterStatus { certificate_not_after, ..known.status.clone() };
                    (record, status, Ok(leaf.chain_pem))
                }
                Decision::Suspect(identity) => {
                    let clone = NotRecovered::Clone { asked: request.counter, kept: identity.counter };
                    let record = CertRecord { identity: Some(identity), ..known.record.clone() };
                    let status = ClusterStatus { clone_suspected_at: Some(now), ..known.status.clone() };
                    (record, status, Err(clone))
                }
            };
            let (record, status, answer) = changed;
            if self.keep(&cluster, &known, &record, status).await? {
                return answer.map(|chain_pem| Enrolled { cluster, chain_pem });
            }
        }
        Err(NotRecovered::Centre(Error::Conflict("the cluster is changing right now".to_owned())))
    }

    async fn known(&self, cluster: &ClusterId) -> Result<Known, NotRecovered> {
        let spec_path = codec::path(&ObjectKey::ClusterSpec(cluster.clone()))?;
        let status_path = codec::path(&ObjectKey::ClusterStatus(cluster.clone()))?;
        let cert_path = codec::cert_path(cluster.as_str())?;
        let spec = self.store.get(&spec_path).await?.ok_or(NotRecovered::Foreign)?;
        let cert = self.store.get(&cert_path).await?.ok_or(NotRecovered::Foreign)?;
        let status = self.store.get(&status_path).await?;
        let read = |error: serde_json::Error| NotRecovered::Centre(Error::Internal(error.to_string()));
        Ok(Known {
            spec: serde_json::from_slice(&spec.value).map_err(read)?,
            record: serde_json::from_slice(&cert.value).map_err(read)?,
            status: match &status {
                Some(entry) => serde_json::from_slice(&entry.value).map_err(read)?,
                None => ClusterStatus::default(),
            },
            at: [
                (spec_path, spec.mod_revision),
                (cert_path, cert.mod_revision),
                (status_path, status.map_or(0, |entry| entry.mod_revision)),
            ],
        })
    }

    /// Writes record and status if nothing of what is known changed; whether it did write.
    async fn keep(
        &self,
        cluster: &ClusterId,
        known: &Known,
        record: &CertRecord,
        status: ClusterStatus,
    ) -> Result<bool, NotRecovered> {
        let status = Object::ClusterStatus(cluster.clone(), Box::new(status));
        let record = serde_json::to_vec(record).map_err(|error| Error::Internal(error.to_string()))?;
        let txn = known.at.iter().fold(Txn::new(), |txn, (path, at)| txn.unchanged(path, *at));
        let txn = txn
            .put(codec::cert_path(cluster.as_str())?, record)
            .put(codec::path(&status.key())?, codec::encode(&status)?);
        Ok(!self.cache.write_through(&*self.store, txn).await?.is_conflict())
    }
}
