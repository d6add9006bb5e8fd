//! A real etcd of one's own: the `etcd` found in PATH, on free loopback ports, with its data in
//! a temporary directory, killed by its pid when dropped, also when the test panics.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use control_plane::store::Store;
use control_plane::store::etcd::{EtcdConfig, EtcdStore, EtcdTls};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Below those that the kernel gives to whoever asks for any: nobody gets one of these by chance, also not while
/// an etcd is away.
const PORTS: std::ops::Range<u32> = 20_000..32_000;
const UP_BOUND: Duration = Duration::from_secs(20);

/// PEM files for an etcd that speaks TLS only and asks for client certificates.
pub(crate) struct ServerTls {
    pub(crate) authority: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

pub(crate) struct EtcdServer {
    child: Child,
    client_port: u16,
    peer_port: u16,
    tls: Option<ServerTls>,
    dir: tempfile::TempDir,
}

/// One that is free now and that no other test of this process gets; other processes begin elsewhere.
fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(101);
    loop {
        let nth = begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(PORTS.start + nth % (PORTS.end - PORTS.start)).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn spawn(dir: &Path, client_port: u16, peer_port: u16, tls: bool) -> Child {
    let scheme = if tls { "https" } else { "http" };
    let client_url = format!("{scheme}://127.0.0.1:{client_port}");
    let peer_url = format!("http://127.0.0.1:{peer_port}");
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = Command::new("etcd");
    command
        .args(["--name", "test", "--unsafe-no-fsync", "--log-level", "warn"])
        .arg("--data-dir")
        .arg(dir.join("data"))
        .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
        .args(["--initial-cluster", &format!("test={peer_url}")])
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    if tls {
        command.arg("--client-cert-auth");
        for (flag, file) in
            [("--trusted-ca-file", "ca.pem"), ("--cert-file", "cert.pem"), ("--key-file", "key.pem")]
        {
            command.arg(flag).arg(dir.join(file));
        }
    }
    command.spawn().unwrap()
}

impl EtcdServer {
    /// `None` when there is no etcd and `FAULTLINE_SKIP_ETCD=1` allows that.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(None).await
    }

    pub(crate) async fn start_with(tls: Option<ServerTls>) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|dir| dir.join("etcd").is_file()) {
            let skip = std::env::var("FAULTLINE_SKIP_ETCD").is_ok_and(|value| value == "1");
            assert!(
                skip,
                "no `etcd` in PATH: install it (Debian: apt-get install etcd-server), or set \
                 FAULTLINE_SKIP_ETCD=1 to leave the tests on a real etcd out"
            );
            eprintln!("SKIPPED: no `etcd` in PATH and FAULTLINE_SKIP_ETCD=1");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        if let Some(tls) = &tls {
            for (file, pem) in
                [("ca.pem", &tls.authority), ("cert.pem", &tls.certificate), ("key.pem", &tls.key)]
            {
                std::fs::write(dir.path().join(file), pem).unwrap();
            }
        }
        let (client_port, peer_port) = (free_port(), free_port());
        let child = spawn(dir.path(), client_port, peer_port, tls.is_some());
        let mut server = Self { child, client_port, peer_port, tls, dir };
        server.up().await;
        Some(server)
    }

    pub(crate) fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client_port)
    }

    /// Waits until it answers: it takes connections before it can.
    async fn up(&mut self) {
        // Its own certificate is one for clients, too.
        let tls = self.tls.as_ref().map(|tls| EtcdTls {
            ca_pem: tls.authority.clone().into_bytes(),
            identity_pem: Some((tls.certificate.clone().into_bytes(), tls.key.clone().into_bytes())),
            server_name: None,
        });
        let store = EtcdStore::connect(EtcdConfig { tls, ..EtcdConfig::new(vec![self.endpoint()]) });
        let store = store.await.unwrap();
        let answers = async {
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            loop {
                tick.tick().await;
                let answer = store.health().await;
                if let Some(ended) = self.child.try_wait().unwrap() {
                    return Err(ended);
                }
                if answer.is_ok() {
                    return Ok(());
                }
            }
        };
        let up = tokio::time::timeout(UP_BOUND, answers).await;
        assert!(matches!(up, Ok(Ok(()))), "etcd is not up after {UP_BOUND:?}: {up:?}: {}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Makes it silent: returns when the last of its threads has stopped.
    pub(crate) fn freeze(&self) {
        kill(self.pid(), Signal::SIGSTOP).unwrap();
        let stopped = waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
        assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        kill(self.pid(), Signal::SIGCONT).unwrap();
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn wipe(&self) {
        std::fs::remove_dir_all(self.data()).unwrap();
    }

    /// Where its data is.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts it again on the same ports and data; returns when it answers.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.dir.path(), self.client_port, self.peer_port, self.tls.is_some());
        self.up().await;
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
    }
}
