//! The lab itself, tried as the scenarios use it: both clusters, traffic between
//! them, names, helm, the hub's etcd, signals to pods, and that nothing is left
//! afterwards, also when bringing it up was cut short.
//!
//! Needs root, the tools that `lab doctor` lists and `FAULTLINE_LAB=1`.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::lab::cluster::{Cluster, Pod};
use e2e::lab::layout::{CLUSTERS, Folder};
use e2e::lab::probe::{Vantage, http_get, http_latency_ms, median_ms, tcp_connect};
use e2e::lab::process::{self, Process};
use e2e::lab::wait::wait_for;
use e2e::lab::{Lab, down, images, say, take_down};
use nix::sys::signal::Signal;

/// The machine holds one lab at a time.
static ONE: Mutex<()> = Mutex::new(());

const WAIT: Duration = Duration::from_mins(5);
const REPLY: Duration = Duration::from_secs(10);

fn enabled() -> bool {
    let wanted = std::env::var_os("FAULTLINE_LAB").is_some_and(|value| value == "1");
    let root = nix::unistd::geteuid().is_root();
    if !(wanted && root) {
        say("lab_smoke", format_args!("SKIPPED: needs root and FAULTLINE_LAB=1"));
    }
    wanted && root
}

fn victim(cluster: &Cluster, node: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: web-{node}, labels: {{app: web, cluster: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers:
  - {{name: app, image: \"{image}\", imagePullPolicy: Never, ports: [{{containerPort: 8080}}]}}
---
",
        name = cluster.name,
        image = images::VICTIM_IMAGE
    )
}

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

fn url(pod: &Pod) -> String {
    format!("http://{}:8080/", pod.address)
}

#[test]
fn the_lab_does_what_scenarios_need_and_leaves_nothing() -> Result<(), Box<dyn Error>> {
    if !enabled() {
        return Ok(());
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let memory = available_mib();
    let started = Instant::now();
    let lab = Lab::up_fresh()?;
    let guard = lab.guard();
    say("lab_smoke", format_args!("up took {:.1} s", started.elapsed().as_secs_f64()));
    let started = Instant::now();
    Lab::up_or_reuse()?;
    say("lab_smoke", format_args!("reuse took {:.2} s", started.elapsed().as_secs_f64()));

    let done = exercise(&lab);
    say(
        "lab_smoke",
        format_args!("memory in use by the lab: {} MiB", memory.saturating_sub(available_mib())),
    );
    if let Err(error) = done {
        panic!("{error:#}");
    }
    drop(guard);
    let folder = lab.folder().clone();
    let strays = leave_strays(&lab)?;
    let started = Instant::now();
    lab.down()?;
    say("lab_smoke", format_args!("down took {:.1} s", started.elapsed().as_secs_f64()));
    assert!(!strays.iter().any(Process::alive), "a stray survived: {strays:?}");
    assert_clean(&folder)?;
    Ok(())
}

fn exercise(lab: &Lab) -> Result<()> {
    for cluster in lab.clusters() {
        let pods: String = cluster.nodes.iter().map(|node| victim(cluster, node.name())).collect();
        cluster.apply(&format!("{pods}{SERVICE}"))?;
    }
    let one = lab.c1.ready_pods("default", "app=web", 1, WAIT)?;
    let two = lab.c2.ready_pods("default", "app=web", 2, WAIT)?;
    traffic(lab, &one[0], &two)?;
    signals(&lab.c2, &two[1])?;
    node_tools(&lab.c2)?;
    helm(&lab.c1)?;
    hub(lab, &one[0])
}

/// Pods reach pods of the other cluster, and Services by name.
fn traffic(lab: &Lab, one: &Pod, two: &[Pod]) -> Result<()> {
    let from_pod = lab.c1.vantage(one)?;
    for target in two {
        for from in [&Vantage::Host, &from_pod] {
            let samples: Result<Vec<f64>> =
                (0..20).map(|_| http_latency_ms(from, &url(target), REPLY)).collect();
            let median = median_ms(samples?).context("20 samples")?;
            say("lab_smoke", format_args!("{from:?} -> {}: median {median:.2} ms", target.name));
            ensure!(median < 500.0, "{median} ms");
        }
        let said = lab.c1.kubectl_ok(&["exec", &one.name, "--", "wget", "-qO-", &url(target)])?;
        ensure!(said == "ok\n", "a pod of c1 read {said:?}");
    }
    for (cluster, pods) in [(&lab.c1, std::slice::from_ref(one)), (&lab.c2, two)] {
        for pod in pods {
            for name in ["web", "web.default.svc.cluster.local"] {
                let url = format!("http://{name}/");
                cluster.wait_for(&format!("{name} to answer {}", pod.name), WAIT, || {
                    let said = cluster.kubectl_ok(&["exec", &pod.name, "--", "wget", "-qO-", &url])?;
                    ensure!(said == "ok\n", "read {said:?}");
                    Ok(())
                })?;
            }
        }
    }
    // Nothing of the lab has a way out of the machine.
    let outside: SocketAddr = "192.0.2.1:80".parse()?;
    ensure!(tcp_connect(&from_pod, outside, REPLY).is_err(), "a pod reached {outside}");
    Ok(())
}

/// A stopped pod is silent to the outside, a killed one comes back.
fn signals(cluster: &Cluster, pod: &Pod) -> Result<()> {
    let main = cluster.signal(pod, Some("app"), Signal::SIGSTOP)?;
    ensure!(main.command_line().contains("httpd"), "{}", main.command_line());
    ensure!(http_get(&Vantage::Host, &url(pod), Duration::from_secs(1)).is_err(), "a stopped pod answered");
    cluster.signal(pod, None, Signal::SIGCONT)?;
    http_get(&Vantage::Host, &url(pod), REPLY)?;
    cluster.signal(pod, None, Signal::SIGKILL)?;
    cluster.wait_for("the container to be restarted", WAIT, || {
        let now = cluster.pod(&pod.namespace, &pod.name)?;
        ensure!(now.ready && now.containers[0].2 == 1, "{now:?}");
        http_get(&Vantage::Host, &url(&now), REPLY)
    })?;
    Ok(())
}

/// The product's base image has its tools, works on the node's namespaces, and
/// what a pod writes to its node stays on that node.
fn node_tools(cluster: &Cluster) -> Result<()> {
    let base = images::base()?;
    cluster.load_image(&base)?;
    let script = "set -e; nft list ruleset > /dev/null; iptables -t nat -S | grep -q KUBE-SERVICES; \
                  ip link show cni0; test -S /run/containerd/containerd.sock; test -s /etc/ssl/certs/ca-certificates.crt; \
                  echo $NODE > /var/lib/faultline/node; busybox sleep 3600";
    let pods = format!(
        "apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: tools}}
spec:
  selector: {{matchLabels: {{app: tools}}}}
  template:
    metadata: {{labels: {{app: tools}}}}
    spec:
      hostNetwork: true
      hostPID: true
      terminationGracePeriodSeconds: 1
      containers:
      - name: tools
        image: \"{}\"
        imagePullPolicy: Never
        command: [\"/bin/sh\", \"-c\", \"{script}\"]
        securityContext: {{privileged: true}}
        env: [{{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}]
        volumeMounts:
        - {{name: run, mountPath: /run/containerd}}
        - {{name: state, mountPath: /var/lib/faultline}}
      volumes:
      - {{name: run, hostPath: {{path: /run/containerd}}}}
      - {{name: state, hostPath: {{path: /var/lib/faultline, type: DirectoryOrCreate}}}}
",
        base.reference()
    );
    cluster.apply(&pods)?;
    let ready = cluster.ready_pods("default", "app=tools", cluster.nodes.len(), WAIT)?;
    for node in &cluster.nodes {
        let path = node.path("/var/lib/faultline/node");
        // Made first, filled after.
        wait_for(&path.display().to_string(), WAIT, || {
            let written = fs::read_to_string(&path)?;
            ensure!(written.trim() == node.name(), "it says {written}");
            Ok(())
        })?;
        ensure!(node.processes("busybox sleep 3600").len() == 1, "the daemon on {}", node.name());
    }
    ensure!(ready.iter().all(|pod| pod.containers[0].2 == 0), "a tool is missing: {ready:?}");
    Ok(())
}

fn helm(cluster: &Cluster) -> Result<()> {
    let version = cluster.helm(&["version", "--short"])?;
    ensure!(version.success() && version.stdout.starts_with("v3."), "{version:?}");
    let chart = cluster.kubeconfig.with_extension("chart");
    fs::create_dir_all(chart.join("templates"))?;
    fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: probe\nversion: 0.1.0\n")?;
    let template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}-probe}\n";
    fs::write(chart.join("templates/config.yaml"), template)?;
    let chart = chart.to_string_lossy();
    let rendered = cluster.helm(&["template", "r1", &chart])?;
    ensure!(rendered.stdout.contains("name: r1-probe"), "{rendered:?}");
    let installed = cluster.helm(&["install", "r1", &chart, "--namespace", "probe", "--create-namespace"])?;
    ensure!(installed.success(), "{installed:?}");
    cluster.get(&["configmap", "r1-probe", "-n", "probe"])?;
    Ok(())
}

/// The hub's etcd answers pods, and keeps its data over a kill.
fn hub(lab: &Lab, pod: &Pod) -> Result<()> {
    let hub = &lab.hub_etcd;
    hub.put("lab/probe", "kept")?;
    hub.kill()?;
    let address: SocketAddr = "10.88.0.1:2379".parse()?;
    let from = lab.c1.vantage(pod)?;
    ensure!(tcp_connect(&from, address, REPLY).is_err(), "a killed etcd took a connection");
    hub.start()?;
    tcp_connect(&from, address, REPLY)?;
    ensure!(hub.dump("lab/")? == "lab/probe\nkept\n", "{:?}", hub.dump("lab/"));
    hub.restart()?;
    lab.check()
}

/// What killed daemons may leave behind: a process in a node's namespaces with
/// neither record, mark nor node cgroup, one whose pod is gone, and a frozen pod.
fn leave_strays(lab: &Lab) -> Result<Vec<Process>> {
    let node = &lab.c2.nodes[1];
    let in_node = node.command("sleep").arg("86400").stdin(Stdio::null()).spawn()?;

    let daemon = &lab.c2.ready_pods("default", "app=tools", 2, WAIT)?[0];
    let main = &lab.c2.container_processes(daemon, None)?[0];
    let mut orphan = Command::new("nsenter");
    orphan.arg(format!("--target={}", main.pid)).args(["--mount", "/bin/busybox", "sleep", "86400"]);
    let orphan = orphan.stdin(Stdio::null()).spawn()?;
    let mut strays = Vec::new();
    for child in [in_node, orphan] {
        let stray = Process::find("stray", i32::try_from(child.id())?).context("the stray runs")?;
        wait_for("the stray to be inside", WAIT, || {
            ensure!(!stray.command_line().starts_with("nsenter"), "{}", stray.command_line());
            Ok(())
        })?;
        strays.push(stray);
    }
    lab.c2.kubectl_ok(&["delete", "daemonset", "tools", "--wait"])?;
    lab.c2.ready_pods("default", "app=tools", 0, WAIT)?;
    ensure!(strays.iter().all(Process::alive), "a stray died with the pod");

    let pod = &lab.c2.ready_pods("default", "app=web", 2, WAIT)?[0];
    let main = &lab.c2.container_processes(pod, None)?[0];
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", main.pid))?;
    let mut lines = cgroups.lines();
    if let Some((_, path)) = lines.find_map(|line| line.split_once(":freezer:")) {
        fs::write(format!("/sys/fs/cgroup/freezer{path}/freezer.state"), "FROZEN")?;
    }
    Ok(strays)
}

/// Looks for what is left without asking the tear-down's own list.
fn assert_clean(folder: &Folder) -> Result<()> {
    assert_eq!(down::leftovers(folder), Vec::<String>::new());
    let root = folder.root().to_string_lossy().into_owned();
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    assert!(!mounts.contains(&root), "{mounts}");
    assert!(!mounts.contains("cni-"), "{mounts}");
    for node in CLUSTERS.iter().flat_map(|cluster| cluster.nodes) {
        assert!(!node.netns_path().exists(), "{}", node.netns);
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup")?.flatten() {
        let Ok(entries) = fs::read_dir(hierarchy.path()) else {
            continue;
        };
        for entry in entries.flatten() {
            assert!(!entry.file_name().to_string_lossy().starts_with("fl-"), "{}", entry.path().display());
        }
    }
    for link in fs::read_dir("/sys/class/net")?.flatten() {
        assert!(!link.file_name().to_string_lossy().starts_with("fl-"), "{link:?}");
    }
    let routes = Command::new("ip").args(["route"]).output()?;
    let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
    assert!(!routes.contains("10.9") && !routes.contains("10.88"), "{routes}");
    let names =
        ["kubelet", "kube-proxy", "kube-scheduler", "containerd", "containerd-shim-runc-v2", "coredns"];
    for each in process::all() {
        let line = each.command_line();
        assert!(!line.contains(&root), "{line}");
        let program = line.split(' ').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        assert!(!names.contains(&program), "{line}");
    }
    Ok(())
}

fn available_mib() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// `lab up`, cut short by `signal` once it has started some processes.
fn cut_short(folder: &Folder, signal: Signal) -> Result<i32> {
    let mut child =
        Command::new(env!("CARGO_BIN_EXE_lab")).args(["up", "--fresh"]).stdout(Stdio::null()).spawn()?;
    let own = Process::find("lab up", i32::try_from(child.id())?).context("lab up runs")?;
    wait_for("some processes of the lab", WAIT, || {
        let text = fs::read_to_string(folder.record())?;
        let count = text.matches("start_ticks").count();
        if count < 8 {
            bail!("{count} processes");
        }
        Ok(())
    })?;
    ensure!(own.signal(signal)?, "lab up was over before the signal");
    Ok(child.wait()?.code().unwrap_or(-1))
}

#[test]
fn a_bring_up_cut_short_leaves_nothing() -> Result<(), Box<dyn Error>> {
    if !enabled() {
        return Ok(());
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Folder::from_env()?;
    take_down()?;

    // Asked to stop: cleans up itself, and says it failed.
    assert_eq!(cut_short(&folder, Signal::SIGTERM)?, 1);
    assert_clean(&folder)?;

    // Killed: the next tear-down finds everything, also without the record.
    assert_eq!(cut_short(&folder, Signal::SIGKILL)?, -1);
    assert!(!down::leftovers(&folder).is_empty());
    fs::File::create(folder.record())?.write_all(b"torn")?;
    take_down()?;
    assert_clean(&folder)?;
    Ok(())
}
