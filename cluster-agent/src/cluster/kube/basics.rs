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

/// The apiserver's addresses change rarely.
const EVERY: Duration = Duration::from_mins(5);
/// One that has just started says its own a little later.
const SOON: Duration = Duration::from_secs(5);

/// Uid of kube-system and addresses of the apiserver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Basics {
    pub(super) cluster_uid: String,
    pub(super) api_addresses: Vec<IpAddr>,
    /// Nothing of it is still to come.
    is_whole: bool,
}

impl Basics {
    /// How long they are good for. Where something is still to come that is not long, but twice as long as the time
    /// before: there are clusters where it never comes. After they were whole it begins anew.
    pub(super) fn good_for(&self, before: &Self, last: Duration) -> Duration {
        match (self.is_whole, before.is_whole) {
            (true, _) => EVERY,
            (false, true) => SOON,
            (false, false) => (last * 2).clamp(SOON, EVERY),
        }
    }

    /// With what was known before where something is still to come: an address that is missing for the moment is the
    /// apiserver's all the same.
    pub(super) fn after(mut self, before: &Self) -> Self {
        if !self.is_whole && self.cluster_uid == before.cluster_uid {
            let known: BTreeSet<_> =
                self.api_addresses.iter().chain(&before.api_addresses).copied().collect();
            self.api_addresses = known.into_iter().collect();
        }
        self
    }
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
    let mut is_whole = true;
    let api_addresses = api_addresses(door, &mut is_whole).await?;
    Ok(Basics { cluster_uid, api_addresses, is_whole })
}

/// As dialled, the Service's, and the endpoints behind it. An apiserver that keeps one of these from us (a role
/// that was taken away, a managed cluster without them) is an answer too: the others stand. One that has just started
/// lacks them for a moment: then it is not whole.
async fn api_addresses(door: &Kube, is_whole: &mut bool) -> Result<Vec<IpAddr>, Error> {
    let mut found: BTreeSet<IpAddr> = door.0.api_host.iter().filter_map(|host| host.parse().ok()).collect();
    let services: Api<Service> = Api::namespaced(door.client(), API_NAMESPACE);
    let service = call(services.get(API_NAME)).await;
    if let Some(service) = optional(service, "read service kubernetes", is_whole)? {
        let addresses = service.spec.and_then(|spec| spec.cluster_ips).unwrap_or_default();
        found.extend(addresses.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()));
    }
    let slices: Api<EndpointSlice> = Api::namespaced(door.client(), API_NAMESPACE);
    let slice = call(slices.get(API_NAME)).await;
    if let Some(slice) = optional(slice, "read endpointslice kubernetes", is_whole)? {
        // The last apiserver that went away took its own address with it.
        *is_whole &= !slice.endpoints.is_empty();
        let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        found.extend(addresses.filter_map(|ip| ip.parse::<IpAddr>().ok()));
    }
    Ok(found.into_iter().collect())
}

fn optional<T>(
    answer: Result<T, Failure>,
    what: &'static str,
    is_whole: &mut bool,
) -> Result<Option<T>, Error> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(Failure::Said(status)) if status.code == 403 || status.code == 404 => {
            *is_whole &= status.code != 404;
            tracing::warn!(what, code = status.code, "the apiserver's own addresses are not all known");
            Ok(None)
        }
        Err(failure) => Err(failure.into_error(what)),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::{IntoResponse, Response};
    use axum::routing::get;
    use axum::{Json, Router};
    use serde_json::{Value, json};
    use tokio::task::JoinSet;

    use super::*;
    use crate::cluster::kube::stage;

    fn slice(endpoints: &Value) -> Response {
        let metadata = json!({ "name": API_NAME });
        Json(json!({ "metadata": metadata, "addressType": "IPv4", "endpoints": endpoints })).into_response()
    }

    fn failure(code: StatusCode) -> Response {
        (code, Json(kube::core::Status::failure("no", "No").with_code(code.as_u16()))).into_response()
    }

    /// What is read of an apiserver that answers so when it is asked for the endpoints behind its Service.
    async fn read_of(slice: impl Fn() -> Response + Clone + Send + Sync + 'static) -> Basics {
        let system = json!({ "metadata": { "name": "kube-system", "uid": "k1" } });
        let service = json!({ "metadata": { "name": API_NAME }, "spec": { "clusterIPs": ["10.0.0.1"] } });
        let router = Router::new()
            .route("/api/v1/namespaces/kube-system", get(async || Json(system)))
            .route("/api/v1/namespaces/default/services/kubernetes", get(async || Json(service)))
            .route(
                "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
                get(async move || slice()),
            );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = stage::agent(&format!("http://{}", listener.local_addr().unwrap()));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        read(&door).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_still_to_come_is_asked_for_soon_and_what_is_kept_from_us_is_not() {
        let whole = read_of(|| slice(&json!([{ "addresses": ["192.0.2.10"] }]))).await;
        assert!(whole.is_whole && whole.api_addresses.len() == 3, "{whole:?}");
        assert!(read_of(|| failure(StatusCode::FORBIDDEN)).await.is_whole);
        for still_to_come in
            [read_of(|| failure(StatusCode::NOT_FOUND)).await, read_of(|| slice(&json!([]))).await]
        {
            assert!(!still_to_come.is_whole, "{still_to_come:?}");
            assert_eq!(still_to_come.api_addresses.len(), 2, "the others stand: {still_to_come:?}");
            assert_eq!(still_to_come.good_for(&still_to_come, Duration::ZERO), SOON);
            assert_eq!(still_to_come.good_for(&still_to_come, SOON), SOON * 2);
            assert_eq!(still_to_come.good_for(&still_to_come, EVERY), EVERY);
            assert_eq!(still_to_come.good_for(&whole, EVERY), SOON);
            assert_eq!(whole.good_for(&still_to_come, SOON), EVERY);
            // A restart of the apiserver: what it was is not forgotten for it.
            assert_eq!(still_to_come.clone().after(&whole).api_addresses, whole.api_addresses);
            assert_eq!(whole.clone().after(&still_to_come), whole);
        }
    }
}
