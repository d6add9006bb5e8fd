//! A cpio archive in the "newc" form, which a kernel unpacks as its first root
//! file system. Written by `root`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
/// Names the end of an archive.
const END: &str = "TRAILER!!!";

/// An archive that is being written; every path in it is absolute and written
/// once, a later one of the same name is left out.
#[derive(Debug)]
pub struct Archive {
    out: BufWriter<File>,
    inode: u32,
    written: BTreeSet<PathBuf>,
}

impl Archive {
    /// An empty archive in a new file at `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { out: BufWriter::new(file), inode: 0, written: BTreeSet::new() })
    }

    /// A folder, with all above it.
    pub fn folder(&mut self, path: &str) -> Result<()> {
        self.folders_of(Path::new(path))
    }

    /// The file at `source`, links followed, with the right to run it.
    pub fn file(&mut self, source: &Path, path: &Path) -> Result<()> {
        let content = fs::read(source).with_context(|| format!("read {}", source.display()))?;
        self.text(path, &content)
    }

    /// A file of this content, with the right to run it.
    pub fn text(&mut self, path: &Path, content: &[u8]) -> Result<()> {
        self.folders_of(path.parent().unwrap_or(Path::new("/")))?;
        self.entry(path, PROGRAM, content)
    }

    /// A symbolic link at `path` to `target`.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let path = Path::new(path);
        self.folders_of(path.parent().unwrap_or(Path::new("/")))?;
        self.entry(path, LINK, target.as_bytes())
    }

    /// Writes the end.
    pub fn finish(mut self) -> Result<()> {
        self.record(OsStr::new(END), 0, &[])?;
        self.out.flush().context("write the archive")
    }

    fn folders_of(&mut self, path: &Path) -> Result<()> {
        let mut folder = PathBuf::from("/");
        for part in path.components() {
            if let Component::Normal(name) = part {
                folder.push(name);
                self.entry(&folder, FOLDER, &[])?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        let name = path.strip_prefix("/");
        let name = name.with_context(|| format!("{} is not absolute", path.display()))?;
        ensure!(
            !path.components().any(|part| part == Component::ParentDir),
            "{} leads upwards",
            path.display()
        );
        if !self.written.insert(path.to_owned()) {
            return Ok(());
        }
        self.inode += 1;
        self.record(name.as_os_str(), mode, content)
            .with_context(|| format!("write {} to the archive", path.display()))
    }

    fn record(&mut self, name: &OsStr, mode: u32, content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).context("a file of 4 GiB or more")?;
        let name_size = u32::try_from(name.len() + 1)?;
        // inode, mode, uid, gid, links, mtime, size, device and special device (major and minor each),
        // size of the name, checksum.
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = "070701".to_owned();
        for field in fields {
            write!(header, "{field:08x}")?;
        }
        let mut named = [header.as_bytes(), name.as_bytes(), b"\0"].concat();
        named.resize(named.len().next_multiple_of(4), 0);
        self.out.write_all(&named)?;
        self.out.write_all(content)?;
        let padding = content.len().next_multiple_of(4) - content.len();
        self.out.write_all(&[0; 3][..padding])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_aligned_records_and_each_path_once() {
        let path = std::env::temp_dir().join(format!("faultline-archive-{}", std::process::id()));
        let mut archive = Archive::create(&path).unwrap();
        archive.text(Path::new("/a/b"), b"hello").unwrap();
        archive.text(Path::new("/a/c"), b"").unwrap();
        archive.text(Path::new("/a/b"), b"again").unwrap();
        archive.link("/d", "a/b").unwrap();
        assert!(archive.text(Path::new("relative"), b"").is_err());
        assert!(archive.text(Path::new("/a/../b"), b"").is_err());
        archive.finish().unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(
            read(&bytes),
            [
                ("a", FOLDER, ""),
                ("a/b", PROGRAM, "hello"),
                ("a/c", PROGRAM, ""),
                ("d", LINK, "a/b"),
                (END, 0, "")
            ]
        );
    }

    /// Name, mode and content of every record, as the form's definition says.
    fn read(bytes: &[u8]) -> Vec<(&str, u32, &str)> {
        let text = |from: usize, length: usize| std::str::from_utf8(&bytes[from..from + length]).unwrap();
        let (mut records, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            assert_eq!(text(at, 6), "070701");
            let field = |index: usize| u32::from_str_radix(text(at + 6 + index * 8, 8), 16).unwrap();
            let (size, name_size) = (field(6) as usize, field(11) as usize);
            let content = (at + 110 + name_size).next_multiple_of(4);
            records.push((text(at + 110, name_size - 1), field(1), text(content, size)));
            at = (content + size).next_multiple_of(4);
        }
        records
    }
}
