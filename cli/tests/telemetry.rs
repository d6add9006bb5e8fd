//! One trace from a request, or from an authored Run, to the fault on a machine and its undo: the roles are processes
//! of the real binary, the fault is a real one, and an OTLP receiver in this process is shown all of it. Needs root,
//! for the freezer.

#![expect(clippy::panic, reason = "what the tests share fails the test")]

#[path = "telemetry/apart.rs"]
mod apart;
#[path = "telemetry/receiver.rs"]
mod receiver;
#[path = "telemetry/runtime.rs"]
mod runtime;
#[path = "telemetry/world.rs"]
mod world;

use receiver::{Receiver, Seen};
use world::World;

const AGENT: &str = "cluster_agent";
const NODE: &str = "node_daemon";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// The one span of that name and kind of part in a trace, once it is there.
async fn span(receiver: &Receiver, trace: &str, part: &str, name: &str) -> Seen {
    let wanted = |seen: &Seen| seen.trace == trace && seen.part.starts_with(part) && seen.name == name;
    receiver.first(&format!("{name} of {part} in {trace}"), wanted).await
}

/// The names from a span to the root of its trace, itself first; the root's parent is `above`.
fn way_up(receiver: &Receiver, from: &Seen, above: &str) -> Vec<String> {
    let all = receiver.all();
    let mut names = vec![from.name.clone()];
    let mut at = from.parent.clone();
    while at != above {
        let next = all.iter().find(|seen| seen.id == at && seen.trace == from.trace);
        let next = next.unwrap_or_else(|| panic!("nobody sent the parent {at} of {names:?}: {all:#?}"));
        names.push(next.name.clone());
        at.clone_from(&next.parent);
        assert!(names.len() < 10, "a circle: {names:?}");
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_request_to_the_undo() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root, for the freezer");
        return;
    }
    let mut world = World::start("request").await;
    // Long, and stopped once it is seen: a fault that ended by itself could end before it is made.
    let id = world.run("5m", "first", &format!("00-{TRACE}-{CALLER}-01")).await;
    let receiver = &world.receiver;
    let inject = span(receiver, TRACE, NODE, "inject").await;
    world.ok(&["stop", &id]).await;
    assert_eq!(world.outcome(&id).await, "Aborted");

    let request = span(receiver, TRACE, "control_plane", "POST /v1/runs").await;
    assert_eq!((request.parent.as_str(), request.service.as_str()), (CALLER, "faultline-control-plane"));
    assert_eq!(request.attribute("http.request.method"), "POST");
    assert_eq!(request.attribute("http.route"), "/v1/runs");
    assert_eq!(request.attribute("http.response.status_code"), "201");
    for decision in ["run.plan", "run.dispatch", "run.finish"] {
        let decided = span(receiver, TRACE, "control_plane", decision).await;
        assert_eq!(way_up(receiver, &decided, CALLER), [decision, "POST /v1/runs"]);
        assert_eq!(decided.attribute("faultline.run"), id);
    }
    assert_eq!(inject.service, "faultline-host");
    assert_eq!(way_up(receiver, &inject, CALLER), ["inject", "send inject", "POST /v1/runs"]);
    for (key, value) in [
        ("faultline.run", id.as_str()),
        ("faultline.kind", "container.pause"),
        ("k8s.namespace.name", "shop"),
        ("k8s.node.name", "edge"),
    ] {
        assert_eq!(inject.attribute(key), value, "{key}");
    }
    let sent = span(receiver, TRACE, AGENT, "send inject").await;
    assert_eq!(sent.attribute("k8s.pod.uid"), inject.attribute("k8s.pod.uid"));
    assert_eq!(sent.attribute("faultline.cluster"), world.cluster);
    for step in ["apply step", "read back"] {
        let made = span(receiver, TRACE, NODE, step).await;
        assert_eq!(way_up(receiver, &made, CALLER)[1..], ["inject", "send inject", "POST /v1/runs"]);
    }
    let undo = span(receiver, TRACE, NODE, "undo").await;
    assert_eq!(undo.attribute("faultline.injection"), inject.attribute("faultline.injection"));
    assert_eq!(way_up(receiver, &undo, CALLER), ["undo", "send inject", "POST /v1/runs"]);
    assert!(undo.began >= inject.ended, "the undo comes later: {undo:?}");
    span(receiver, TRACE, NODE, "undo step").await;

    // Killed while the fault is on: what the daemon started anew undoes belongs to the trace of whoever asked.
    let other = TRACE.replace('4', "5");
    world.run("5m", "second", &format!("00-{other}-{CALLER}-01")).await;
    let inject = span(&world.receiver, &other, NODE, "inject").await;
    assert!(world.is_frozen());
    world.restart_host().await;
    let undo = span(&world.receiver, &other, NODE, "undo").await;
    assert!(undo.began > inject.ended);
    assert_eq!(way_up(&world.receiver, &undo, CALLER), ["undo", "send inject", "POST /v1/runs"]);
    assert!(!world.is_frozen());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_an_authored_run_to_the_undo() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root, for the freezer");
        return;
    }
    let world = World::start("authored").await;
    // Ends by itself, long after it can be made on a busy machine.
    world.author("20s", "third");
    let receiver = &world.receiver;
    let authored = receiver.first("authored", |seen| seen.name == "authored").await;
    assert_eq!(authored.parent, "", "the root, begun by the agent");
    assert_eq!(authored.attribute("k8s.namespace.name"), "shop");
    let dispatch = span(receiver, &authored.trace, "control_plane", "run.dispatch").await;
    assert_eq!(way_up(receiver, &dispatch, ""), ["run.dispatch", "authored"]);
    let undo = span(receiver, &authored.trace, NODE, "undo").await;
    assert_eq!(way_up(receiver, &undo, ""), ["undo", "send inject", "authored"]);
    assert_eq!(world.outcome(dispatch.attribute("faultline.run")).await, "Completed");
    world.end().await;
}

/// Centre, agent and node daemon are three services here: the link and the node link are real ones, and so is the
/// daemon's restart, after which only the journal knows whose trace it was.
#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_through_a_node_daemon_of_its_own_and_its_restart() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root, for the freezer");
        return;
    }
    let mut world = World::start_apart("apart").await;
    let id = world.run("5m", "first", &format!("00-{TRACE}-{CALLER}-01")).await;
    let receiver = &world.receiver;
    let way = ["send inject", "POST /v1/runs"];
    let sent = span(receiver, TRACE, AGENT, "send inject").await;
    assert_eq!(sent.service, apart::SERVICE);
    let request = span(receiver, TRACE, "control_plane", "POST /v1/runs").await;
    assert_eq!((request.service.as_str(), request.parent.as_str()), ("faultline-control-plane", CALLER));
    let inject = span(receiver, TRACE, NODE, "inject").await;
    world.ok(&["stop", &id]).await;
    assert_eq!(world.outcome(&id).await, "Aborted");
    let undo = span(receiver, TRACE, NODE, "undo").await;
    for (seen, name) in [(&inject, "inject"), (&undo, "undo")] {
        assert_eq!(seen.service, "faultline-node");
        assert_eq!(way_up(receiver, seen, CALLER), [name, way[0], way[1]]);
    }
    assert!(request.began <= sent.began && sent.began <= inject.began && inject.ended <= undo.began);

    let other = TRACE.replace('4', "6");
    world.run("5m", "second", &format!("00-{other}-{CALLER}-01")).await;
    let inject = span(&world.receiver, &other, NODE, "inject").await;
    span(&world.receiver, &other, AGENT, "send inject").await;
    assert!(world.is_frozen());
    world.restart_host().await;
    let undo = span(&world.receiver, &other, NODE, "undo").await;
    assert!(undo.began > inject.ended && undo.service == "faultline-node");
    assert_eq!(way_up(&world.receiver, &undo, CALLER), ["undo", way[0], way[1]]);
    assert!(!world.is_frozen());
    world.end().await;
}

/// No trace of it, but a machine that plans is at hand.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_valid_until_the_instant_that_the_centre_says() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root, for the freezer");
        return;
    }
    let world = World::start("plan").await;
    let out = world.ok(&["plan", "-f", &world.definition("1s")]).await;
    let said = out.lines().find_map(|line| line.split_once(", valid until ")).expect(&out).1;
    let (until, left) = said.split_once(" (").expect(&out);
    let runs: serde_json::Value =
        serde_json::from_str(&world.ok(&["get", "runs", "-o", "json"]).await).expect("JSON");
    assert_eq!(runs[0]["summary"]["planExpires"], until);
    assert!(left.starts_with("14m") || left.starts_with("15m)"), "{out}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_https_endpoint_is_trusted_by_its_own_authority_alone() {
    let mut trusted = World::over_tls("trusted", true).await;
    trusted.ok(&["get", "runs"]).await;
    let seen = trusted.receiver.first("GET /v1/runs", |seen| seen.name == "GET /v1/runs").await;
    assert_eq!(seen.parent, "", "nobody named a trace");
    trusted.centre_ends().await;

    let mut other = World::over_tls("other", false).await;
    other.ok(&["get", "runs"]).await;
    // The flush at the end is the last try.
    other.centre_ends().await;
    assert!(other.receiver.all().is_empty());
    assert!(other.logs().contains("spans could not be sent"), "{}", other.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_where_nobody_answers_costs_nothing() {
    let mut nowhere = World::centre_only("nowhere", "http://127.0.0.1:1").await;
    let begun = std::time::Instant::now();
    for _ in 0..20 {
        nowhere.ok(&["get", "runs"]).await;
    }
    // Less than the exporter's patience, 10 s, for each of them.
    assert!(begun.elapsed().as_secs() < 150, "{:?}", begun.elapsed());
    nowhere.centre_ends().await;
}

/// What each role shows to a scraper that asks for nothing.
async fn texts(world: &World) -> [(&'static str, String); 3] {
    world.ok(&["get", "runs"]).await;
    let agent = cluster_agent::health::Metrics::default().text().expect("text");
    let node = node_daemon::metrics::Metrics::default().text().expect("text");
    [
        ("Control plane", world.metrics().await),
        ("Agent", proto::exposition::answer(None, agent).1),
        ("Node daemon", proto::exposition::answer(None, node).1),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_accepts_the_metrics_of_every_role() {
    let Some(promtool) = promtool() else {
        eprintln!(
            "SKIPPED promtool_accepts_the_metrics_of_every_role: no promtool (e2e/setup.sh test brings it)"
        );
        return;
    };
    let mut world = World::centre_only("promtool", "").await;
    for (role, text) in texts(&world).await {
        let (folder, file) = (tempfile::TempDir::new().expect("a folder"), "metrics");
        std::fs::write(folder.path().join(file), &text).expect("a file");
        let mut check = std::process::Command::new(&promtool);
        let text = std::fs::File::open(folder.path().join(file)).expect("it is there");
        let said = check.args(["check", "metrics"]).stdin(text).output().expect("promtool runs");
        let complaints = String::from_utf8_lossy(&said.stderr) + String::from_utf8_lossy(&said.stdout);
        assert!(said.status.success() && complaints.trim().is_empty(), "{role}: {complaints}");
    }
    world.centre_ends().await;
}

/// The alerts that the guide recommends are rules that can be loaded, over metrics that there are.
#[test]
fn promtool_accepts_the_alerts_of_the_guide() {
    let guides = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let read = |name: &str| std::fs::read_to_string(guides.join(name)).expect("a page");
    let (guide, metrics) = (read("guides/telemetry.md"), read("metrics.md"));
    let table = guide.split_once("| alert | expression |").expect("the table of alerts").1;
    let row =
        |line: &str| Some(line.strip_prefix("| ")?.strip_suffix("` |")?.split_once(" | `")?.1.to_owned());
    let expressions: Vec<String> = table.lines().filter_map(row).collect();
    assert!(expressions.len() > 8, "{expressions:?}");
    for name in
        expressions.iter().flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
    {
        let known = name.strip_suffix("_bucket").unwrap_or(name);
        assert!(
            !name.starts_with("faultline_") || metrics.contains(&format!("| `{known}` |")),
            "no metric {name}"
        );
    }
    let Some(promtool) = promtool() else {
        eprintln!(
            "SKIPPED promtool_accepts_the_alerts_of_the_guide: no promtool (e2e/setup.sh test brings it)"
        );
        return;
    };
    let rules: Vec<_> =
        expressions.iter().map(|text| serde_json::json!({ "alert": "It", "expr": text })).collect();
    let folder = tempfile::TempDir::new().expect("a folder");
    let check = |rules: &[serde_json::Value]| {
        let file = folder.path().join("rules.json");
        let groups = serde_json::json!({ "groups": [{ "name": "guide", "rules": rules }] });
        std::fs::write(&file, groups.to_string()).expect("a file");
        std::process::Command::new(&promtool)
            .args(["check", "rules"])
            .arg(&file)
            .output()
            .expect("promtool runs")
    };
    let said = check(&rules);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let broken = serde_json::json!({ "alert": "It", "expr": "increase(faultline_halts[" });
    assert!(!check(&[broken]).status.success(), "promtool reads them");
}

/// The one of this machine, or the one that `e2e/setup.sh test` brought.
fn promtool() -> Option<std::path::PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(std::path::PathBuf::from);
    let cache = cache.or_else(|| Some(std::path::PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let ours = cache.map(|cache| cache.join("faultline/promtool/promtool"));
    let works = |program: &std::path::PathBuf| {
        std::process::Command::new(program).arg("--version").output().is_ok_and(|said| said.status.success())
    };
    [Some("promtool".into()), ours].into_iter().flatten().find(works)
}

const METRICS: &str = "\
# Metrics

Served at `/metrics` of the health port of each process: as OpenMetrics to a scraper that asks for it, else as
Prometheus text. Labels take values from fixed sets only, so the number of series does not grow with use. A machine in
host mode has no health port. Generated by `make generate`; do not edit.
";

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_metrics_is_current() {
    let mut world = World::centre_only("metrics", "").await;
    let mut page = METRICS.to_owned();
    for (role, text) in texts(&world).await {
        let lines = described(&text);
        assert!(lines.len() > 8, "{role}: {text}");
        page += &["\n## ", role, "\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n"].concat();
        page.extend(lines);
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &page).expect("docs/ is there");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == page, "docs/metrics.md has drifted: run `make generate`");
    world.centre_ends().await;
}

/// A line of the table for each metric, in order.
fn described(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for help in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, meaning) = help.split_once(' ').expect("name and help");
        let kind = text.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} ")));
        let kind = kind.unwrap_or_else(|| panic!("{name} has no type"));
        let of = |line: &&str| {
            let rest = line.strip_prefix(name).map(|rest| rest.strip_prefix("_bucket").unwrap_or(rest));
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        };
        let sample = text.lines().find(of);
        let labels =
            sample.and_then(|line| line.split_once('{')?.1.rsplit_once('}')).map_or("", |(labels, _)| labels);
        let keys = labels.split("\",").filter_map(|pair| pair.split_once('=')).map(|(key, _)| key);
        let keys: Vec<&str> = keys.filter(|key| *key != "le").collect();
        let meaning = meaning.trim_end_matches('.');
        lines.push(format!("| `{name}` | {kind} | {} | {meaning} |\n", keys.join(", ")));
    }
    lines.sort_by(|a, b| a.split('`').nth(1).cmp(&b.split('`').nth(1)));
    lines
}
