//! What the driver looks at in the cluster: one receiver per snapshot.

use std::sync::Arc;

use tokio::sync::watch;

use crate::cluster::{AuthoredSet, CeilingSeen, Inventory, Leadership, LocalHalt, Sight};

/// The cluster's snapshots.
pub(super) struct Seen {
    pub(super) inventory: watch::Receiver<Option<Arc<Inventory>>>,
    pub(super) ceiling: watch::Receiver<CeilingSeen>,
    pub(super) halts: watch::Receiver<Option<Arc<Vec<LocalHalt>>>>,
    pub(super) authored: watch::Receiver<Option<Arc<AuthoredSet>>>,
    pub(super) leadership: watch::Receiver<Leadership>,
}

impl Seen {
    /// Every snapshot of this cluster.
    pub(super) fn of(sight: &dyn Sight) -> Self {
        Self {
            inventory: sight.inventory(),
            ceiling: sight.ceiling(),
            halts: sight.local_halts(),
            authored: sight.authored(),
            leadership: sight.leadership(),
        }
    }

    /// Waits until one of them changes; fails when the door is gone.
    pub(super) async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        tokio::select! {
            changed = self.inventory.changed() => changed,
            changed = self.ceiling.changed() => changed,
            changed = self.halts.changed() => changed,
            changed = self.authored.changed() => changed,
            changed = self.leadership.changed() => changed,
        }
    }
}
