//! What the binary writes for shells and manuals, and what a role says of a configuration that cannot work.

use std::process::{Command, Output};

use tempfile::TempDir;

fn faultline(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_faultline")).args(args).env_clear().output().expect("the binary starts")
}

#[test]
fn every_command_has_a_manual_page_that_man_can_read() {
    let folder = TempDir::new().expect("a folder");
    let out = folder.path().join("man");
    let output = faultline(&["man", "--out", &out.display().to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for page in ["faultline.1", "faultline-run.1", "faultline-clusters-invite.1", "faultline-serve-agent.1"] {
        let text = std::fs::read_to_string(out.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".TH ") && text.contains(".SH NAME"), "{page}");
    }
    assert!(!out.join("faultline-worker.1").exists(), "what is hidden has none");
    let main = std::fs::read_to_string(out.join("faultline.1")).expect("a page");
    assert!(main.contains("Exit codes"), "the codes are part of the manual");
}

#[test]
fn completions_know_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let output = faultline(&["completion", shell]);
        assert!(output.status.success());
        let script = String::from_utf8(output.stdout).expect("text");
        for word in ["doctor", "invite", "prune"] {
            assert!(script.contains(word), "{shell} {word}");
        }
    }
}

/// Every mistake of a role at once, before anything is opened; as usage.
#[test]
fn a_role_names_every_mistake_of_its_configuration_at_once() {
    let folder = TempDir::new().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "flj1.cut-off").expect("a file");
    let token = token.display().to_string();
    let agent: &[&str] = &[
        "serve",
        "agent",
        "--namespace",
        "Not A Name",
        "--pod-name",
        "p",
        "--node-service",
        "a:1",
        "--join-token-file",
        &token,
        "--link-endpoints",
        "hub",
    ];
    let node: &[&str] = &[
        "serve",
        "node",
        "--agent",
        "a:1",
        "--agent-bundle",
        "/b",
        "--token-file",
        "/t",
        "--node-name",
        "n",
        "--state-dir",
        "relative",
        "--proc-root",
        "/nowhere",
        "--max-deadline",
        "soon",
        "--health-addr",
        "0.0.0.0:1",
    ];
    let host: &[&str] = &[
        "serve",
        "host",
        "--state-dir",
        "relative",
        "--workloads",
        "/nowhere.yaml",
        "--join-token-file",
        &token,
    ];
    for (args, wanted) in [
        (agent, &["--namespace", "--node-service", "--join-token-file", "--link-endpoints"][..]),
        (node, &["--state-dir", "--proc-root", "--max-deadline", "--health-addr"]),
        (host, &["--state-dir", "/nowhere.yaml", "--join-token-file"]),
    ] {
        let output = faultline(args);
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {err}");
        for flag in wanted {
            assert!(err.contains(flag), "{flag} in {err}");
        }
    }
}
