//! One leadership: driver, link and node sessions together, from the lease won to the lease lost. `run` starts it;
//! tests start it with scripted ends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::cluster::Doors;
use crate::driver::{Driver, INPUTS};
use crate::engine::Settings;
use crate::health::Metrics;
use crate::link::dial::Dial;
use crate::link::outbox::Outbox;
use crate::link::renewal::Renewal;
use crate::link::{Backoff, Link};
use crate::nodes::session::{NodeConnection, NodeSettings, session};
use crate::probes::Denied;

/// What a leadership is made of.
#[derive(Debug)]
pub struct Leading {
    /// Cluster id and epoch.
    pub settings: Settings,
    /// The cluster.
    pub doors: Doors,
    /// The centre.
    pub dial: Arc<dyn Dial>,
    /// Certificates towards the centre.
    pub renewal: Renewal,
    /// Waits between dials.
    pub backoff: Backoff,
    /// Between heartbeats with node daemons.
    pub node_heartbeat: Duration,
    /// Where probes never go.
    pub denied: Denied,
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// Measures.
    pub metrics: Metrics,
}

impl Leading {
    /// Runs until it is dropped; an error means that a part ended that must not.
    pub async fn run(self, nodes: &mut mpsc::Receiver<NodeConnection>) -> anyhow::Result<()> {
        let epoch = self.settings.agent_epoch;
        tracing::info!(cluster = %self.settings.cluster, epoch, "leading");
        let last_seq = self.clock.now().wall.as_millisecond().unsigned_abs();
        let outbox = Arc::new(Outbox::new(epoch, last_seq));
        let (tell, inputs) = mpsc::channel(INPUTS);
        let link = Link {
            dial: self.dial,
            outbox: outbox.clone(),
            epoch,
            renewal: self.renewal,
            backoff: self.backoff,
            clock: self.clock.clone(),
            tell: tell.clone(),
        };
        let channel = (tell.clone(), inputs);
        let driver = Driver::new(self.settings, self.doors, self.clock.clone(), outbox, channel, self.denied)
            .measured(self.metrics);
        let mut parts: JoinSet<anyhow::Result<()>> = JoinSet::new();
        parts.spawn(driver.run());
        parts.spawn(async move {
            link.run().await;
            anyhow::bail!("the link ended")
        });
        let settings = NodeSettings { agent_epoch: epoch, heartbeat: self.node_heartbeat };
        let mut sessions = JoinSet::new();
        let mut number = 0u64;
        loop {
            tokio::select! {
                Some(ended) = parts.join_next() => return ended.context("a part of the agent failed")?,
                Some(connection) = nodes.recv() => {
                    number += 1;
                    let (clock, tell) = (self.clock.clone(), tell.clone());
                    sessions.spawn(session(connection, number, settings.clone(), clock, tell));
                }
                Some(ended) = sessions.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a node session failed");
                    }
                }
            }
        }
    }
}
