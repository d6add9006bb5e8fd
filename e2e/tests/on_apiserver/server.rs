//! An etcd and an apiserver without any node, helm and kubectl to go with them. For tests of what only an apiserver
//! can show; needs no root.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::{components, tools, wait};

/// The folder of a chart.
pub(crate) fn chart(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm").join(name).display().to_string()
}

/// An etcd and an apiserver that end with this value, and with this process.
pub(crate) struct Apiserver {
    children: Vec<Child>,
    pub(crate) folder: PathBuf,
    /// An address of this machine that nobody else uses: a port that is found free may be taken before it is used.
    pub(crate) home: String,
    helm: PathBuf,
}

/// Ports at its home, none that anything takes on all addresses. Those from 17443 on are for who uses the apiserver.
const ETCD: u16 = 17379;
const ETCD_PEER: u16 = 17380;
const SECURE: u16 = 16443;

impl Drop for Apiserver {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            drop(child.kill());
            drop(child.wait());
        }
        drop(fs::remove_dir_all(&self.folder));
    }
}

impl Apiserver {
    /// `None`, with a word past the test harness (which would hide it), where the lab's programs are not built.
    pub(crate) fn start_or_skip(test: &str) -> Result<Option<Self>> {
        let absent = ["etcd"].into_iter().find(|program| tools::find(program).is_none());
        if let Some(program) = components::missing()?.or(absent) {
            let message = format!("SKIPPED {test}: no {program} (make lab-up brings it)");
            drop(writeln!(std::io::stderr(), "{message}"));
            return Ok(None);
        }
        Self::start(&components::folder()?).map(Some)
    }

    fn start(programs: &Path) -> Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("apiserver-{}", std::process::id()));
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder)?;
        let pid = std::process::id();
        let home = format!("127.{}.{}.1", 64 + (pid >> 8) % 128, pid % 256);
        let mut server = Self { children: Vec::new(), folder, home, helm: programs.join("helm") };
        let local = |port: u16| format!("{}:{port}", server.home);
        let at = |name: &str| server.folder.join(name).display().to_string();

        let key = rcgen::KeyPair::generate()?;
        fs::write(at("sa.key"), key.serialize_pem())?;
        fs::write(at("sa.pub"), key.public_key_pem())?;
        fs::write(at("tokens"), "root-token,root,1,system:masters\nalice-token,alice,2,people\n")?;
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: root\n\
             clusters: [{{name: it, cluster: {{server: 'https://{}', insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: root, user: {{token: root-token}}}}, {{name: alice, user: {{token: alice-token}}}}]\n\
             contexts: [{{name: root, context: {{cluster: it, user: root}}}}]\n",
            local(SECURE)
        );
        fs::write(at("kubeconfig"), kubeconfig)?;

        let etcd = tools::find("etcd").context("find etcd")?;
        let (client, peer) = (format!("http://{}", local(ETCD)), format!("http://{}", local(ETCD_PEER)));
        let etcd_flags = [
            format!("--data-dir={}", at("etcd")),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
        ];
        let apiserver_flags = [
            format!("--etcd-servers={client}"),
            format!("--secure-port={SECURE}"),
            format!("--cert-dir={}", at("certs")),
            format!("--token-auth-file={}", at("tokens")),
            format!("--service-account-key-file={}", at("sa.pub")),
            format!("--service-account-signing-key-file={}", at("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-cluster-ip-range=10.99.0.0/24".to_owned(),
            format!("--bind-address={}", server.home),
            "--authorization-mode=RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
            // Nothing makes the default service account that its plugin waits for.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ];
        server.spawn(&etcd, &etcd_flags)?;
        server.spawn(&programs.join("kube-apiserver"), &apiserver_flags)?;
        wait::wait_for("the apiserver", Duration::from_mins(2), || {
            server.kubectl(&["get", "--raw", "/readyz"])
        })?;
        Ok(server)
    }

    /// A child that dies with this process, even when that is killed.
    pub(crate) fn spawn(&mut self, program: &Path, flags: &[String]) -> Result<()> {
        let name = program.file_name().context("a program has a name")?.to_string_lossy();
        let log = fs::File::create(self.folder.join(format!("{name}.log")))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.children.push(command.spawn().with_context(|| format!("start {name}"))?);
        Ok(())
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_with(args, "")
    }

    /// Runs kubectl with a manifest on its standard input; a refusal is an error with its text.
    pub(crate) fn kubectl_with(&self, args: &[&str], manifest: &str) -> Result<String> {
        succeeded(&self.kubectl_output(args, manifest)?)
    }

    pub(crate) fn kubectl_output(&self, args: &[&str], manifest: &str) -> Result<Output> {
        // Not through the lab's command runner: a `lab down` in another terminal ends what that one started.
        let mut kubectl = Command::new(e2e::lab::components::kubectl());
        kubectl
            .arg("--kubeconfig")
            .arg(self.folder.join("kubeconfig"))
            .arg("--request-timeout=30s")
            .args(args);
        kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = kubectl.spawn().context("start kubectl")?;
        // A kubectl that reads no manifest closes the pipe.
        drop(child.stdin.take().context("a pipe")?.write_all(manifest.as_bytes()));
        Ok(child.wait_with_output()?)
    }

    pub(crate) fn helm(&self, args: &[&str]) -> Result<String> {
        let mut helm = Command::new(&self.helm);
        helm.env("KUBECONFIG", self.folder.join("kubeconfig")).env("HOME", &self.folder);
        succeeded(&helm.args(["--namespace", "faultline"]).args(args).output()?)
    }
}

pub(crate) fn succeeded(out: &Output) -> Result<String> {
    ensure!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8(out.stdout.clone())?)
}
