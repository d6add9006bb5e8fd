//! Looking a pod up in a real containerd, started for this test inside a network namespace of its own.
//! Needs root, containerd, runc, the CNI plug-ins and buildah; says so and skips where one is missing.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a failed step is a failed test, a skipped one says so"
)]

use std::fs;
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, LinuxPodSandboxConfig,
    PodSandboxConfig, PodSandboxMetadata, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StatusRequest, StopPodSandboxRequest,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use node_daemon::system::cri::{Error, PodHandles, Runtime};
use node_daemon::system::kernel::KernelSystem;
use node_daemon::system::target::Roots;
use node_daemon::system::{System, cgroup};
use tonic::transport::{Channel, Endpoint};

#[path = "lab/namespaces.rs"]
mod lab;
use lab::{Ended, Lab, eventually, skipped};

const IMAGE: &str = "docker.io/library/fltest:1";
const POD_UID: &str = "11111111-2222-3333-4444-555555555555";
/// The conditions it names once it can run pods.
const READY: [&str; 2] = ["RuntimeReady", "NetworkReady"];
const NEEDED: [&str; 5] =
    ["/usr/bin/containerd", "/usr/sbin/runc", "/usr/bin/buildah", "/usr/bin/busybox", "/usr/lib/cni/bridge"];

/// A containerd of this test alone.
struct Containerd {
    folder: tempfile::TempDir,
    group: String,
    process: Option<Ended>,
    _lab: Lab,
}

impl Containerd {
    fn start() -> Self {
        let lab = Lab::new();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        write_configuration(path);
        // A mount namespace of its own: the mounts of its containers end with it.
        let line = format!("unshare --mount containerd --config {}", path.join("config.toml").display());
        let log = fs::File::create(path.join("log")).unwrap();
        let mut command = lab.in_near(&line);
        let process = Some(Ended(command.stdout(Stdio::null()).stderr(log).spawn().unwrap()));
        let group = format!("fltest-cri-{}", std::process::id());
        let daemon = Self { folder, group, process, _lab: lab };
        build_image(daemon.folder.path());
        eventually("containerd listens", || UnixStream::connect(daemon.socket()).is_ok());
        daemon.import_image();
        daemon
    }

    fn import_image(&self) {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(self.socket()).args(["-n", "k8s.io", "images", "import"]);
        let output = command.arg(self.folder.path().join("image.tar")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("containerd.sock")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.process = None;
        // What a failed test leaves: shims know our folder, containers are in our group.
        let folder = self.folder.path().display().to_string();
        for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            let read = |file: &str| {
                String::from_utf8_lossy(&fs::read(entry.path().join(file)).unwrap_or_default()).into_owned()
            };
            let ours =
                read("cmdline").contains(&folder) || read("cgroup").contains(&format!("/{}/", self.group));
            if let (true, Ok(pid)) = (ours, entry.file_name().to_string_lossy().parse()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = cgroup::disown(&Roots::default(), &self.group);
    }
}

fn write_configuration(folder: &Path) {
    let at = |name: &str| folder.join(name).display().to_string();
    fs::create_dir(folder.join("cni")).unwrap();
    let network = r#"{"cniVersion": "0.4.0", "name": "fltest", "plugins": [{"type": "bridge", "bridge": "flbr0",
        "isGateway": true, "ipam": {"type": "host-local", "dataDir": "DATA",
        "ranges": [[{"subnet": "10.78.0.0/24"}]]}}]}"#;
    fs::write(folder.join("cni/10.conflist"), network.replace("DATA", &at("ipam"))).unwrap();
    let text = format!(
        r#"version = 2
root = "{}"
state = "{}"
oom_score = 0
[grpc]
  address = "{}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{IMAGE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{}"
"#,
        at("root"),
        at("state"),
        at("containerd.sock"),
        at("cni")
    );
    fs::write(folder.join("config.toml"), text).unwrap();
}

fn build_image(folder: &Path) {
    fs::copy("/usr/bin/busybox", folder.join("busybox")).unwrap();
    let recipe = "FROM scratch\nCOPY busybox /bin/busybox\nCMD [\"/bin/busybox\", \"sleep\", \"3600\"]\n";
    fs::write(folder.join("Dockerfile"), recipe).unwrap();
    let store = folder.join("buildah");
    let buildah = |words: &[&str]| {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(&store).arg("--runroot").arg(folder.join("runroot"));
        command.args(["--storage-driver", "vfs"]).args(words).current_dir(folder);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    buildah(&["build", "--isolation", "chroot", "-t", "fltest:1", "."]);
    buildah(&["push", "fltest:1", &format!("docker-archive:{}:{IMAGE}", folder.join("image.tar").display())]);
}

async fn client(socket: PathBuf) -> RuntimeServiceClient<Channel> {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    RuntimeServiceClient::new(
        Endpoint::from_static("http://x").connect_with_connector(connector).await.unwrap(),
    )
}

fn sandbox_config(folder: &Path, group: &str) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "web".to_owned(),
            uid: POD_UID.to_owned(),
            namespace: "shop".to_owned(),
            attempt: 0,
        }),
        log_directory: folder.join("logs").display().to_string(),
        labels: [("io.kubernetes.pod.uid".to_owned(), POD_UID.to_owned())].into(),
        linux: Some(LinuxPodSandboxConfig { cgroup_parent: format!("/{group}"), ..Default::default() }),
        ..Default::default()
    }
}

async fn run_pod(client: &mut RuntimeServiceClient<Channel>, config: PodSandboxConfig) -> String {
    let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
    let pod_sandbox_id = client.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let container = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "app".to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
        log_path: "app.log".to_owned(),
        ..Default::default()
    };
    let request = CreateContainerRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
        config: Some(container),
        sandbox_config: Some(config),
    };
    let container_id = client.create_container(request).await.unwrap().into_inner().container_id;
    client.start_container(StartContainerRequest { container_id }).await.unwrap();
    pod_sandbox_id
}

#[test]
fn a_pod_of_containerd_is_found() {
    if skipped("a_pod_of_containerd_is_found") {
        return;
    }
    if let Some(missing) = NEEDED.iter().find(|path| !Path::new(path).exists()) {
        eprintln!("SKIPPED a_pod_of_containerd_is_found: needs {missing}");
        return;
    }
    let daemon = Containerd::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Box::pin(looks_up(&daemon)));
}

/// It listens before it has looked at its network.
async fn is_ready(client: &mut RuntimeServiceClient<Channel>) {
    let started = Instant::now();
    loop {
        let status = client.status(StatusRequest::default()).await.map(|reply| reply.into_inner().status);
        if let Ok(Some(status)) = &status
            && READY.iter().all(|name| status.conditions.iter().any(|c| c.r#type == *name && c.status))
        {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "containerd is not ready: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn looks_up(daemon: &Containerd) {
    let mut client = client(daemon.socket()).await;
    is_ready(&mut client).await;
    let mut door = Runtime::connect(&daemon.socket()).await.unwrap();
    assert!(door.version().await.unwrap().starts_with("containerd "));
    assert!(matches!(door.pod(POD_UID).await, Err(Error::NoSandbox { .. })));

    let config = sandbox_config(daemon.folder.path(), &daemon.group);
    let pod_sandbox_id = Box::pin(run_pod(&mut client, config)).await;
    let found = door.pod(POD_UID).await;
    let checked = std::panic::catch_unwind(AssertUnwindSafe(|| {
        check(found.as_ref().unwrap(), &pod_sandbox_id, &daemon.group);
    }));
    client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() }).await.unwrap();
    let stopped = door.pod(POD_UID).await;
    client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await.unwrap();
    checked.unwrap();
    assert!(matches!(stopped, Err(Error::NoSandbox { .. })), "{stopped:?}");
}

fn check(pod: &PodHandles, sandbox_id: &str, group: &str) {
    assert_eq!(pod.sandbox_id, sandbox_id);
    assert!(pod.netns_path.as_ref().unwrap().starts_with("/var/run/netns"), "{pod:?}");
    assert_eq!(pod.containers.keys().collect::<Vec<_>>(), ["app"]);
    let app = &pod.containers["app"];
    let system = KernelSystem::new(Roots::default());
    let [target, sandbox] = [app.pid, pod.sandbox_pid.unwrap()].map(|pid| system.identify(pid).unwrap());
    assert_eq!(target.netns.cookie, sandbox.netns.cookie, "one namespace for the pod");
    assert_ne!(target.cgroup, sandbox.cgroup);
    let freezer = target.cgroup.freezer_path();
    assert!(freezer.ends_with(format!("{group}/{}", app.id)), "{}", freezer.display());
    system.freeze(&target.process, &target.cgroup).unwrap();
    system.thaw(&target.cgroup).unwrap();
}
