//! A member cluster on a real apiserver: a namespace with the agent's service account and the Roles that the
//! chart renders for it, a namespace to aim at, and agents' doors as that service account.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cluster_agent::cluster::kube::{Kube, LeaseTiming, Settings};
use cluster_agent::cluster::{Doors, Leadership};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::apiserver::{Apiserver, shared};

/// Nothing here takes so long, even on a busy machine.
const BOUND: Duration = Duration::from_mins(1);
static COUNT: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Member {
    pub(crate) admin: Client,
    /// The agent's namespace.
    pub(crate) own: String,
    /// A namespace that the Ceiling's Roles cover.
    pub(crate) shop: String,
    /// The agent's own.
    pub(crate) agent: Client,
    api_host: Option<String>,
    /// Kept running while this is there.
    server: Option<Arc<Apiserver>>,
}

impl Member {
    /// One on the shared apiserver; `None` where there can be none.
    pub(crate) async fn start() -> Option<Self> {
        let server = shared().await?;
        let mut member = Self::on(&server).await;
        member.server = Some(server);
        Some(member)
    }

    /// One on this apiserver.
    pub(crate) async fn on(server: &Apiserver) -> Self {
        Self::with(server, None).await
    }

    /// One on this apiserver whose Roles cover this namespace.
    pub(crate) async fn aiming_at(server: &Apiserver, shop: &str) -> Self {
        Self::with(server, Some(shop)).await
    }

    async fn with(server: &Apiserver, shop: Option<&str>) -> Self {
        let own = format!("fl-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let shop = shop.map_or_else(|| format!("{own}-shop"), str::to_owned);
        let admin = server.admin().await;
        let namespaces: Api<Namespace> = Api::all(admin.clone());
        for name in [&own, &shop] {
            let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            namespaces.patch(name, &PatchParams::apply("test"), &Patch::Apply(&namespace)).await.unwrap();
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), &own);
        for name in ["faultline-agent", "faultline-node", "other"] {
            let account = named(json!({ "metadata": { "name": name } }));
            accounts.create(&PostParams::default(), &account).await.unwrap();
        }
        grant_roles(server.folder(), &admin, &own, &shop).await;
        let token = token(&admin, &own, "faultline-agent", None, None).await;
        let (agent, api_host) = server.client(&token).await;
        may(
            &agent,
            &[
                (Some(&shop), "", "pods", "", "delete"),
                (Some("default"), "discovery.k8s.io", "endpointslices", "kubernetes", "get"),
                (Some(&own), "faultline.dev", "faultrecords", "", "create"),
                (None, "apps", "replicasets", "", "watch"),
                (None, "node.k8s.io", "runtimeclasses", "", "watch"),
                (Some(&shop), "", "events", "", "create"),
            ],
        )
        .await;
        Self { admin, own, shop, agent, api_host, server: None }
    }

    pub(crate) fn settings(&self, pod: &str) -> Settings {
        Settings {
            namespace: self.own.clone(),
            pod_name: pod.to_owned(),
            lease_name: "faultline-agent".to_owned(),
            identity_secret: "faultline-agent-identity".to_owned(),
            node_ca_secret: "faultline-agent-node-ca".to_owned(),
            node_bundle_configmap: "faultline-node-bundle".to_owned(),
            node_service_account: "faultline-node".to_owned(),
            lease: LeaseTiming { duration: Duration::from_secs(3), renew: Duration::from_secs(1) },
            api_faults_only: false,
        }
    }

    /// The door of an agent in pod `pod`, which does nothing by itself yet.
    pub(crate) fn door(&self, pod: &str) -> Kube {
        Kube::new(self.agent.clone(), self.api_host.clone(), self.settings(pod))
    }

    /// An agent's door at work.
    pub(crate) fn run(&self, pod: &str) -> Running {
        Running::new(self.door(pod))
    }

    /// Everything of a kind in a namespace, as admin.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.admin.clone(), namespace)
    }

    /// A client with the rights of one of the namespace's service accounts.
    pub(crate) async fn client_of(&self, server: &Apiserver, account: &str) -> Client {
        let token = token(&self.admin, &self.own, account, None, None).await;
        server.client(&token).await.0
    }

    /// A kind of ours in a namespace (or of the cluster), as admin, without a type.
    pub(crate) fn ours(&self, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        Self::ours_as(self.admin.clone(), kind, namespace)
    }

    /// As [`Self::ours`], as somebody else.
    pub(crate) fn ours_as(client: Client, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("faultline.dev", "v1alpha1", kind));
        match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        }
    }

    /// Makes an object of ours with this spec.
    pub(crate) async fn write(
        &self,
        kind: &str,
        namespace: Option<&str>,
        name: &str,
        spec: &Value,
    ) -> DynamicObject {
        let object = object(kind, name, spec);
        self.ours(kind, namespace).create(&PostParams::default(), &object).await.unwrap()
    }

    /// Makes a pod, on a node if that is not empty.
    pub(crate) async fn pod(&self, namespace: &str, name: &str, node: &str, extra: Value) -> Pod {
        let mut raw = json!({ "metadata": { "name": name }, "spec": {
            "containers": [{ "name": "app", "image": "none", "env": [{ "name": "SECRET", "value": "x" }] }] } });
        if !node.is_empty() {
            raw["spec"]["nodeName"] = json!(node);
        }
        merge(&mut raw, extra);
        self.api::<Pod>(namespace).create(&PostParams::default(), &named(raw)).await.unwrap()
    }
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

pub(crate) fn named<T: DeserializeOwned>(raw: Value) -> T {
    serde_json::from_value(raw).unwrap()
}

pub(crate) fn object(kind: &str, name: &str, spec: &Value) -> DynamicObject {
    named(
        json!({ "apiVersion": "faultline.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec }),
    )
}

/// A real token of a service account.
pub(crate) async fn token(
    admin: &Client,
    namespace: &str,
    account: &str,
    audience: Option<&str>,
    pod: Option<&Pod>,
) -> String {
    let bound = pod.map(|pod| {
        json!({ "kind": "Pod", "apiVersion": "v1", "name": pod.metadata.name, "uid": pod.metadata.uid })
    });
    let spec = TokenRequestSpec {
        audiences: audience.map(str::to_owned).into_iter().collect(),
        expiration_seconds: Some(3600),
        bound_object_ref: bound.map(named),
    };
    let request = TokenRequest { metadata: ObjectMeta::default(), spec, status: None };
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), namespace);
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
    answer.status.unwrap().token
}

/// Applies the chart's Roles. Several members share an apiserver, so what is not in the member's own namespace
/// gets the namespace into its name.
async fn grant_roles(folder: &Path, admin: &Client, own: &str, shop: &str) {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm/member");
    let ceiling = json!({ "namespaces": [shop], "kinds": ["pod.kill"] });
    let mut helm = Command::new(folder.join("helm"));
    helm.args(["template", "faultline"]).arg(chart).args(["--namespace", own, "--kube-version", "1.34.0"]);
    helm.args([
        "-s",
        "templates/agent-rbac.yaml",
        "-s",
        "templates/agent-guard.yaml",
        "-s",
        "templates/ceiling.yaml",
        "-s",
        "templates/uninstall.yaml",
    ]);
    let output = helm.arg("--set-json").arg(format!("ceiling={ceiling}")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let mut applied = 0;
    for mut document in
        documents.into_iter().filter(|document| document["kind"] != "Ceiling" && document["kind"] != "Job")
    {
        let namespace = document["metadata"]["namespace"].as_str().map(str::to_owned);
        if namespace.as_deref().is_none_or(|namespace| namespace == "default") {
            for path in ["/metadata/name", "/roleRef/name", "/spec/policyName"] {
                if let Some(name) = document.pointer_mut(path) {
                    *name = json!(format!("{}-{own}", name.as_str().unwrap()));
                }
            }
        }
        let object: DynamicObject = named(document);
        let types = object.types.clone().unwrap();
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types).unwrap());
        let api: Api<DynamicObject> = match &namespace {
            Some(namespace) => Api::namespaced_with(admin.clone(), namespace, &resource),
            None => Api::all_with(admin.clone(), &resource),
        };
        let name = object.metadata.name.clone().unwrap();
        api.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
        applied += 1;
    }
    assert!(applied >= 10, "the chart's roles: {applied}");
}

/// Namespace (or the cluster), group, resource, name (or any), verb.
pub(crate) type Right<'a> = (Option<&'a str>, &'a str, &'a str, &'a str, &'a str);

/// Waits until it has these rights: Roles count only when the apiserver's authorizer has seen them.
pub(crate) async fn may(client: &Client, rights: &[Right<'_>]) {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    for (namespace, group, resource, name, verb) in rights {
        let attributes = json!({ "namespace": namespace, "group": group, "resource": resource, "name": name, "verb": verb });
        let review: SelfSubjectAccessReview = named(json!({ "spec": { "resourceAttributes": attributes } }));
        let allowed = async {
            let mut tick = tokio::time::interval(Duration::from_millis(50));
            while !reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed {
                tick.tick().await;
            }
        };
        let in_time = tokio::time::timeout(BOUND, allowed).await;
        assert!(in_time.is_ok(), "the chart's roles allow to {verb} {resource} in {namespace:?}");
    }
}

/// A door at work; stops when dropped, without giving anything back (as a process that died).
pub(crate) struct Running {
    pub(crate) kube: Kube,
    pub(crate) doors: Doors,
    shutdown: CancellationToken,
    tasks: JoinSet<Result<(), cluster_agent::cluster::Error>>,
}

impl Running {
    pub(crate) fn new(kube: Kube) -> Self {
        let (doors, shutdown, mut tasks) = (kube.doors(), CancellationToken::new(), JoinSet::new());
        let (runs, stop) = (kube.clone(), shutdown.clone());
        tasks.spawn(async move { runs.run(stop).await });
        Self { kube, doors, shutdown, tasks }
    }

    /// Shuts down in order.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(BOUND, self.tasks.join_next()).await.unwrap().unwrap();
        assert_eq!(ended.unwrap(), Ok(()));
    }

    pub(crate) async fn becomes(&self, what: &str, wanted: impl FnMut(&Leadership) -> bool) -> Leadership {
        eventually(&mut self.doors.sight.leadership(), what, wanted).await
    }

    pub(crate) async fn active(&self) -> u64 {
        let seen = self.becomes("active", |seen| matches!(seen, Leadership::Active { .. })).await;
        seen.epoch().unwrap()
    }
}

/// Waits until a watch shows what is wanted.
pub(crate) async fn eventually<T: Clone + std::fmt::Debug>(
    seen: &mut watch::Receiver<T>,
    what: &str,
    wanted: impl FnMut(&T) -> bool,
) -> T {
    let found =
        tokio::time::timeout(BOUND, seen.wait_for(wanted)).await.ok().map(|found| found.unwrap().clone());
    found.unwrap_or_else(|| panic!("{what} within {BOUND:?}; seen last: {:?}", seen.borrow()))
}

/// As [`eventually`], for what is shown after the first complete list.
pub(crate) async fn shown<T: Clone + std::fmt::Debug>(
    seen: &mut watch::Receiver<Option<Arc<T>>>,
    what: &str,
    mut wanted: impl FnMut(&T) -> bool,
) -> Arc<T> {
    eventually(seen, what, |seen| seen.as_deref().is_some_and(&mut wanted)).await.unwrap()
}
