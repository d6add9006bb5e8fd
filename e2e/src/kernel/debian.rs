//! The kernel that Debian ships for cloud machines, unpacked into the cache and
//! never installed. Called by the kernel lab before it boots.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::lab::command::{SHORT, check, words};
use crate::lab::{layout, say, tools};

/// The package that depends on the newest one.
const NEWEST: &str = "linux-image-cloud-amd64";
const DOWNLOAD: Duration = Duration::from_mins(5);
const ATTEMPTS: u32 = 3;

/// A kernel, unpacked.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// As `uname -r` says.
    pub release: String,
    folder: PathBuf,
}

impl Kernel {
    /// The image to boot.
    pub fn image(&self) -> PathBuf {
        self.folder.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// Its modules and their indices, depmod's included.
    pub fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release)
    }
}

/// Whether a kernel is in the cache, so that nothing has to be downloaded.
pub fn cached() -> Option<Kernel> {
    let mut found: Vec<Kernel> = fs::read_dir(cache())
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let kernel = Kernel { release: entry.file_name().into_string().ok()?, folder: entry.path() };
            kernel.modules().join("modules.dep").is_file().then_some(kernel)
        })
        .collect();
    found.sort_by(|a, b| a.release.cmp(&b.release));
    found.pop()
}

/// The cached kernel, or the newest one from the archives that apt knows.
/// Needs root only where apt has no lists of packages yet.
pub fn get() -> Result<Kernel> {
    fs::create_dir_all(cache()).with_context(|| format!("create {}", cache().display()))?;
    let lock = File::create(cache().join("lock"))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| anyhow!("lock the cache of kernels: {error}"))?;
    if let Some(kernel) = cached() {
        return Ok(kernel);
    }
    let mut attempt = 1;
    loop {
        match download() {
            Ok(kernel) => return Ok(kernel),
            Err(error) if attempt == ATTEMPTS => return Err(error.context("get a Debian kernel")),
            Err(error) => say("kernel", format_args!("attempt {attempt}: {error:#}")),
        }
        attempt += 1;
        // No lists, or lists older than the archive: both are cured by newer ones.
        if let Err(error) = update() {
            say("kernel", format_args!("{error:#}"));
        }
    }
}

fn cache() -> PathBuf {
    layout::cache().join("kernel")
}

fn download() -> Result<Kernel> {
    let package = named_in(&check(&mut words(&format!("apt-cache depends {NEWEST}")), SHORT)?)?;
    let release = package.trim_start_matches("linux-image-").to_owned();
    say("kernel", format_args!("downloading {package}"));
    let folder = cache().join(format!("{release}.next"));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let mut apt = words("apt-get -q -o Acquire::Retries=3 download");
    check(apt.arg(&package).current_dir(&folder), DOWNLOAD)?;
    let archive = only_archive(&folder)?;
    check(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&folder), DOWNLOAD)?;
    fs::remove_file(archive)?;
    let depmod = tools::find("depmod").context("find depmod (Debian package kmod)")?;
    check(Command::new(depmod).arg("-b").arg(&folder).arg(&release), SHORT)?;
    fs::rename(&folder, cache().join(&release))?;
    cached().with_context(|| format!("{package} holds no kernel"))
}

fn update() -> Result<()> {
    let mut apt = words("apt-get -q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 update");
    check(&mut apt, DOWNLOAD).map(drop)
}

/// The package that `apt-cache depends` names.
fn named_in(answer: &str) -> Result<String> {
    answer
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
        .map(ToOwned::to_owned)
        .with_context(|| format!("apt knows no {NEWEST}"))
}

fn only_archive(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let archive = entries.find(|path| path.extension().is_some_and(|end| end == "deb"));
    let Some(archive) = archive else {
        bail!("apt-get downloaded nothing into {}", folder.display());
    };
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_a_dependency() {
        let answer = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(named_in(answer).unwrap(), "linux-image-6.1.0-56-cloud-amd64");
        assert!(named_in("").is_err());
        assert!(named_in("linux-image-cloud-amd64\n").is_err());
    }
}
