//! How many runs are followed here, in all and by each operator: a stream is cheap, but not free.
//! Used by the route that streams.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Streams at the same time on one replica.
const MAX: usize = 512;
/// Of them, of one operator.
const MAX_EACH: usize = 64;

/// Who follows how many.
#[derive(Debug, Default)]
pub(crate) struct Watches(Mutex<BTreeMap<String, usize>>);

/// One stream's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    watches: Arc<Watches>,
    operator: String,
}

impl Watches {
    fn counts(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more stream of this operator, if there is one.
    pub(crate) fn enter(self: &Arc<Self>, operator: &str) -> Option<Place> {
        let mut counts = self.counts();
        let all: usize = counts.values().sum();
        let own = counts.get(operator).copied().unwrap_or_default();
        if all >= MAX || own >= MAX_EACH {
            return None;
        }
        counts.insert(operator.to_owned(), own + 1);
        Some(Place { watches: self.clone(), operator: operator.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.watches.counts();
        if let Some(own) = counts.get_mut(&self.operator) {
            *own -= 1;
            if *own == 0 {
                counts.remove(&self.operator);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_operator_cannot_take_every_place() {
        let watches = Arc::new(Watches::default());
        let mut own: Vec<Place> = std::iter::from_fn(|| watches.enter("ann")).collect();
        assert_eq!(own.len(), MAX_EACH);
        let others: Vec<Place> = (0..20)
            .flat_map(|n| std::iter::from_fn(|| watches.enter(&format!("op-{n}"))).collect::<Vec<_>>())
            .collect();
        assert_eq!(own.len() + others.len(), MAX);
        own.pop();
        assert!(watches.enter("bob").is_some(), "a place that was given back is free");
        drop((own, others));
        assert!(watches.counts().is_empty());
    }
}
