//! Faultline itself on a lab that is up: image, charts, members, grants, and
//! the operator's command line. Used by the scenario tests and by `lab product`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::lab::cluster::Cluster;
use crate::lab::command::{self, Output};
use crate::lab::layout::HUB_ADDRESS;
use crate::lab::{Lab, images, say};

/// Namespace of all our own pods.
pub const NAMESPACE: &str = "faultline-system";
/// A namespace that the members let faults into, beside `shop`, and that a
/// scenario deletes.
pub const PASSING: &str = "passing";
/// Where people and agents reach the centre: a node port of the first cluster.
const REST_PORT: u16 = 30443;
/// Where agents dial the centre.
pub const LINK_PORT: u16 = 30444;
/// Where daemons dial their agent.
pub const NODE_LINK_PORT: u16 = 7446;
const ENROL_PORT: u16 = 30445;

const READY: Duration = Duration::from_mins(5);
const VERB: Duration = Duration::from_mins(5);

/// An installed Faultline and its operator.
#[derive(Debug, Clone)]
pub struct Product {
    /// The clusters.
    pub lab: Lab,
    binary: PathBuf,
    config: PathBuf,
}

impl Product {
    /// Installs both charts on both clusters from the repository's own build,
    /// or upgrades what is there, and waits until every part answers.
    pub fn install(lab: Lab) -> Result<Self> {
        let binary = binary()?;
        let config = lab.folder().of("operator").join("contexts.json");
        let product = Self { lab, binary, config };
        let image = images::product(&product.binary)?;
        product.lab.load_image(&image)?;
        say("product", format_args!("image loaded"));
        product.centre(1)?;
        product.login()?;
        say("product", format_args!("the centre answers"));
        thread::scope(|scope| -> Result<()> {
            let members = product.lab.clusters().map(|cluster| {
                let (product, mark) = (&product, image.key());
                scope.spawn(move || product.member(cluster, mark))
            });
            members
                .into_iter()
                .try_for_each(|member| member.join().map_err(|_| anyhow!("a thread ended badly"))?)
        })?;
        for cluster in product.lab.clusters() {
            product.wait_connected(cluster)?;
            say("product", format_args!("{} is connected", cluster.name));
        }
        Ok(product)
    }

    /// The operator's contexts file, for `FAULTLINE_CONFIG`.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Installs the control plane, or changes how many replicas it has, and
    /// waits for them.
    pub fn centre(&self, replicas: u32) -> Result<()> {
        let image = images::product(&self.binary)?;
        let (c1, hub) = (&self.lab.c1, &self.lab.hub_etcd);
        let file = |path: &Path| fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
        let secret = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "hub-etcd", "namespace": NAMESPACE },
            "stringData": {
                "ca.crt": file(&hub.ca)?, "tls.crt": file(&hub.client_cert)?, "tls.key": file(&hub.client_key)?,
            },
        });
        let namespace = serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE },
        });
        c1.apply(&format!("{namespace}\n---\n{secret}\n"))?;
        let node = c1.nodes[0].address();
        let values = serde_json::json!({
            "image": { "registry": "docker.io/faultline", "repository": "faultline", "tag": "lab", "pullPolicy": "Never" },
            "podAnnotations": { "image": image.key() },
            "replicas": replicas,
            "store": { "kind": "Etcd", "etcd": { "endpoints": [hub.endpoint], "tlsSecret": "hub-etcd" } },
            "advertise": {
                "names": [node, HUB_ADDRESS],
                "link": format!("{node}:{LINK_PORT}"), "enrol": format!("{node}:{ENROL_PORT}"),
            },
            "service": { "type": "NodePort", "nodePorts": { "rest": REST_PORT, "link": LINK_PORT, "enrol": ENROL_PORT } },
        });
        self.helm(c1, "faultline", "control-plane", &values)?;
        self.rollout(c1, "deploy/faultline-control-plane")
    }

    /// Installs a member, or upgrades it, and waits for it. Pods that carry
    /// another `mark` are replaced.
    pub fn member(&self, cluster: &Cluster, mark: &str) -> Result<()> {
        let known = self.cli(&["get", "clusters", cluster.name, "-o", "json"])?.success();
        let token = if known {
            String::new()
        } else {
            self.cli_ok(&["clusters", "invite", cluster.name, "--auto-accept", "--ttl", "1h"])?
                .trim()
                .to_owned()
        };
        let mut values = serde_json::json!({
            "image": { "registry": "docker.io/faultline", "repository": "faultline", "tag": "lab", "pullPolicy": "Never" },
            "agent": { "replicas": 1, "podDisruptionBudget": { "enabled": false }, "podAnnotations": { "mark": mark } },
            "nodes": { "podAnnotations": { "mark": mark } },
            "ceiling": {
                "from": [
                    { "central": true },
                    { "clusters": { "names": ["c1", "c2"] }, "namespaces": ["*"] },
                ],
                "namespaces": ["shop", PASSING], "kinds": ["*"], "maxTargets": 20, "maxDuration": "10m",
            },
        });
        if !token.is_empty() {
            values["join"] = serde_json::json!({ "token": token });
        }
        make_namespaces(cluster)?;
        self.helm(cluster, "faultline-member", "member", &values)?;
        self.rollout(cluster, "deploy/faultline-agent")?;
        self.rollout(cluster, "daemonset/faultline-node")
    }

    /// Upgrades a member so that its daemons are replaced and its agent is not, and waits for nothing.
    pub fn roll_daemons(&self, cluster: &Cluster, mark: &str) -> Result<()> {
        make_namespaces(cluster)?;
        let chart = charts().join("member");
        let mark = format!("nodes.podAnnotations.mark={mark}");
        let chart = chart.to_string_lossy();
        let upgrade =
            ["upgrade", "faultline-member", &chart, "-n", NAMESPACE, "--reuse-values", "--set", &mark];
        let output = cluster.helm(&upgrade)?;
        ensure!(output.success(), "roll the daemons of {}: {}{}", cluster.name, output.stdout, output.stderr);
        Ok(())
    }

    /// `helm upgrade --install`, values as a file.
    pub fn helm(&self, cluster: &Cluster, release: &str, chart: &str, values: &Value) -> Result<()> {
        let folder = self.lab.folder().of("operator");
        fs::create_dir_all(&folder)?;
        let file = folder.join(format!("{}-{chart}.json", cluster.name));
        fs::write(&file, values.to_string())?;
        let chart = charts().join(chart);
        let (chart, file) = (chart.to_string_lossy(), file.to_string_lossy());
        let output = cluster.helm(&[
            "upgrade",
            "--install",
            release,
            &chart,
            "--namespace",
            NAMESPACE,
            "--create-namespace",
            "--values",
            &file,
        ])?;
        ensure!(output.success(), "helm {release} in {}: {}{}", cluster.name, output.stdout, output.stderr);
        Ok(())
    }

    /// Waits until a workload's new pods are all available.
    pub fn rollout(&self, cluster: &Cluster, workload: &str) -> Result<()> {
        let timeout = format!("--timeout={}s", READY.as_secs());
        let args = ["rollout", "status", "-n", NAMESPACE, workload, &timeout];
        cluster.kubectl_ok(&args).map(drop)
    }

    fn login(&self) -> Result<()> {
        let c1 = &self.lab.c1;
        let secret = c1.get(&["secret", "faultline-admin-token", "-n", NAMESPACE])?;
        let token = secret["data"]["token"].as_str().context("the admin Secret has a token")?;
        let token = data_encoding::BASE64.decode(token.as_bytes())?;
        fs::write(self.token_file(), token)?;
        let server = format!("https://{}:{REST_PORT}", c1.nodes[0].address());
        self.login_at("default", &server).map(drop)
    }

    /// Logs in to one address of the centre, and gives the context's name. The
    /// current context stays as it was.
    pub fn login_at(&self, context: &str, server: &str) -> Result<String> {
        let c1 = &self.lab.c1;
        let pin = c1.wait_for("the centre to log its pin", READY, || {
            let log = c1.kubectl_ok(&["logs", "-n", NAMESPACE, "deploy/faultline-control-plane"])?;
            let at = log.find("sha256/").context("no pin in the log")?;
            let pin = log[at..].split(|c: char| c.is_whitespace() || c == '"').next().unwrap_or_default();
            Ok(pin.to_owned())
        })?;
        let token = self.token_file();
        let login =
            ["login", server, "--name", context, "--pin", &pin, "--token-file", &token.to_string_lossy()];
        c1.wait_for("the centre to answer", READY, || self.cli_ok(&login).map(drop))?;
        self.cli_ok(&["context", "default"])?;
        Ok(context.to_owned())
    }

    fn token_file(&self) -> PathBuf {
        self.lab.folder().of("operator").join("admin.token")
    }

    /// Waits until a member is connected, takes starts, and every node of it has a daemon.
    pub fn wait_connected(&self, cluster: &Cluster) -> Result<()> {
        cluster.wait_for("the member to be connected with all daemons", READY, || {
            let view: Value =
                serde_json::from_str(&self.cli_ok(&["get", "clusters", cluster.name, "-o", "json"])?)?;
            let inventory = &view["status"]["inventory"];
            let nodes = cluster.nodes.len() as u64;
            ensure!(
                view["state"] == "Connected"
                    && inventory["daemons"].as_u64() == Some(nodes)
                    && inventory["hasCeiling"] == true
                    && inventory["acceptsStarts"] == true,
                "{view}"
            );
            Ok(())
        })
    }

    /// Runs the operator's `faultline`; an exit code other than 0 is no error.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        let mut faultline = Command::new(&self.binary);
        faultline.env("FAULTLINE_CONFIG", &self.config).args(args);
        command::run(&mut faultline, VERB)
    }

    /// Runs it and gives its standard output; another exit code is an error.
    pub fn cli_ok(&self, args: &[&str]) -> Result<String> {
        let output = self.cli(args)?;
        ensure!(output.success(), "faultline {}: {}{}", args.join(" "), output.stdout, output.stderr);
        Ok(output.stdout)
    }

    /// The same with a document on standard input (`-f -`).
    pub fn cli_with(&self, args: &[&str], input: &str) -> Result<Output> {
        let mut faultline = Command::new(&self.binary);
        faultline.env("FAULTLINE_CONFIG", &self.config).args(args);
        command::run_with_input(&mut faultline, Some(input), VERB)
    }

    /// One run as the centre sees it.
    pub fn run(&self, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.cli_ok(&["get", "runs", name, "-o", "json"])?)?)
    }
}

/// Those that the Ceiling names; a scenario deletes one of them.
fn make_namespaces(cluster: &Cluster) -> Result<()> {
    ["shop", PASSING].iter().try_for_each(|name| {
        cluster.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}"))
    })
}

/// The repository's charts, or those at `FAULTLINE_CHARTS` to go with another
/// `FAULTLINE_BINARY`.
fn charts() -> PathBuf {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm");
    std::env::var_os("FAULTLINE_CHARTS").map_or_else(own, PathBuf::from)
}

/// The binary that this very build made, or `FAULTLINE_BINARY`.
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FAULTLINE_BINARY") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).map(|folder| folder.join("faultline")).find(|path| path.is_file());
    found.context("the faultline binary is not built: run `cargo build -p cli`")
}
