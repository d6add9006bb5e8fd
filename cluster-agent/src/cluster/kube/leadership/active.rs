//! The label by which the Service finds the active agent: on the leader's own pod, and on no other. Called by the
//! campaign.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::metadata::PartialObjectMeta;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::cluster::Error;
use crate::cluster::kube::answer::call_within;
use crate::cluster::kube::{ACTIVE_LABEL, Kube};

/// Labels this agent's pod and takes the label from the others of its namespace.
pub(super) async fn label(door: &Kube, bound: Duration) -> Result<(), Error> {
    let own = &door.settings().pod_name;
    set(door, own, json!("true"), bound).await?;
    let selector = ListParams::default().labels(&format!("{ACTIVE_LABEL}=true"));
    let labelled = call_within(bound, pods(door).list(&selector)).await;
    let labelled = labelled.map_err(|failure| failure.into_error("list active agents"))?;
    for pod in labelled.items.iter().map(ResourceExt::name_any).filter(|name| name != own) {
        set(door, &pod, Value::Null, bound).await?;
    }
    Ok(())
}

/// Takes the label from this agent's own pod.
pub(super) async fn unlabel_own(door: &Kube, bound: Duration) -> Result<(), Error> {
    set(door, &door.settings().pod_name, Value::Null, bound).await
}

fn pods(door: &Kube) -> Api<PartialObjectMeta<Pod>> {
    Api::namespaced(door.client(), &door.settings().namespace)
}

/// A pod that is gone has no label.
async fn set(door: &Kube, pod: &str, value: Value, bound: Duration) -> Result<(), Error> {
    let patch = json!({ "metadata": { "labels": { ACTIVE_LABEL: value } } });
    let api = pods(door);
    match call_within(bound, api.patch(pod, &PatchParams::default(), &Patch::Merge(&patch))).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.is_missing(pod) => Ok(()),
        Err(failure) => Err(failure.into_error(format!("label pod {pod}"))),
    }
}
