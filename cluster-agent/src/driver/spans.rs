//! What the driver shows of a run in its trace: each act is a short span under the run's context, and what is sent to
//! a daemon carries the context of the act that sent it.

use proto::assignment::Desired;
use proto::ids::{ClusterId, InjectionId, RunId};
use proto::injection::TargetRef;
use proto::trace::TraceContext;
use proto::wire::Inject;
use tracing::Span;

use crate::engine::State;

/// An assignment that came over the link.
pub(super) fn desired(cluster: &ClusterId, desired: &Desired) -> Span {
    desired.trace.child(tracing::info_span!(
        "desired",
        otel.kind = "consumer",
        rpc.system.name = "grpc",
        rpc.method = "faultline.link.v1.Link/Link",
        faultline.cluster = %cluster,
        faultline.run = %desired.run,
        faultline.intent = desired.intent.as_str(),
        faultline.generation = desired.generation,
    ))
}

/// The start of an injection, which goes to its daemon under this act.
pub(super) fn inject(cluster: &ClusterId, mut inject: Box<Inject>) -> Box<Inject> {
    let injection = &mut inject.injection;
    let span = injection.trace.child(tracing::info_span!(
        "send inject",
        otel.kind = "producer",
        rpc.system.name = "grpc",
        rpc.method = "faultline.node.v1.NodeLink/Link",
        faultline.cluster = %cluster,
        faultline.run = %injection.run,
        faultline.injection = %injection.id,
        faultline.kind = injection.action.kind(),
        k8s.node.name = injection.target.node,
        k8s.namespace.name = injection.target.namespace,
        k8s.pod.name = injection.target.pod,
        k8s.pod.uid = injection.target.uid,
    ));
    injection.trace = injection.trace.within(&span);
    span.in_scope(|| tracing::info!(remaining_ms = inject.remaining_ms, "inject"));
    inject
}

/// The order to take one away. The daemon knows its trace.
pub(super) fn revert(state: &State, node: &str, injection: &InjectionId, reason: &str) {
    let of_run = |id: &RunId| injection.as_str().starts_with(&format!("{id}."));
    let run = state.runs.values().find(|run| of_run(&run.desired.run));
    let trace = run.map(|run| run.desired.trace.clone()).unwrap_or_default();
    let span = trace.child(tracing::info_span!(
        "send revert",
        otel.kind = "producer",
        rpc.system.name = "grpc",
        rpc.method = "faultline.node.v1.NodeLink/Link",
        faultline.cluster = %state.settings.cluster,
        faultline.run = run.map(|run| run.desired.run.as_str()),
        faultline.injection = %injection,
        faultline.reason = reason,
        k8s.node.name = node,
    ));
    span.in_scope(|| tracing::info!("revert"));
}

/// The deletion of a pod.
pub(super) fn kill(state: &State, run: &RunId, injection: &InjectionId, target: &TargetRef) -> Span {
    let trace = state.runs.get(run).map_or(TraceContext::NONE, |run| run.desired.trace.clone());
    let span = trace.child(tracing::info_span!(
        "delete pod",
        otel.kind = "client",
        faultline.cluster = %state.settings.cluster,
        faultline.run = %run,
        faultline.injection = %injection,
        faultline.kind = "pod.kill",
        k8s.node.name = target.node,
        k8s.namespace.name = target.namespace,
        k8s.pod.name = target.pod,
        k8s.pod.uid = target.uid,
    ));
    span.in_scope(|| tracing::info!("delete pod"));
    span
}
