//! What this cluster's owner says: the Ceiling, and Halt objects. Both are read without a type, so that an object
//! that is not understood still counts: a Ceiling denies, a Halt stops the whole cluster. Called by [`Kube::run`].

use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::DynamicObject;
use proto::ceiling::{CEILING_NAME, CeilingSpec};
use proto::strict;
use serde_json::{Map, Value};

use super::Kube;
use super::follow::{Listed, events, untyped};
use crate::cluster::{CeilingSeen, LocalHalt};

/// Follows the Ceiling for ever.
pub(super) async fn follow_ceiling(door: &Kube) {
    let schema = strict::schema_of::<CeilingSpec>();
    let fields = format!("metadata.name={CEILING_NAME}");
    let mut events = pin!(events(untyped(door.client(), "Ceiling", "ceilings"), "ceilings", Some(&fields)));
    let mut listed = Listed::default();
    while let Some(event) = events.next().await {
        let read = |object: DynamicObject| Some((object.name_any(), ceiling(&schema, &object)));
        if listed.take(event, read)
            && let Some(all) = listed.all()
        {
            let now = all.get(CEILING_NAME).cloned().unwrap_or(CeilingSeen::Absent);
            door.0.ceiling.send_replace(now);
        }
    }
}

/// A Ceiling with anything unknown in it is not understood: what it names might be a limit.
fn ceiling(schema: &Value, object: &DynamicObject) -> CeilingSeen {
    let spec = match object.data.get("spec") {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(spec) => spec.clone(),
    };
    let mut problems = Vec::new();
    strict::check(schema, &mut spec.clone(), "spec", &mut problems);
    if !problems.is_empty() {
        tracing::warn!(?problems, "the Ceiling is not understood, so nothing is allowed");
        return CeilingSeen::Unknown;
    }
    match serde_json::from_value::<CeilingSpec>(spec) {
        Ok(spec) => CeilingSeen::Present(Arc::new(spec)),
        Err(error) => {
            tracing::warn!(%error, "the Ceiling is not understood, so nothing is allowed");
            CeilingSeen::Unknown
        }
    }
}

/// Follows the Halt objects for ever.
pub(super) async fn follow_halts(door: &Kube) {
    let mut events = pin!(events(untyped(door.client(), "Halt", "halts"), "halts", None));
    let mut listed = Listed::default();
    while let Some(event) = events.next().await {
        let changed = listed.take(event, |object| Some((object.name_any(), halt(&object))));
        if changed && let Some(all) = listed.all() {
            let halts: Vec<LocalHalt> = all.values().cloned().collect();
            door.0.halts.send_replace(Some(Arc::new(halts)));
        }
    }
}

/// Covers one namespace only if it says nothing but that; anything else covers the cluster.
fn halt(object: &DynamicObject) -> LocalHalt {
    let empty = Map::new();
    let spec = object.data.get("spec").and_then(Value::as_object).unwrap_or(&empty);
    let understood = spec.keys().all(|key| key == "reason" || key == "namespace");
    let text = |key: &str| spec.get(key).and_then(Value::as_str).map(str::to_owned);
    let at = object.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    LocalHalt {
        name: object.name_any(),
        reason: text("reason").unwrap_or_default(),
        namespace: text("namespace").filter(|namespace| understood && !namespace.is_empty()),
        at,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(spec: &Value) -> DynamicObject {
        let raw = json!({ "apiVersion": "faultline.dev/v1alpha1", "kind": "X",
            "metadata": { "name": "x", "creationTimestamp": "2026-01-01T00:00:00Z" }, "spec": spec });
        serde_json::from_value(raw).unwrap()
    }

    #[test]
    fn a_ceiling_that_is_not_understood_denies() {
        let schema = strict::schema_of::<CeilingSpec>();
        for bad in [json!({ "maxTarget": 1 }), json!({ "kinds": "network.*" }), json!([]), json!(7)] {
            assert_eq!(ceiling(&schema, &object(&bad)), CeilingSeen::Unknown, "{bad}");
        }
        let good = json!({ "from": [{ "central": true }], "namespaces": ["shop"], "maxTargets": 2, "maxDuration": "5m" });
        let CeilingSeen::Present(spec) = ceiling(&schema, &object(&good)) else { panic!("{good}") };
        assert_eq!((spec.max_targets(), spec.max_duration_ms()), (2, 300_000));
        let CeilingSeen::Present(spec) = ceiling(&schema, &object(&Value::Null)) else { panic!("null") };
        assert_eq!(*spec, CeilingSpec::default(), "an empty one allows nothing, but is there");
    }

    #[test]
    fn a_halt_in_doubt_covers_the_cluster() {
        let one = halt(&object(&json!({ "reason": "fire", "namespace": "shop" })));
        assert_eq!((one.reason.as_str(), one.namespace.as_deref()), ("fire", Some("shop")));
        assert_eq!(one.at, "2026-01-01T00:00:00Z".parse().unwrap());
        for doubt in [
            json!({}),
            Value::Null,
            json!({ "namespace": 7 }),
            json!({ "namespace": "" }),
            json!({ "namespace": "shop", "namespaces": ["cart"] }),
        ] {
            assert_eq!(halt(&object(&doubt)).namespace, None, "{doubt}");
        }
    }
}
