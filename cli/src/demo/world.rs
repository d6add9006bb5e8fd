//! The private world of the demo: a network namespace that vanishes with the
//! process, inside a user namespace where we are not root.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

/// Enters fresh namespaces and brings the loopback up.
pub(crate) fn enter() -> anyhow::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() {
        unshare(CloneFlags::CLONE_NEWNET).context("make a private network namespace")?;
    } else {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET) {
            bail!(
                "this kernel refuses unprivileged user namespaces ({error}): run the demo as root, or allow them with \
                 `sysctl -w kernel.unprivileged_userns_clone=1` (Debian) or \
                 `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu)"
            );
        }
        fs::write("/proc/self/setgroups", "deny").context("give up setgroups")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("map the user")?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("map the group")?;
    }
    ip(&["link", "set", "lo", "up"])
}

/// Runs `ip` in the current network namespace.
pub(crate) fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output =
        Command::new("ip").args(arguments).output().context("run ip (Debian: apt-get install iproute2)")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())
}
