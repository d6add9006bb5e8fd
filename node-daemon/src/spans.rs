//! What the daemon shows of an injection in its trace: the start with its steps and read-back, and the undo, by
//! whomever and whenever. The trace is in the journal with the injection, so an undo after a restart is part of it.

use proto::injection::Injection;
use tracing::Span;
use tracing::field::Empty;

/// An act on an injection, under what its agent caused it by.
pub(crate) fn of(injection: &Injection, act: &'static str) -> Span {
    let target = &injection.target;
    injection.trace.child(tracing::info_span!(
        "injection",
        otel.name = act,
        otel.status_code = Empty,
        otel.status_description = Empty,
        faultline.run = %injection.run,
        faultline.injection = %injection.id,
        faultline.kind = injection.action.kind(),
        faultline.backend = injection.backend,
        k8s.node.name = target.node,
        k8s.namespace.name = target.namespace,
        k8s.pod.name = target.pod,
        k8s.pod.uid = target.uid,
    ))
}

/// Marks the span where the act did not do what it should.
pub(crate) fn failed(span: &Span, why: Option<String>) {
    if let Some(why) = why {
        span.record("otel.status_code", "ERROR").record("otel.status_description", why);
    }
}
