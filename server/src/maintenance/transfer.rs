//! Exporting a repository or some of its refs, and importing what was exported.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anabranch_core::{Clock, RandomIds, SystemClock};
use anabranch_ingest::source;
use anabranch_versioning::{CommitId, ExportRequest, Exported, ImportRequest, Imported, read_archive_info};

use super::{Stores, stream_file};
use crate::error::{Error, Result};
use crate::folder::RepositoryFolder;

/// What is exported.
#[derive(Debug, Clone, Default)]
pub struct ExportSource {
    /// Branches and tags by name; empty for all.
    pub refs: Vec<String>,
    /// Commits that the receiver has already.
    pub have: Vec<CommitId>,
    /// An earlier archive that the receiver has imported.
    pub since: Option<PathBuf>,
}

/// Writes an archive, also beside the server.
///
/// # Errors
/// Not found for a ref that is not there; where something that the refs reach is damaged. No file is left then.
pub async fn export(data: &Path, repository: &str, source: ExportSource, out: &Path) -> Result<Exported> {
    let stores = Stores::existing(&RepositoryFolder::of(data, repository)).await?;
    let ExportSource { refs, mut have, since } = source;
    if let Some(since) = since {
        let info = read_archive_info(&mut open(&since)?)?;
        have.extend(info.dump.branches.iter().map(|branch| branch.head).chain(info.dump.tags.iter().map(|tag| tag.commit)));
        have.sort_unstable();
        have.dedup();
    }
    let request = ExportRequest { refs: (!refs.is_empty()).then_some(refs), have, owners: stores.owners, taken: SystemClock.now() };
    stream_file(out, async |writer| Ok(anabranch_versioning::export(&stores.metadata, &stores.objects, request, writer).await?)).await
}

/// Brings an archive into a repository that no server uses; an empty folder becomes a clone.
///
/// # Errors
/// [`Error::Locked`]; invalid for a damaged archive; failed precondition or conflict where it does not fit. Nothing is changed then.
pub async fn import(data: &Path, repository: &str, archive: &Path, prefix: String, force: bool, author: String) -> Result<Imported> {
    let mut archive = open(archive)?;
    let folder = super::lock(data).await?;
    let folder = (folder.repository(repository)?, folder);
    let stores = Stores::at(&folder.0, &folder.0.metadata).await?;
    let request = ImportRequest {
        prefix,
        force,
        author,
        owners: stores.owners,
        id_spaces: vec![source::ORIGINS.to_owned()],
        carried_spaces: vec![source::LOADS.to_owned()],
        now: SystemClock.now(),
    };
    let imported = anabranch_versioning::import(&stores.metadata, &stores.objects, &RandomIds::from_os(), request, &mut archive).await;
    folder.1.release();
    Ok(imported?)
}

fn open(path: &Path) -> Result<BufReader<File>> {
    match File::open(path) {
        Ok(file) => Ok(BufReader::with_capacity(1 << 20, file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::Missing(format!("no archive {}", path.display()))),
        Err(error) => Err(Error::io(format!("opening {}", path.display()))(error)),
    }
}
