//! What an inventory needs beside pods and nodes: the uid of kube-system, and where the apiserver is (probes
//! never go there). Called by `inventory`, at the start and now and then.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;

use super::Kube;
use super::answer::{Failure, call};
use crate::cluster::Error;

const API_NAMESPACE: &str = "default";
const API_NAME: &str = "kubernetes";

/// Uid of kube-system and addresses of the apiserver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Basics {
    pub(super) cluster_uid: String,
    pub(super) api_addresses: Vec<IpAddr>,
}

/// Reads them, however long the apiserver is away.
pub(super) async fn wait_for(door: &Kube) -> Basics {
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(300))
        .with_max_delay(Duration::from_secs(10))
        .with_jitter()
        .without_max_times();
    let warn = |error: &Error, pause: Duration| tracing::warn!(%error, ?pause, "apiserver not usable yet");
    loop {
        if let Ok(basics) = (|| read(door)).retry(pauses).notify(warn).await {
            return basics;
        }
    }
}

/// Reads them once.
pub(super) async fn read(door: &Kube) -> Result<Basics, Error> {
    let namespaces: Api<Namespace> = Api::all(door.client());
    let what = "read namespace kube-system";
    let system = call(namespaces.get("kube-system")).await.map_err(|failure| failure.into_error(what))?;
    let cluster_uid = system.metadata.uid.unwrap_or_default();
    Ok(Basics { cluster_uid, api_addresses: api_addresses(door).await? })
}

/// As dialled, the Service's, and the endpoints behind it. An apiserver that keeps one of these from us (a role
/// that was taken away, a managed cluster without them) is an answer too: the others stand.
async fn api_addresses(door: &Kube) -> Result<Vec<IpAddr>, Error> {
    let mut found: BTreeSet<IpAddr> = door.0.api_host.iter().filter_map(|host| host.parse().ok()).collect();
    let services: Api<Service> = Api::namespaced(door.client(), API_NAMESPACE);
    if let Some(service) = optional(call(services.get(API_NAME)).await, "read service kubernetes")? {
        let addresses = service.spec.and_then(|spec| spec.cluster_ips).unwrap_or_default();
        found.extend(addresses.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()));
    }
    let slices: Api<EndpointSlice> = Api::namespaced(door.client(), API_NAMESPACE);
    if let Some(slice) = optional(call(slices.get(API_NAME)).await, "read endpointslice kubernetes")? {
        let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        found.extend(addresses.filter_map(|ip| ip.parse::<IpAddr>().ok()));
    }
    Ok(found.into_iter().collect())
}

fn optional<T>(answer: Result<T, Failure>, what: &'static str) -> Result<Option<T>, Error> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(Failure::Said(status)) if status.code == 403 || status.code == 404 => {
            tracing::warn!(what, code = status.code, "the apiserver's own addresses are not all known");
            Ok(None)
        }
        Err(failure) => Err(failure.into_error(what)),
    }
}
