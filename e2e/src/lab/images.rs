//! Container images without a registry, as archives that containerd imports.
//! Kept outside the work tree under a key of their content, so that building
//! one again is a lookup. Called by `up`, by the binary and by the scenarios.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use data_encoding::HEXLOWER;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::command::check;
use super::layout::cache;
use super::{config, say, tools};

/// Reference of the image that workloads run.
pub const VICTIM_IMAGE: &str = "docker.io/faultline/victim:lab";
/// Reference of the product's image.
pub const PRODUCT_IMAGE: &str = "docker.io/faultline/faultline:lab";

const BUILD: Duration = Duration::from_mins(10);
/// How often a download is tried.
const ATTEMPTS: u32 = 3;
const BASE_SUITE: &str = "bookworm";
const BASE_PACKAGES: &str = "nftables,iptables,iproute2,ca-certificates,busybox-static";
/// Part of every key: counts changes of the recipes below.
const RECIPE: &str = "1";
// Packages are unpacked, not configured: what their scripts would have linked
// and written is done here.
const BASE_DOCKERFILE: &str = r#"FROM scratch AS unpacked
ADD base.tar /
RUN ["/bin/busybox", "sh", "-ec", "\
for applet in sh ls cat ps sleep wget; do test -e /bin/$applet || busybox ln -s busybox /bin/$applet; done; \
for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do \
  busybox ln -sf xtables-nft-multi /usr/sbin/$name; done; \
busybox mkdir -p /etc/ssl/certs /root /run; \
busybox cat /usr/share/ca-certificates/mozilla/*.crt > /etc/ssl/certs/ca-certificates.crt; \
echo root:x:0:0:root:/root:/bin/sh > /etc/passwd; echo root:x:0: > /etc/group; \
busybox rm -rf /usr/share/doc /usr/share/man /usr/share/locale /usr/share/lintian /var/cache/apt /var/lib/apt"]
FROM scratch
COPY --from=unpacked / /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"#;

/// One image, built.
#[derive(Debug, Clone)]
pub struct Image {
    name: String,
    reference: String,
    key: String,
    archive: PathBuf,
}

impl Image {
    /// Short name: victim, pause, base, faultline.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a pod names.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Digest of everything it was made of.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The docker archive.
    pub fn archive(&self) -> &Path {
        &self.archive
    }

    /// An archive that somebody else made; keyed by its content.
    pub fn from_archive(archive: &Path) -> Result<Self> {
        let stem = archive.file_stem().context("an image archive has a name")?;
        let name = stem.to_string_lossy().into_owned();
        let key = digest(&[&read(archive)?]);
        Ok(Self { reference: name.clone(), name, key, archive: archive.to_owned() })
    }
}

/// The images every node has: the one that holds a pod's namespaces, and the
/// static busybox that workloads run.
pub fn workload() -> Result<[Image; 2]> {
    let busybox = tools::busybox().context("find a static busybox")?;
    let key = digest(&[&read(&busybox)?]);
    let context = |folder: &Path, dockerfile: &str| -> Result<()> {
        fs::create_dir_all(folder.join("bin"))?;
        fs::create_dir_all(folder.join("www"))?;
        fs::create_dir_all(folder.join("tmp"))?;
        fs::copy(&busybox, folder.join("bin/busybox"))?;
        fs::write(folder.join("www/index.html"), "ok\n")?;
        fs::write(folder.join("Dockerfile"), dockerfile)?;
        Ok(())
    };
    let pause = build("pause", config::PAUSE_IMAGE, &key, &[], |folder| {
        context(
            folder,
            "FROM scratch\nCOPY bin /bin\nENTRYPOINT [\"/bin/busybox\", \"sleep\", \"2147483647\"]\n",
        )
    })?;
    let victim = build("victim", VICTIM_IMAGE, &key, &[], |folder| {
        context(
            folder,
            "FROM scratch\nCOPY bin /bin\nCOPY www /www\nCOPY tmp /tmp\n\
             RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nENV PATH=/bin\n\
             CMD [\"/bin/httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/www\"]\n",
        )
    })?;
    Ok([pause, victim])
}

/// The base of the product's image: Debian with the tools a node daemon needs.
pub fn base() -> Result<Image> {
    let key = digest(&[BASE_SUITE.as_bytes(), BASE_PACKAGES.as_bytes(), BASE_DOCKERFILE.as_bytes()]);
    build("base", "docker.io/faultline/base:lab", &key, &[], |folder| {
        let mut attempt = 1;
        while let Err(error) = debian(folder) {
            if attempt == ATTEMPTS {
                return Err(error);
            }
            say("lab", format_args!("attempt {attempt}: {error:#}"));
            attempt += 1;
        }
        fs::write(folder.join("Dockerfile"), BASE_DOCKERFILE)?;
        Ok(())
    })
}

/// Its packages, from Debian's archive.
fn debian(folder: &Path) -> Result<()> {
    let mut debian = Command::new("mmdebstrap");
    debian
        .args(["--quiet", "--variant=extract"])
        .arg(format!("--include={BASE_PACKAGES}"))
        .arg(BASE_SUITE)
        .arg(folder.join("base.tar"));
    check(debian.env("TMPDIR", folder), BUILD).map(drop)
}

/// The product's image from the repository's Dockerfile (target `prebuilt`) and
/// the given `faultline` binary, which is stripped first.
pub fn product(binary: &Path) -> Result<Image> {
    let base = base()?;
    let dockerfile = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Dockerfile");
    let recipe = read(&dockerfile)?;
    let key = digest(&[&read(binary)?, &recipe, base.key().as_bytes()]);
    let from = format!("BASE=docker-archive:{}", base.archive().display());
    let args = ["--target", "prebuilt", "--build-arg", &from];
    build("faultline", PRODUCT_IMAGE, &key, &args, |folder| {
        fs::write(folder.join("Dockerfile"), &recipe)?;
        let target = folder.join("faultline");
        check(Command::new("strip").arg("-o").arg(&target).arg(binary), BUILD).map(drop)
    })
}

/// Builds an image unless the cache has it: `prepare` fills the build context,
/// Dockerfile included.
fn build(
    name: &str,
    reference: &str,
    content: &str,
    args: &[&str],
    prepare: impl FnOnce(&Path) -> Result<()>,
) -> Result<Image> {
    let folder = cache().join("images");
    fs::create_dir_all(&folder)?;
    let key = digest(&[RECIPE.as_bytes(), name.as_bytes(), content.as_bytes()]);
    let archive = folder.join(format!("{name}-{}.tar", &key[..16]));
    let image =
        Image { name: name.to_owned(), reference: reference.to_owned(), key, archive: archive.clone() };
    let lock = File::create(folder.join(format!("{name}.lock")))?;
    let _lock =
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| anyhow!("lock {name}: {error}"))?;
    if archive.is_file() {
        return Ok(image);
    }
    say("lab", format_args!("building the image {name}"));
    let work = folder.join(format!("{name}.build"));
    remove_all(&work)?;
    fs::create_dir_all(work.join("context"))?;
    fs::create_dir_all(work.join("tmp"))?;
    prepare(&work.join("context"))?;
    let result = assemble(&work, reference, args);
    let kept = result.and_then(|()| Ok(fs::rename(work.join("image.tar"), &archive)?));
    remove_all(&work)?;
    kept.with_context(|| format!("build the image {name}"))?;
    forget_older(&folder, name, &archive)?;
    Ok(image)
}

fn assemble(work: &Path, reference: &str, args: &[&str]) -> Result<()> {
    let buildah = || {
        let mut buildah = Command::new("buildah");
        buildah
            .args(["--storage-driver", "vfs", "--root"])
            .arg(work.join("storage"))
            .arg("--runroot")
            .arg(work.join("run"))
            .env("TMPDIR", work.join("tmp"));
        buildah
    };
    let mut make = buildah();
    make.args(["build", "--isolation", "chroot", "--network", "host", "--tag", "lab-image"])
        .args(args)
        .arg(work.join("context"));
    check(&mut make, BUILD)?;
    let archive = format!("docker-archive:{}:{reference}", work.join("image.tar").display());
    check(buildah().args(["push", "lab-image", &archive]), BUILD).map(drop)
}

/// Keeps the newest two archives of one image.
fn forget_older(folder: &Path, name: &str, newest: &Path) -> Result<()> {
    let mut old: Vec<(std::time::SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let ours = stem.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'));
        if ours && path.extension().is_some_and(|end| end == "tar") && path != newest {
            old.push((entry.metadata()?.modified()?, path));
        }
    }
    old.sort();
    old.pop();
    for (_, path) in old {
        fs::remove_file(path)?;
    }
    Ok(())
}

fn remove_all(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            bail!("remove {}: {error}", folder.display())
        }
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// Digest of several parts; their lengths keep them apart.
fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    HEXLOWER.encode(&hash.finalize())
}
