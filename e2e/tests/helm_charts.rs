//! The charts, rendered by the real helm: compared with the files in
//! `helm_charts/`, and held to the promises that are about rights and
//! privilege. `UPDATE=1` writes those files anew.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const CENTRE: &str = "control-plane";
const MEMBER: &str = "member";
const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const CEILING: &str =
    "ceiling.from[0].central=true,ceiling.namespaces={shop,pay},ceiling.kinds={network.*,pod.kill}";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// `$FAULTLINE_HELM`, the one that the lab built, or the one on PATH.
fn helm() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FAULTLINE_HELM") {
        return Some(path.into());
    }
    let script = repository().join("e2e/lab/components.sh");
    let printed = Command::new(script).arg("--print").output().ok()?;
    let built = Path::new(String::from_utf8(printed.stdout).ok()?.trim()).join("helm");
    let on_path =
        std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join("helm")).collect();
    [vec![built], on_path].concat().into_iter().find(|file| file.is_file())
}

/// The helm to test with; says on the terminal that the test is skipped where
/// there is none (past the test harness, which would hide it).
fn helm_or_skip(test: &str) -> Option<PathBuf> {
    let found = helm();
    if found.is_none() {
        let message = format!("SKIPPED {test}: no helm (e2e/lab/components.sh builds one)");
        drop(writeln!(std::io::stderr(), "{message}"));
    }
    found
}

/// Renders a chart of a folder with `--set` for each of `values`.
fn template(helm: &Path, chart: &Path, values: &[&str]) -> Result<Output> {
    let mut command = Command::new(helm);
    command.args(["template", "faultline"]).arg(chart);
    command.args(["--namespace", "faultline", "--kube-version", "1.34.0"]);
    for value in values {
        command.args(["--set", value]);
    }
    command.output().with_context(|| format!("run {}", helm.display()))
}

fn text(helm: &Path, chart: &str, values: &[&str]) -> Result<String> {
    let out = template(helm, &repository().join("helm").join(chart), values)?;
    ensure!(
        out.status.success(),
        "helm template {chart} {values:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8(out.stdout)?)
}

fn objects(helm: &Path, chart: &str, values: &[&str]) -> Result<Vec<Value>> {
    parse(&text(helm, chart, values)?)
}

fn parse(rendered: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(rendered)?;
    ensure!(!documents.is_empty(), "nothing was rendered");
    Ok(documents)
}

fn at<'v>(value: &'v Value, pointer: &str) -> &'v Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

fn list<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    at(value, pointer).as_array().map_or(&[], Vec::as_slice)
}

fn of_kind<'v>(objects: &'v [Value], kind: &str) -> Vec<&'v Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// The pod specs of all workloads.
fn pods(objects: &[Value]) -> Vec<&Value> {
    objects.iter().filter_map(|object| object.pointer("/spec/template/spec")).collect()
}

/// Every rule of every Role and ClusterRole that starts with this name, with
/// the role's namespace.
fn rules<'v>(objects: &'v [Value], role: &str) -> Vec<(&'v Value, &'v Value)> {
    let of_role = |object: &&Value| {
        matches!(object["kind"].as_str(), Some("Role" | "ClusterRole"))
            && object["metadata"]["name"].as_str().is_some_and(|name| name.starts_with(role))
    };
    let roles = objects.iter().filter(of_role);
    roles
        .flat_map(|role| list(role, "/rules").iter().map(|rule| (&role["metadata"]["namespace"], rule)))
        .collect()
}

fn has(values: &Value, wanted: &str) -> bool {
    values.as_array().is_some_and(|values| values.iter().any(|value| value == wanted))
}

/// Values that the chart makes at random, blanked.
fn without_random(rendered: &str) -> String {
    let blank = |line: &str| match line.split_once(": ") {
        Some((key @ ("  token" | "  kek"), value)) if !value.starts_with('"') => format!("{key}: RANDOM\n"),
        _ => format!("{line}\n"),
    };
    rendered.lines().map(blank).collect()
}

#[test]
fn rendered_as_recorded() -> Result<()> {
    let Some(helm) = helm_or_skip("rendered_as_recorded") else {
        return Ok(());
    };
    let digest = format!("image.registry=registry.example:5000/tools,image.digest={DIGEST}");
    let cases: &[(&str, &str, &[&str])] = &[
        ("control-plane-default", CENTRE, &[]),
        (
            "control-plane-etcd",
            CENTRE,
            &[
                "replicas=3,store.kind=Etcd,store.etcd.endpoints={https://etcd-0:2379,https://etcd-1:2379}",
                "store.etcd.tlsSecret=etcd-tls,service.type=NodePort,service.nodePorts.rest=30443",
                "advertise.names={centre.example},advertise.link=centre.example:7444,rest.tlsSecret=rest-tls",
                "kek.existingSecret=my-kek,adminToken.existingSecret=my-admin",
                "audit.sink.kind=Otlp,audit.sink.otlp.endpoint=https://collector:4317,audit.sink.otlp.caSecret=otel-ca",
            ],
        ),
        ("member-default", MEMBER, &["crds.install=false"]),
        (
            "member-digest",
            MEMBER,
            &[
                "crds.install=false",
                CEILING,
                &digest,
                "imagePullSecrets[0].name=regcred,join.existingSecret=east",
            ],
        ),
        (
            "member-without-nodes",
            MEMBER,
            &["crds.install=false", CEILING, "nodes.enabled=false,join.token=one-use"],
        ),
        ("member-openshift", MEMBER, &["crds.install=false,openshift.enabled=true"]),
    ];
    for (name, chart, values) in cases {
        let rendered = without_random(&text(&helm, chart, values)?);
        let recorded = repository().join(format!("e2e/tests/helm_charts/{name}.yaml"));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&recorded, &rendered)?;
        }
        let expected =
            fs::read_to_string(&recorded).with_context(|| format!("read {}", recorded.display()))?;
        let differs = rendered.lines().zip(expected.lines()).position(|(now, then)| now != then);
        let line = differs.unwrap_or_else(|| rendered.lines().count().min(expected.lines().count()));
        assert!(
            rendered == expected,
            "{name}.yaml differs from line {}: UPDATE=1 records it anew\n- {}\n+ {}",
            line + 1,
            expected.lines().nth(line).unwrap_or("(end)"),
            rendered.lines().nth(line).unwrap_or("(end)"),
        );
    }
    Ok(())
}

#[test]
fn lint_is_clean() -> Result<()> {
    let Some(helm) = helm_or_skip("lint_is_clean") else {
        return Ok(());
    };
    for chart in [CENTRE, MEMBER] {
        let folder = repository().join("helm").join(chart);
        let out = Command::new(&helm).args(["lint", "--strict", "--quiet"]).arg(folder).output()?;
        assert!(out.status.success(), "{chart}: {}", String::from_utf8_lossy(&out.stdout));
    }
    Ok(())
}

#[test]
fn mistakes_in_values_are_refused() -> Result<()> {
    let Some(helm) = helm_or_skip("mistakes_in_values_are_refused") else {
        return Ok(());
    };
    let both = "join.token=a,join.existingSecret=b";
    let on_etcd = "store.kind=Etcd,store.etcd.endpoints={http://etcd:2379}";
    let no_volume = format!("audit.sink.kind=Jsonl,{on_etcd}");
    let cases = [
        (CENTRE, "replicas=2", "/replicas"),
        (CENTRE, "store.kind=Etcd", "/store/etcd/endpoints"),
        (CENTRE, "store.kind=Sqlite", "/store/kind"),
        (CENTRE, "replica=1", "replica"),
        (CENTRE, "service.type=ExternalName", "/service/type"),
        (CENTRE, "image.digest=latest", "/image/digest"),
        (CENTRE, "audit.sink.kind=File", "/audit/sink/kind"),
        (CENTRE, "audit.sink.kind=Otlp", "/audit/sink/otlp/endpoint"),
        (CENTRE, "audit.sink.otlp.endpoint=collector:4317", "/audit/sink/otlp/endpoint"),
        (CENTRE, &no_volume, "/audit/sink/jsonl/existingClaim"),
        // As `helm upgrade --reuse-values` gives them, from a chart that did not have it.
        (CENTRE, "audit=null", "missing property 'audit'"),
        (MEMBER, "nodes.drainWaitSeconds=null", "missing property 'drainWaitSeconds'"),
        (MEMBER, "nodes.tolerate=all", "tolerate"),
        (MEMBER, both, "/join"),
        (MEMBER, "ceiling.kind={pod.kill}", "kind"),
        (MEMBER, "ceiling.namespaces={Shop}", "/ceiling/namespaces/0"),
        (MEMBER, "ceiling.maxDuration=forever", "/ceiling/maxDuration"),
        (MEMBER, "nodes.maxUnavailable=0", "/nodes/maxUnavailable"),
        (MEMBER, "nodes.updateStrategy=Recreate", "/nodes/updateStrategy"),
        (MEMBER, "nodes.drainWaitSeconds=3601", "/nodes/drainWaitSeconds"),
        (MEMBER, "uninstall.timeoutSeconds=0", "/uninstall/timeoutSeconds"),
        (MEMBER, "agent.replicas=0", "/agent/replicas"),
    ];
    for (chart, value, said) in cases {
        let out = template(&helm, &repository().join("helm").join(chart), &[value])?;
        let message = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success(), "{chart}: {value} was taken");
        assert!(message.contains("schema") && message.contains(said), "{chart}: {value}: {message}");
    }
    Ok(())
}

#[test]
fn every_pod_takes_registry_digest_and_pull_secrets() -> Result<()> {
    let Some(helm) = helm_or_skip("every_pod_takes_registry_digest_and_pull_secrets") else {
        return Ok(());
    };
    let image = format!("image.registry=r.example,image.tag=ignored,image.digest={DIGEST}");
    // The member: agent, daemon, and the two hooks of an uninstall.
    for (chart, workloads) in [(CENTRE, 1), (MEMBER, 4)] {
        let objects = objects(&helm, chart, &[&image, "imagePullSecrets[0].name=regcred"])?;
        let pods = pods(&objects);
        assert_eq!(pods.len(), workloads, "{chart}");
        for pod in pods {
            assert_eq!(pod["imagePullSecrets"][0]["name"], "regcred");
            for container in list(pod, "/containers") {
                assert_eq!(container["image"], format!("r.example/faultline@{DIGEST}"));
            }
        }
    }
    Ok(())
}

#[test]
fn only_the_node_daemon_is_privileged() -> Result<()> {
    let Some(helm) = helm_or_skip("only_the_node_daemon_is_privileged") else {
        return Ok(());
    };
    let with_nodes = objects(&helm, MEMBER, &[CEILING])?;
    let [daemon] = of_kind(&with_nodes, "DaemonSet")[..] else { anyhow::bail!("not one DaemonSet") };
    assert_eq!(at(daemon, "/spec/template/spec/containers/0/securityContext/privileged"), true);
    assert_eq!(at(daemon, "/spec/template/spec/priorityClassName"), "system-node-critical");
    assert_eq!(at(daemon, "/spec/template/spec/tolerations/0"), &serde_json::json!({ "operator": "Exists" }));
    assert_eq!(at(daemon, "/spec/template/spec/automountServiceAccountToken"), false);
    assert_eq!(
        at(daemon, "/spec/template/spec/terminationGracePeriodSeconds"),
        120,
        "to wait, and to revert"
    );
    let patient = objects(&helm, MEMBER, &["nodes.drainWaitSeconds=900"])?;
    let pod = at(of_kind(&patient, "DaemonSet")[0], "/spec/template/spec");
    assert_eq!(pod["terminationGracePeriodSeconds"], 960);
    assert!(list(pod, "/containers/0/args").contains(&serde_json::json!("--drain-wait=900s")));
    let on_delete = objects(&helm, MEMBER, &["nodes.updateStrategy=OnDelete"])?;
    let strategy = of_kind(&on_delete, "DaemonSet")[0]["spec"]["updateStrategy"].clone();
    assert_eq!(strategy, serde_json::json!({ "type": "OnDelete" }));
    assert!(
        list(daemon, "/spec/template/spec/containers/0/ports").is_empty(),
        "the daemon listens on nothing"
    );

    let centre = objects(&helm, CENTRE, &[])?;
    let without_nodes = objects(&helm, MEMBER, &[CEILING, "nodes.enabled=false"])?;
    assert!(of_kind(&without_nodes, "DaemonSet").is_empty());
    for pod in pods(&centre).into_iter().chain(pods(&without_nodes)) {
        for host in ["hostPID", "hostNetwork", "hostIPC"] {
            assert!(pod[host].is_null(), "{host}");
        }
        assert_eq!(at(pod, "/securityContext/runAsNonRoot"), true);
        assert!(list(pod, "/volumes").iter().all(|volume| volume["hostPath"].is_null()));
        for container in list(pod, "/containers") {
            let context = &container["securityContext"];
            assert!(context["privileged"].is_null());
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(at(context, "/capabilities/drop/0"), "ALL");
        }
    }
    Ok(())
}

/// Each replica may lead and write: all of them need one volume, and each has a file of its own there.
#[test]
fn the_audit_is_written_to_a_volume_that_outlives_the_pod() -> Result<()> {
    let Some(helm) = helm_or_skip("the_audit_is_written_to_a_volume_that_outlives_the_pod") else {
        return Ok(());
    };
    let of = |values: &str| -> Result<(Vec<Value>, Vec<Value>)> {
        let rendered = objects(&helm, CENTRE, &["audit.sink.kind=Jsonl", values])?;
        let pod = pods(&rendered)[0];
        let audit = |args: &[Value]| {
            args.iter().filter(|arg| arg.as_str().is_some_and(|arg| arg.contains("audit"))).cloned().collect()
        };
        let mounts = list(pod, "/containers/0/volumeMounts");
        let claims =
            list(pod, "/volumes").iter().filter(|volume| volume.get("persistentVolumeClaim").is_some());
        let claims: Vec<Value> = claims
            .map(|volume| {
                let mount =
                    mounts.iter().find(|mount| mount["name"] == volume["name"]).unwrap_or(&Value::Null);
                serde_json::json!([volume["persistentVolumeClaim"]["claimName"], mount["mountPath"]])
            })
            .collect();
        Ok((audit(list(pod, "/containers/0/args")), claims))
    };
    let (args, claims) = of("replicas=1")?;
    assert_eq!(args, ["--audit-sink=jsonl:/var/lib/faultline/audit/"]);
    assert_eq!(claims, [serde_json::json!(["faultline-control-plane", "/var/lib/faultline"])]);
    let shared = "audit.sink.jsonl.existingClaim=logs,store.kind=Etcd,replicas=3,store.etcd.endpoints={http://etcd:2379}";
    let (args, claims) = of(shared)?;
    assert_eq!(args, ["--audit-sink=jsonl:/var/log/faultline/"]);
    assert_eq!(claims, [serde_json::json!(["logs", "/var/log/faultline"])]);
    Ok(())
}

#[test]
fn the_centre_has_no_rights_in_kubernetes() -> Result<()> {
    let Some(helm) = helm_or_skip("the_centre_has_no_rights_in_kubernetes") else {
        return Ok(());
    };
    let objects = objects(&helm, CENTRE, &[])?;
    for kind in ["Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"] {
        assert!(of_kind(&objects, kind).is_empty(), "{kind}");
    }
    assert!(pods(&objects).iter().all(|pod| pod["automountServiceAccountToken"] == false));
    Ok(())
}

/// Every rule of every Role that the member chart gives one of our own service accounts, and nothing else:
/// widening one is a change here.
const RIGHTS: &[&str] = &[
    "faultline-agent: get,list,watch pods",
    "faultline-agent: list,watch nodes",
    "faultline-agent: get namespaces named kube-system",
    "faultline-agent: list,watch replicasets.apps",
    "faultline-agent: list,watch jobs.batch",
    "faultline-agent: list,watch runtimeclasses.node.k8s.io",
    "faultline-agent: get,list,watch experiments,runs,halts.faultline.dev",
    "faultline-agent: list,watch ceilings.faultline.dev named default",
    "faultline-agent: patch experiments/status,runs/status,halts/status.faultline.dev",
    "faultline-agent: create tokenreviews.authentication.k8s.io",
    "faultline-agent: create events",
    "faultline-uninstall: create halts.faultline.dev",
    "faultline-uninstall: get,delete halts.faultline.dev named faultline-uninstall",
    "faultline-agent in faultline: get,list,create,update,delete faultrecords.faultline.dev",
    "faultline-agent in faultline: create leases.coordination.k8s.io",
    "faultline-agent in faultline: get,update leases.coordination.k8s.io named faultline-agent",
    "faultline-agent in faultline: create secrets,configmaps",
    "faultline-agent in faultline: get,update secrets named faultline-agent-identity,faultline-agent-node-ca",
    "faultline-agent in faultline: get,update configmaps named faultline-node-bundle",
    "faultline-agent in faultline: patch pods",
    "faultline-agent in default: get services named kubernetes",
    "faultline-agent in default: get endpointslices.discovery.k8s.io named kubernetes",
    "faultline-agent in shop: delete pods",
    "faultline-agent in pay: delete pods",
];

#[test]
fn our_own_accounts_may_do_this_and_nothing_else() -> Result<()> {
    let Some(helm) = helm_or_skip("our_own_accounts_may_do_this_and_nothing_else") else {
        return Ok(());
    };
    let objects = objects(&helm, MEMBER, &[CEILING])?;
    let mut found = Vec::new();
    for binding in objects.iter().filter(|o| o["kind"].as_str().is_some_and(|k| k.ends_with("RoleBinding"))) {
        let role = objects.iter().find(|role| {
            role["kind"] == binding["roleRef"]["kind"]
                && role["metadata"]["name"] == binding["roleRef"]["name"]
                && role["metadata"]["namespace"] == binding["metadata"]["namespace"]
        });
        let role =
            role.with_context(|| format!("{} binds no role of the chart", binding["metadata"]["name"]))?;
        for (subject, rule) in
            list(binding, "/subjects").iter().flat_map(|s| list(role, "/rules").iter().map(move |r| (s, r)))
        {
            assert_eq!(
                (&subject["kind"], &subject["namespace"]),
                (&"ServiceAccount".into(), &"faultline".into())
            );
            found.push(right(subject, &binding["metadata"]["namespace"], rule));
        }
    }
    found.sort();
    let mut wanted = RIGHTS.to_vec();
    wanted.sort_unstable();
    assert_eq!(found, wanted, "the node daemons' account has none");
    Ok(())
}

fn right(subject: &Value, namespace: &Value, rule: &Value) -> String {
    let joined = |field: &str| {
        let words = list(rule, field).iter().filter_map(Value::as_str);
        words.collect::<Vec<_>>().join(",")
    };
    let place = namespace.as_str().map(|namespace| format!(" in {namespace}")).unwrap_or_default();
    let group = Some(joined("/apiGroups")).filter(|group| !group.is_empty());
    let group = group.map(|group| format!(".{group}")).unwrap_or_default();
    let names = Some(joined("/resourceNames")).filter(|names| !names.is_empty());
    let names = names.map(|names| format!(" named {names}")).unwrap_or_default();
    let account = subject["name"].as_str().unwrap_or_default();
    format!("{account}{place}: {} {}{group}{names}", joined("/verbs"), joined("/resources"))
}

#[test]
fn on_openshift_only_the_daemon_gets_the_privileged_scc() -> Result<()> {
    let Some(helm) = helm_or_skip("on_openshift_only_the_daemon_gets_the_privileged_scc") else {
        return Ok(());
    };
    let scc = |values: &[&str]| -> Result<Vec<Value>> {
        let objects = objects(&helm, MEMBER, values)?;
        let of_scc = |object: &&Value| {
            object["roleRef"]["name"].as_str().is_some_and(|name| name.starts_with("system:openshift:scc:"))
        };
        Ok(objects.iter().filter(of_scc).cloned().collect())
    };
    let bound = scc(&["openshift.enabled=true"])?;
    let [binding] = &bound[..] else { anyhow::bail!("not one binding: {bound:?}") };
    assert_eq!(
        (&binding["kind"], &binding["metadata"]["namespace"]),
        (&"RoleBinding".into(), &"faultline".into())
    );
    assert_eq!(binding["roleRef"]["name"], "system:openshift:scc:privileged");
    assert_eq!(list(binding, "/subjects").len(), 1);
    assert_eq!(binding["subjects"][0]["name"], "faultline-node");
    assert!(scc(&["openshift.enabled=true,nodes.enabled=false"])?.is_empty());
    assert!(scc(&[])?.is_empty());
    // The SCC picks users: what asks for one of its own is not admitted.
    for chart in [MEMBER, CENTRE] {
        let objects = objects(&helm, chart, &["openshift.enabled=true"])?;
        for pod in pods(&objects).into_iter().filter(|pod| pod["hostPID"].is_null()) {
            for id in ["runAsUser", "runAsGroup", "fsGroup"] {
                assert!(pod["securityContext"][id].is_null(), "{chart}: {id}");
            }
        }
    }
    Ok(())
}

#[test]
fn an_uninstall_drains_first_and_is_bounded() -> Result<()> {
    let Some(helm) = helm_or_skip("an_uninstall_drains_first_and_is_bounded") else {
        return Ok(());
    };
    let objects = objects(&helm, MEMBER, &["uninstall.timeoutSeconds=90"])?;
    let jobs = of_kind(&objects, "Job");
    assert_eq!(jobs.len(), 2);
    for (job, hook, last) in [(jobs[0], "pre-delete", "--at-most=90s"), (jobs[1], "post-delete", "--lift")] {
        assert_eq!(job["metadata"]["annotations"]["helm.sh/hook"], hook);
        assert_eq!(job["spec"]["activeDeadlineSeconds"], 150);
        let arguments = list(job, "/spec/template/spec/containers/0/args");
        assert_eq!(arguments.last(), Some(&last.into()));
        assert!(arguments.contains(&"--halt=faultline-uninstall".into()));
        assert_eq!(at(job, "/spec/template/spec/restartPolicy"), "Never");
    }
    // Whatever the Jobs need is a hook too: they outlive the release's own objects.
    for (kind, name) in [("ServiceAccount", 1), ("ClusterRole", 1), ("ClusterRoleBinding", 1)] {
        let hooks = of_kind(&objects, kind);
        let hooks =
            hooks.iter().filter(|o| o["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete,post-delete");
        assert_eq!(hooks.count(), name, "{kind}");
    }
    let without = self::objects(&helm, MEMBER, &["uninstall.drain=false"])?;
    assert!(of_kind(&without, "Job").is_empty());
    Ok(())
}

#[test]
fn the_ceiling_is_an_object_of_the_release_and_no_hook() -> Result<()> {
    let Some(helm) = helm_or_skip("the_ceiling_is_an_object_of_the_release_and_no_hook") else {
        return Ok(());
    };
    let objects = objects(&helm, MEMBER, &[CEILING])?;
    let [ceiling] = of_kind(&objects, "Ceiling")[..] else { anyhow::bail!("not one Ceiling") };
    assert_eq!(ceiling["metadata"]["annotations"], Value::Null);
    // Its kind must be known before anything is created: not one of the templates.
    let crds = of_kind(&objects, "CustomResourceDefinition");
    assert!(crds.iter().all(|crd| crd["metadata"]["name"] != "ceilings.faultline.dev"));
    let first = fs::read_to_string(repository().join("helm/member/crds/ceilings.yaml"))?;
    assert_eq!(parse(&first)?[0]["metadata"]["name"], "ceilings.faultline.dev");
    Ok(())
}

#[test]
fn the_agent_cannot_write_its_ceiling_nor_read_foreign_secrets() -> Result<()> {
    let Some(helm) = helm_or_skip("the_agent_cannot_write_its_ceiling_nor_read_foreign_secrets") else {
        return Ok(());
    };
    let objects = objects(&helm, MEMBER, &[CEILING])?;
    let rules = rules(&objects, "faultline-agent");
    assert!(rules.iter().any(|(_, rule)| has(&rule["resources"], "ceilings")));
    for (_, rule) in rules {
        for wildcard in ["verbs", "resources", "apiGroups"] {
            assert!(!has(&rule[wildcard], "*"), "{rule}");
        }
        for verb in ["create", "update", "patch", "delete", "deletecollection"] {
            assert!(!(has(&rule["resources"], "ceilings") && has(&rule["verbs"], verb)), "{rule}");
        }
        let reads = ["get", "list", "watch"].iter().any(|verb| has(&rule["verbs"], verb));
        if has(&rule["resources"], "secrets") && reads {
            assert!(!list(rule, "/resourceNames").is_empty(), "{rule}");
        }
    }
    Ok(())
}

#[test]
fn pods_may_be_deleted_only_where_the_ceiling_says() -> Result<()> {
    let Some(helm) = helm_or_skip("pods_may_be_deleted_only_where_the_ceiling_says") else {
        return Ok(());
    };
    let may_delete_in = |values: &[&str]| -> Result<Vec<Value>> {
        let objects = objects(&helm, MEMBER, values)?;
        let rules = rules(&objects, "faultline-agent");
        let deletes = rules
            .into_iter()
            .filter(|(_, rule)| has(&rule["resources"], "pods") && has(&rule["verbs"], "delete"));
        Ok(deletes.map(|(namespace, _)| namespace.clone()).collect())
    };
    assert!(may_delete_in(&[])?.is_empty());
    assert_eq!(may_delete_in(&[CEILING])?, ["shop", "pay"]);
    assert!(may_delete_in(&["ceiling.namespaces={shop},ceiling.kinds={network.*}"])?.is_empty());
    assert_eq!(may_delete_in(&["ceiling.namespaces={*},ceiling.kinds={pod.*}"])?, [Value::Null]);

    let objects = objects(&helm, MEMBER, &[CEILING])?;
    let [ceiling] = of_kind(&objects, "Ceiling")[..] else { anyhow::bail!("not one Ceiling") };
    assert_eq!(ceiling["metadata"]["name"], "default");
    assert_eq!(ceiling["spec"]["namespaces"], serde_json::json!(["shop", "pay"]));
    let closed = self::objects(&helm, MEMBER, &[])?;
    let [ceiling] = of_kind(&closed, "Ceiling")[..] else { anyhow::bail!("no empty Ceiling") };
    assert_eq!(ceiling["spec"], serde_json::json!({}), "no values: nothing allowed, also after an upgrade");
    Ok(())
}

#[test]
fn crds_survive_an_uninstall() -> Result<()> {
    let Some(helm) = helm_or_skip("crds_survive_an_uninstall") else {
        return Ok(());
    };
    let chart = Path::new(env!("CARGO_TARGET_TMPDIR")).join("member-with-a-crd");
    drop(fs::remove_dir_all(&chart));
    copy(&repository().join("helm/member"), &chart)?;
    let sample = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
                  metadata:\n  name: samples.faultline.dev\n  annotations: { other: stays }\nspec: {}\n";
    fs::write(chart.join("files/crds/samples.yaml"), sample)?;

    let objects = parse(&String::from_utf8(template(&helm, &chart, &[])?.stdout)?)?;
    let crds = of_kind(&objects, "CustomResourceDefinition");
    assert_eq!(crds.len(), 5, "the sample and four kinds; the Ceiling's is never deleted by helm");
    for crd in &crds {
        assert_eq!(
            crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep",
            "{}",
            crd["metadata"]["name"]
        );
    }
    let sample = crds.iter().find(|crd| crd["metadata"]["name"] == "samples.faultline.dev");
    assert_eq!(sample.context("not rendered")?["metadata"]["annotations"]["other"], "stays");
    let none = String::from_utf8(template(&helm, &chart, &["crds.install=false"])?.stdout)?;
    assert!(of_kind(&parse(&none)?, "CustomResourceDefinition").is_empty());
    Ok(fs::remove_dir_all(&chart)?)
}

#[test]
fn the_runtime_socket_brings_its_folder() -> Result<()> {
    let Some(helm) = helm_or_skip("the_runtime_socket_brings_its_folder") else {
        return Ok(());
    };
    let folders = |values: &[&str]| -> Result<Vec<Value>> {
        let objects = objects(&helm, MEMBER, values)?;
        let [daemon] = of_kind(&objects, "DaemonSet")[..] else { anyhow::bail!("not one DaemonSet") };
        let volumes = list(daemon, "/spec/template/spec/volumes").iter();
        let runtime =
            volumes.filter(|volume| volume["name"].as_str().is_some_and(|name| name.starts_with("runtime")));
        Ok(runtime.map(|volume| volume["hostPath"]["path"].clone()).collect())
    };
    assert_eq!(folders(&[])?, ["/run/containerd", "/run/crio", "/run/k3s/containerd"]);
    assert_eq!(folders(&["nodes.runtimeSocket=/run/other/cri.sock"])?, ["/run/other"]);
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
