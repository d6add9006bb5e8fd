//! What people and pipelines see: exit code, stdout and stderr of commands that need no control plane.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

fn faultline(home: &TempDir, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_faultline"))
        .args(args)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files"))
        .env_clear()
        .env("HOME", home.path())
        .output()
        .expect("the binary starts")
}

fn run(args: &[&str]) -> Output {
    faultline(&TempDir::new().expect("a folder"), args)
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn shown(args: &[&str]) -> String {
    let output = run(args);
    let code = output.status.code().expect("an exit code");
    format!(
        "$ faultline {}\nexit {code}\n-- stdout\n{}-- stderr\n{}",
        args.join(" "),
        stdout(&output),
        stderr(&output)
    )
}

macro_rules! snapshot {
    ($name:ident, $($arg:literal),+) => {
        #[test]
        fn $name() {
            insta::assert_snapshot!(shown(&[$($arg),+]));
        }
    };
}

snapshot!(help_of_all, "--help");
snapshot!(help_of_run, "run", "--help");
snapshot!(help_of_halt_set, "halt", "set", "--help");
snapshot!(help_of_grant, "grant", "--help");
snapshot!(a_good_file, "validate", "-f", "good.yaml");
snapshot!(a_file_with_mistakes, "validate", "-f", "ten-mistakes.yaml");
snapshot!(no_file, "validate", "-f", "absent.yaml");
snapshot!(faults, "faults");
snapshot!(an_unknown_verb, "aply");
snapshot!(apply_refuses_a_run_and_says_the_way_out, "apply", "-f", "run.yaml");
snapshot!(a_verb_without_login, "get", "runs");
snapshot!(plan_without_login, "plan", "-f", "good.yaml");
snapshot!(run_of_a_file_without_experiment, "run", "-f", "run.yaml");
snapshot!(an_override_that_is_not_settable, "plan", "-f", "good.yaml", "--set", "faults[late].for=1h");
snapshot!(an_override_without_value, "run", "slow-payments", "--set", "a");
snapshot!(
    grant_from_nobody,
    "grant",
    "g",
    "--to-cluster",
    "c2",
    "--to-namespace",
    "shop",
    "--kind",
    "pod.kill"
);
snapshot!(
    grant_of_an_unknown_kind,
    "grant",
    "g",
    "--from-operator",
    "ann",
    "--to-cluster",
    "c2",
    "--to-namespace",
    "shop",
    "--kind",
    "pod.kil"
);
snapshot!(halt_of_nothing, "halt", "set");
snapshot!(halt_of_the_fleet_and_a_cluster, "halt", "set", "--fleet", "--cluster", "c2");
snapshot!(a_server_without_https, "login", "hub:7443", "--pin", "sha256/x", "--token-file", "good.yaml");
snapshot!(no_contexts, "context");

#[test]
fn mistakes_are_told_at_once_each_with_its_path() {
    for verb in ["validate", "apply", "run"] {
        let output = run(&[verb, "-f", "ten-mistakes.yaml"]);
        assert_eq!(output.status.code(), Some(1), "{verb}");
        let text = stderr(&output);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("  ")).collect();
        assert_eq!(lines.len(), 10, "{verb}: {text}");
        assert!(lines.iter().all(|line| line.split(": ").count() >= 3), "{text}");
    }
}

#[test]
fn faults_are_json_for_programs() {
    for args in [["faults", "-o", "json"].as_slice(), &["faults", "--json"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0));
        let entries: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("JSON");
        let kinds: Vec<_> = entries.iter().map(|e| e["kind"].as_str().expect("a kind")).collect();
        let known: Vec<_> = proto::catalogue::ENTRIES.iter().map(|e| e.kind).collect();
        assert_eq!(kinds, known);
    }
}

#[test]
fn crds_are_five_yaml_documents() {
    let output = run(&["crds"]);
    assert_eq!(output.status.code(), Some(0));
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&stdout(&output)).expect("YAML");
    let names: Vec<_> =
        documents.iter().map(|d| d["spec"]["names"]["kind"].as_str().expect("a kind")).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    for kind in ["Ceiling", "Experiment", "FaultRecord", "Halt", "Run"] {
        assert!(names.contains(&kind), "{names:?}");
    }
}

#[test]
fn completion_scripts_name_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completion", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = stdout(&output);
        assert!(script.contains("halt") && script.contains("validate"), "{shell}");
    }
    assert_eq!(run(&["completion", "tcl"]).status.code(), Some(2));
}

#[test]
fn a_closed_pipe_is_no_error() {
    use std::process::Stdio;
    for args in [["crds"].as_slice(), &["completion", "zsh"], &["faults", "-o", "json"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_faultline"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn standard_input_is_a_file_too() {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = Command::new(env!("CARGO_BIN_EXE_faultline"))
        .args(["validate", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(include_bytes!("files/good.yaml")).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(
        (output.status.code(), stdout(&output).as_str()),
        (Some(0), "Experiment slow-payments is valid\n")
    );
}
