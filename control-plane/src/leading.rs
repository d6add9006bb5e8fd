//! Work that only the leader does: begun when this replica comes to lead, dropped when it no longer does, and fenced
//! by the lead it was begun under. For what runs beside the driver: the audit's export, and the retention.

use std::future::Future;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::Compare;

/// Work of the leader, fit to be dropped anywhere.
pub(crate) trait Led: Sync {
    /// Works under one lead; every transaction carries `fence`.
    fn lead(&self, fence: Compare) -> impl Future<Output = ()> + Send;

    /// Whatever this replica showed of that work is no longer its to say.
    fn over(&self);
}

/// Does the work under each lead in turn until `shutdown`; what is under way then is not waited for.
pub(crate) async fn while_leading(
    work: &impl Led,
    mut leads: watch::Receiver<Option<Compare>>,
    shutdown: CancellationToken,
) {
    loop {
        let fence = leads.borrow_and_update().clone();
        let working = async {
            match fence {
                Some(fence) => work.lead(fence).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            () = shutdown.cancelled() => true,
            changed = leads.changed() => changed.is_err(),
            () = working => false,
        };
        work.over();
        if ended {
            return;
        }
    }
}
