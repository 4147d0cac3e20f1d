//! Backing up the metadata database, of one moment, also beside the server that writes to it.

use std::path::Path;

use anabranch_core::{Clock, SystemClock, Timestamp};
use anabranch_versioning::encode_backup;

use super::{Stores, write_file};
use crate::error::Result;
use crate::folder::RepositoryFolder;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSummary {
    /// When it was taken.
    pub taken: Timestamp,
    /// Its size.
    pub bytes: u64,
    /// Branches.
    pub branches: u64,
    /// Tags.
    pub tags: u64,
}

/// Writes a backup of a repository's metadata database. Packs, blobs and data files are not in it: they lie in the object store and never change.
///
/// # Errors
/// Where there is no such repository, or a store fails; no file is left then.
pub async fn backup(data: &Path, repository: &str, out: &Path) -> Result<BackupSummary> {
    let stores = Stores::existing(&RepositoryFolder::of(data, repository)).await?;
    let (taken, dump) = (SystemClock.now(), stores.metadata.dump().await?);
    let bytes = encode_backup(taken, &dump);
    write_file(out, &bytes)?;
    Ok(BackupSummary { taken, bytes: bytes.len() as u64, branches: dump.branches.len() as u64, tags: dump.tags.len() as u64 })
}
