//! Signing and believing checkpoints. Used by the writer for its own chain, by the leader for
//! those of replicas that are gone, and by the command line to verify.

use std::sync::Arc;

use certs::signing::{Invalid, Signed};
use certs::{Role, TrustBundle};
use proto::audit::{AuditCheckpoint, CheckpointKind, statement};

use super::Error;
use crate::driver::clock::Clock;
use crate::enrolment::Signer;

/// Why a checkpoint is not to be believed.
#[derive(Debug, thiserror::Error)]
pub enum Disbelief {
    /// The signature is not good.
    #[error("the checkpoint is not to be believed: {0}")]
    Invalid(#[from] Invalid),
    /// The certificate is good, for something else.
    #[error("the checkpoint was signed by {0}, which is no control plane's audit")]
    Signer(String),
}

/// Checks that some replica of the control plane of this CA signed the checkpoint.
///
/// # Errors
/// [`Disbelief`].
pub fn believe(bundle: &TrustBundle, checkpoint: &AuditCheckpoint) -> Result<(), Disbelief> {
    let signed = Signed { chain_pem: checkpoint.chain_pem.clone(), signature: checkpoint.signature.clone() };
    let peer = signed.verify(bundle, &checkpoint.statement(), checkpoint.at)?;
    match peer.identity.role() {
        Role::Audit { .. } => Ok(()),
        _ => Err(Disbelief::Signer(peer.identity.to_string())),
    }
}

/// Signs checkpoints as this replica. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sealer {
    signer: Arc<Signer>,
    bundle: Arc<TrustBundle>,
    clock: Clock,
    replica: String,
}

impl Sealer {
    pub(crate) fn new(signer: Arc<Signer>, clock: Clock, replica: &str) -> Result<Self, Error> {
        let bundle = Arc::new(TrustBundle::from_pem(signer.bundle_pem())?);
        Ok(Self { signer, bundle, clock, replica: replica.to_owned() })
    }

    /// This replica's name: that of its own chain.
    pub(crate) fn replica(&self) -> &str {
        &self.replica
    }

    /// Signs that a chain has this hash at this number.
    pub(crate) fn checkpoint(
        &self,
        replica: &str,
        seq: u64,
        hash: &str,
        kind: CheckpointKind,
    ) -> Result<AuditCheckpoint, Error> {
        let at = self.clock.now();
        let Signed { chain_pem, signature } =
            self.signer.sign_audit(&statement(replica, seq, hash, at, kind), at)?;
        Ok(AuditCheckpoint {
            replica: replica.to_owned(),
            seq,
            hash: hash.to_owned(),
            at,
            kind,
            chain_pem,
            signature,
        })
    }

    pub(crate) fn believe(&self, checkpoint: &AuditCheckpoint) -> Result<(), Disbelief> {
        believe(&self.bundle, checkpoint)
    }
}
