//! What the guest's first and only root file system holds: the test programs,
//! the tools they call, all shared libraries, the kernel's network modules, and
//! an init that runs the tests and switches the machine off. Called by the
//! kernel lab.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::archive::Archive;
use super::debian::Kernel;
use super::guest::OUTPUT;
use super::suites::Suite;
use super::{BEGIN, END, EXIT};
use crate::lab::command::{SHORT, run};
use crate::lab::tools;

/// What tests of the node daemon call; the rest is busybox.
const TOOLS: [&str; 5] = ["ip", "nft", "nsenter", "tc", "unshare"];
/// Modules that a kernel may ask for while networks are set up. The kernel loads
/// them itself, through modprobe, as on any machine.
const MODULES: [&str; 5] =
    ["kernel/net/", "kernel/lib/", "kernel/crypto/", "kernel/arch/x86/crypto/", "kernel/drivers/net/veth.ko"];
/// Indices that modprobe reads.
const INDICES: [&str; 4] = ["modules.dep", "modules.alias", "modules.symbols", "modules.builtin"];
const FOLDERS: [&str; 7] = ["/applets", "/dev", "/proc", "/run", "/sys", "/tmp", "/var"];

/// Writes the root file system to `path`.
pub fn write(path: &Path, kernel: &Kernel, suites: &[Suite]) -> Result<()> {
    let mut archive = Archive::create(path)?;
    for folder in FOLDERS {
        archive.folder(folder)?;
    }
    archive.text(Path::new("/init"), init(suites).as_bytes())?;
    let busybox = tools::busybox().context("find a static busybox (Debian package busybox-static)")?;
    archive.file(&busybox, Path::new("/bin/busybox"))?;
    // Where a kernel looks for it.
    archive.link("/sbin/modprobe", "/bin/busybox")?;
    for name in TOOLS {
        let tool = tools::find(name).with_context(|| format!("find {name}"))?;
        program(&mut archive, &tool, &Path::new("/bin").join(name))?;
    }
    for suite in suites {
        program(&mut archive, &suite.program, &Path::new("/suites").join(&suite.name))?;
    }
    modules(&mut archive, kernel)?;
    archive.finish()
}

fn init(suites: &[Suite]) -> String {
    let names: Vec<&str> = suites.iter().map(|suite| suite.name.as_str()).collect();
    format!(
        "#!/bin/busybox sh
/bin/busybox --install -s /applets
export PATH=/bin:/applets
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /run
mount -t tmpfs none /tmp
mount -t cgroup2 none /sys/fs/cgroup
mkdir /run/netns
ip link set lo up
exec > {OUTPUT} 2>&1
for suite in {}; do
  echo {BEGIN} $suite
  /suites/$suite --test-threads=1 --nocapture
  code=$?
  echo
  echo {EXIT} $suite $code
done
echo {END}
# Closing the port waits until all of it is out.
exec > /dev/console 2>&1
poweroff -f
",
        names.join(" ")
    )
}

/// A program and the libraries it is linked to, each where its loader looks.
fn program(archive: &mut Archive, source: &Path, path: &Path) -> Result<()> {
    archive.file(source, path)?;
    let linked = run(Command::new("ldd").arg(source), SHORT)?;
    for library in libraries(&linked.stdout).with_context(|| format!("link {}", source.display()))? {
        archive.file(&library, &library)?;
    }
    Ok(())
}

/// The paths in ldd's answer; none for a static program.
fn libraries(answer: &str) -> Result<Vec<PathBuf>> {
    if let Some(line) = answer.lines().find(|line| line.contains("not found")) {
        bail!("a library is missing: {}", line.trim());
    }
    let words = answer.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}

fn modules(archive: &mut Archive, kernel: &Kernel) -> Result<()> {
    let source = kernel.modules();
    let path = Path::new("/lib/modules").join(&kernel.release);
    let index = fs::read_to_string(source.join("modules.dep")).context("read modules.dep")?;
    for name in closure(&index) {
        archive.file(&source.join(&name), &path.join(&name))?;
    }
    for name in INDICES {
        archive.file(&source.join(name), &path.join(name))?;
    }
    Ok(())
}

/// The modules wanted, and all that they need, by modules.dep's lines
/// `MODULE: MODULE...`.
fn closure(index: &str) -> BTreeSet<String> {
    let needs: BTreeMap<&str, &str> = index.lines().filter_map(|line| line.split_once(':')).collect();
    let wanted = |name: &str| MODULES.iter().any(|prefix| name.starts_with(prefix));
    needs
        .iter()
        .filter(|(name, _)| wanted(name))
        // depmod has resolved the needs of needs.
        .flat_map(|(name, needs)| needs.split_whitespace().chain([*name]))
        .map(ToOwned::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_paths_and_a_missing_one_is_an_error() {
        let answer = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        let found = libraries(answer).unwrap();
        assert_eq!(found, [PathBuf::from("/lib/libc.so.6"), PathBuf::from("/lib64/ld.so.2")]);
        assert!(libraries("\tstatically linked\n").unwrap().is_empty());
        assert!(libraries("\tlibnft.so => not found\n").is_err());
    }

    #[test]
    fn modules_come_with_what_they_need_and_no_others() {
        let index = "kernel/net/sched/sch_netem.ko:\nkernel/net/core/failover.ko: kernel/drivers/x.ko\n\
                     kernel/drivers/x.ko:\nkernel/drivers/y.ko: kernel/drivers/x.ko\n\
                     kernel/drivers/net/veth.ko:\n";
        let names: Vec<String> = closure(index).into_iter().collect();
        assert_eq!(
            names,
            [
                "kernel/drivers/net/veth.ko",
                "kernel/drivers/x.ko",
                "kernel/net/core/failover.ko",
                "kernel/net/sched/sch_netem.ko"
            ]
        );
    }
}
