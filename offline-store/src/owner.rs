//! What tables name beyond the map, for whoever verifies, moves or restores a repository.
//!
//! ```text
//! table entry ─▶ blob of its metadata
//! snapshot entry ─▶ manifest list ─▶ manifests ─▶ data files
//! ```
//!
//! A data file is as long and holds as many rows as its manifest says, and its Parquet footer reads. A deep look decodes every row. Files that an outside
//! writer put elsewhere than in the repository's object store are not looked at.

use std::sync::Arc;

use anabranch_versioning::{Entry, EntryOwner, FileRef, KeyKind, Named};
use async_trait::async_trait;
use bytes::Bytes;
use iceberg::spec::{DataFileFormat, FormatVersion, Manifest, ManifestList};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::ParquetMetaDataReader;

use crate::SOURCE_MARK;
use crate::entry::{SnapshotEntry, TableEntry};
use crate::storage::Locations;

type VersioningResult<T> = anabranch_versioning::Result<T>;

const MANIFEST_LIST: &str = "manifest list";
const MANIFEST: &str = "manifest";
const DATA_FILE: &str = "data file";
/// The length of the footer and `PAR1`.
const FOOTER_TAIL_BYTES: u64 = 8;

/// Verifies `table` entries and the metadata that they name.
#[derive(Debug, Clone)]
pub struct TableOwner {
    locations: Locations,
}

/// Verifies `snapshot` entries, manifests and data files.
#[derive(Debug, Clone)]
pub struct SnapshotOwner {
    locations: Locations,
}

/// Those who know what a repository's tables name, with their files under a root.
pub fn table_owners(locations: &Locations) -> [Arc<dyn EntryOwner>; 2] {
    [Arc::new(TableOwner { locations: locations.clone() }), Arc::new(SnapshotOwner { locations: locations.clone() })]
}

fn damaged(object: impl Into<String>, reason: impl ToString) -> anabranch_versioning::Error {
    anabranch_versioning::Error::Corrupt { object: object.into(), reason: reason.to_string() }
}

async fn read(file: &FileRef, objects: &Arc<dyn ObjectStore>) -> VersioningResult<Bytes> {
    let failed = |error| unavailable(&file.path, error);
    objects.get(&path(file)?).await.map_err(failed)?.bytes().await.map_err(failed)
}

fn path(file: &FileRef) -> VersioningResult<Path> {
    Path::parse(&file.path).map_err(|error| damaged(&file.path, error))
}

fn unavailable(path: &str, error: object_store::Error) -> anabranch_versioning::Error {
    anabranch_versioning::Error::Unavailable { what: format!("reading {path}"), source: Arc::new(error) }
}

#[async_trait]
impl EntryOwner for TableOwner {
    fn kind(&self) -> KeyKind {
        KeyKind::Table
    }

    fn entry(&self, entry: &Entry) -> VersioningResult<Named> {
        let name = entry.key.to_string();
        if entry.key.parts().len() != 2 {
            return Err(damaged(name, "its key is not a namespace and a name"));
        }
        let table = TableEntry::decode(&entry.value).map_err(|error| damaged(name, error))?;
        Ok(Named { files: vec![FileRef::blob(table.metadata)], ..Named::default() })
    }

    async fn file(&self, file: &FileRef, objects: &Arc<dyn ObjectStore>, _deep: bool) -> VersioningResult<Vec<FileRef>> {
        let bytes = read(file, objects).await?;
        crate::metadata::read(&file.path, &bytes, &self.locations).map_err(|error| damaged(&file.path, error))?;
        Ok(Vec::new())
    }
}

#[async_trait]
impl EntryOwner for SnapshotOwner {
    fn kind(&self) -> KeyKind {
        KeyKind::Snapshot
    }

    fn entry(&self, entry: &Entry) -> VersioningResult<Named> {
        let name = entry.key.to_string();
        let widths: Vec<_> = entry.key.parts().iter().map(|part| part.len()).collect();
        if widths != [16, 8] {
            return Err(damaged(name, "its key is not a table and a snapshot"));
        }
        let snapshot = SnapshotEntry::decode(&entry.value).map_err(|error| damaged(name, error))?;
        let sources = snapshot
            .files
            .iter()
            .flat_map(|file| file.intervals.iter().map(|interval| interval.source).chain(file.fill.iter().map(|fill| fill.source)));
        let ids = sources.map(|source| (SOURCE_MARK.to_owned(), u64::from(source.get()))).collect();
        Ok(Named { files: vec![FileRef::new(snapshot.manifest_list, MANIFEST_LIST)], ids, branch: None })
    }

    async fn file(&self, file: &FileRef, objects: &Arc<dyn ObjectStore>, deep: bool) -> VersioningResult<Vec<FileRef>> {
        match file.role {
            MANIFEST_LIST => self.list(file, read(file, objects).await?),
            MANIFEST => self.manifest(file, read(file, objects).await?),
            _ => {
                data_file(file, objects, deep).await?;
                Ok(Vec::new())
            }
        }
    }
}

impl SnapshotOwner {
    fn list(&self, file: &FileRef, bytes: Bytes) -> VersioningResult<Vec<FileRef>> {
        let list = ManifestList::parse_with_version(&bytes, FormatVersion::V2).map_err(|error| damaged(&file.path, error))?;
        let manifests = list.consume_entries().into_iter().filter_map(|manifest| {
            let path = self.locations.path(&manifest.manifest_path)?.to_owned();
            Some(FileRef { size: u64::try_from(manifest.manifest_length).ok(), ..FileRef::new(path, MANIFEST) })
        });
        Ok(manifests.collect())
    }

    fn manifest(&self, file: &FileRef, bytes: Bytes) -> VersioningResult<Vec<FileRef>> {
        let manifest = Manifest::parse_avro(&bytes).map_err(|error| damaged(&file.path, error))?;
        let files = manifest.entries().iter().filter(|entry| entry.is_alive()).map(|entry| entry.data_file()).filter_map(|data| {
            let path = self.locations.path(data.file_path())?.to_owned();
            let rows = (data.file_format() == DataFileFormat::Parquet).then(|| data.record_count());
            Some(FileRef { size: Some(data.file_size_in_bytes()), rows, ..FileRef::new(path, DATA_FILE) })
        });
        Ok(files.collect())
    }
}

/// A file with rows is Parquet; others are only there and as long as they must be.
async fn data_file(file: &FileRef, objects: &Arc<dyn ObjectStore>, deep: bool) -> VersioningResult<()> {
    let (Some(rows), Some(size)) = (file.rows, file.size) else { return Ok(()) };
    let fault = |reason: &dyn std::fmt::Display| damaged(&file.path, format!("its Parquet does not read: {reason}"));
    let found = if deep {
        let (name, bytes) = (file.path.clone(), read(file, objects).await?);
        let decoded = tokio::task::spawn_blocking(move || decode(bytes)).await;
        decoded.map_err(|error| damaged(name, error))?.map_err(|error| fault(&error))?
    } else {
        if size < 2 * FOOTER_TAIL_BYTES {
            return Err(fault(&"it is too short"));
        }
        let (place, failed) = (path(file)?, |error| unavailable(&file.path, error));
        let tail = objects.get_range(&place, size - FOOTER_TAIL_BYTES..size).await.map_err(failed)?;
        let tail: [u8; 8] = tail.as_ref().try_into().map_err(|_| fault(&"it is cut short"))?;
        let metadata_len = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
        let from = size.checked_sub(FOOTER_TAIL_BYTES + metadata_len).filter(|_| tail[4..] == *b"PAR1").ok_or_else(|| fault(&"it has no footer"))?;
        let footer = objects.get_range(&place, from..size - FOOTER_TAIL_BYTES).await.map_err(failed)?;
        let footer = ParquetMetaDataReader::decode_metadata(&footer).map_err(|error| fault(&error))?;
        u64::try_from(footer.file_metadata().num_rows()).unwrap_or_default()
    };
    if found == rows { Ok(()) } else { Err(damaged(&file.path, format!("it holds {found} rows, and its manifest says {rows}"))) }
}

/// Decodes all rows; answers how many there are.
fn decode(bytes: Bytes) -> Result<u64, String> {
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(ParquetRecordBatchReaderBuilder::build).map_err(|error| error.to_string())?;
    let mut rows = 0;
    for batch in reader {
        rows += batch.map_err(|error| error.to_string())?.num_rows() as u64;
    }
    Ok(rows)
}
