//! The node daemon's tests as programs, built the way `cargo test --workspace`
//! builds them, so that after it nothing is built anew. Called by the kernel
//! lab's test.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::lab::command::run;

/// Includes the wait for another cargo that builds.
const BUILD: Duration = Duration::from_mins(30);

/// One test program.
#[derive(Debug, Clone)]
pub struct Suite {
    /// The test target's name.
    pub name: String,
    /// The program.
    pub program: PathBuf,
}

/// The programs of these test targets, in the order given.
pub fn build(names: &[&str]) -> Result<Vec<Suite>> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["test", "--locked", "--workspace", "--no-run", "--message-format=json"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    for name in names {
        cargo.args(["--test", name]);
    }
    // What cargo told this test about its own package would look like a change to build scripts.
    for (name, _) in env::vars_os().filter(|(name, _)| of_a_package(&name.to_string_lossy())) {
        cargo.env_remove(name);
    }
    let built = run(&mut cargo, BUILD)?;
    if !built.success() {
        bail!("cargo could not build {names:?}:\n{}", built.stderr);
    }
    names
        .iter()
        .map(|name| Ok(Suite { name: (*name).to_owned(), program: program_of(&built.stdout, name)? }))
        .collect()
}

/// Variables that cargo sets for one package, not for all it does.
fn of_a_package(name: &str) -> bool {
    let prefixes = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_EXE_"];
    let names = ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "CARGO_TARGET_TMPDIR", "OUT_DIR"];
    names.contains(&name) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// The executable of the test target `name` among cargo's messages, one a line.
fn program_of(messages: &str, name: &str) -> Result<PathBuf> {
    let mut artifacts = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == name);
    artifacts
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo names no program for the test {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_other_messages() {
        let messages = r#"not json
{"reason":"compiler-artifact","target":{"name":"contract"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"other"},"executable":"/target/other-1"}
{"reason":"compiler-artifact","target":{"name":"contract"},"executable":"/target/contract-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(program_of(messages, "contract").unwrap(), PathBuf::from("/target/contract-1"));
        assert!(program_of(messages, "missing").is_err());
        assert!(of_a_package("CARGO_PKG_NAME") && !of_a_package("CARGO_TARGET_DIR"));
    }
}
