//! A new certificate for an agent whose own is past half its life, over the link that the old one opened.

use certs::Csr;
use certs::recovery::IdentityKey;
use proto::wire::Nack;

use super::Ingest;
use crate::centre::Error;

impl Ingest {
    /// An agent that was an older version for a while has lost its key, and does not see that the centre has another.
    fn note_other_identity(&self, by: &str) {
        let cure = "its agent shows another identity key than the one that is registered, and will not recover once \
                    its certificate expired: run `faultline clusters replace`";
        tracing::warn!(cluster = %self.cluster, "{cure}");
        self.hub.audit.note(by, "cluster.other-identity", self.cluster.as_str(), cure);
    }

    pub(super) async fn renew(&self, csr_pem: &str, identity_csr_pem: &str) -> Result<(), Error> {
        let read = |pem: &str| Csr::from_pem(pem).map_err(|error| Error::BadRequest(error.to_string()));
        let signed = read(csr_pem).and_then(|csr| {
            let identity = Some(identity_csr_pem).filter(|pem| !pem.is_empty()).map(read).transpose()?;
            let leaf = self.hub.signer.sign_agent(&self.cluster, &csr, self.hub.clock.now())?;
            Ok((csr, identity.as_ref().map(IdentityKey::of), leaf))
        });
        let by = format!("cluster:{}", self.cluster);
        let recorded = match signed {
            Ok((csr, identity, leaf)) => {
                let store = self.hub.store.as_ref();
                match self.hub.signer.record(store, &self.cluster, &csr, identity, &leaf).await {
                    Ok(is_other) => {
                        if is_other {
                            self.note_other_identity(&by);
                        }
                        Ok(leaf)
                    }
                    Err(refused @ Error::Conflict(_)) => Err(refused),
                    Err(error) => return Err(error),
                }
            }
            Err(error) => Err(error),
        };
        match recorded {
            Ok(leaf) => {
                let not_after = Some(leaf.lifetime.not_after);
                self.hub
                    .update_status(&self.cluster, |status| status.certificate_not_after = not_after)
                    .await?;
                self.hub.audit.note(&by, "certificate.renew", leaf.serial.as_str(), "ok");
                self.lane.renewed(leaf.chain_pem, self.hub.signer.bundle_pem().to_owned());
            }
            Err(error) => {
                self.hub.audit.note(&by, "certificate.renew", "", "invalid");
                let detail = error.to_string();
                self.lane.nack(Nack { run: String::new(), generation: 0, code: "Renew".to_owned(), detail });
            }
        }
        Ok(())
    }
}
