//! The habits of this repository that no lint can express: sizes, names, who
//! may use what. Every test lists all that it finds, each with its place.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Which of our crates may use which (design: dependency direction).
const OURS: [(&str, &[&str]); 7] = [
    ("proto", &[]),
    ("certs", &[]),
    ("control-plane", &["proto", "certs"]),
    ("cluster-agent", &["proto", "certs"]),
    ("node-daemon", &["proto", "certs"]),
    ("cli", &["proto", "certs", "control-plane", "cluster-agent", "node-daemon"]),
    ("e2e", &["proto", "certs", "control-plane", "cluster-agent", "node-daemon"]),
];

/// Crates that belong behind one door, and the paths of that door. A path is a
/// file or folder; `link` in a list means `link.rs` and `link/`.
const DOORS: [(&str, &[&str]); 9] = [
    ("kube", &["proto/src", "cluster-agent/src"]),
    ("k8s_openapi", &["proto/src", "cluster-agent/src"]),
    ("etcd_client", &["control-plane/src/store"]),
    ("redb", &["control-plane/src/store"]),
    ("rustls", &["certs/src"]),
    ("tokio_rustls", &["certs/src"]),
    ("rcgen", &["certs/src", "e2e/src/lab/pki"]),
    ("k8s_cri", &["node-daemon/src"]),
    ("libc", &["node-daemon/src"]),
];

/// Where the types generated from the .proto files may be named: where they are
/// made, where they become the model, and the services that speak them.
const GENERATED: [&str; 9] = [
    "proto/src/api",
    "proto/src/wire",
    "control-plane/src/link",
    "control-plane/src/enrolment",
    "control-plane/src/peers",
    "control-plane/src/run",
    "cluster-agent/src/link",
    "cluster-agent/src/nodes",
    "node-daemon/src/link",
];

/// Where unsafe code may be excused, each time with a reason.
const UNSAFE: [&str; 2] = ["node-daemon/src/system", "node-daemon/src/worker"];

const NAMES_OF_NOTHING: [&str; 9] =
    ["common", "core", "helper", "helpers", "misc", "models", "shared", "util", "utils"];
const NOUNS_NOT_USED: [&str; 7] = ["Manager", "Handler", "Helper", "Util", "Task", "Job", "Attack"];

/// What a pure engine may not touch.
const IMPURE: [&str; 13] = [
    "async fn",
    ".await",
    "tokio",
    "fastrand",
    "std::fs",
    "TcpStream",
    "UdpSocket",
    "ToSocketAddrs",
    "std::env",
    "std::thread",
    "Instant",
    "SystemTime",
    "Timestamp::now",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A Rust file: its path from the repository's root, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }

    /// Lines that are not comments, numbered from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(at, line)| (at + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn within(&self, places: &[&str]) -> bool {
        places.iter().any(|place| {
            let rest = self.path.strip_prefix(place);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest == ".rs")
        })
    }
}

fn sources() -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for (name, _) in OURS {
        collect(&repository(), &repository().join(name), &mut found)?;
    }
    ensure!(found.len() > OURS.len(), "only {} Rust files found", found.len());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, found)?;
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let text = fs::read_to_string(&path)?;
            found.push(Source { path: path.strip_prefix(root)?.display().to_string(), text });
        }
    }
    Ok(())
}

/// The manifests as cargo reads them, by crate.
fn packages() -> Result<BTreeMap<String, Value>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(repository());
    let out = command.output()?;
    ensure!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout)?;
    let packages = metadata["packages"].as_array().context("no packages")?.iter();
    let by_name =
        packages.map(|package| (package["name"].as_str().unwrap_or_default().to_owned(), package.clone()));
    Ok(by_name.collect())
}

/// What a crate needs to run: dev-dependencies are the tests' own business.
fn dependencies(package: &Value) -> Vec<&str> {
    let all = package["dependencies"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().filter(|d| d["kind"] != "dev").filter_map(|d| d["name"].as_str()).collect()
}

fn none_of(problems: &[String]) {
    assert!(problems.is_empty(), "{} to put right:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn files_are_small() -> Result<()> {
    let mut problems = Vec::new();
    for source in sources()? {
        let lines = source.text.lines().count();
        let limit = match source.path.rsplit_once("/src/").map(|(_, file)| file) {
            Some("main.rs") => 25,
            Some("lib.rs") => 60,
            _ if source.is_test() => 800,
            _ => 500,
        };
        if lines > limit {
            problems.push(format!("{}: {lines} lines, at most {limit}", source.path));
        }
    }
    none_of(&problems);
    Ok(())
}

#[test]
fn modules_say_why_they_exist() -> Result<()> {
    let all = sources()?;
    let silent = all.iter().filter(|source| !source.text.starts_with("//!"));
    none_of(&silent.map(|source| format!("{}: does not start with //!", source.path)).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn names_mean_something() -> Result<()> {
    let mut problems = Vec::new();
    for source in sources()? {
        let parts = source.path.trim_end_matches(".rs").split('/');
        // Below tests/ cargo takes every other name for a test binary.
        let is_mod = |part: &str| part == "mod" && !source.path.contains("/tests/");
        for part in parts.filter(|part| NAMES_OF_NOTHING.contains(part) || is_mod(part)) {
            problems.push(format!("{}: nothing is called {part}", source.path));
        }
        // Kubernetes has its own nouns.
        let kubernetes = source.within(&["cluster-agent/src/cluster/kube"]);
        for (line, code) in source.code().filter(|_| !kubernetes) {
            let mut words =
                code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
            let keyword = words.find(|word| !matches!(*word, "pub" | "crate" | "super" | "in"));
            let name = words.next().unwrap_or_default();
            if matches!(keyword, Some("struct" | "enum" | "trait" | "type"))
                && NOUNS_NOT_USED.iter().any(|noun| name.ends_with(noun))
            {
                problems.push(format!("{}:{line}: {name}: not a noun of ours", source.path));
            }
        }
    }
    none_of(&problems);
    Ok(())
}

#[test]
fn lints_are_excused_only_with_a_reason() -> Result<()> {
    let allow = [concat!("#[", "allow("), concat!("#![", "allow(")];
    let expect = [concat!("#[", "expect("), concat!("#![", "expect(")];
    let mut problems = Vec::new();
    for source in sources()? {
        for (line, code) in source.code() {
            if allow.iter().any(|attribute| code.contains(attribute)) {
                problems.push(format!("{}:{line}: use #[expect(.., reason = \"..\")]", source.path));
            }
        }
        for start in expect.iter().flat_map(|attribute| source.text.match_indices(attribute)) {
            let rest = &source.text[start.0..];
            let attribute = &rest[..rest.find(")]").unwrap_or(rest.len())];
            let line = source.text[..start.0].lines().count();
            if !attribute.contains("reason") {
                problems.push(format!("{}:{line}: an expectation without a reason", source.path));
            }
            if attribute.contains("unsafe_code") && !source.within(&UNSAFE) {
                problems.push(format!("{}:{line}: unsafe code outside {UNSAFE:?}", source.path));
            }
        }
    }
    none_of(&problems);
    Ok(())
}

#[test]
fn manifests_inherit() -> Result<()> {
    let mut problems = Vec::new();
    for (name, _) in OURS {
        let manifest = fs::read_to_string(repository().join(name).join("Cargo.toml"))?;
        for key in ["version", "edition", "rust-version", "license", "publish"] {
            if !manifest.contains(&format!("\n{key}.workspace = true\n")) {
                problems.push(format!("{name}/Cargo.toml: {key}.workspace = true is missing"));
            }
        }
        if !manifest.contains("\n[lints]\nworkspace = true\n") {
            problems.push(format!("{name}/Cargo.toml: does not inherit the lints"));
        }
        let mut in_dependencies = false;
        for line in manifest.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies");
            } else if in_dependencies && !line.contains("workspace = true") {
                problems.push(format!("{name}/Cargo.toml: {line}: versions live in the root manifest"));
            }
        }
    }
    none_of(&problems);
    Ok(())
}

#[test]
fn dependencies_point_one_way() -> Result<()> {
    let packages = packages()?;
    let members: Vec<&str> = packages.keys().map(String::as_str).collect();
    let mut known = OURS.map(|(name, _)| name);
    known.sort_unstable();
    assert_eq!(members, known, "a crate without a place in the table of dependencies");

    let mut problems = Vec::new();
    for (name, allowed) in OURS {
        for dependency in dependencies(&packages[name]) {
            if known.contains(&dependency) && !allowed.contains(&dependency) {
                problems.push(format!("{name} depends on {dependency}"));
            }
            let door = DOORS.iter().find(|(guarded, _)| *guarded == dependency.replace('-', "_"));
            if door
                .is_some_and(|(_, places)| places.iter().all(|place| !place.starts_with(&format!("{name}/"))))
            {
                problems.push(format!("{name} depends on {dependency}, which has its door elsewhere"));
            }
        }
    }
    none_of(&problems);
    Ok(())
}

/// Whether `code` names this crate or module in a path, and not as the end of
/// a longer word (`tokio_rustls` is not `rustls`) or path (`certs::rustls`).
fn names_path(code: &str, path: &str) -> bool {
    let needle = format!("{path}::");
    code.match_indices(&needle).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

#[test]
fn a_path_is_told_from_a_longer_one() {
    assert!(names_path("use rustls::ServerConfig;", "rustls"));
    assert!(names_path("let x = &rustls::ALL;", "rustls"));
    assert!(!names_path("use tokio_rustls::TlsAcceptor;", "rustls"));
    assert!(!names_path("use certs::rustls::Config;", "rustls"));
    let source = |path: &str| Source { path: path.to_owned(), text: String::new() };
    assert!(source("control-plane/src/store.rs").within(&["control-plane/src/store"]));
    assert!(source("control-plane/src/store/etcd.rs").within(&["control-plane/src/store"]));
    assert!(!source("control-plane/src/stores.rs").within(&["control-plane/src/store"]));
}

#[test]
fn doors_are_used() -> Result<()> {
    let mut problems = Vec::new();
    for source in sources()?.iter().filter(|source| !source.is_test()) {
        for (line, code) in source.code() {
            for (guarded, places) in DOORS {
                if names_path(code, guarded) && !source.within(places) {
                    problems.push(format!("{}:{line}: {guarded} belongs in {places:?}", source.path));
                }
            }
            let names_generated = names_path(code, "proto::api")
                || source.path.starts_with("proto/") && names_path(code, "crate::api");
            if names_generated && !source.within(&GENERATED) {
                problems.push(format!("{}:{line}: generated types stop at {GENERATED:?}", source.path));
            }
        }
    }
    none_of(&problems);
    Ok(())
}

#[test]
fn engines_are_pure() -> Result<()> {
    let mut problems = Vec::new();
    let all = sources()?;
    let engines = all.iter().filter(|source| source.path.contains("/src/engine") && !source.is_test());
    for source in engines {
        for (line, code) in source.code() {
            for word in IMPURE.iter().filter(|word| code.contains(**word)) {
                problems.push(format!(
                    "{}:{line}: an engine takes events and gives effects: {word}",
                    source.path
                ));
            }
        }
    }
    none_of(&problems);
    Ok(())
}

#[test]
fn documents_stay_short_and_present() -> Result<()> {
    let read =
        |path: &str| fs::read_to_string(repository().join(path)).with_context(|| format!("read {path}"));
    for path in ["README.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"] {
        assert!(!read(path)?.trim().is_empty(), "{path} is empty");
    }
    assert!(read("CHANGELOG.md")?.contains("\n## Unreleased\n"), "CHANGELOG.md has no section Unreleased");
    let architecture = read("ARCHITECTURE.md")?.lines().count();
    assert!(architecture <= 200, "ARCHITECTURE.md: {architecture} lines, at most 200");
    let decisions = repository().join("docs/adr");
    if decisions.is_dir() {
        for entry in fs::read_dir(decisions)? {
            let path = entry?.path();
            let lines = fs::read_to_string(&path)?.lines().count();
            assert!(lines <= 60, "{}: {lines} lines, at most 60", path.display());
        }
    }
    Ok(())
}
