//! The one centre that this agent obeys: takes its signed lists of addresses, and refuses a centre on a copy of the
//! store that was left for a newer one. What is learnt is put on disk beside the session, which never waits for that.
//! Used by the link and its sessions, which are its only writer.

use std::time::Duration;

use certs::Role;
use certs::signing::{Invalid, Signed};
use proto::endpoints::{EndpointList, SignedEndpoints};
use proto::problem::Problems;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::identity::Credentials;
use super::known::{KnownCentre, OldStore, Older};

/// The code by which a centre on an older copy of the store is refused.
pub(super) const OLD_STORE: &str = "OldStore";
/// After what was learnt could not be put on disk, it is tried again so much later.
const SAVE_AGAIN: Duration = Duration::from_secs(30);

/// Why a list was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// No roots to check a signature by.
    #[error("this agent has no identity")]
    NoIdentity,
    /// Not signed by the centre's CA, or altered.
    #[error("the list is not to be believed: {0}")]
    Signature(#[from] Invalid),
    /// Signed by somebody who may not.
    #[error("the list was signed by {0}, which may not say where the centre is")]
    Signer(String),
    /// For agents of another centre.
    #[error("the list is for trust domain {found}, this is {ours}")]
    TrustDomain {
        /// Of the list or of its signer.
        found: String,
        /// This agent's.
        ours: String,
    },
    /// A later one is kept.
    #[error(transparent)]
    Older(#[from] Older),
    /// Addresses that nobody could dial.
    #[error("{0}")]
    Addresses(Problems),
    /// Not on disk: it does not count.
    #[error("the list could not be kept: {0}")]
    NotKept(String),
}

impl Refused {
    /// What the centre is told.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::NoIdentity => "NoIdentity",
            Self::Signature(_) | Self::Signer(_) => "BadSignature",
            Self::TrustDomain { .. } => "OtherTrustDomain",
            Self::Older(_) => "OlderEndpoints",
            Self::Addresses(_) => "BadEndpoints",
            Self::NotKept(_) => "EndpointsNotKept",
        }
    }
}

/// What is being put on disk.
#[derive(Debug)]
struct Saving {
    centre: KnownCentre,
    /// The list that it contains for the first time.
    list: Option<EndpointList>,
}

/// What is known of the centre, and what keeps it.
#[derive(Debug)]
pub(super) struct Home {
    /// Absent in tests over channels: then nothing is kept on disk, and no list is taken.
    credentials: Option<Credentials>,
    known: KnownCentre,
    /// Learnt and not on disk yet.
    unsaved: bool,
    /// Not before then.
    save_at: Instant,
    /// A list that was verified and shall be put on disk, which is what makes it count.
    offered: Option<EndpointList>,
    saving: Option<Saving>,
    /// The write of `saving`: one task at most. It goes on by itself between two sessions.
    writing: JoinSet<anyhow::Result<()>>,
    /// Moves to a listed address since one was last proved.
    detours: u32,
}

impl Home {
    /// As it is kept with these credentials.
    pub(super) fn new(credentials: Option<Credentials>) -> Self {
        let known = credentials.as_ref().map(Credentials::centre).unwrap_or_default();
        Self {
            credentials,
            known,
            unsaved: false,
            save_at: Instant::now(),
            offered: None,
            saving: None,
            writing: JoinSet::new(),
            detours: 0,
        }
    }

    /// What is known now.
    pub(super) fn known(&self) -> &KnownCentre {
        &self.known
    }

    /// The sequence of the list that is kept, where lists can be taken at all.
    pub(super) fn sequence(&self) -> Option<u64> {
        self.credentials.as_ref().map(|_| self.known.sequence)
    }

    /// Goes over to the store of this epoch, unless it was left before. That counts from now on, and is put on disk by
    /// [`Self::saved`]: an agent whose apiserver is away must be able to hear a stop.
    pub(super) fn enter(&mut self, epoch: &str) -> Result<(), OldStore> {
        let Some(entered) = self.known.entered(epoch)? else { return Ok(()) };
        if !entered.left.is_empty() {
            let left = &self.known.store_epoch;
            tracing::warn!(
                epoch,
                left,
                "the centre's store was restored: whoever stands on the old one is refused"
            );
        }
        self.known = entered;
        self.unsaved = true;
        Ok(())
    }

    /// Takes a list: it is verified here, then on disk and dialled by, as [`Self::saved`] says. Answers its sequence
    /// where it was there before.
    pub(super) fn offer(&mut self, signed: &SignedEndpoints) -> Result<Option<u64>, Refused> {
        let credentials = self.credentials.as_ref().ok_or(Refused::NoIdentity)?;
        let list = &signed.list;
        let signature = Signed { chain_pem: signed.chain_pem.clone(), signature: signed.signature.clone() };
        let peer = signature.verify(&credentials.bundle(), &list.statement(), list.at)?;
        let Role::Endpoints { .. } = peer.identity.role() else {
            return Err(Refused::Signer(peer.identity.to_string()));
        };
        let ours = credentials.trust_domain();
        for found in [list.trust_domain.as_str(), peer.identity.trust_domain().as_str()] {
            if found != ours {
                return Err(Refused::TrustDomain { found: found.to_owned(), ours: ours.to_owned() });
            }
        }
        list.check().map_err(Refused::Addresses)?;
        if self.known.taken(list, &credentials.enrolled_endpoints())?.is_none() {
            return Ok(Some(list.sequence));
        }
        self.offered = Some(list.clone());
        Ok(None)
    }

    /// A session is healthy. On an address of the list: the way back is not needed any more.
    pub(super) fn settle(&mut self, address: Option<&str>) {
        if address.is_some_and(|address| self.known.is_listed(address)) {
            self.detours = 0;
            if let Some(proved) = self.known.proved() {
                self.known = proved;
                self.unsaved = true;
            }
        }
    }

    /// A session was given up for a listed address.
    pub(super) fn moves(&mut self) {
        self.detours = self.detours.saturating_add(1);
    }

    /// How often that was in vain, so far.
    pub(super) fn detours(&self) -> u32 {
        self.detours
    }

    /// Puts on disk what is not there yet. Ends with each write: with the answer to the list that it was about, or
    /// without one. Never ends where there is nothing to write. Cancel safe.
    pub(super) async fn saved(&mut self) -> Option<Result<u64, Refused>> {
        if self.saving.is_none() {
            let waits = self.offered.is_none();
            if self.credentials.is_none() || waits && !self.unsaved {
                return std::future::pending().await;
            }
            if waits {
                sleep_until(self.save_at).await;
            }
            if let Err(older) = self.begin() {
                return Some(Err(older.into()));
            }
        }
        let written = match self.writing.join_next().await {
            Some(Ok(written)) => written,
            Some(Err(broken)) => Err(broken.into()),
            None => Ok(()),
        };
        let Saving { centre, list } = self.saving.take()?;
        if let Err(error) = written {
            self.save_at = Instant::now() + SAVE_AGAIN;
            let error = format!("{error:#}");
            if list.is_some() {
                return Some(Err(Refused::NotKept(error)));
            }
            tracing::warn!(error, "what was learnt of the centre is not on disk yet");
            return None;
        }
        let kept = list.map(|list| self.keep(&list));
        // More may have been learnt meanwhile.
        self.unsaved = self.known != centre;
        kept
    }

    /// Begins to write what is known, with the list that was offered.
    fn begin(&mut self) -> Result<(), Older> {
        let Some(credentials) = self.credentials.clone() else { return Ok(()) };
        let list = self.offered.take();
        let taken = match &list {
            Some(list) => self.known.taken(list, &credentials.enrolled_endpoints())?,
            None => None,
        };
        let centre = taken.unwrap_or_else(|| self.known.clone());
        self.saving = Some(Saving { centre: centre.clone(), list });
        self.writing.spawn(async move { credentials.learn(centre).await });
        Ok(())
    }

    /// A list is on disk: goes by it.
    fn keep(&mut self, list: &EndpointList) -> Result<u64, Refused> {
        let enrolled = self.credentials.as_ref().map(Credentials::enrolled_endpoints).unwrap_or_default();
        if let Some(taken) = self.known.taken(list, &enrolled)? {
            (self.known, self.detours) = (taken, 0);
            tracing::info!(sequence = list.sequence, endpoints = ?list.link_endpoints, "the centre's addresses are");
        }
        Ok(list.sequence)
    }
}

#[cfg(test)]
mod tests;
