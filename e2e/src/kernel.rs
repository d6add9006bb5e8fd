//! Tests of the node daemon on the kernel of a stock distribution, in an
//! emulated machine: what this machine's own kernel lacks (netem, the unified
//! control groups with controllers) is there. Used by `tests/kernel_lab.rs`;
//! needs no root and no virtualisation.

pub mod archive;
pub mod debian;
pub mod guest;
pub mod root;
pub mod suites;

use std::collections::BTreeSet;
use std::env::consts;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::lab::{say, tools};
use suites::Suite;

/// Marks of the output's lines between and after the suites.
const BEGIN: &str = "@suite-begin";
const EXIT: &str = "@suite-exit";
const END: &str = "@end";

/// (program, Debian package) that only the kernel lab needs.
const PROGRAMS: [(&str, &str); 9] = [
    (guest::EMULATOR, "qemu-system-x86"),
    ("depmod", "kmod"),
    ("dpkg-deb", "dpkg"),
    ("ldd", "libc-bin"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
];

/// What one suite left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The suite's name.
    pub name: String,
    /// Its exit code.
    pub code: i32,
    /// All that it wrote.
    pub lines: Vec<String>,
}

impl Outcome {
    /// The rest of the first line that starts so.
    pub fn line(&self, start: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| line.strip_prefix(start))
    }
}

/// Why this machine cannot run the kernel lab, if so.
pub fn why_not() -> Option<String> {
    if (consts::OS, consts::ARCH) != ("linux", "x86_64") {
        return Some(format!("it needs Linux on x86_64, not {} on {}", consts::OS, consts::ARCH));
    }
    let lacking = PROGRAMS.iter().filter(|(program, _)| tools::find(program).is_none());
    let mut packages: BTreeSet<&str> = lacking.map(|(_, package)| *package).collect();
    if tools::busybox().is_none() {
        packages.insert("busybox-static");
    }
    if !packages.is_empty() {
        let packages: Vec<&str> = packages.into_iter().collect();
        return Some(format!("it needs the Debian packages {}", packages.join(", ")));
    }
    let downloads = tools::find("apt-get").is_some();
    (!downloads && debian::cached().is_none()).then(|| "it needs apt-get to download a kernel".to_owned())
}

/// Boots a Debian kernel, runs `suites` on it one after the other as root, and
/// gives what each left. The guest's logs are left in `folder`.
pub fn run(suites: &[Suite], folder: &Path) -> Result<Vec<Outcome>> {
    let kernel = debian::get()?;
    fs::create_dir_all(folder)?;
    let root = folder.join("root.cpio");
    root::write(&root, &kernel, suites)?;
    say("kernel", format_args!("booting {}", kernel.release));
    let mut guest = guest::Guest::boot(&kernel, &root, folder)?;
    let said = guest.wait();
    fs::remove_file(&root)?;
    let said = said?;
    say("kernel", format_args!("{} is off again", kernel.release));
    outcomes(&said).with_context(|| guest.said())
}

/// The suites' parts of the output, which must have come to its end.
fn outcomes(output: &str) -> Result<Vec<Outcome>> {
    let mut found = Vec::new();
    let mut lines = Vec::new();
    for line in output.lines() {
        let mut words = line.split(' ');
        match words.next() {
            Some(BEGIN) => lines.clear(),
            Some(EXIT) => {
                let name = words.next().context("a mark without a name")?.to_owned();
                let code = words.next().context("a mark without a code")?.trim().parse()?;
                let lines = std::mem::take(&mut lines);
                found.push(Outcome { name, code, lines });
            }
            _ => lines.push(line.to_owned()),
        }
    }
    ensure!(lines.iter().any(|line| line.trim_end() == END), "the guest ended before its tests did");
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_into_suites_and_must_be_whole() {
        let whole =
            "@suite-begin one\na 1\n\n@suite-exit one 0\n@suite-begin two\nb\n@suite-exit two 1\n@end\n";
        let found = outcomes(whole).unwrap();
        let kept: Vec<(&str, i32)> = found.iter().map(|suite| (suite.name.as_str(), suite.code)).collect();
        assert_eq!(kept, [("one", 0), ("two", 1)]);
        assert_eq!(found[0].lines, ["a 1", ""]);
        assert_eq!((found[0].line("a "), found[1].line("a ")), (Some("1"), None));
        assert!(outcomes("@suite-begin one\na\n").is_err());
        assert!(outcomes("@suite-begin one\n@end\n@suite-exit one 0\n").is_err());
    }
}
