//! What people wrote in this cluster: Experiment and Run objects, forwarded as they are. They are read without a
//! type, so that the centre, not a parser here, says what is wrong with them. Called by [`Kube::run`].

use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use kube::ResourceExt;
use kube::api::DynamicObject;
use proto::experiment::MAX_SPEC_BYTES;
use proto::ids::Name;
use proto::trace::{TRACE_ANNOTATION, TraceContext};
use proto::wire::{Authored, AuthoredKind, AuthoredRef};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::follow::{COALESCE, Listed, events, untyped};
use super::{AUTHOR_ANNOTATION, Kube};
use crate::cluster::AuthoredSet;

/// A body beyond this is not kept: it would be refused for its size anyway (a spec is at most
/// [`MAX_SPEC_BYTES`]), and one author must not fill this agent's memory.
const MAX_KEPT_BYTES: usize = 4 * MAX_SPEC_BYTES;
/// Names of authors are cut here; information only.
const MAX_AUTHOR_CHARS: usize = 256;

/// Follows both kinds for ever.
pub(super) async fn follow(door: &Kube) {
    let objects = |kind, plural| events(untyped(door.client(), kind, plural), plural, None);
    let mut experiments = pin!(objects("Experiment", "experiments"));
    let mut runs = pin!(objects("Run", "runs"));
    let (mut seen_experiments, mut seen_runs) = (Listed::default(), Listed::default());
    let mut due: Option<Instant> = None;
    loop {
        let at = due.unwrap_or_else(Instant::now);
        let changed = tokio::select! {
            Some(event) = experiments.next() => {
                seen_experiments.take(event, |object| authored(AuthoredKind::Experiment, &object))
            }
            Some(event) = runs.next() => seen_runs.take(event, |object| authored(AuthoredKind::Run, &object)),
            () = sleep_until(at), if due.is_some() => {
                due = None;
                publish(door, &seen_experiments, &seen_runs);
                false
            }
            else => return,
        };
        if changed && due.is_none() {
            due = Some(Instant::now() + COALESCE);
        }
    }
}

fn publish(door: &Kube, experiments: &Listed<Authored>, runs: &Listed<Authored>) {
    let (Some(experiments), Some(runs)) = (experiments.all(), runs.all()) else {
        return;
    };
    let both = experiments.values().chain(runs.values());
    let set: AuthoredSet = both.map(|authored| (authored.object.clone(), authored.clone())).collect();
    door.0.authored.send_replace(Some(Arc::new(set)));
}

/// An object by its uid. The body is the `spec` as the apiserver holds it; `null` where there is none.
fn authored(kind: AuthoredKind, object: &DynamicObject) -> Option<(String, Authored)> {
    let uid = object.metadata.uid.clone()?;
    let name: Option<Name> = object.name_any().parse().ok();
    let namespace: Option<Name> = object.namespace().and_then(|namespace| namespace.parse().ok());
    let (Some(namespace), Some(name)) = (namespace, name) else {
        tracing::warn!(kind = kind.as_str(), uid, "an authored object without a usable name is left out");
        return None;
    };
    let mut body = serde_json::to_vec(object.data.get("spec").unwrap_or(&Value::Null)).unwrap_or_default();
    if body.len() > MAX_KEPT_BYTES {
        // Not a spec, so that whoever reads it refuses it with these words.
        let words = format!("a spec of {} bytes, at most {MAX_SPEC_BYTES} are allowed", body.len());
        body = Value::String(words).to_string().into_bytes();
    }
    let author = object.annotations().get(AUTHOR_ANNOTATION).map(String::as_str).unwrap_or_default();
    let trace = object.annotations().get(TRACE_ANNOTATION);
    let authored = Authored {
        object: AuthoredRef { kind, namespace, name, uid: uid.clone() },
        generation: object.metadata.generation.unwrap_or_default(),
        author: author.chars().take(MAX_AUTHOR_CHARS).collect(),
        body,
        trace: trace.map(|text| TraceContext::parse(text)).unwrap_or_default(),
    };
    Some((uid, authored))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(spec: &Value) -> DynamicObject {
        let raw = json!({ "apiVersion": "faultline.dev/v1alpha1", "kind": "Run", "spec": spec,
            "metadata": { "name": "r", "namespace": "shop", "uid": "u", "generation": 3,
                "annotations": { "faultline.dev/author": "ada",
                    "faultline.dev/traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" } },
            "status": { "phase": "Planning" } });
        serde_json::from_value(raw).unwrap()
    }

    #[test]
    fn the_body_is_the_spec_in_its_own_order_known_or_not() {
        let spec = json!({ "zeta": [1, { "b": 1, "a": null }], "alpha": "x" });
        let (uid, authored) = authored(AuthoredKind::Run, &object(&spec)).unwrap();
        assert_eq!(uid, "u");
        assert_eq!(authored.body, br#"{"zeta":[1,{"b":1,"a":null}],"alpha":"x"}"#);
        assert_eq!((authored.author.as_str(), authored.generation), ("ada", 3));
        assert_eq!(authored.trace.as_str(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    }

    #[test]
    fn a_huge_body_is_not_kept_but_still_refused_by_its_reader() {
        let spec = json!({ "hypothesis": "x".repeat(MAX_KEPT_BYTES) });
        let (_, authored) = authored(AuthoredKind::Experiment, &object(&spec)).unwrap();
        assert!(authored.body.len() < 200);
        let read: Value = serde_json::from_slice(&authored.body).unwrap();
        assert!(proto::validate::experiment(&read).is_err());
    }
}
