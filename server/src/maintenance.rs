//! Looking after a data folder: verifying it, backing it up and restoring it, and moving it or a part of it.
//!
//! | what | beside a live server | changes |
//! | -- | -- | -- |
//! | [`fsck`] | yes | nothing |
//! | [`backup`] | yes | nothing |
//! | [`export`] | yes | nothing |
//! | [`history`] | yes | how long a branch keeps the content of its commits |
//! | [`import`] | no: it takes the folder's lock | files, packs, then refs |
//! | [`restore`] | no: it takes the folder's lock | the metadata database, which must be missing; the online store, which is emptied |
//!
//! A library that the command line calls; no face of the server does, because it works on folders and not on calls.

mod backup;
mod fsck;
mod history;
mod restore;
mod transfer;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::RandomIds;
use anabranch_offline_store::{Locations, table_owners};
use anabranch_versioning::{EntryOwner, MetadataStore, ObjectOwner, RealFiles, SqliteMetadata, files, local_objects_on};
use object_store::ObjectStore;

pub use backup::{BackupSummary, backup};
pub use fsck::{FsckRequest, fsck, report_json};
pub use history::history;
pub use restore::{RestoreOptions, Restored, RestoredBranch, restore};
pub use transfer::{ExportSource, export, import};

use crate::error::{Error, Result};
use crate::folder::{DataFolder, RepositoryFolder};

const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// The stores of one repository, apart from a server.
struct Stores {
    metadata: Arc<dyn MetadataStore>,
    objects: Arc<dyn ObjectStore>,
    owners: Vec<Arc<dyn EntryOwner>>,
}

impl Stores {
    /// Those of a repository that is there.
    async fn existing(folder: &RepositoryFolder) -> Result<Self> {
        if !folder.metadata.exists() {
            return Err(Error::Missing(format!("no metadata database at {}: is this a data folder?", folder.metadata.display())));
        }
        Self::at(folder, &folder.metadata).await
    }

    /// Those of a repository whose metadata database lies elsewhere, and is made if missing.
    async fn at(folder: &RepositoryFolder, metadata: &Path) -> Result<Self> {
        let metadata = Arc::new(SqliteMetadata::open(metadata, &RandomIds::from_os()).await?);
        Ok(Self { metadata, objects: local_objects_on(Arc::new(RealFiles), &folder.objects)?, owners: owners(folder)? })
    }
}

/// Takes a folder for this process. A private server ends soon after its last user, so it is waited for a moment.
async fn lock(data: &Path) -> Result<DataFolder> {
    for _ in 0..LOCK_TRIES {
        match DataFolder::open(data) {
            Err(Error::Locked { .. }) => tokio::time::sleep(LOCK_PAUSE).await,
            opened => return opened,
        }
    }
    DataFolder::open(data)
}

/// Who knows what entries name.
fn owners(folder: &RepositoryFolder) -> Result<Vec<Arc<dyn EntryOwner>>> {
    let mut owners: Vec<Arc<dyn EntryOwner>> =
        vec![Arc::new(anabranch_registry::DefinitionOwner), Arc::new(anabranch_ingest::OffsetOwner), Arc::new(ObjectOwner)];
    owners.extend(table_owners(&Locations::local(&folder.objects)?));
    Ok(owners)
}

/// Makes a file of these bytes appear as a whole and durably, in place of one of that name.
fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let whole = std::path::absolute(path).map_err(Error::io(format!("writing {}", path.display())))?;
    files::replace_file(&RealFiles, &whole, bytes).map_err(Error::io(format!("writing {}", path.display())))
}

/// A file written as it comes, which gets its name only when it is whole and durable.
fn stream_file<T>(path: &Path, write: impl AsyncFnOnce(&mut (dyn std::io::Write + Send)) -> Result<T>) -> impl Future<Output = Result<T>> {
    let (path, failed) = (path.to_owned(), format!("writing {}", path.display()));
    async move {
        let path = std::path::absolute(&path).map_err(Error::io(failed.clone()))?;
        let mut staged = path.clone().into_os_string();
        staged.push(".part");
        let file = std::fs::File::create(&staged).map_err(Error::io(failed.clone()))?;
        let mut out = std::io::BufWriter::with_capacity(1 << 20, file);
        let done = write(&mut out).await;
        let named = done.and_then(|value| {
            let finished = out.flush().and_then(|()| out.get_ref().sync_all()).and_then(|()| std::fs::rename(&staged, &path));
            let synced = finished.and_then(|()| files::Files::sync_dir(&RealFiles, path.parent().unwrap_or(&path)));
            synced.map(|()| value).map_err(Error::io(failed))
        });
        if named.is_err() {
            // What is left otherwise has a name that says what it is.
            let _ = std::fs::remove_file(&staged);
        }
        named
    }
}
