//! What an agent has learnt of the centre since it enrolled, without any I/O: where the centre is, and which copies of
//! the centre's store it has left behind. Kept with the identity; `home` decides by it.

use proto::endpoints::{EndpointList, MAX_ENDPOINTS};
use serde::{Deserialize, Serialize};

/// Copies of the store that are remembered as left; the oldest is forgotten first.
const MAX_LEFT: usize = 16;

/// What is known of the centre.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KnownCentre {
    /// Of the signed list that is kept; 0: none, the centre is where it was at enrolment.
    pub sequence: u64,
    /// `host:port` of the links, the first one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub link: Vec<String>,
    /// `host:port` of enrolment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub enrol: Vec<String>,
    /// Where the centre was before; dialled after the list until a session on the list has been healthy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub previous: Vec<String>,
    /// Epoch of the store that was last accepted.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub store_epoch: String,
    /// Epochs that it took the place of: whoever comes with one of these stands on an older copy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
}

/// Another list of this sequence, or a later one, is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("list {offered} comes after list {kept} is kept, or is another one of that number")]
pub struct Older {
    /// What was offered.
    pub offered: u64,
    /// What is kept.
    pub kept: u64,
}

/// The centre stands on a copy of the store that was left for a newer one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this centre stands on store epoch {left}, which this cluster has left for {now}: it is an older copy. If this is \
     the one that shall live on, stop it and run `faultline store mark-restored` on its store"
)]
pub struct OldStore {
    /// The epoch that was left.
    pub left: String,
    /// The one that is kept.
    pub now: String,
}

impl KnownCentre {
    /// Where to dial, in this order, with what was told at enrolment.
    pub fn addresses(&self, enrolled: &[String]) -> Vec<String> {
        if self.sequence == 0 {
            return enrolled.to_vec();
        }
        self.link.iter().chain(&self.previous).cloned().collect()
    }

    /// Whether this is an address of the list; without a list every address is.
    pub fn is_listed(&self, address: &str) -> bool {
        self.sequence == 0 || self.link.iter().any(|listed| listed == address)
    }

    /// Whether there is a list, and it works.
    pub fn is_proved(&self) -> bool {
        self.sequence > 0 && self.previous.is_empty()
    }

    /// With this list kept; `None` where it is kept already.
    ///
    /// # Errors
    /// [`Older`].
    pub fn taken(&self, list: &EndpointList, enrolled: &[String]) -> Result<Option<Self>, Older> {
        let same = self.link == list.link_endpoints && self.enrol == list.enrol_endpoints;
        if list.sequence == self.sequence && same {
            return Ok(None);
        }
        if list.sequence <= self.sequence {
            return Err(Older { offered: list.sequence, kept: self.sequence });
        }
        // What was proved goes before what never was.
        let proved = if self.sequence == 0 { enrolled } else { &self.previous };
        let mut previous: Vec<String> = Vec::new();
        for address in proved.iter().chain(&self.link) {
            if !list.link_endpoints.contains(address) && !previous.contains(address) {
                previous.push(address.clone());
            }
        }
        previous.truncate(MAX_ENDPOINTS);
        Ok(Some(Self {
            sequence: list.sequence,
            link: list.link_endpoints.clone(),
            enrol: list.enrol_endpoints.clone(),
            previous,
            ..self.clone()
        }))
    }

    /// Without the addresses before the list; `None` where there are none.
    pub fn proved(&self) -> Option<Self> {
        (!self.previous.is_empty()).then(|| Self { previous: Vec::new(), ..self.clone() })
    }

    /// With this epoch as the one that counts; `None` where it is that already.
    ///
    /// # Errors
    /// [`OldStore`].
    pub fn entered(&self, epoch: &str) -> Result<Option<Self>, OldStore> {
        if epoch.is_empty() || epoch == self.store_epoch {
            return Ok(None);
        }
        if self.left.iter().any(|left| left == epoch) {
            return Err(OldStore { left: epoch.to_owned(), now: self.store_epoch.clone() });
        }
        let mut left = self.left.clone();
        if !self.store_epoch.is_empty() {
            left.push(self.store_epoch.clone());
        }
        let surplus = left.len().saturating_sub(MAX_LEFT);
        left.drain(..surplus);
        Ok(Some(Self { store_epoch: epoch.to_owned(), left, ..self.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(sequence: u64, link: &[&str]) -> EndpointList {
        let link = link.iter().map(|text| (*text).to_owned()).collect();
        let enrol_endpoints = vec!["e:1".to_owned()];
        let at = jiff::Timestamp::UNIX_EPOCH;
        EndpointList { trust_domain: "td".to_owned(), sequence, link_endpoints: link, enrol_endpoints, at }
    }

    fn first() -> Vec<String> {
        vec!["a:1".to_owned()]
    }

    #[test]
    fn the_new_list_goes_first_and_what_worked_stays_until_it_is_proved() {
        let known = KnownCentre::default();
        assert_eq!(known.addresses(&first()), ["a:1"]);
        assert!(known.is_listed("a:1"));
        let wrong = known.taken(&list(4, &["typo:1"]), &first()).unwrap().unwrap();
        assert_eq!(wrong.addresses(&first()), ["typo:1", "a:1"]);
        assert!(!wrong.is_listed("a:1"));
        // A second list before the first was proved: the address that works is not lost.
        let right = wrong.taken(&list(5, &["b:1", "c:1"]), &first()).unwrap().unwrap();
        assert_eq!(right.addresses(&first()), ["b:1", "c:1", "a:1", "typo:1"]);
        let proved = right.proved().unwrap();
        assert_eq!(proved.addresses(&first()), ["b:1", "c:1"]);
        assert_eq!(proved.proved(), None);
        let next = proved.taken(&list(6, &["c:1", "d:1"]), &first()).unwrap().unwrap();
        assert_eq!(next.addresses(&first()), ["c:1", "d:1", "b:1"]);
    }

    #[test]
    fn an_unproved_address_never_pushes_out_the_one_that_works() {
        let mut known = KnownCentre::default();
        for sequence in 1..40 {
            let names: Vec<String> = (0..MAX_ENDPOINTS).map(|n| format!("n{sequence}-{n}:1")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            known = known.taken(&list(sequence, &names), &first()).unwrap().unwrap();
            assert_eq!(known.previous.first().map(String::as_str), Some("a:1"));
            assert!(known.previous.len() <= MAX_ENDPOINTS);
        }
    }

    #[test]
    fn only_a_higher_sequence_replaces_a_list() {
        let known = KnownCentre::default().taken(&list(4, &["b:1"]), &first()).unwrap().unwrap();
        assert_eq!(known.taken(&list(4, &["b:1"]), &first()), Ok(None));
        for (sequence, link) in [(4, "c:1"), (3, "b:1"), (0, "b:1")] {
            let refused = known.taken(&list(sequence, &[link]), &first());
            assert_eq!(refused, Err(Older { offered: sequence, kept: 4 }));
        }
    }

    #[test]
    fn a_store_that_was_left_is_known_again_and_the_memory_of_them_is_bounded() {
        let mut known = KnownCentre::default();
        known = known.entered("e0").unwrap().unwrap();
        assert!(known.left.is_empty());
        assert_eq!(known.entered("e0"), Ok(None));
        assert_eq!(known.entered(""), Ok(None));
        for n in 1..=20 {
            known = known.entered(&format!("e{n}")).unwrap().unwrap();
        }
        assert_eq!(known.left.len(), MAX_LEFT);
        let old = known.entered("e19").unwrap_err();
        assert_eq!((old.left.as_str(), old.now.as_str()), ("e19", "e20"));
        assert!(old.to_string().contains("faultline store mark-restored"));
        assert!(known.entered("e4").is_err());
        assert!(known.entered("e3").is_ok(), "forgotten");
    }
}
