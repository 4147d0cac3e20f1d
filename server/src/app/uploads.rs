//! Files on their way in: spooled into the data folder, bounded, and gone when they are done with.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use crate::error::{Error, Result};
use crate::folder::DataFolder;

/// Tells the uploads of one process apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A file that is being received; removed when dropped.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    spooled: Spooled,
    written: u64,
    limit: u64,
}

/// A file that was received; removed when dropped.
#[derive(Debug)]
pub(crate) struct Spooled(PathBuf);

impl Spool {
    /// Begins a file that may have `limit` bytes.
    pub(crate) async fn create(folder: &DataFolder, limit: u64) -> Result<Self> {
        let path = folder.tmp().join(format!("upload-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let file = File::create_new(&path).await.map_err(Error::io(format!("making {}", path.display())))?;
        Ok(Self { file, spooled: Spooled(path), written: 0, limit })
    }

    /// Adds bytes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        if self.written > self.limit {
            let limit = self.limit;
            let reason = format!("the file has more than the {limit} bytes that limits.upload_bytes allows: split it, or raise the limit");
            return Err(Error::Part {
                kind: anabranch_core::ErrorKind::Exhausted,
                message: reason,
                details: serde_json::json!({"limit_bytes": limit}),
            });
        }
        self.file.write_all(bytes).await.map_err(Error::io("receiving the file"))
    }

    /// The file, whole. It need not outlive a crash: its rows are committed before the upload is answered.
    pub(crate) async fn finish(mut self) -> Result<Spooled> {
        self.file.flush().await.map_err(Error::io("receiving the file"))?;
        Ok(self.spooled)
    }
}

impl Spooled {
    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "cannot remove an upload");
        }
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::{ErrorKind, Kinded};

    use super::*;

    #[tokio::test]
    async fn a_file_over_the_limit_is_refused_and_nothing_stays() {
        let root = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(root.path()).unwrap();
        let mut spool = Spool::create(&folder, 10).await.unwrap();
        spool.write(&[0; 10]).await.unwrap();
        let error = spool.write(&[0]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        assert!(error.to_string().contains("10 bytes"), "{error}");
        drop(spool);
        assert_eq!(std::fs::read_dir(folder.tmp()).unwrap().count(), 0);

        let mut spool = Spool::create(&folder, 10).await.unwrap();
        spool.write(b"rows").await.unwrap();
        let file = spool.finish().await.unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), b"rows");
        drop(file);
        assert_eq!(std::fs::read_dir(folder.tmp()).unwrap().count(), 0);
    }
}
