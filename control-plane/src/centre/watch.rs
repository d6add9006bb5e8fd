//! A run as a stream of views: the first at once, then one for each change, the latest only.

use futures::Stream;
use proto::assignment::Residue;
use proto::ids::RunId;
use proto::rest::RunView;
use proto::status::RunPhase;
use tokio::sync::broadcast::error::RecvError;

use super::runs::view;
use super::{Caller, Centre, Error, Role};

impl Centre {
    /// Every change of a run as this replica sees it, the latest only: a slow reader skips views.
    /// Ends when the run is gone, or after the view in which it is Finished with nothing Unknown
    /// left. Needs viewer.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn watch_run(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<impl Stream<Item = RunView> + Send + use<>, Error> {
        caller.require(Role::Viewer)?;
        let id = self.resolve(id)?;
        let changes = self.inner.cache.run_changes();
        let state = Watch { centre: self.clone(), id, changes, last: None, over: false };
        Ok(futures::stream::unfold(state, |mut watch| async move {
            let view = watch.next().await?;
            Some((view, watch))
        }))
    }
}

/// Whether nothing more is to be expected of a run.
pub(crate) fn is_over(view: &RunView) -> bool {
    view.summary.phase == RunPhase::Finished && view.summary.residue != Residue::Unknown
}

struct Watch {
    centre: Centre,
    id: RunId,
    changes: tokio::sync::broadcast::Receiver<RunId>,
    last: Option<RunView>,
    over: bool,
}

impl Watch {
    async fn next(&mut self) -> Option<RunView> {
        if self.over {
            return None;
        }
        loop {
            let now = self.centre.inner.cache.read(|state| view(state, &self.id, true))?;
            if self.last.as_ref() != Some(&now) {
                self.over = is_over(&now);
                self.last = Some(now.clone());
                return Some(now);
            }
            loop {
                match self.changes.recv().await {
                    Ok(changed) if changed != self.id => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return None,
                }
            }
        }
    }
}
