//! Names the node that a node daemon's token comes from: TokenReview, then the pod it is bound to, then that
//! pod's node. Any doubt refuses. Called by the node links, by way of [`NodeAuth`].

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;

use super::answer::call;
use super::{Kube, NODE_TOKEN_AUDIENCE};
use crate::cluster::{Error, NodeAuth};

const WHAT: &str = "review a node daemon's token";
/// Service account tokens have about 1 KB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// What a good token says of its bearer.
#[derive(Debug, PartialEq, Eq)]
struct Bearer {
    pod: String,
    pod_uid: String,
    node: Option<String>,
}

#[async_trait]
impl NodeAuth for Kube {
    async fn node_of(&self, token: &str) -> Result<String, Error> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(refused("not a token"));
        }
        let spec = TokenReviewSpec {
            token: Some(token.to_owned()),
            audiences: Some(vec![NODE_TOKEN_AUDIENCE.to_owned()]),
        };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client());
        let answer = call(reviews.create(&PostParams::default(), &review)).await;
        let status = answer.map_err(|failure| failure.into_error(WHAT))?.status.unwrap_or_default();
        let settings = self.settings();
        let bearer = bearer(status, &settings.namespace, &settings.node_service_account)?;

        let pods: Api<Pod> = Api::namespaced(self.client(), &settings.namespace);
        let pod = match call(pods.get(&bearer.pod)).await {
            Ok(pod) => pod,
            Err(failure) if failure.is_missing(&bearer.pod) => return Err(refused("its pod is gone")),
            Err(failure) => return Err(failure.into_error(WHAT)),
        };
        node(&bearer, &pod, &settings.node_service_account)
    }
}

fn refused(why: &str) -> Error {
    Error::Refused { what: WHAT.to_owned(), why: why.to_owned() }
}

/// The pod that a reviewed token is bound to, if it is one of our daemons'.
fn bearer(status: TokenReviewStatus, namespace: &str, service_account: &str) -> Result<Bearer, Error> {
    if status.authenticated != Some(true) {
        return Err(refused("not authenticated"));
    }
    // An apiserver that does not know of audiences answers without them.
    if !status.audiences.iter().flatten().any(|audience| audience == NODE_TOKEN_AUDIENCE) {
        return Err(refused("not for this audience"));
    }
    let user = status.user.unwrap_or_default();
    if user.username.as_deref() != Some(&format!("system:serviceaccount:{namespace}:{service_account}")) {
        return Err(refused("not the node daemons' service account"));
    }
    let extra = user.extra.unwrap_or_default();
    let (Some(pod), Some(pod_uid)) = (only(&extra, POD_NAME), only(&extra, POD_UID)) else {
        return Err(refused("not bound to a pod"));
    };
    Ok(Bearer { pod, pod_uid, node: only(&extra, NODE_NAME) })
}

fn only(extra: &BTreeMap<String, Vec<String>>, key: &str) -> Option<String> {
    match extra.get(key)?.as_slice() {
        [value] if !value.is_empty() => Some(value.clone()),
        _ => None,
    }
}

/// The node of the pod, if it is the very pod that the token is bound to.
fn node(bearer: &Bearer, pod: &Pod, service_account: &str) -> Result<String, Error> {
    if pod.metadata.uid.as_deref() != Some(&bearer.pod_uid) {
        return Err(refused("its pod is gone"));
    }
    let spec = pod.spec.as_ref().ok_or_else(|| refused("its pod has no spec"))?;
    if spec.service_account_name.as_deref() != Some(service_account) {
        return Err(refused("its pod has another service account"));
    }
    let node = spec.node_name.as_deref().unwrap_or_default();
    if node.is_empty() {
        return Err(refused("its pod is on no node"));
    }
    if bearer.node.as_deref().is_some_and(|named| named != node) {
        return Err(refused("its pod is on another node"));
    }
    Ok(node.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status() -> Value {
        json!({ "authenticated": true, "audiences": ["faultline-agent"],
            "user": { "username": "system:serviceaccount:fl:faultline-node",
                "extra": { POD_NAME: ["d-1"], POD_UID: ["u1"], NODE_NAME: ["n1"] } } })
    }

    fn judged(status: Value) -> Result<Bearer, Error> {
        bearer(serde_json::from_value(status).unwrap(), "fl", "faultline-node")
    }

    #[test]
    fn a_good_token_names_its_pod() {
        let good = Bearer { pod: "d-1".into(), pod_uid: "u1".into(), node: Some("n1".into()) };
        assert_eq!(judged(status()), Ok(good));
    }

    #[test]
    fn any_doubt_refuses() {
        let doubts: [(&str, Value); 6] = [
            ("/authenticated", json!(false)),
            ("/audiences", json!(["https://kubernetes.default.svc"])),
            ("/audiences", Value::Null),
            ("/user/username", json!("system:serviceaccount:other:faultline-node")),
            ("/user/extra", json!({})),
            ("/user/extra/authentication.kubernetes.io~1pod-uid", json!(["u1", "u2"])),
        ];
        for (path, value) in doubts {
            let mut doubtful = status();
            *doubtful.pointer_mut(path).unwrap() = value;
            assert!(judged(doubtful).is_err_and(|error| !error.retryable()), "{path}");
        }
    }

    #[test]
    fn the_pod_must_be_that_very_pod_on_a_node() {
        let bearer = Bearer { pod: "d-1".into(), pod_uid: "u1".into(), node: Some("n1".into()) };
        let pod = |uid: &str, account: &str, node: &str| -> Pod {
            serde_json::from_value(json!({ "metadata": { "name": "d-1", "uid": uid },
                "spec": { "containers": [], "serviceAccountName": account, "nodeName": node } }))
            .unwrap()
        };
        assert_eq!(node(&bearer, &pod("u1", "faultline-node", "n1"), "faultline-node"), Ok("n1".into()));
        for wrong in [
            pod("u2", "faultline-node", "n1"),
            pod("u1", "default", "n1"),
            pod("u1", "faultline-node", "n2"),
            pod("u1", "faultline-node", ""),
        ] {
            assert!(node(&bearer, &wrong, "faultline-node").is_err(), "{wrong:?}");
        }
    }
}
