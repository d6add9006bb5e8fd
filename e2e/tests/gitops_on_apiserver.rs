//! Tools that keep a cluster as their manifests say, against a whole Faultline: an apiserver, a centre and an agent
//! (with the chart's rights, without node daemons). Re-applying runs nothing twice and shows no difference; a
//! restored backup runs nothing. Needs no root; skipped where the lab's programs or the binary are not built.

#[path = "on_apiserver/server.rs"]
mod server;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::lab::wait;
use serde_json::Value;

use self::server::{Apiserver, chart, succeeded};

const LONG: Duration = Duration::from_mins(2);
const CEILING: &str = r#"ceiling={"from":[{"clusters":{"names":["c1"]},"namespaces":["shop"]}],"namespaces":["shop"],"kinds":["pod.kill"],"maxTargets":5}"#;
const EXPERIMENT: &str = "
apiVersion: faultline.dev/v1alpha1
kind: Experiment
metadata: { name: kill, namespace: shop, labels: { team: a } }
spec:
  hypothesis: A killed pod is replaced.
  clusters: { names: [c1] }
  targets:
    - { name: web, pods: { namespaces: [shop], labelSelector: { matchLabels: { app: web } } }, pick: { one: true }, atMost: { perCluster: 1, total: 1 } }
  faults:
    - { name: gone, target: web, at: 0s, pod: { kill: {} } }
";
const RUN: &str = "
apiVersion: faultline.dev/v1alpha1
kind: Run
metadata: { name: kill-1, namespace: shop, labels: { team: a } }
spec: { experimentRef: { name: kill } }
";

/// A centre and the agent of c1, beside an apiserver.
struct Whole {
    api: Apiserver,
    binary: PathBuf,
}

impl Whole {
    fn start(mut api: Apiserver, binary: PathBuf) -> Result<Self> {
        let file = |name: &str, text: &str| -> Result<String> {
            let path = api.folder.join(name);
            fs::write(&path, text)?;
            Ok(path.display().to_string())
        };
        let (kek, admin) =
            (file("kek", "0123456789abcdef0123456789abcdef")?, file("admin", "admin-token-of-this-test")?);
        let data = api.folder.join("centre").display().to_string();
        fs::create_dir_all(&data)?;
        let home = api.home.clone();
        let local = |port: u16| format!("{home}:{port}");
        let [rest, link, enrol, health] = [17443, 17444, 17445, 17446].map(local);
        let flags = [
            ("--data-dir", data),
            ("--rest-addr", rest.clone()),
            ("--link-addr", link.clone()),
            ("--enrol-addr", enrol.clone()),
            ("--health-addr", health),
            ("--advertise", home.clone()),
            ("--link-advertise", link),
            ("--enrol-advertise", enrol),
            ("--kek-file", kek),
            ("--admin-token-file", admin.clone()),
        ];
        let serve = ["serve".to_owned(), "control-plane".to_owned()];
        api.spawn(&binary, &[&serve[..], &flags.map(|(flag, value)| format!("{flag}={value}"))].concat())?;
        let log = api.folder.join("faultline.log");
        let pin = wait::wait_for("the centre's pin", LONG, || {
            let log = fs::read_to_string(&log)?;
            let at = log.find("sha256/").context("no pin yet")?;
            let pin = log[at..].split(|c: char| c.is_whitespace() || c == '"').next().unwrap_or_default();
            Ok(pin.to_owned())
        })?;
        let mut whole = Self { api, binary };
        let server = format!("https://{rest}");
        let login = ["login", &server, "--name", "it", "--pin", &pin, "--token-file", &admin];
        wait::wait_for("the centre", LONG, || whole.cli(&login))?;
        whole.member()?;
        Ok(whole)
    }

    /// The member chart without node daemons, and an agent as that chart's service account.
    fn member(&mut self) -> Result<()> {
        let [nodes, health] = [17447, 17448].map(|port| format!("{}:{port}", self.api.home));
        self.api.kubectl(&["create", "namespace", "shop"])?;
        let install =
            ["install", "m", &chart("member"), "--wait=false", "--create-namespace", "--set-json", CEILING];
        self.api.helm(&[&install[..], &["--set", "nodes.enabled=false"]].concat())?;
        let token = self.cli(&["clusters", "invite", "c1", "--auto-accept"])?;
        let join = self.api.folder.join("join");
        fs::write(&join, token.trim())?;
        let account =
            self.api.kubectl(&["-n", "faultline", "create", "token", "faultline-agent", "--duration=2h"])?;
        let kubeconfig = fs::read_to_string(self.api.folder.join("kubeconfig"))?;
        let as_agent = kubeconfig.replace("root-token", account.trim());
        fs::write(self.api.folder.join("agent-kubeconfig"), as_agent)?;
        // A pod that it can label as the active one.
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: agent-0, namespace: faultline, labels: {app.kubernetes.io/component: agent}}, \
                    spec: {containers: [{name: a, image: x}]}}";
        self.api.kubectl_with(&["create", "-f", "-"], pod)?;
        let environment = format!("KUBECONFIG={}", self.api.folder.join("agent-kubeconfig").display());
        let flags = [
            environment,
            self.binary.display().to_string(),
            "serve".to_owned(),
            "agent".to_owned(),
            format!("--join-token-file={}", join.display()),
            "--namespace=faultline".to_owned(),
            "--pod-name=agent-0".to_owned(),
            format!("--node-link-addr={nodes}"),
            "--node-service=localhost".to_owned(),
            format!("--health-addr={health}"),
            "--no-node-daemons".to_owned(),
        ];
        self.api.spawn(Path::new("/usr/bin/env"), &flags)?;
        wait::wait_for("c1 to be connected", LONG, || {
            let view: Value = serde_json::from_str(&self.cli(&["get", "clusters", "c1", "-o", "json"])?)?;
            let inventory = &view["status"]["inventory"];
            let ready = view["state"] == "Connected" && inventory["hasCeiling"] == true;
            ensure!(ready && inventory["apiFaultsOnly"] == true, "{view}");
            Ok(())
        })
    }

    fn cli(&self, args: &[&str]) -> Result<String> {
        let mut faultline = Command::new(&self.binary);
        faultline.env("FAULTLINE_CONFIG", self.api.folder.join("contexts.json"));
        succeeded(&faultline.args(args).output()?)
    }

    /// A pod that a target matches.
    fn pod(&self, name: &str) -> Result<()> {
        let pod = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, labels: {{app: web}}}}, \
             spec: {{containers: [{{name: a, image: x}}]}}}}"
        );
        self.api.kubectl_with(&["create", "-f", "-"], &pod)?;
        let running = r#"{"status":{"phase":"Running"}}"#;
        let patch =
            ["patch", "-n", "shop", "pod", name, "--subresource=status", "--type=merge", "-p", running];
        self.api.kubectl(&patch).map(drop)
    }

    fn status(&self) -> Result<Value> {
        let run = self.api.kubectl(&["get", "-n", "shop", "run/kill-1", "-o", "json"])?;
        Ok(serde_json::from_str::<Value>(&run)?["status"].clone())
    }

    fn apply(&self, server_side: bool) -> Result<()> {
        let manifest = format!("{EXPERIMENT}---{RUN}");
        let how: &[&str] =
            if server_side { &["--server-side", "--force-conflicts", "--field-manager=gitops"] } else { &[] };
        self.api.kubectl_with(&[&["apply", "-f", "-"], how].concat(), &manifest).map(drop)
    }

    fn runs(&self) -> Result<usize> {
        let runs: Value = serde_json::from_str(&self.cli(&["get", "runs", "-o", "json"])?)?;
        runs.as_array().map(Vec::len).context("a list of runs")
    }
}

/// `FAULTLINE_BIN`, or what cargo built last; `None`, with a word, where it was not.
fn binary_or_skip(test: &str) -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../debug/faultline");
    let found = std::env::var_os("FAULTLINE_BIN").map_or(built, PathBuf::from);
    if found.is_file() {
        return Some(found);
    }
    drop(writeln!(std::io::stderr(), "SKIPPED {test}: no {} (cargo build -p cli)", found.display()));
    None
}

#[test]
fn re_applied_and_restored_objects_run_nothing_twice() -> Result<()> {
    let test = "gitops_on_apiserver";
    let Some(binary) = binary_or_skip(test) else { return Ok(()) };
    let Some(api) = Apiserver::start_or_skip(test)? else { return Ok(()) };
    let whole = Whole::start(api, binary)?;
    whole.pod("web-1")?;
    a_loop_runs_it_once_and_sees_no_difference(&whole).context("an apply loop")?;
    a_restored_backup_runs_nothing(&whole).context("a restored backup")
}

fn a_loop_runs_it_once_and_sees_no_difference(whole: &Whole) -> Result<()> {
    let mut turn = 0;
    let complete = wait::wait_for("the run to complete", LONG, || {
        whole.apply(turn % 2 == 0)?;
        turn += 1;
        let status = whole.status()?;
        let done = status["phase"] == "Finished";
        ensure!(done, "{status}");
        Ok(status)
    })?;
    assert_eq!(complete["outcome"], "Completed", "{complete}");
    let gone = whole.api.kubectl(&["get", "-n", "shop", "pods", "-o", "name"])?;
    assert_eq!(gone, "", "it ran: the pod was killed");

    // Somebody replaces the pod, and the tool goes on for some seconds.
    whole.pod("web-2")?;
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        whole.apply(turn % 2 == 0)?;
        turn += 1;
    }
    let diff = whole.api.kubectl_output(
        &["diff", "--server-side", "--force-conflicts", "--field-manager=gitops", "-f", "-"],
        &format!("{EXPERIMENT}---{RUN}"),
    )?;
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
    let diff = whole.api.kubectl_output(&["diff", "-f", "-"], &format!("{EXPERIMENT}---{RUN}"))?;
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
    assert_eq!(whole.status()?, complete, "a finished status stays as it is");
    assert_eq!(whole.runs()?, 1);
    whole.api.kubectl(&["get", "-n", "shop", "pod/web-2"])?;

    let reasons = [
        "get",
        "events",
        "-n",
        "shop",
        "-o",
        "jsonpath={range .items[*]}{.involvedObject.name}/{.reason} {end}",
    ];
    wait::wait_for("events", LONG, || {
        let told = whole.api.kubectl(&reasons)?;
        for word in ["kill-1/Accepted", "kill-1/Planned", "kill-1/Complete", "web-1/"] {
            ensure!(told.split(' ').filter(|said| said.starts_with(word)).count() >= 1, "{word} in {told}");
        }
        for word in told.split_whitespace() {
            assert_eq!(
                told.split_whitespace().filter(|other| other == &word).count(),
                1,
                "{word} twice: {told}"
            );
        }
        Ok(())
    })
}

fn a_restored_backup_runs_nothing(whole: &Whole) -> Result<()> {
    let both = ["-n", "shop", "runs.faultline.dev,experiments.faultline.dev"];
    let backup = whole.api.kubectl(&[&["get"], &both[..], &["-o", "json"]].concat())?;
    whole.api.kubectl(&[&["delete"], &both[..], &["--all", "--wait"]].concat())?;
    // As backup tools do it: status and identity stripped.
    let mut backup: Value = serde_json::from_str(&backup)?;
    let items = backup["items"].as_array_mut().context("a list")?;
    assert_eq!(items.len(), 2);
    for item in items {
        item.as_object_mut().context("an object")?.remove("status");
        let metadata = item["metadata"].as_object_mut().context("metadata")?;
        for field in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
            metadata.remove(field);
        }
    }
    whole.api.kubectl_with(&["create", "-f", "-"], &backup.to_string())?;
    let denied = wait::wait_for("the restored run to be denied", LONG, || {
        let status = whole.status()?;
        ensure!(status["outcome"] == "Denied", "{status}");
        Ok(status)
    })?;
    let conditions = denied["conditions"].as_array().context("conditions")?;
    let accepted = conditions.iter().find(|c| c["type"] == "Accepted").context("Accepted")?;
    assert_eq!(
        (&accepted["status"], &accepted["reason"]),
        (&"False".into(), &"AlreadyRan".into()),
        "{denied}"
    );
    whole.api.kubectl(&["get", "-n", "shop", "pod/web-2"])?;
    Ok(())
}
