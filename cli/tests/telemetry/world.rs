//! A centre and one machine in host mode, as processes of the real binary that send their spans to a receiver.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use certs::{Authority, TrustDomain};
use node_daemon::system::cgroup;
use node_daemon::system::target::Roots;
use serde_json::json;
use tempfile::TempDir;

use crate::apart::Agent;
use crate::receiver::Receiver;
use crate::runtime::Runtime;

const TOKEN: &str = "the-token-of-the-first-admin";
/// Bound of every wait.
const PATIENCE: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What `serve host` has in one process.
struct Apart {
    agent: Agent,
    address: String,
    _runtime: tokio::task::JoinSet<()>,
}

/// A process that does not outlive the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) struct World {
    pub(crate) receiver: Receiver,
    home: Home,
    /// The machine's cluster id.
    pub(crate) cluster: String,
    folder: TempDir,
    endpoint: String,
    group: String,
    host: Option<Process>,
    apart: Option<Apart>,
    centre: Process,
    victim: Process,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(host) = &mut self.host {
            terminate(host);
            let _ = host.0.wait();
        }
        self.await_the_keepers_end();
        let _ = self.victim.0.kill();
        let _ = self.victim.0.wait();
        let _ = cgroup::disown(&Roots::default(), &self.group);
    }
}

/// Whether a living process holds that lock.
fn is_locked(path: &Path) -> bool {
    let lock = std::fs::File::open(path).map(|lock| lock.try_lock());
    matches!(lock, Ok(Err(std::fs::TryLockError::WouldBlock)))
}

fn terminate(process: &Process) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(process.0.id()).expect("a pid"));
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
}

/// An address of this machine that nobody else uses: a port that is found free may be taken before it is used.
struct Home(String);

impl Home {
    fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(format!("127.{}.{}.{number}", 64 + (pid >> 8) % 128, pid % 256))
    }

    fn at(&self, port: u16) -> String {
        format!("{}:{port}", self.0)
    }
}

/// Ports at [`Home`], none that anything takes on all addresses.
const REST: u16 = 17443;
const LINK: u16 = 17444;
const ENROL: u16 = 17445;
const HEALTH: u16 = 17446;
const NODES: u16 = 17447;

impl World {
    /// It leaves when nothing is left to undo, and takes its cgroup along; one that was killed would leave that behind.
    fn await_the_keepers_end(&self) {
        let (lock, started) = (self.path("state/node/keeper.lock"), Instant::now());
        while is_locked(&lock) {
            if started.elapsed() > PATIENCE {
                // A second panic would hide the first one.
                assert!(std::thread::panicking(), "the keeper does not leave");
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// A machine that is connected, with one workload whose process may be frozen.
    pub(crate) async fn start(name: &str) -> Self {
        let mut world = Self::ready(name).await;
        world.start_host().await;
        world
    }

    /// The same with the agent in this process and the node daemon in one of its own.
    pub(crate) async fn start_apart(name: &str) -> Self {
        let mut world = Self::ready(name).await;
        let pid = i32::try_from(world.victim.0.id()).expect("a pid");
        let runtime = Runtime { container: "web".to_owned(), pid }.serve(&world.path("cri.sock"));
        let address = world.home.at(NODES);
        let agent = Agent::start(world.folder.path(), &address, &world.endpoint).await;
        world.apart = Some(Apart { agent, address, _runtime: runtime });
        world.write("node.token", "whatever");
        world.start_host().await;
        world
    }

    /// Everything but the machine's own processes.
    async fn ready(name: &str) -> Self {
        let world = Self::centre_only(name, "").await;
        world
            .ok(&[
                "grant",
                "any",
                "--from-operator",
                "*",
                "--to-cluster",
                "edge",
                "--to-namespace",
                "shop",
                "--kind",
                "*",
            ])
            .await;
        let token = world.ok(&["clusters", "invite", "edge", "--auto-accept"]).await;
        world.write("join.token", token.trim());
        let pid = i32::try_from(world.victim.0.id()).expect("a pid");
        cgroup::own(&Roots::default(), &world.group, pid).expect("a cgroup of its own");
        let workloads = json!({ "workloads": [{ "name": "web", "namespace": "shop", "labels": { "app": "web" },
            "pid": pid, "ips": ["127.0.0.1"] }] });
        let ceiling = json!({ "from": [{ "central": true }, { "clusters": { "names": ["edge"] }, "namespaces": ["shop"] }],
            "namespaces": ["shop"], "kinds": ["container.pause"], "maxTargets": 1, "maxDuration": "10m" });
        world.write("workloads.yaml", &workloads.to_string());
        world.write("ceiling.yaml", &ceiling.to_string());
        std::fs::create_dir_all(world.path("authored")).expect("a folder");
        world
    }

    /// `serve node` beside an agent that runs, or `serve host`.
    fn machine(&self) -> Command {
        let mut command = faultline();
        let path = |name: &str| self.path(name).display().to_string();
        if let Some(apart) = &self.apart {
            command.args(["serve", "node", "--agent", &apart.address, "--token-file", &path("node.token")]);
            command.args(["--agent-bundle", &path("agent/node-bundle.pem"), "--node-name", "edge"]);
            command.args(["--state-dir", &path("state/node"), "--runtime-socket", &path("cri.sock")]);
            command.args(["--health-addr", "127.0.0.1:0"]);
            return command;
        }
        command.args([
            "serve",
            "host",
            "--join-token-file",
            &path("join.token"),
            "--state-dir",
            &path("state"),
        ]);
        command.args(["--workloads", &path("workloads.yaml"), "--ceiling", &path("ceiling.yaml")]);
        command.args(["--authored-dir", &path("authored"), "--node-name", "edge"]);
        command
    }

    /// The centre alone; its spans go to `endpoint`, or to the receiver where that is empty.
    pub(crate) async fn centre_only(name: &str, endpoint: &str) -> Self {
        certs::install_provider();
        let receiver = Receiver::start(None).await;
        Self::new(name, endpoint, receiver, "").await
    }

    /// The centre alone, with a receiver whose certificate is of an authority that the centre is told of, or not.
    pub(crate) async fn over_tls(name: &str, told: bool) -> Self {
        certs::install_provider();
        let now = jiff::Timestamp::now();
        let authority =
            || Authority::create(TrustDomain::new("otlp.test").expect("a domain"), now).expect("a CA");
        let (own, other) = (authority(), authority());
        let leaf = own.issue_server(&["localhost"], None, now, Duration::from_hours(1)).expect("issued");
        let identity = tonic::transport::Identity::from_pem(&leaf.chain_pem, &leaf.key_pem);
        let receiver = Receiver::start(Some(identity)).await;
        let endpoint = format!("https://localhost:{}", receiver.addr.port());
        let bundle = if told { own.bundle_pem() } else { other.bundle_pem() };
        Self::new(name, &endpoint, receiver, bundle).await
    }

    async fn new(name: &str, endpoint: &str, receiver: Receiver, bundle: &str) -> Self {
        let (folder, home) = (TempDir::new().expect("a folder"), Home::new());
        let endpoint =
            if endpoint.is_empty() { format!("http://{}", receiver.addr) } else { endpoint.to_owned() };
        let now = jiff::Timestamp::now();
        let authority =
            Authority::create(TrustDomain::new("rest.test").expect("a domain"), now).expect("a CA");
        let own = authority.issue_server(&[&home.0], None, now, Duration::from_hours(1)).expect("issued");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let mut command = faultline();
        command.args([
            "serve",
            "control-plane",
            "--data-dir",
            &folder.path().join("data").display().to_string(),
        ]);
        command.args(["--kek-file", &file("kek", "0123456789abcdef0123456789abcdef")]);
        command.args(["--admin-token-file", &file("token", TOKEN)]);
        command.args(["--rest-addr", &home.at(REST), "--health-addr", &home.at(HEALTH)]);
        command.args(["--link-addr", &home.at(LINK), "--link-advertise", &home.at(LINK)]);
        command.args(["--enrol-addr", &home.at(ENROL), "--enrol-advertise", &home.at(ENROL)]);
        command.args([
            "--rest-cert",
            &file("rest.crt", &own.chain_pem),
            "--rest-key",
            &file("rest.key", &own.key_pem),
        ]);
        command.args(["--otlp-endpoint", &endpoint]);
        if !bundle.is_empty() {
            command.args(["--otlp-ca", &file("otlp.pem", bundle)]);
        }
        let centre = logged(command, &folder.path().join("centre.log"));
        let victim = dying_with_us("sleep").arg("3600").spawn().expect("sleep");
        let server = format!("https://{}", home.at(REST));
        let mut world = Self {
            receiver,
            home,
            cluster: String::new(),
            endpoint,
            group: format!("faultline-test-{}-{name}", std::process::id()),
            folder,
            host: None,
            apart: None,
            centre,
            victim: Process(victim),
        };
        let pin = authority.pin().to_string();
        let token = world.path("token").display().to_string();
        world
            .eventually("the centre to answer", async |world| {
                world.said(&["login", &server, "--pin", &pin, "--token-file", &token], "").await.0
            })
            .await;
        world
    }

    async fn start_host(&mut self) {
        let mut command = self.machine();
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &self.endpoint);
        self.host = Some(logged(command, &self.path("host.log")));
        self.eventually("edge to be connected", async |world| {
            let (_, out, _) = world.said(&["describe", "cluster", "edge", "-o", "json"], "").await;
            let seen: serde_json::Value = serde_json::from_str(&out).unwrap_or_default();
            let id = seen["spec"]["id"].as_str().unwrap_or_default();
            id.clone_into(&mut world.cluster);
            let inventory = &seen["status"]["inventory"];
            let has_daemon =
                inventory["nodes"].as_array().is_some_and(|all| all.iter().any(|n| n["daemon"] == true));
            seen["state"] == "Connected" && has_daemon
        })
        .await;
    }

    /// Kills the machine's process where it stands, and starts it again.
    pub(crate) async fn restart_host(&mut self) {
        self.host = None;
        self.start_host().await;
    }

    fn experiment(lasts: &str) -> serde_json::Value {
        json!({ "apiVersion": "faultline.dev/v1alpha1", "kind": "Experiment",
            "metadata": { "name": "pause", "namespace": "shop" },
            "spec": {
                "hypothesis": "Nobody misses it.",
                "clusters": { "names": ["edge"] },
                "targets": [{ "name": "web", "atMost": { "perCluster": 1 },
                    "pods": { "namespaces": ["shop"], "labelSelector": { "matchLabels": { "app": "web" } } } }],
                "faults": [{ "name": "still", "target": "web", "for": lasts, "container": { "pause": {} } }],
                "limits": { "clusterDeadline": "10m" },
            } })
    }

    /// A file with it.
    pub(crate) fn definition(&self, lasts: &str) -> String {
        self.write("experiment.json", &Self::experiment(lasts).to_string()).display().to_string()
    }

    /// Asks for it as an operator, in that trace, and waits for nothing; its id.
    pub(crate) async fn run(&self, lasts: &str, name: &str, trace: &str) -> String {
        let file = self.definition(lasts);
        let args = ["run", "-f", &file, "--run-name", name, "--no-wait"];
        let (ok, out, err) = self.said(&args, trace).await;
        assert!(ok, "{out}{err}\n{}", self.logs());
        out.trim().to_owned()
    }

    /// How a run ended, once it did.
    pub(crate) async fn outcome(&self, id: &str) -> String {
        // It measures nothing, so the exit code is not 0.
        let (_, out, err) = self.said(&["watch", id, "-o", "json"], "").await;
        let run: serde_json::Value = serde_json::from_str(&out).unwrap_or_default();
        let outcome = run["summary"]["outcome"].as_str();
        outcome.unwrap_or_else(|| panic!("{out}{err}\n{}", self.logs())).to_owned()
    }

    /// Drops an Experiment and a Run of it into the machine's folder.
    pub(crate) fn author(&self, lasts: &str, name: &str) {
        let run = json!({ "apiVersion": "faultline.dev/v1alpha1", "kind": "Run",
            "metadata": { "name": name, "namespace": "shop" },
            "spec": { "experimentRef": { "name": "pause" } } });
        self.write("authored/experiment.json", &Self::experiment(lasts).to_string());
        self.write("authored/run.json", &run.to_string());
    }

    /// Whether the workload's process is in a frozen cgroup.
    pub(crate) fn is_frozen(&self) -> bool {
        let state = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let tops = cgroup::hierarchies(&Roots::default()).expect("cgroups");
        let mut groups = tops.iter().map(|top| top.join(&self.group));
        groups.any(|group| {
            state(group.join("freezer.state")).starts_with("FROZEN")
                || state(group.join("cgroup.events")).contains("frozen 1")
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let (path, beside) = (self.path(name), self.path("new"));
        std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, &path)).expect("a file");
        path
    }

    fn command(&self, args: &[&str], trace: &str) -> Command {
        let mut command = faultline();
        command.args(args).env("FAULTLINE_CONFIG", self.path("contexts.json"));
        if !trace.is_empty() {
            command.env("TRACEPARENT", trace);
        }
        command
    }

    async fn said(&self, args: &[&str], trace: &str) -> (bool, String, String) {
        let mut command = tokio::process::Command::from(self.command(args, trace));
        let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await;
        let output =
            output.unwrap_or_else(|_| panic!("{args:?} did not end\n{}", self.logs())).expect("it starts");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.success(), text(output.stdout), text(output.stderr))
    }

    /// What a command says that must work.
    pub(crate) async fn ok(&self, args: &[&str]) -> String {
        let (ok, out, err) = self.said(args, "").await;
        assert!(ok, "{args:?}: {out}{err}\n{}", self.logs());
        out
    }

    /// The centre's metrics as a scraper gets them that asks for nothing.
    pub(crate) async fn metrics(&self) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.home.at(HEALTH)).await.expect("it listens");
        let request = b"GET /metrics HTTP/1.0\r\nHost: centre\r\n\r\n";
        stream.write_all(request).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("text");
        answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
    }

    async fn eventually(&mut self, what: &str, mut holds: impl AsyncFnMut(&mut Self) -> bool) {
        let begun = std::time::Instant::now();
        while !holds(self).await {
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}\n{}", self.logs());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) fn logs(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.path(name)).unwrap_or_default();
        format!("-- centre\n{}\n-- host\n{}", read("centre.log"), read("host.log"))
    }

    /// Asks both to end and waits for it.
    pub(crate) async fn end(mut self) {
        if let Some(host) = self.host.take() {
            terminate(&host);
            self.ended(host).await;
        }
        if let Some(apart) = self.apart.take() {
            apart.agent.end().await;
        }
        self.centre_ends().await;
    }

    pub(crate) async fn centre_ends(&mut self) {
        let other = Command::new("true").spawn().expect("true");
        let centre = std::mem::replace(&mut self.centre, Process(other));
        terminate(&centre);
        self.ended(centre).await;
    }

    async fn ended(&self, mut process: Process) {
        let begun = std::time::Instant::now();
        loop {
            if let Some(status) = process.0.try_wait().expect("its state") {
                assert!(status.success(), "{status}\n{}", self.logs());
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end\n{}", self.logs());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// What is killed with the thread that starts it, also when this process is killed.
fn dying_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

fn faultline() -> Command {
    let mut command = dying_with_us(env!("CARGO_BIN_EXE_faultline"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    // Spans are sent soon, so that nobody waits for them.
    command.env("OTEL_BSP_SCHEDULE_DELAY", "100");
    command
}

fn logged(mut command: Command, log: &std::path::Path) -> Process {
    let log = std::fs::File::options().create(true).append(true).open(log).expect("a log");
    Process(
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("the binary starts"),
    )
}
