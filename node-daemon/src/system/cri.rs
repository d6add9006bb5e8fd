//! The container runtime of this node: which sandbox and containers a pod has, and their processes. Asked
//! over the runtime's own socket (containerd, CRI-O, k3s), found or configured; called by the daemon when
//! it resolves a target. Every call has a bounded time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    Container, ContainerFilter, ContainerState, ContainerStatusRequest, ListContainersRequest,
    ListPodSandboxRequest, PodSandbox, PodSandboxFilter, PodSandboxState, PodSandboxStatusRequest,
    PodSandboxStatusResponse, VersionRequest,
};
use serde_json::Value;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Where runtimes listen unless told otherwise.
pub const SOCKETS: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
    "/var/run/cri-dockerd.sock",
];
/// Longest wait for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const LABEL_POD_UID: &str = "io.kubernetes.pod.uid";
/// Parts of the name of runtimes whose containers do not run on this kernel.
const OTHER_KERNELS: [&str; 5] = ["runsc", "gvisor", "kata", "firecracker", "wasm"];

/// Why the runtime could not say.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None of the known sockets exists.
    #[error("no runtime socket found (looked at {})", SOCKETS.join(", "))]
    NoSocket,
    /// The socket does not answer.
    #[error("connect to the runtime at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The runtime answered with an error, or not in time.
    #[error("{action}: {}", status.message())]
    Refused {
        /// What was asked.
        action: &'static str,
        /// The answer.
        status: Box<tonic::Status>,
    },
    /// The runtime has no running sandbox of that pod.
    #[error("pod {pod_uid} has no running sandbox on this node")]
    NoSandbox {
        /// The pod.
        pod_uid: String,
    },
    /// The pod's containers run on a kernel of their own, which this daemon does not reach.
    #[error("pod {pod_uid} runs under {handler}, outside this node's kernel")]
    OtherKernel {
        /// The pod.
        pod_uid: String,
        /// The runtime handler or type.
        handler: String,
    },
}

/// What is known of one pod on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodHandles {
    /// Id of the running sandbox.
    pub sandbox_id: String,
    /// The sandbox's own process, when the runtime says it.
    pub sandbox_pid: Option<i32>,
    /// The path under which the runtime keeps the pod's network namespace, when it says it.
    pub netns_path: Option<PathBuf>,
    /// Running containers by name.
    pub containers: BTreeMap<String, ContainerHandles>,
}

/// One running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerHandles {
    /// Full id.
    pub id: String,
    /// Its init in the node's PID namespace.
    pub pid: i32,
    /// The cgroup path the runtime asked for, as it writes it (cgroupfs or systemd form).
    pub cgroups_path: Option<String>,
}

impl PodHandles {
    /// A process inside the pod's network namespace: the sandbox's own, or any container's.
    pub fn netns_pid(&self) -> Option<i32> {
        self.sandbox_pid.or_else(|| self.containers.values().next().map(|container| container.pid))
    }
}

/// A connection to the runtime.
#[derive(Debug, Clone)]
pub struct Runtime {
    client: RuntimeServiceClient<Channel>,
}

/// The configured socket, or the first known one that exists under `root` (`/` normally).
pub fn find_socket(configured: Option<&Path>, root: &Path) -> Result<PathBuf, Error> {
    if let Some(path) = configured {
        return Ok(path.to_path_buf());
    }
    let under = |path: &str| root.join(path.trim_start_matches('/'));
    SOCKETS.into_iter().map(under).find(|path| path.exists()).ok_or(Error::NoSocket)
}

impl Runtime {
    /// Connects to a socket.
    pub async fn connect(path: &Path) -> Result<Self, Error> {
        let socket = path.to_path_buf();
        let failed = |source| Error::Connect { path: socket.clone(), source };
        let connector = {
            let socket = socket.clone();
            tower::service_fn(move |_: tonic::codegen::http::Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            })
        };
        // The address is never used: the connector goes to the socket.
        let endpoint =
            Endpoint::from_static("http://runtime").connect_timeout(ANSWER_WITHIN).timeout(ANSWER_WITHIN);
        let channel = endpoint.connect_with_connector(connector).await.map_err(failed)?;
        Ok(Self { client: RuntimeServiceClient::new(channel) })
    }

    /// Name and version of the runtime.
    pub async fn version(&mut self) -> Result<String, Error> {
        let answer =
            self.client.version(VersionRequest::default()).await.map_err(refused("ask its version"))?;
        let answer = answer.into_inner();
        Ok(format!("{} {}", answer.runtime_name, answer.runtime_version))
    }

    /// Sandbox, namespace and containers of a pod.
    pub async fn pod(&mut self, pod_uid: &str) -> Result<PodHandles, Error> {
        let mut pod = self.sandbox_only(pod_uid).await?;
        for container in self.containers_of(&pod.sandbox_id).await? {
            let name = container.metadata.map(|metadata| metadata.name).unwrap_or_default();
            if let Some(handles) = self.container(container.id).await? {
                pod.containers.insert(name, handles);
            }
        }
        Ok(pod)
    }

    /// Sandbox and namespace of a pod; its containers only where the runtime does not tell the namespace.
    pub async fn sandbox(&mut self, pod_uid: &str) -> Result<PodHandles, Error> {
        let pod = self.sandbox_only(pod_uid).await?;
        let told = pod.sandbox_pid.is_some() || pod.netns_path.as_ref().is_some_and(|path| path.exists());
        if told { Ok(pod) } else { self.pod(pod_uid).await }
    }

    async fn sandbox_only(&mut self, pod_uid: &str) -> Result<PodHandles, Error> {
        let sandbox = self.sandbox_of(pod_uid).await?;
        let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.id.clone(), verbose: true };
        let status =
            self.client.pod_sandbox_status(request).await.map_err(refused("read a sandbox"))?.into_inner();
        let info = SandboxInfo::parse(&status);
        let handlers = [Some(sandbox.runtime_handler), info.runtime_type];
        if let Some(handler) = handlers.into_iter().flatten().find(|handler| is_other_kernel(handler)) {
            return Err(Error::OtherKernel { pod_uid: pod_uid.to_owned(), handler });
        }
        Ok(PodHandles {
            sandbox_id: sandbox.id,
            sandbox_pid: info.pid,
            netns_path: info.netns_path,
            containers: BTreeMap::new(),
        })
    }

    /// The newest running sandbox of a pod.
    async fn sandbox_of(&mut self, pod_uid: &str) -> Result<PodSandbox, Error> {
        let label_selector = [(LABEL_POD_UID.to_owned(), pod_uid.to_owned())].into();
        let filter = PodSandboxFilter { label_selector, ..PodSandboxFilter::default() };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let answer =
            self.client.list_pod_sandbox(request).await.map_err(refused("list sandboxes"))?.into_inner();
        let ready = |sandbox: &PodSandbox| {
            let same = sandbox.metadata.as_ref().is_some_and(|metadata| metadata.uid == pod_uid);
            sandbox.state() == PodSandboxState::SandboxReady && same
        };
        let newest = answer.items.into_iter().filter(ready).max_by_key(|sandbox| sandbox.created_at);
        newest.ok_or_else(|| Error::NoSandbox { pod_uid: pod_uid.to_owned() })
    }

    async fn containers_of(&mut self, sandbox_id: &str) -> Result<Vec<Container>, Error> {
        let filter = ContainerFilter { pod_sandbox_id: sandbox_id.to_owned(), ..ContainerFilter::default() };
        let request = ListContainersRequest { filter: Some(filter) };
        let answer =
            self.client.list_containers(request).await.map_err(refused("list containers"))?.into_inner();
        let running = |container: &Container| container.state() == ContainerState::ContainerRunning;
        Ok(answer.containers.into_iter().filter(running).collect())
    }

    /// `None` when it stopped meanwhile, or when the runtime does not say its process.
    async fn container(&mut self, id: String) -> Result<Option<ContainerHandles>, Error> {
        let request = ContainerStatusRequest { container_id: id.clone(), verbose: true };
        let answer = match self.client.container_status(request).await {
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
            other => other.map_err(refused("read a container"))?.into_inner(),
        };
        let info = info_of(&answer.info);
        let cgroups_path =
            info.pointer("/runtimeSpec/linux/cgroupsPath").and_then(Value::as_str).map(str::to_owned);
        Ok(pid_of(&info).map(|pid| ContainerHandles { id, pid, cgroups_path }))
    }
}

fn refused(action: &'static str) -> impl FnOnce(tonic::Status) -> Error {
    move |status| Error::Refused { action, status: Box::new(status) }
}

/// What a sandbox's verbose status tells; runtimes differ, and all of it may be missing.
#[derive(Debug, Default, PartialEq, Eq)]
struct SandboxInfo {
    pid: Option<i32>,
    netns_path: Option<PathBuf>,
    runtime_type: Option<String>,
}

impl SandboxInfo {
    fn parse(status: &PodSandboxStatusResponse) -> Self {
        let info = info_of(&status.info);
        let namespaces = info.pointer("/runtimeSpec/linux/namespaces").and_then(Value::as_array);
        let network = namespaces.and_then(|all| all.iter().find(|one| one["type"] == "network"));
        let path = network.and_then(|one| one["path"].as_str()).filter(|path| path.starts_with('/'));
        Self {
            pid: pid_of(&info),
            netns_path: path.map(PathBuf::from),
            runtime_type: info["runtimeType"].as_str().map(str::to_owned),
        }
    }
}

/// The JSON of the `info` entry; anything unreadable is null.
fn info_of(info: &std::collections::HashMap<String, String>) -> Value {
    info.get("info").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Process 0 means "not running" to containerd.
fn pid_of(info: &Value) -> Option<i32> {
    info["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0)
}

fn is_other_kernel(handler: &str) -> bool {
    let handler = handler.to_ascii_lowercase();
    OTHER_KERNELS.iter().any(|name| handler.contains(name))
}

#[cfg(test)]
mod tests;
