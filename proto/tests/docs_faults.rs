//! `docs/faults.md` is what the catalogue says. Run with UPDATE=1 to write it anew.

use std::fmt::Write;
use std::path::PathBuf;

use proto::catalogue::{ENTRIES, Entry, RevertClass};

const CLASSES: [RevertClass; 5] = [
    RevertClass::KernelTimed,
    RevertClass::Keeper,
    RevertClass::ApiReverted,
    RevertClass::Restart,
    RevertClass::Irreversible,
];

#[test]
fn the_page_of_the_faults_is_current() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/faults.md");
    let text = page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).expect("docs/ is there");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "{} has drifted: run `make generate`", path.display());
}

#[test]
fn every_kind_says_what_a_restart_a_reboot_and_a_vanished_target_mean() {
    for entry in ENTRIES.iter().filter(|e| e.made_by == "node") {
        let parts: Vec<_> = entry.survives.split("; ").filter_map(|part| part.split_once(": ")).collect();
        let events: Vec<_> = parts.iter().map(|(event, _)| *event).collect();
        assert_eq!(events, ["container restart", "node reboot", "target gone"], "{}", entry.kind);
    }
}

fn page() -> String {
    let mut out = String::from(HEAD);
    out.push_str("| kind | what it does | acts on | reverts |\n|---|---|---|---|\n");
    for entry in ENTRIES {
        let mut classes: Vec<_> = entry.backends.iter().map(|b| b.revert.as_str()).collect();
        classes.dedup();
        let anchor = entry.kind.replace('.', "");
        let row = format!(
            "| [`{}`](#{anchor}) | {} | {} | {} |\n",
            entry.kind,
            entry.summary,
            entry.acts_on,
            classes.join(", ")
        );
        out.push_str(&row);
    }
    out.push_str("\n## Revert classes\n\nWhat ends a fault when nobody is alive to end it:\n\n");
    for class in CLASSES {
        let used = ENTRIES.iter().any(|e| e.backends.iter().any(|b| b.revert == class));
        let note = if used { "" } else { " No kind of this version needs it." };
        out.push_str(&wrap(&format!("- **{}**: {}{note}", class.as_str(), class_text(class))));
    }
    out.push_str(CAPABILITIES);
    for entry in ENTRIES {
        section(&mut out, entry);
    }
    out
}

fn section(out: &mut String, entry: &Entry) {
    let by = if entry.made_by == "agent" { "the agent, through the API" } else { "the node's daemon" };
    writeln!(
        out,
        "\n## {}\n\n{}. Acts on: {}. Made by: {by}.\n",
        entry.kind,
        capital(entry.summary),
        entry.acts_on
    )
    .expect("a string");
    if entry.parameters.is_empty() {
        out.push_str("No parameters.\n");
    } else {
        out.push_str("| parameter | value |\n|---|---|\n");
        for parameter in entry.parameters {
            writeln!(out, "| `{}` | {} |", parameter.name, parameter.text).expect("a string");
        }
    }
    out.push_str("\n| backend, in order of preference | the node needs | reverts |\n|---|---|---|\n");
    for backend in entry.backends {
        let needs: Vec<_> = backend.needs.iter().map(|need| format!("`{need}`")).collect();
        let needs = if needs.is_empty() { "nothing".to_owned() } else { needs.join(", ") };
        writeln!(out, "| {} | {needs} | {} |", backend.name, backend.revert.as_str()).expect("a string");
    }
    writeln!(out, "\n- Read back before Injected is said: {}\n- Undo: {}", entry.read_back, entry.undo)
        .expect("a string");
    for backend in entry.backends {
        if let Some(caveat) = backend.caveat {
            out.push_str(&wrap(&format!("- By {}, {caveat}", backend.name)));
        }
    }
    for part in entry.survives.split("; ") {
        match part.split_once(": ") {
            Some((event, meaning)) => writeln!(out, "- {}: {meaning}", capital(event)),
            None => writeln!(out, "- Restart, reboot, vanished target: {part}"),
        }
        .expect("a string");
    }
}

/// One item of a list, in lines of at most 118 characters.
fn wrap(item: &str) -> String {
    let mut out = String::new();
    let mut line = String::new();
    for word in item.split(' ') {
        if line.len() + word.len() + 1 > 118 {
            writeln!(out, "{line}").expect("a string");
            " ".clone_into(&mut line);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    out + &line + "\n"
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn class_text(class: RevertClass) -> &'static str {
    match class {
        RevertClass::KernelTimed => {
            "the match lives in an nft set element whose timeout is the time left. The kernel drops the element; \
             no process has to be alive."
        }
        RevertClass::Keeper => {
            "a small process of ours outside the pod holds the deadline and the undo. It lives only while faults do, \
             and outlives the daemon."
        }
        RevertClass::ApiReverted => {
            "the undo was written to a FaultRecord object before acting. Any active agent reverts at the deadline, \
             or as soon as agent and API server are both up."
        }
        RevertClass::Restart => "needs the daemon back or the node rebooted.",
        RevertClass::Irreversible => "there is nothing to take away. It is recorded.",
    }
}

const HEAD: &str = "\
# Faults

Generated from the catalogue by `make generate`; do not edit. `faultline faults` prints the same on a terminal,
`faultline faults -o json` for programs.

A kind's dotted name is its path in a fault: `network.delay` is written `network: { delay: { ... } }`. A container fault
acts on the containers that the target names, by default the first; a pod fault acts on the whole pod.

";

const CAPABILITIES: &str = "
## What a node needs

A daemon probes its node when it starts and says what is there; `faultline describe cluster NAME` lists what is missing.
The agent takes the first backend whose needs are all met. Where there is none, the plan is refused and names what is
missing.
";
