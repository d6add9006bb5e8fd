//! Join tokens at the centre: one cluster, one use. The use, the certificate's record and the
//! acceptance are one transaction; a retry with the same key gets the same answer, another key is
//! refused and audited.

use std::sync::Arc;

use certs::recovery::IdentityKey;
use certs::token::{Secret, TokenId};
use certs::{Csr, Leaf, SecretHash, Source};
use jiff::Timestamp;
use proto::cluster::{ClusterSpec, ClusterStatus};
use proto::ids::ClusterId;
use serde::{Deserialize, Serialize};

use super::authority::{CertRecord, Signer, cert_record};
use super::recovery::{IdentityRecord, RecoveryConfig};
use super::turns::{Noting, Standing, Turn, Turns};
use crate::audit::Auditor;
use crate::cache::Cache;
use crate::centre::{Error, listed};
use crate::driver::clock::Clock;
use crate::driver::codec;
use crate::engine::object::{Object, ObjectKey};
use crate::health::Health;
use crate::store::{Store, Txn};

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

impl Refused {
    fn standing(&self) -> Standing {
        match self {
            Self::Malformed | Self::Csr(_) | Self::Foreign | Self::TooMany => Standing::Stranger,
            Self::Expired(_) | Self::Used | Self::Gone | Self::OtherCluster => Standing::Holder,
            Self::Centre(_) => Standing::Unjudged,
        }
    }
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
    /// Of the identity key, by which the agent will recover; empty for one that knows none.
    pub identity_csr_pem: String,
}

/// Enrols clusters.
#[derive(Debug)]
pub struct Enroller {
    pub(super) store: Arc<dyn Store>,
    pub(super) cache: Arc<Cache>,
    signer: Arc<Signer>,
    pub(super) clock: Clock,
    pub(super) audit: Auditor,
    pub(super) health: Arc<Health>,
    pub(super) recovery: RecoveryConfig,
    pub(super) turns: Turns,
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
        let recovery = RecoveryConfig::default();
        Self { store, cache, signer, clock, audit, health, recovery, turns: Turns::default() }
    }

    /// Lets agents recover as this says.
    #[must_use]
    pub fn with_recovery(self, recovery: RecoveryConfig) -> Self {
        Self { recovery, ..self }
    }

    /// Where agents dial, where an admin said so.
    pub(super) fn link_endpoints(&self) -> Option<Vec<String>> {
        listed(&self.cache).map(|list| list.link_endpoints)
    }

    /// The signing CA.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Exchanges a token and a key for a certificate, whoever asks.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn enrol(&self, request: &EnrolRequest) -> Result<Enrolled, Refused> {
        self.enrol_from(None, request).await
    }

    /// As [`Enroller::enrol`], on account of a source that has its turn.
    pub(super) async fn enrol_from(
        &self,
        source: Option<Source>,
        request: &EnrolRequest,
    ) -> Result<Enrolled, Refused> {
        let result = self.enrol_inner(request).await;
        let id: String = request.token.split('.').next().unwrap_or_default().chars().take(16).collect();
        match &result {
            Ok(enrolled) => {
                self.granted(source);
                self.health.enrolments.inc();
                self.audit.note(&format!("token:{id}"), "cluster.enrol", enrolled.cluster.as_str(), "ok");
            }
            Err(refused) => {
                self.health.enrolments_refused.inc();
                if self.refused(source, refused.standing()) {
                    self.audit.note(&format!("token:{id}"), "cluster.enrol", "", &refused.to_string());
                }
            }
        }
        result
    }

    pub(super) fn granted(&self, source: Option<Source>) {
        if let Some(source) = source {
            self.turns.granted(source, self.clock.now());
        }
    }

    /// Charges the source of a request that was refused; whether to note it.
    pub(super) fn refused(&self, source: Option<Source>, standing: Standing) -> bool {
        let Some(source) = source else { return true };
        let noting = self.turns.refused(source, standing, self.clock.now());
        if noting == Noting::Last {
            self.note_held_up(source);
        }
        noting == Noting::Each
    }

    fn note_held_up(&self, source: Source) {
        let by = format!("source:{source}");
        self.audit.note(&by, "cluster.enrol", "", "too many: not noted one by one");
    }

    /// A turn for a source: the shell asks for one before each request.
    pub(super) fn take_turn(&self, source: Source) -> bool {
        let turn = self.turns.take(source, self.clock.now());
        if let Turn::Wait { note } = turn {
            self.health.enrolments_refused.inc();
            if note {
                self.note_held_up(source);
            }
        }
        turn == Turn::Yours
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
            if !self.cache.write_through(&*self.store, txn).await?.is_conflict() {
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
        // Whoever held the identity before, the token is for this one.
        status.clone_suspected_at = None;
        let identity = Some(request.identity_csr_pem.as_str()).filter(|pem| !pem.is_empty());
        let identity = identity.map(Csr::from_pem).transpose()?;
        let identity = identity.map(|csr| IdentityRecord::new(IdentityKey::of(&csr)));
        let cert_path = codec::cert_path(record.cluster.as_str())?;
        let cert_entry = self.store.get(&cert_path).await?;
        let known = cert_entry.as_ref().and_then(|entry| serde_json::from_slice(&entry.value).ok());
        tracing::info!(cluster = %record.cluster, at = %now, "enrolled");
        let mut txn = Txn::new()
            .unchanged(&spec_path, entry.mod_revision)
            .unchanged(&status_path, status_entry.map_or(0, |entry| entry.mod_revision))
            .unchanged(&cert_path, cert_entry.map_or(0, |entry| entry.mod_revision))
            .put(&cert_path, json(&CertRecord { identity, ..cert_record(csr, leaf, known) })?)
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
