//! A real etcd of one's own: the `etcd` found in PATH, on free loopback ports, with its data in
//! a temporary directory, killed by its pid when dropped, also when the test panics.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
    tls: bool,
    dir: tempfile::TempDir,
}

fn free_ports() -> (u16, u16) {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let ports = listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
    (ports[0], ports[1])
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
        let tls = tls.is_some();
        let (client_port, peer_port) = free_ports();
        let child = spawn(dir.path(), client_port, peer_port, tls);
        let mut server = Self { child, client_port, peer_port, tls, dir };
        // Between finding a port free and using it, somebody else may take it: find others.
        for _ in 0..5 {
            if server.is_up().await {
                return Some(server);
            }
            (server.client_port, server.peer_port) = free_ports();
            server.restart();
        }
        panic!("etcd does not start: {}", server.log());
    }

    pub(crate) fn endpoint(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client_port)
    }

    /// Waits until it accepts connections; `false` when it has exited.
    async fn is_up(&mut self) -> bool {
        let port = self.client_port;
        let accepts = async {
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            loop {
                tick.tick().await;
                if self.child.try_wait().unwrap().is_some() {
                    return false;
                }
                if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                    return true;
                }
            }
        };
        let up = tokio::time::timeout(UP_BOUND, accepts).await;
        up.unwrap_or_else(|_| panic!("etcd is not up after {UP_BOUND:?}: {}", self.log()))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
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

    /// Starts it again on the same ports and data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.dir.path(), self.client_port, self.peer_port, self.tls);
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
    }
}
