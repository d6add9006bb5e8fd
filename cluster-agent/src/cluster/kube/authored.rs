//! What people wrote in this cluster: Experiment and Run objects, forwarded as they are. They are read without a
//! type, so that the centre, not a parser here, says what is wrong with them. Called by [`Kube::run`].

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use proto::experiment::MAX_SPEC_BYTES;
use proto::ids::Name;
use proto::trace::{TRACE_ANNOTATION, TraceContext};
use proto::wire::{Authored, AuthoredKind, AuthoredRef};
use serde_json::Value;
use tokio::time::Instant;

use super::follow::{Listed, Pace, events, untyped};
use super::{AUTHOR_ANNOTATION, Kube};
use crate::cluster::AuthoredSet;

/// A body beyond this is not kept: it would be refused for its size anyway (a spec is at most
/// [`MAX_SPEC_BYTES`]), and one author must not fill this agent's memory.
const MAX_KEPT_BYTES: usize = 4 * MAX_SPEC_BYTES;
/// Names of authors are cut here; information only.
const MAX_AUTHOR_CHARS: usize = 256;

/// How long a changed Run waits for the other watch: an edit of its Experiment made before it is not overtaken.
const RUN_WAITS: Duration = Duration::from_millis(20);

/// Follows both kinds for ever.
pub(super) async fn follow(door: &Kube) {
    let objects = |kind, plural| events(untyped(door.client(), kind, plural), plural, None);
    let publish = |set| drop(door.0.authored.send_replace(Some(Arc::new(set))));
    merge(objects("Experiment", "experiments"), objects("Run", "runs"), publish).await;
}

async fn merge(
    experiments: impl Stream<Item = Event<DynamicObject>>,
    runs: impl Stream<Item = Event<DynamicObject>>,
    publish: impl Fn(AuthoredSet),
) {
    let (mut experiments, mut runs) = (pin!(experiments), pin!(runs));
    let (mut seen_experiments, mut seen_runs) = (Listed::default(), Listed::default());
    let mut pace = Pace::new(Instant::now());
    loop {
        tokio::select! {
            Some(event) = experiments.next() => {
                if seen_experiments.take(event, |object| authored(AuthoredKind::Experiment, &object)) {
                    pace.changed(Instant::now());
                }
            }
            Some(event) = runs.next() => {
                if seen_runs.take(event, |object| authored(AuthoredKind::Run, &object)) {
                    pace.changed(Instant::now() + RUN_WAITS);
                }
            }
            () = pace.due(), if pace.is_due() => {
                pace.published(Instant::now());
                both(&seen_experiments, &seen_runs).into_iter().for_each(&publish);
            }
            else => return,
        }
    }
}

/// Everything, once both kinds were listed completely.
fn both(experiments: &Listed<Authored>, runs: &Listed<Authored>) -> Option<AuthoredSet> {
    let both = experiments.all()?.values().chain(runs.all()?.values());
    Some(both.map(|authored| (authored.object.clone(), authored.clone())).collect())
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
    use tokio::sync::mpsc;

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

    fn stream(mut events: mpsc::Receiver<Event<DynamicObject>>) -> impl Stream<Item = Event<DynamicObject>> {
        futures::stream::poll_fn(move |context| events.poll_recv(context))
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_does_not_overtake_the_experiment_that_was_written_before_it() {
        let (experiments, experiment_events) = mpsc::channel(8);
        let (runs, run_events) = mpsc::channel(8);
        let (sets, mut published) = mpsc::channel(8);
        let mut following = tokio::task::JoinSet::new();
        following.spawn(merge(stream(experiment_events), stream(run_events), move |set: AuthoredSet| {
            sets.try_send(set).unwrap();
        }));
        let mut experiment = object(&json!({ "hypothesis": "old" }));
        experiment.metadata.uid = Some("e".to_owned());
        for (watch, listed) in [(&experiments, Some(experiment.clone())), (&runs, None)] {
            watch.send(Event::Init).await.unwrap();
            if let Some(listed) = listed {
                watch.send(Event::InitApply(listed)).await.unwrap();
            }
            watch.send(Event::InitDone).await.unwrap();
        }
        assert_eq!(published.recv().await.unwrap().len(), 1);
        // Long after that, the watch of Runs is a little faster.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let spec = json!({ "hypothesis": "new" });
        experiment.data["spec"] = spec.clone();
        runs.send(Event::Apply(object(&json!({})))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        experiments.send(Event::Apply(experiment)).await.unwrap();
        let set = published.recv().await.unwrap();
        assert_eq!(set.len(), 2);
        let body = spec.to_string().into_bytes();
        assert!(set.values().any(|authored| authored.body == body), "{set:?}");
        assert!(published.try_recv().is_err(), "nothing was published before it");
    }
}
