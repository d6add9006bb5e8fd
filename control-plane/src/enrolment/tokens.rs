//! Join tokens at the centre: one cluster, one use. The use, the certificate's record and the
//! acceptance are one transaction; a retry with the same key gets the same answer, another key is
//! refused and audited.

use std::sync::{Arc, Mutex, PoisonError};

use certs::token::{Secret, TokenId};
use certs::{Csr, Leaf, SecretHash};
use jiff::Timestamp;
use proto::cluster::{ClusterSpec, ClusterStatus};
use proto::ids::ClusterId;
use serde::{Deserialize, Serialize};

use super::authority::{Signer, cert_record};
use crate::audit::Auditor;
use crate::cache::Cache;
use crate::centre::Error;
use crate::driver::clock::Clock;
use crate::driver::codec;
use crate::engine::object::{Object, ObjectKey};
use crate::health::Health;
use crate::store::{Store, Txn};

/// Enrolments per second for long, and at once.
const RATE: f64 = 20.0;
const BURST: f64 = 200.0;

/// The value of `tokens/<id>`. The secret itself is never stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    /// The one cluster it is for.
    pub cluster: ClusterId,
    /// Hash of its secret.
    pub secret: SecretHash,
    /// Its last instant.
    pub expires_at: Timestamp,
    /// Accept the cluster as it enrols.
    pub auto_accept: bool,
    /// How it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<TokenUse>,
}

/// The one use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenUse {
    /// When.
    pub at: Timestamp,
    /// The key that it was used for.
    pub key_hash: String,
    /// The answer.
    pub chain_pem: String,
}

/// Why an enrolment was refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Not `id.secret`.
    #[error("the join token is malformed: copy it again, whole")]
    Malformed,
    /// The CSR is none.
    #[error("the signing request cannot be used: {0}")]
    Csr(#[from] certs::csr::Error),
    /// Unknown, of another control plane, or the secret is wrong: not told apart on purpose.
    #[error("this control plane did not issue this join token: invite the cluster again")]
    Foreign,
    /// Too late.
    #[error("the join token expired at {0}: invite the cluster again")]
    Expired(Timestamp),
    /// Used with another key.
    #[error(
        "the join token was used already, with another key: invite the cluster again, and find out who used it"
    )]
    Used,
    /// The cluster was revoked or removed meanwhile.
    #[error("the cluster of this join token was revoked or removed")]
    Gone,
    /// The enrolling cluster is not the one that had this identity.
    #[error(
        "this join token belongs to a cluster that had another kube-system namespace: remove it and invite it again"
    )]
    OtherCluster,
    /// Too many at once.
    #[error("too many enrolments at once: try again in some seconds")]
    TooMany,
    /// The centre cannot.
    #[error(transparent)]
    Centre(#[from] Error),
}

impl From<crate::store::Error> for Refused {
    fn from(error: crate::store::Error) -> Self {
        Self::Centre(error.into())
    }
}

impl From<codec::Error> for Refused {
    fn from(error: codec::Error) -> Self {
        Self::Centre(error.into())
    }
}

/// What an enrolled agent gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// Its id.
    pub cluster: ClusterId,
    /// Its certificate.
    pub chain_pem: String,
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct EnrolRequest {
    /// `id.secret`.
    pub token: String,
    /// The request.
    pub csr_pem: String,
    /// Checked attribute.
    pub kube_system_uid: String,
    /// SemVer.
    pub version: String,
}

/// Enrols clusters.
#[derive(Debug)]
pub struct Enroller {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    signer: Arc<Signer>,
    clock: Clock,
    audit: Auditor,
    health: Arc<Health>,
    bucket: Mutex<(f64, Option<Timestamp>)>,
}

impl Enroller {
    /// On these parts.
    pub fn new(
        store: Arc<dyn Store>,
        cache: Arc<Cache>,
        signer: Arc<Signer>,
        clock: Clock,
        audit: Auditor,
        health: Arc<Health>,
    ) -> Self {
        Self { store, cache, signer, clock, audit, health, bucket: Mutex::new((BURST, None)) }
    }

    /// The signing CA.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Exchanges a token and a key for a certificate.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn enrol(&self, request: &EnrolRequest) -> Result<Enrolled, Refused> {
        let result = if self.admit() { self.enrol_inner(request).await } else { Err(Refused::TooMany) };
        let id: String = request.token.split('.').next().unwrap_or_default().chars().take(16).collect();
        match &result {
            Ok(enrolled) => {
                self.health.enrolments.inc();
                self.audit.note(&format!("token:{id}"), "cluster.enrol", enrolled.cluster.as_str(), "ok");
            }
            Err(refused) => {
                self.health.enrolments_refused.inc();
                self.audit.note(&format!("token:{id}"), "cluster.enrol", "", &refused.to_string());
            }
        }
        result
    }

    /// A token bucket over all callers.
    fn admit(&self) -> bool {
        let now = self.clock.now();
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = bucket.1.map_or(0.0, |at| now.duration_since(at).as_secs_f64().max(0.0));
        bucket.0 = (bucket.0 + passed * RATE).min(BURST);
        bucket.1 = Some(now);
        let admitted = bucket.0 >= 1.0;
        if admitted {
            bucket.0 -= 1.0;
        }
        admitted
    }

    async fn enrol_inner(&self, request: &EnrolRequest) -> Result<Enrolled, Refused> {
        let (id, secret) = request.token.trim().split_once('.').ok_or(Refused::Malformed)?;
        let id: TokenId = id.parse().map_err(|_| Refused::Malformed)?;
        let secret: Secret = secret.parse().map_err(|_| Refused::Malformed)?;
        let csr = Csr::from_pem(&request.csr_pem)?;
        let path = codec::token_path(&id.to_string())?;
        // Twice: the first may lose a race against the same agent's own retry.
        for _ in 0..2 {
            let entry = self.store.get(&path).await?.ok_or(Refused::Foreign)?;
            let record: TokenRecord = serde_json::from_slice(&entry.value).map_err(|_| Refused::Foreign)?;
            if !record.secret.matches(&secret) {
                return Err(Refused::Foreign);
            }
            if let Some(used) = &record.used {
                // The same key may ask again, also after the end: it has its certificate already.
                return if used.key_hash == csr.key_hash() {
                    Ok(Enrolled { cluster: record.cluster.clone(), chain_pem: used.chain_pem.clone() })
                } else {
                    Err(Refused::Used)
                };
            }
            let now = self.clock.now();
            if record.expires_at <= now {
                return Err(Refused::Expired(record.expires_at));
            }
            let leaf = self.signer.sign_agent(&record.cluster, &csr, now)?;
            let txn =
                self.use_up(&record, request, &csr, &leaf, now).await?.unchanged(&path, entry.mod_revision);
            let used = TokenUse { at: now, key_hash: csr.key_hash(), chain_pem: leaf.chain_pem.clone() };
            let cluster = record.cluster.clone();
            let txn = txn.put(&path, json(&TokenRecord { used: Some(used), ..record })?);
            if let crate::store::Outcome::Committed { revision } = self.store.txn(txn).await? {
                self.cache.seen(revision).await;
                return Ok(Enrolled { cluster, chain_pem: leaf.chain_pem });
            }
        }
        Err(Refused::Centre(Error::Conflict("the join token is being used right now".to_owned())))
    }

    /// Everything that goes with the use, but the token itself.
    async fn use_up(
        &self,
        record: &TokenRecord,
        request: &EnrolRequest,
        csr: &Csr,
        leaf: &Leaf,
        now: Timestamp,
    ) -> Result<Txn, Refused> {
        let spec_path = codec::path(&ObjectKey::ClusterSpec(record.cluster.clone()))?;
        let entry = self.store.get(&spec_path).await?.ok_or(Refused::Gone)?;
        let mut spec: ClusterSpec = serde_json::from_slice(&entry.value).map_err(|_| Refused::Gone)?;
        if spec.revoked {
            return Err(Refused::Gone);
        }
        let status_path = codec::path(&ObjectKey::ClusterStatus(record.cluster.clone()))?;
        let status_entry = self.store.get(&status_path).await?;
        let mut status: ClusterStatus = status_entry
            .as_ref()
            .and_then(|entry| serde_json::from_slice(&entry.value).ok())
            .unwrap_or_default();
        if !status.kube_system_uid.is_empty() && status.kube_system_uid != request.kube_system_uid {
            return Err(Refused::OtherCluster);
        }
        status.kube_system_uid = request.kube_system_uid.chars().take(64).collect();
        status.version = request.version.chars().take(64).collect();
        status.certificate_not_after = Some(leaf.lifetime.not_after);
        let cert_path = codec::cert_path(record.cluster.as_str())?;
        let cert_entry = self.store.get(&cert_path).await?;
        let known = cert_entry.as_ref().and_then(|entry| serde_json::from_slice(&entry.value).ok());
        tracing::info!(cluster = %record.cluster, at = %now, "enrolled");
        let mut txn = Txn::new()
            .unchanged(&spec_path, entry.mod_revision)
            .unchanged(&status_path, status_entry.map_or(0, |entry| entry.mod_revision))
            .unchanged(&cert_path, cert_entry.map_or(0, |entry| entry.mod_revision))
            .put(&cert_path, json(&cert_record(csr, leaf, known))?)
            .put(
                &status_path,
                codec::encode(&Object::ClusterStatus(record.cluster.clone(), Box::new(status)))?,
            );
        if record.auto_accept && !spec.accepted {
            spec.accepted = true;
            txn = txn.put(&spec_path, codec::encode(&Object::ClusterSpec(spec))?);
        }
        Ok(txn)
    }
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, Refused> {
    serde_json::to_vec(value).map_err(|error| Refused::Centre(Error::Internal(error.to_string())))
}
