//! Lines of JSON in a file. Each batch is synced before it counts. The file may be moved or
//! removed at any time: the next batch goes to a new one under the name.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use proto::audit::AuditLine;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::{Sink, SinkError};

#[derive(Debug)]
pub(super) struct Jsonl {
    path: PathBuf,
    /// Made where it is not there.
    folder: Option<PathBuf>,
    open: Option<(File, (u64, u64))>,
}

impl Jsonl {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, folder: None, open: None }
    }

    /// A file of this process's own.
    pub(super) fn in_folder(folder: &Path, process: &str) -> Self {
        let path = folder.join(format!("{process}.jsonl"));
        Self { path, folder: Some(folder.to_owned()), open: None }
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> SinkError + use<> {
        let path = self.path.clone();
        move |source| SinkError::File { what, path, source }
    }

    /// The file that has the name now.
    async fn file(&mut self) -> Result<&mut File, SinkError> {
        let named = tokio::fs::metadata(&self.path).await.ok().map(|known| (known.dev(), known.ino()));
        let current = self.open.take().filter(|(_, id)| named == Some(*id));
        let open = match current {
            Some(open) => open,
            None => self.reopen().await?,
        };
        Ok(&mut self.open.insert(open).0)
    }

    async fn reopen(&self) -> Result<(File, (u64, u64)), SinkError> {
        if let Some(folder) = &self.folder {
            tokio::fs::create_dir_all(folder).await.map_err(self.failed("make the folder of"))?;
        }
        let mut options = OpenOptions::new();
        options.create(true).read(true).append(true).mode(0o640);
        let mut file = options.open(&self.path).await.map_err(self.failed("open"))?;
        let known = file.metadata().await.map_err(self.failed("look at"))?;
        if known.len() > 0 {
            // A line that a crash cut off must not swallow the next one.
            let mut last = [0];
            file.seek(std::io::SeekFrom::End(-1)).await.map_err(self.failed("read"))?;
            file.read_exact(&mut last).await.map_err(self.failed("read"))?;
            if last != *b"\n" {
                file.write_all(b"\n").await.map_err(self.failed("append to"))?;
            }
        }
        Ok((file, (known.dev(), known.ino())))
    }
}

#[async_trait]
impl Sink for Jsonl {
    async fn write(&mut self, lines: &[AuditLine]) -> Result<(), SinkError> {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        let append = self.failed("append to");
        let sync = self.failed("sync");
        let file = self.file().await?;
        let written = async {
            file.write_all(&text).await.map_err(append)?;
            file.sync_data().await.map_err(sync)
        };
        let written = written.await;
        if written.is_err() {
            // The next batch looks at how far this one came.
            self.open = None;
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use proto::audit::{AuditCheckpoint, CheckpointKind};

    use super::*;

    fn line(seq: u64) -> AuditLine {
        AuditLine::Checkpoint(AuditCheckpoint {
            replica: "r".to_owned(),
            seq,
            hash: String::new(),
            at: jiff::Timestamp::UNIX_EPOCH,
            kind: CheckpointKind::Progress,
            chain_pem: "a\nb".to_owned(),
            signature: String::new(),
        })
    }

    fn numbers(path: &std::path::Path) -> Vec<Option<u64>> {
        let text = std::fs::read_to_string(path).unwrap();
        let number = |text: &str| match serde_json::from_str(text) {
            Ok(AuditLine::Checkpoint(checkpoint)) => Some(checkpoint.seq),
            _ => None,
        };
        text.lines().map(number).collect()
    }

    #[tokio::test]
    async fn a_moved_file_gets_a_successor_and_a_torn_line_stands_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("audit.jsonl"), dir.path().join("audit.jsonl.1"));
        let mut sink = Jsonl::new(path.clone());
        sink.write(&[line(1), line(2)]).await.unwrap();
        sink.write(&[line(3)]).await.unwrap();
        std::fs::rename(&path, &old).unwrap();
        sink.write(&[line(4)]).await.unwrap();
        assert_eq!(numbers(&old), [Some(1), Some(2), Some(3)]);
        assert_eq!(numbers(&path), [Some(4)]);
        std::fs::remove_file(&path).unwrap();
        sink.write(&[line(5)]).await.unwrap();
        assert_eq!(numbers(&path), [Some(5)]);
        // A crash in the middle of a line, then another process.
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 10]).unwrap();
        Jsonl::new(path.clone()).write(&[line(5), line(6)]).await.unwrap();
        assert_eq!(numbers(&path), [None, Some(5), Some(6)]);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_is_an_error_until_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing/audit.jsonl");
        let mut sink = Jsonl::new(path.clone());
        let error = sink.write(&[line(1)]).await.unwrap_err();
        assert!(error.to_string().contains("missing/audit.jsonl"), "{error}");
        std::fs::create_dir(dir.path().join("missing")).unwrap();
        sink.write(&[line(1)]).await.unwrap();
        assert_eq!(numbers(&path), [Some(1)]);
    }
}
