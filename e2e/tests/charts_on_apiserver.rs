//! The charts on a real apiserver (with an etcd, without any node): what Helm's
//! rendering cannot show. The Ceiling follows the values from the first install
//! on, Secrets are made once, and the admission policies hold the agent and the
//! authors to what they say. Needs no root; skipped where the lab's programs
//! are not built.

#[path = "on_apiserver/server.rs"]
mod server;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::lab::wait;

use self::server::{Apiserver, chart};

const SHORT: Duration = Duration::from_secs(30);
const AGENT: &str = "system:serviceaccount:faultline:faultline-agent";
const CEILING: &str = "ceiling.namespaces={shop},ceiling.kinds={pod.kill},ceiling.maxTargets";
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
    let Some(server) = Apiserver::start_or_skip("charts_on_apiserver")? else {
        return Ok(());
    };
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
    unknown_fields_are_kept_for_the_agent_to_refuse(&server).context("unknown fields")?;
    the_agent_touches_no_pod_but_as_agreed(&server).context("the agent")?;
    what_is_restricted_admits_all_but_the_daemon(&server).context("Pod Security")?;
    an_uninstall_has_the_rights_it_needs(&server).context("uninstall")?;
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
    let uid = || server.kubectl(&["get", "ceiling", "default", "-o", "jsonpath={.metadata.uid}"]);
    let first = uid()?;
    server.helm(&["upgrade", "m", &chart, "--set", &format!("{CEILING}=7")])?;
    assert!(spec()?.contains(r#""maxTargets":7"#), "an upgrade that only tightens counts");
    assert_eq!(uid()?, first, "it is the same object: there was no moment without it");
    let kept = server.helm(&["get", "manifest", "m"])?;
    assert!(kept.contains("kind: Ceiling"), "it is one of the release's objects: diffs show it");
    server.helm(&["upgrade", "m", &chart, "--set", &format!("{CEILING}=6")])?;
    server.helm(&["rollback", "m", "2"])?;
    assert!(spec()?.contains(r#""maxTargets":7"#));
    assert_eq!(uid()?, first, "nor does a rollback take it away");
    // What somebody edits in the cluster is set right by the next upgrade that changes it.
    let wider = r#"{"spec":{"maxTargets":50}}"#;
    server.kubectl(&["patch", "ceiling", "default", "--type=merge", "-p", wider])?;
    server.helm(&["upgrade", "m", &chart, "--set", &format!("{CEILING}=4")])?;
    assert!(spec()?.contains(r#""maxTargets":4"#));
    server.helm(&["rollback", "m", "1"])?;
    assert!(spec()?.contains(r#""maxTargets":5"#));
    assert_eq!(uid()?, first);
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
        ("list", "ceilings/default", "-A", "yes"),
        ("list", "ceilings", "-A", "no"),
        ("patch", "ceilings/default", "-A", "no"),
        ("patch", "runs", "-A", "no"),
        ("update", "runs", "-A", "no"),
        ("get", "events", "-A", "no"),
        ("patch", "faultrecords", "--namespace=faultline", "no"),
        ("patch", "leases/faultline-agent", "--namespace=faultline", "no"),
        ("create", "runs", "-A", "no"),
        ("delete", "pods", "--namespace=shop", "yes"),
        ("delete", "pods", "--namespace=default", "no"),
        ("list", "secrets", "--namespace=faultline", "no"),
        ("get", "secrets/faultline-agent-identity", "--namespace=faultline", "yes"),
        ("get", "secrets/faultline-admin-token", "--namespace=faultline", "no"),
    ] {
        // An apiserver hears of a Role a little after whoever made it.
        wait::wait_for(&format!("{verb} {resource} {scope}"), SHORT, || {
            // Its exit code is 1 for "no".
            let said = server.kubectl_output(&[&agent[..], &[verb, resource, scope]].concat(), "")?.stdout;
            let said = String::from_utf8(said)?;
            ensure!(said.trim() == answer, "it says {said}");
            Ok(())
        })?;
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
    // Taken off, it vouches for nobody, and cannot be put back in another's name.
    let bare = experiment("alice", "one")
        .replace("annotations: { faultline.dev/author: alice }", "labels: { a: b }");
    server.kubectl_with(&["replace", "--dry-run=server", "-f", "-"], &bare)?;
    let run = "apiVersion: faultline.dev/v1alpha1\nkind: Run\nmetadata: { name: forged, namespace: shop, annotations: \
               { faultline.dev/author: root } }\nspec: { experimentRef: { name: e } }\n";
    refused(apply("alice", run), "must be alice")?;
    let mine = run.replace("author: root", "author: alice");
    apply("alice", &mine)?;
    server.kubectl(&["delete", "-n", "shop", "run/forged"])?;
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

/// A client that validates nothing: the apiserver keeps what it does not know, and nothing is lost on the way to
/// who refuses it.
fn unknown_fields_are_kept_for_the_agent_to_refuse(server: &Apiserver) -> Result<()> {
    let run = "apiVersion: faultline.dev/v1alpha1\nkind: Run\nmetadata: { name: typo, namespace: shop }\n\
               spec: { experimentRef: { name: e }, notAftr: \"2026-12-01T10:00:00Z\" }\n";
    server.kubectl_with(&["create", "--validate=ignore", "-f", "-"], run)?;
    let kept = server.kubectl(&["get", "-n", "shop", "run/typo", "-o", "jsonpath={.spec.notAftr}"])?;
    assert_eq!(kept, "2026-12-01T10:00:00Z");
    server.kubectl(&["delete", "-n", "shop", "run/typo"])?;
    Ok(())
}

/// Every pod of the charts in a namespace that enforces the Pod Security level `restricted`: only the node daemon
/// is kept out, and it needs `privileged`.
fn what_is_restricted_admits_all_but_the_daemon(server: &Apiserver) -> Result<()> {
    for (name, level) in [("tight", "restricted"), ("open", "privileged")] {
        server.kubectl(&["create", "namespace", name])?;
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        server.kubectl(&["label", "namespace", name, &label])?;
    }
    let bare = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: tight}, spec: {containers: [{name: a, image: x}]}}";
    let dry = ["create", "--dry-run=server", "-f", "-"];
    wait::wait_for("the level to count", SHORT, || {
        refused(server.kubectl_with(&dry, bare), "violates PodSecurity \"restricted")
    })?;
    let mut pods = 0;
    for name in ["member", "control-plane"] {
        let rendered = server.helm(&["template", "x", &chart(name), "--kube-version", "1.34.0"])?;
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&rendered)?;
        for workload in documents.iter().filter(|document| !document["spec"]["template"]["spec"].is_null()) {
            let mut spec = workload["spec"]["template"]["spec"].clone();
            // It counts in some namespaces only, and is not what is asked about.
            spec.as_object_mut().context("a pod")?.remove("priorityClassName");
            let manifest = |namespace: &str| {
                serde_json::json!({ "apiVersion": "v1", "kind": "Pod", "spec": spec,
                    "metadata": { "name": "p", "namespace": namespace } })
            };
            let create = |namespace: &str| server.kubectl_with(&dry, &manifest(namespace).to_string());
            if workload["kind"] == "DaemonSet" {
                refused(create("tight"), "violates PodSecurity \"restricted")?;
            } else {
                create("tight").with_context(|| format!("{}", workload["metadata"]["name"]))?;
            }
            create("open")?;
            pods += 1;
        }
    }
    assert_eq!(pods, 5, "agent, daemon, two Jobs, control plane");
    Ok(())
}

/// The hooks' own rights, as helm would apply them before and after an uninstall.
fn an_uninstall_has_the_rights_it_needs(server: &Apiserver) -> Result<()> {
    let hooks = server.helm(&[
        "template",
        "m",
        &chart("member"),
        "-s",
        "templates/uninstall.yaml",
        "--kube-version",
        "1.34.0",
    ])?;
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&hooks)?;
    for object in documents.iter().filter(|object| object["kind"] != "Job") {
        server.kubectl_with(&["apply", "-f", "-"], &object.to_string())?;
    }
    let halt =
        "{apiVersion: faultline.dev/v1alpha1, kind: Halt, metadata: {name: faultline-uninstall}, spec: {}}";
    let who = ["--as", "system:serviceaccount:faultline:faultline-uninstall"];
    let job = |args: &[&str], manifest: &str| server.kubectl_with(&[&who, args].concat(), manifest);
    wait::wait_for("the hook's role", SHORT, || job(&["create", "-f", "-"], halt))?;
    job(&["get", "halt/faultline-uninstall"], "")?;
    job(&["delete", "halt/faultline-uninstall", "--wait=false"], "")?;
    for (verb, resource) in [
        ("list", "halts"),
        ("delete", "halts/other"),
        ("update", "halts/faultline-uninstall"),
        ("get", "secrets"),
        ("create", "pods"),
        ("delete", "ceilings/default"),
    ] {
        let said =
            server.kubectl_output(&[&who[..], &["auth", "can-i", verb, resource, "-A"]].concat(), "")?.stdout;
        assert_eq!(String::from_utf8(said)?.trim(), "no", "{verb} {resource}");
    }
    // Jobs need a controller, which is not here: the release's own objects go without the hooks.
    server.helm(&["uninstall", "m", "--no-hooks"])?;
    refused(server.kubectl(&["get", "ceiling", "default"]), "not found")?;
    server.kubectl(&["get", "crd", "experiments.faultline.dev"])?;
    server.helm(&["install", "m", &chart("member"), "--wait=false"])?;
    let spec = server.kubectl(&["get", "ceiling", "default", "-o", "jsonpath={.spec}"])?;
    assert_eq!(spec, "{}", "a new install over kept kinds");
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
    // Where the apiserver has not heard of that Role it refuses for want of a right.
    let dry = ["delete", "--dry-run=server", "-n", "kube-system", "pod/dns"];
    wait::wait_for("the wider Role elsewhere", SHORT, || refused(agent(&dry), "are protected"))?;
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
