//! Files in the page cache, or not.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use rustix::fs::{Advice, fadvise};
use serde::Serialize;

/// Where a run finds its files.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[serde(rename_all = "snake_case")]
pub(super) enum PageCache {
    /// Read just before.
    Warm,
    /// Dropped just before, by `posix_fadvise(POSIX_FADV_DONTNEED)`; what lies below, a disk's or a host's own cache, is not in our hands.
    Cold,
}

impl PageCache {
    /// Brings files to that state.
    pub(super) fn bring(self, files: &[PathBuf]) -> anyhow::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        for path in files {
            let mut file = File::open(path)?;
            match self {
                Self::Warm => while file.read(&mut buffer)? > 0 {},
                Self::Cold => {
                    // A page that is not yet on disk stays.
                    file.sync_all()?;
                    fadvise(&file, 0, None, Advice::DontNeed)?;
                }
            }
        }
        Ok(())
    }
}
