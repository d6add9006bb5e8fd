//! How many places each caller may hold at once, so that one cannot hold them all. Handshakes and connections are
//! counted by it. Also what a caller is: an address, where nothing better is known. Used by the acceptors and by
//! whoever else counts by address.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Where a connection comes from: an IPv4 address, or the first 64 bits of an IPv6 one, which is what one host gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(addr: IpAddr) -> Self {
        let IpAddr::V6(v6) = addr.to_canonical() else { return Self(addr.to_canonical()) };
        let network = v6.to_bits() & !u128::from(u64::MAX);
        Self(IpAddr::V6(Ipv6Addr::from_bits(network)))
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => write!(f, "{v4}"),
            IpAddr::V6(v6) => write!(f, "{v6}/64"),
        }
    }
}

/// Places that are shared: who wants one more gets it while fewer are theirs than are free. So one caller alone gets
/// half of them, two get a third each, and there is one for somebody new as long as there is any. What is remembered
/// is bounded by the places.
#[derive(Debug, Clone)]
pub(crate) struct Shares<K: Ord> {
    places: usize,
    taken: Arc<Mutex<Taken<K>>>,
}

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    each: BTreeMap<K, usize>,
    /// Waits for a free place; the acceptor is the only one that does.
    waiting: Option<Waker>,
}

/// One place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place<K: Ord> {
    shares: Shares<K>,
    whose: K,
}

impl<K: Ord> Shares<K> {
    /// At least one place.
    pub(crate) fn new(places: usize) -> Self {
        let taken = Taken { all: 0, each: BTreeMap::new(), waiting: None };
        Self { places: places.max(1), taken: Arc::new(Mutex::new(taken)) }
    }

    fn taken(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready while a place is free.
    pub(crate) fn poll_free(&self, cx: &Context<'_>) -> Poll<()> {
        let mut taken = self.taken();
        if taken.all < self.places {
            return Poll::Ready(());
        }
        taken.waiting = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<K: Ord + Clone> Shares<K> {
    /// A place for one more of this caller, unless it holds its share, or `most`, already.
    pub(crate) fn enter(&self, who: &K, most: usize) -> Option<Place<K>> {
        let mut taken = self.taken();
        let own = taken.each.get(who).copied().unwrap_or_default();
        let free = self.places.saturating_sub(taken.all);
        if own >= free.min(most) {
            return None;
        }
        taken.all += 1;
        taken.each.insert(who.clone(), own + 1);
        Some(Place { shares: self.clone(), whose: who.clone() })
    }
}

impl<K: Ord> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.each.get_mut(&self.whose) {
            *own -= 1;
            if *own == 0 {
                taken.each.remove(&self.whose);
            }
        }
        if let Some(waiting) = taken.waiting.take() {
            waiting.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_of(shares: &Shares<u8>, who: u8) -> Vec<Place<u8>> {
        std::iter::from_fn(|| shares.enter(&who, usize::MAX)).collect()
    }

    #[test]
    fn whoever_comes_leaves_room_for_the_next() {
        let shares = Shares::new(60);
        let one = all_of(&shares, 1);
        assert_eq!(one.len(), 30, "alone: half");
        let two = all_of(&shares, 2);
        assert_eq!(two.len(), 15);
        let rest: Vec<_> = (3..200).flat_map(|who| all_of(&shares, who)).collect();
        assert_eq!(one.len() + two.len() + rest.len(), 60, "no place is left unused for ever");
        drop((one, two, rest));
        let taken = shares.taken();
        assert_eq!((taken.all, taken.each.len()), (0, 0), "nothing is remembered of who is gone");
    }

    #[test]
    fn a_place_that_is_given_back_is_free() {
        let shares = Shares::new(1);
        let held = shares.enter(&1, usize::MAX).unwrap();
        assert!(shares.enter(&2, usize::MAX).is_none());
        drop(held);
        assert!(shares.enter(&2, usize::MAX).is_some());
        assert!(shares.enter(&1, 0).is_none(), "nobody has more than their most");
    }

    #[test]
    fn a_source_is_what_one_host_can_choose_addresses_from() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
        assert_eq!(source("2001:db8::7").to_string(), "2001:db8::/64");
    }
}
