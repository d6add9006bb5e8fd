//! What a Job of the chart does around an uninstall: before it, a Halt object of this cluster and a wait until the
//! agent says Clean; after it, the halt is lifted. Called by the binary by way of `kubernetes`.

use std::time::Duration;

use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use proto::halt::{HaltObject, HaltObjectSpec};
use tokio::time::Instant;

use super::answer::call;
use crate::cluster::Error;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How an uninstall found the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drained {
    /// Nothing is active here any more, as far as the agent can know.
    Clean,
    /// The time was over first. The level that the halt had come to, if any.
    NotInTime {
        /// As in the Halt object's status.
        level: Option<String>,
    },
}

/// Halts the cluster with an object of this name and waits until it is Clean, for `at_most`. An apiserver that is
/// away is asked again; a refusal for good is an error.
pub async fn latch(client: Client, name: &str, at_most: Duration) -> Result<Drained, Error> {
    let halts: Api<HaltObject> = Api::all(client);
    let until = Instant::now() + at_most;
    let reason = Some("the member chart is being uninstalled".to_owned());
    let halt = HaltObject::new(name, HaltObjectSpec { reason, namespace: None });
    let mut there = false;
    let mut level = None;
    loop {
        let answer = if there { seen(&halts, name).await } else { made(&halts, &halt).await };
        match answer {
            Ok(Some(now)) => {
                there = true;
                level = now.status.and_then(|status| status.level);
                if level.as_deref() == Some("Clean") {
                    return Ok(Drained::Clean);
                }
            }
            // Lifted under us: made again.
            Ok(None) => there = false,
            Err(error) if error.retryable() => tracing::warn!(%error, "asking again"),
            Err(error) => return Err(error),
        }
        if Instant::now() >= until {
            return Ok(Drained::NotInTime { level });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Deletes the halt of this name; fine where there is none.
pub async fn lift(client: Client, name: &str) -> Result<(), Error> {
    let halts: Api<HaltObject> = Api::all(client);
    match call(halts.delete(name, &DeleteParams::default())).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.is_missing(name) => Ok(()),
        Err(failure) => Err(failure.into_error(format!("lift halt {name}"))),
    }
}

async fn made(halts: &Api<HaltObject>, halt: &HaltObject) -> Result<Option<HaltObject>, Error> {
    let name = halt.metadata.name.as_deref().unwrap_or_default();
    match call(halts.create(&PostParams::default(), halt)).await {
        Ok(made) => Ok(Some(made)),
        Err(failure) if failure.is_conflict() => seen(halts, name).await,
        Err(failure) => Err(failure.into_error(format!("set halt {name}"))),
    }
}

async fn seen(halts: &Api<HaltObject>, name: &str) -> Result<Option<HaltObject>, Error> {
    match call(halts.get(name)).await {
        Ok(halt) => Ok(Some(halt)),
        Err(failure) if failure.is_missing(name) => Ok(None),
        Err(failure) => Err(failure.into_error(format!("look at halt {name}"))),
    }
}
