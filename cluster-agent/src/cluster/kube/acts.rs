//! What the agent does to its cluster through the API. Called by the driver, by way of [`Acts`].

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use kube::core::metadata::PartialObjectMeta;
use proto::halt::HaltLevel;
use proto::injection::TargetRef;
use proto::wire::{AuthoredKind, Mirror};
use serde_json::{Value, json};

use super::answer::call;
use super::follow::{resource, untyped};
use super::{Kube, events, status};
use crate::cluster::{Acts, Announcement, Error, PodDeletion};

#[async_trait]
impl Acts for Kube {
    async fn delete_pod(&self, target: &TargetRef, grace_s: Option<u64>) -> Result<PodDeletion, Error> {
        let what = || format!("delete pod {}/{}", target.namespace, target.pod);
        let pods: Api<Pod> = Api::namespaced(self.client(), &target.namespace);
        let params = DeleteParams {
            grace_period_seconds: grace_s.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX)),
            preconditions: Some(Preconditions { uid: Some(target.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        match call(pods.delete(&target.pod, &params)).await {
            Ok(_) => Ok(PodDeletion::Accepted),
            Err(failure) if failure.is_missing(&target.pod) => Ok(PodDeletion::Gone),
            Err(failure) if failure.is_conflict() && !self.is_still(target).await? => Ok(PodDeletion::Gone),
            Err(failure) => Err(failure.into_error(what())),
        }
    }

    async fn write_status(&self, mirror: &Mirror) -> Result<(), Error> {
        let object = &mirror.object;
        let what = || format!("write the status of {}", object.name);
        let unreadable = |why: String| Error::Refused { what: what(), why };
        let wanted: Value = serde_json::from_slice(&mirror.status).map_err(|e| unreadable(e.to_string()))?;
        if !wanted.is_object() {
            return Err(unreadable("a status is an object".to_owned()));
        }
        let plural = match object.kind {
            AuthoredKind::Experiment => "experiments",
            AuthoredKind::Run => "runs",
        };
        let kind = resource(object.kind.as_str(), plural);
        let api = Api::namespaced_with(self.client(), object.namespace.as_str(), &kind);
        status::write(&api, &self.0.statuses, object.name.as_str(), Some(&object.uid), &wanted).await
    }

    async fn set_halt_status(&self, name: &str, level: HaltLevel) -> Result<(), Error> {
        let api = untyped(self.client(), "Halt", "halts");
        status::write(&api, &self.0.statuses, name, None, &json!({ "level": level })).await
    }

    async fn announce(&self, announcement: &Announcement) -> Result<(), Error> {
        events::say(self, announcement).await
    }
}

impl Kube {
    /// Whether the pod of this name is still the one of this uid.
    async fn is_still(&self, target: &TargetRef) -> Result<bool, Error> {
        let pods: Api<PartialObjectMeta<Pod>> = Api::namespaced(self.client(), &target.namespace);
        match call(pods.get(&target.pod)).await {
            Ok(pod) => Ok(pod.metadata.uid.as_deref() == Some(&target.uid)),
            Err(failure) if failure.is_missing(&target.pod) => Ok(false),
            Err(failure) => {
                Err(failure.into_error(format!("look at pod {}/{}", target.namespace, target.pod)))
            }
        }
    }
}
