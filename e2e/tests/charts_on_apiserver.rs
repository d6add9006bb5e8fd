//! The charts on a real apiserver (with an etcd, without any node): what Helm's
//! rendering cannot show. The Ceiling follows the values from the first install
//! on, Secrets are made once, and the admission policies hold the agent and the
//! authors to what they say. Needs no root; skipped where the lab's programs
//! are not built.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::lab::{components, tools, wait};

const SHORT: Duration = Duration::from_secs(30);
const AGENT: &str = "system:serviceaccount:faultline:faultline-agent";
const CEILING: &str = "ceiling.namespaces={shop},ceiling.kinds={pod.kill},ceiling.maxTargets";
/// The folder of a chart.
fn chart(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm").join(name).display().to_string()
}

/// An etcd and an apiserver that end with this value, and with this process.
struct Apiserver {
    children: Vec<Child>,
    folder: PathBuf,
    helm: PathBuf,
}

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
    fn start(programs: &Path) -> Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("apiserver-{}", std::process::id()));
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder)?;
        let mut server = Self { children: Vec::new(), folder, helm: programs.join("helm") };
        let [client, peer, secure] = free_ports()?;
        let at = |name: &str| server.folder.join(name).display().to_string();

        let key = rcgen::KeyPair::generate()?;
        fs::write(at("sa.key"), key.serialize_pem())?;
        fs::write(at("sa.pub"), key.public_key_pem())?;
        fs::write(at("tokens"), "root-token,root,1,system:masters\nalice-token,alice,2,people\n")?;
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: root\n\
             clusters: [{{name: it, cluster: {{server: 'https://127.0.0.1:{secure}', insecure-skip-tls-verify: true}}}}]\n\
             users: [{{name: root, user: {{token: root-token}}}}, {{name: alice, user: {{token: alice-token}}}}]\n\
             contexts: [{{name: root, context: {{cluster: it, user: root}}}}]\n"
        );
        fs::write(at("kubeconfig"), kubeconfig)?;

        let etcd = tools::find("etcd").context("find etcd")?;
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
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
            format!("--secure-port={secure}"),
            format!("--cert-dir={}", at("certs")),
            format!("--token-auth-file={}", at("tokens")),
            format!("--service-account-key-file={}", at("sa.pub")),
            format!("--service-account-signing-key-file={}", at("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-cluster-ip-range=10.99.0.0/24".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
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
    fn spawn(&mut self, program: &Path, flags: &[String]) -> Result<()> {
        let name = program.file_name().context("a program has a name")?.to_string_lossy();
        let log = fs::File::create(self.folder.join(format!("{name}.log")))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.children.push(command.spawn().with_context(|| format!("start {name}"))?);
        Ok(())
    }

    fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.kubectl_with(args, "")
    }

    /// Runs kubectl with a manifest on its standard input; a refusal is an error with its text.
    fn kubectl_with(&self, args: &[&str], manifest: &str) -> Result<String> {
        succeeded(&self.kubectl_output(args, manifest)?)
    }

    fn kubectl_output(&self, args: &[&str], manifest: &str) -> Result<Output> {
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

    fn helm(&self, args: &[&str]) -> Result<String> {
        let mut helm = Command::new(&self.helm);
        helm.env("KUBECONFIG", self.folder.join("kubeconfig")).env("HOME", &self.folder);
        succeeded(&helm.args(["--namespace", "faultline"]).args(args).output()?)
    }
}

fn free_ports() -> Result<[u16; 3]> {
    let held: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let ports = held.iter().map(|one| Ok(one.local_addr()?.port())).collect::<Result<Vec<u16>>>()?;
    ports.try_into().map_err(|_| anyhow::anyhow!("three ports"))
}

fn succeeded(out: &Output) -> Result<String> {
    ensure!(out.status.success(), "{}: {}", out.status, String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8(out.stdout.clone())?)
}

/// Fails unless `outcome` is a refusal that says `why`.
fn refused(outcome: Result<String>, why: &str) -> Result<()> {
    match outcome {
        Ok(text) => bail!("was allowed: {text}"),
        Err(error) if format!("{error:#}").contains(why) => Ok(()),
        Err(error) => Err(error.context(format!("refused, but not because of {why:?}"))),
    }
}

#[test]
fn the_charts_do_on_a_cluster_what_they_say() -> Result<()> {
    let absent = ["etcd"].into_iter().find(|program| tools::find(program).is_none());
    if let Some(program) = components::missing()?.or(absent) {
        drop(writeln!(
            std::io::stderr(),
            "SKIPPED charts_on_apiserver: no {program} (make lab-up brings it)"
        ));
        return Ok(());
    }
    let server = Apiserver::start(&components::folder()?)?;
    server.kubectl(&["create", "namespace", "shop"])?;
    server.kubectl(&[
        "create",
        "clusterrolebinding",
        "alice",
        "--clusterrole=cluster-admin",
        "--user=alice",
    ])?;
    the_ceiling_follows_the_values(&server).context("the Ceiling")?;
    the_agent_may_only_this(&server).context("the agent's rights")?;
    authors_cannot_be_forged(&server).context("authors")?;
    the_agent_touches_no_pod_but_as_agreed(&server).context("the agent")?;
    secrets_are_made_once(&server).context("Secrets")
}

fn the_ceiling_follows_the_values(server: &Apiserver) -> Result<()> {
    let chart = chart("member");
    let spec = || server.kubectl(&["get", "ceiling", "default", "-o", "jsonpath={.spec}"]);
    let with = |verb: &str, values: &str| server.helm(&[verb, "m", &chart, "--set", values]);
    // In one go on a cluster that has never heard of these kinds.
    server.helm(&[
        "install",
        "m",
        &chart,
        "--wait=false",
        "--create-namespace",
        "--set",
        &format!("{CEILING}=5"),
    ])?;
    assert_eq!(spec()?, r#"{"kinds":["pod.kill"],"maxTargets":5,"namespaces":["shop"]}"#);
    server.helm(&["upgrade", "m", &chart, "--set", &format!("{CEILING}=7")])?;
    assert!(spec()?.contains(r#""maxTargets":7"#), "an upgrade that only tightens counts");
    server.helm(&["rollback", "m", "1"])?;
    assert!(spec()?.contains(r#""maxTargets":5"#));
    server.helm(&["upgrade", "m", &chart, "--reset-values"])?;
    assert_eq!(spec()?, "{}", "a ceiling taken out of the values is taken out of the cluster");
    refused(server.kubectl(&["-n", "shop", "get", "role", "faultline-agent-targets"]), "not found")?;
    refused(with("upgrade", "ceiling.namespaces={gone},ceiling.kinds={pod.kill}"), "gone")?;
    server.helm(&["upgrade", "m", &chart, "--reset-values", "--set", &format!("{CEILING}=5")])?;
    Ok(())
}

fn the_agent_may_only_this(server: &Apiserver) -> Result<()> {
    let agent = ["--as", AGENT, "auth", "can-i"];
    for (verb, resource, scope, answer) in [
        ("get", "ceilings", "-A", "yes"),
        ("patch", "ceilings", "-A", "no"),
        ("create", "runs", "-A", "no"),
        ("delete", "pods", "--namespace=shop", "yes"),
        ("delete", "pods", "--namespace=default", "no"),
        ("list", "secrets", "--namespace=faultline", "no"),
        ("get", "secrets/faultline-agent-identity", "--namespace=faultline", "yes"),
        ("get", "secrets/faultline-admin-token", "--namespace=faultline", "no"),
    ] {
        // Its exit code is 1 for "no".
        let said = server.kubectl_output(&[&agent[..], &[verb, resource, scope]].concat(), "")?.stdout;
        let said = String::from_utf8(said)?;
        assert_eq!(said.trim(), answer, "{verb} {resource} {scope}");
    }
    Ok(())
}

fn authors_cannot_be_forged(server: &Apiserver) -> Result<()> {
    let experiment = |author: &str, hypothesis: &str| {
        format!(
            "apiVersion: faultline.dev/v1alpha1\nkind: Experiment\nmetadata:\n  name: e\n  namespace: shop\n  \
             annotations: {{ faultline.dev/author: {author} }}\nspec:\n  hypothesis: {hypothesis}\n  \
             targets: [{{ name: t, pods: {{ labelSelector: {{ matchLabels: {{ app: web }} }} }}, atMost: {{ perCluster: 1, total: 1 }} }}]\n  \
             faults: [{{ name: f, target: t, at: 0s, for: 5s, container: {{ pause: {{}} }} }}]\n"
        )
    };
    let apply =
        |user: &str, manifest: &str| server.kubectl_with(&["--user", user, "apply", "-f", "-"], manifest);
    // An apiserver takes a new policy up within a second or two.
    let dry = ["--user", "alice", "create", "--dry-run=server", "-f", "-"];
    let forged = || server.kubectl_with(&dry, &experiment("root", "none"));
    wait::wait_for("the policy on authors", SHORT, || refused(forged(), "must be alice"))?;
    refused(apply("alice", &experiment("root", "one")), "must be alice")?;
    apply("alice", &experiment("alice", "one"))?;
    refused(apply("root", &experiment("alice", "two")), "must be root")?;
    let annotate = ["annotate", "--overwrite", "-n", "shop", "experiment/e", "faultline.dev/author=bob"];
    refused(server.kubectl(&annotate), "must be root")?;
    // What controllers do: labels and status, under somebody else's name.
    server.kubectl(&["label", "-n", "shop", "experiment/e", "seen=yes"])?;
    let seen = server.kubectl(&["get", "-n", "shop", "experiment/e", "-o", "json"])?;
    let mut seen: serde_json::Value = serde_json::from_str(&seen)?;
    seen["status"] = serde_json::json!({ "phase": "Planning" });
    let status = "/apis/faultline.dev/v1alpha1/namespaces/shop/experiments/e/status";
    server.kubectl_with(&["replace", "--raw", status, "-f", "-"], &seen.to_string())?;
    apply("root", &experiment("root", "two"))?;
    server.kubectl(&["--user", "alice", "delete", "-n", "shop", "experiment/e"])?;
    Ok(())
}

fn the_agent_touches_no_pod_but_as_agreed(server: &Apiserver) -> Result<()> {
    let pod = |namespace: &str, name: &str, component: &str| {
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  \
             labels: {{ app.kubernetes.io/component: {component} }}\nspec: {{ containers: [{{ name: a, image: x }}] }}\n"
        );
        server.kubectl_with(&["create", "-f", "-"], &manifest)
    };
    pod("faultline", "an-agent", "agent")?;
    pod("faultline", "a-daemon", "node")?;
    pod("shop", "a-target", "web")?;
    pod("kube-system", "dns", "dns")?;
    let agent = |args: &[&str]| server.kubectl(&[&["--as", AGENT], args].concat());
    agent(&["label", "-n", "faultline", "pod/an-agent", "faultline.dev/active=true"])?;

    let own = "may only label its own pods";
    let foreign = ["label", "--dry-run=server", "-n", "faultline", "pod/a-daemon", "seen=yes"];
    wait::wait_for("the policy on the agent", SHORT, || refused(agent(&foreign), own))?;
    refused(agent(&["label", "-n", "faultline", "pod/a-daemon", "faultline.dev/active=true"]), own)?;
    refused(
        agent(&[
            "label",
            "-n",
            "faultline",
            "--overwrite",
            "pod/an-agent",
            "app.kubernetes.io/component=node",
        ]),
        own,
    )?;
    let image = r#"[{"op":"replace","path":"/spec/containers/0/image","value":"evil"}]"#;
    for name in ["pod/an-agent", "pod/a-daemon"] {
        refused(agent(&["patch", "-n", "faultline", name, "--type=json", "-p", image]), own)?;
    }
    let chart = chart("member");
    server.helm(&[
        "upgrade",
        "m",
        &chart,
        "--reset-values",
        "--set",
        "ceiling.namespaces={*},ceiling.kinds={*}",
    ])?;
    let delete = |namespace: &str, name: &str| agent(&["delete", "-n", namespace, name, "--wait=false"]);
    wait::wait_for("the wider Role", SHORT, || delete("shop", "pod/a-target"))?;
    refused(delete("kube-system", "pod/dns"), "are protected")?;
    refused(delete("faultline", "pod/a-daemon"), "are protected")
}

fn secrets_are_made_once(server: &Apiserver) -> Result<()> {
    let chart = chart("control-plane");
    let made = || {
        server.kubectl(&[
            "-n",
            "faultline",
            "get",
            "secret",
            "faultline-kek",
            "faultline-admin-token",
            "-o",
            "jsonpath={.items[*].data}",
        ])
    };
    server.helm(&["install", "cp", &chart])?;
    let first = made()?;
    ensure!(first.contains("kek") && first.contains("token"), "{first}");
    server.helm(&["upgrade", "cp", &chart])?;
    assert_eq!(made()?, first, "an upgrade makes no new key");
    server.helm(&["uninstall", "cp"])?;
    server.helm(&["install", "cp", &chart])?;
    assert_eq!(made()?, first, "nor does a new install over a kept one");
    Ok(())
}
