//! The Kubernetes programs, built once per version by components.sh and kept
//! outside the work tree. Called by `up`.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::command::{SHORT, check};
use super::{say, wait};

const PROGRAMS: [&str; 8] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "helm",
    "coredns",
];

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/components.sh")
}

/// The folder that holds, or will hold, the programs of the pinned versions.
pub fn folder() -> Result<PathBuf> {
    let printed = check(Command::new(script()).arg("--print"), SHORT)?;
    Ok(PathBuf::from(printed.trim()))
}

/// The kubectl of the pinned version.
pub fn kubectl() -> &'static Path {
    static KUBECTL: OnceLock<PathBuf> = OnceLock::new();
    // Where the folder is not known, running it fails with this name.
    KUBECTL.get_or_init(|| folder().map_or_else(|_| "kubectl".into(), |folder| folder.join("kubectl")))
}

/// The first program that is not built yet.
pub fn missing() -> Result<Option<&'static str>> {
    let folder = folder()?;
    Ok(PROGRAMS.into_iter().find(|name| !folder.join(name).is_file()))
}

/// Builds what is missing (about 15 minutes on two cores) and gives the folder.
pub fn ensure() -> Result<PathBuf> {
    if let Some(name) = missing()? {
        say("lab", format_args!("{name} is not built yet: building, once per version"));
        let go = super::tools::find("go").context("find go")?;
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        path.push(":");
        path.push(go.parent().unwrap_or(Path::new("/usr/local/go/bin")));
        let mut command = Command::new(script());
        // A group of its own, to stop the compilers too.
        command.env("PATH", path).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let mut child = command.spawn()?;
        let status = wait::wait_for("the build of the Kubernetes programs", Duration::from_mins(70), || {
            child.try_wait()?.context("still building")
        });
        if status.is_err() {
            let _ = killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM);
            drop(child.wait());
        }
        if !status?.success() {
            bail!("{} failed", script().display());
        }
    }
    folder()
}
