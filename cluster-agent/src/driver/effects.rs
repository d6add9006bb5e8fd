//! Carries out what the engine decided: each effect goes to the link, to a node's session, to a writer or to the
//! apiserver, and none is waited for. `Driver::take` calls it for every effect of a step, in order.

use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use proto::ids::{InjectionId, RunId};
use proto::injection::TargetRef;
use proto::wire::NodeDown;
use tracing::Instrument;

use super::{Driver, Input, spans};
use crate::engine::Effect;
use crate::probes::Denied;

impl Driver {
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::SendObserved(observed) => {
                if let Some(run) = self.state.runs.get(&observed.run) {
                    self.announcer.injections(run, self.clock.now().wall);
                }
                self.outbox.observed(observed);
            }
            Effect::RequestSpec { hash } => self.outbox.request_spec(hash),
            Effect::ProbeClock { id } => {
                self.asked_ms.insert(id, self.clock.now().boottime_ms);
                self.outbox.clock_probe(id);
            }
            Effect::Nack(nack) => self.outbox.nack(nack),
            Effect::PersistRecord { version, record } => self.journal.put(version, record),
            Effect::DeleteRecord(run) => {
                self.probes.stop(&run);
                self.outbox.forget(&run);
                self.journal.delete(run);
            }
            Effect::Inject { node, inject } => {
                let inject = spans::inject(&self.state.settings.cluster, inject);
                self.send_node(&node, NodeDown::Inject(inject));
            }
            Effect::Revert { node, injection, reason } => {
                spans::revert(&self.state, &node, &injection, &reason);
                self.send_node(&node, NodeDown::Revert { injection, reason });
            }
            Effect::NodeHalts { node, halts, resumed } => {
                self.send_node(&node, NodeDown::Halts { halts, resumed });
            }
            Effect::KillPod { run, injection, target, grace_s } => self.kill(run, injection, target, grace_s),
            Effect::StartProbes { run, stage, probes } => {
                let api = self.state.inventory.as_ref().map(|i| i.api_addresses.clone()).unwrap_or_default();
                let denied = Denied { api, ..self.denied.clone() };
                self.probes.start(run, stage, probes, &denied);
            }
            Effect::StopProbes { run } => self.probes.stop(&run),
            Effect::PersistHalts(halts) => self.journal.latched(halts),
            Effect::SendHaltState(state) => self.outbox.halt_state(state),
            Effect::HaltObjectLevel { name, level } => self.statuses.level(name, level),
        }
    }

    /// A daemon that does not drain its queue loses the session and comes back with what it holds.
    fn send_node(&mut self, node: &str, message: NodeDown) {
        let sent = self.ports.get(node).map(|port| port.down.try_send(message));
        if !matches!(sent, Some(Ok(()))) {
            tracing::warn!(node, "message to the daemon was not sent");
            self.lost.push(node.to_owned());
        }
    }

    fn kill(&mut self, run: RunId, injection: InjectionId, target: TargetRef, grace_s: Option<u64>) {
        let span = spans::kill(&self.state, &run, &injection, &target);
        let (acts, tell) = (self.doors.acts.clone(), self.tell.clone());
        let killing = async move {
            let delete = || async { acts.delete_pod(&target, grace_s).await };
            let again = ConstantBuilder::default().with_delay(Duration::from_secs(1)).with_max_times(5);
            let result = delete.retry(again).when(crate::cluster::Error::retryable).await;
            let result = result.map_err(|error| error.to_string());
            // The driver is gone only when everything ends.
            let _ = tell.send(Input::Killed { run, injection, result }).await;
        };
        self.tasks.spawn(killing.instrument(span));
    }
}
