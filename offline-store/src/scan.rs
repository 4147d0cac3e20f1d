//! Reading tables at a commit: all rows, the rows that one commit has beyond another, and which positions of a source are in.
//!
//! Columns are asked for by name and type and found in files by field id, so a file written before a column was added reads as null there, one written
//! before it was widened reads as the wider type, and a dropped column's data never comes back under a new column of its name. What rows do not carry is
//! filled in from their snapshot's entry. Files come in the order of their sequence numbers, so the same commit gives the same rows in the same order.
//!
//! Files whose event times cannot matter are left out by the statistics in their manifest, row groups by those in the file.

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_core::definition::{Column, Role};
use anabranch_core::name::reserved;
use anabranch_core::{SourceId, Timestamp};
use anabranch_versioning::{CommitId, Scan, scan_all};
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema as ArrowSchema, SchemaRef};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{DataFile, DataFileFormat, ManifestContentType, PrimitiveLiteral};

use crate::data_file::{FileRead, ReadColumn};
use crate::entry::{AddedFile, Fill, Interval, SnapshotEntry, snapshot_prefix};
use crate::metadata::{TableState, data_path};
use crate::table::{OfflineStore, TableName};
use crate::{Error, Result};

/// A stream of rows.
pub type BatchStream = BoxStream<'static, Result<RecordBatch>>;

/// What is to be read.
#[derive(Debug, Clone)]
pub struct ScanRequest {
    /// The table.
    pub table: TableName,
    /// The columns in order, by name; one that the table does not have is null.
    pub columns: Vec<Column>,
    /// Rows with earlier event times may be left out.
    pub min_event_time: Option<Timestamp>,
    /// Rows with later event times may be left out.
    pub max_event_time: Option<Timestamp>,
}

impl ScanRequest {
    /// All rows of a table in these columns.
    pub fn all(table: TableName, columns: Vec<Column>) -> Self {
        Self { table, columns, min_event_time: None, max_event_time: None }
    }

    fn event_times(&self) -> Option<(Timestamp, Timestamp)> {
        let (min, max) = (self.min_event_time, self.max_event_time);
        (min.is_some() || max.is_some()).then(|| (min.unwrap_or(Timestamp::MIN), max.unwrap_or(Timestamp::MAX)))
    }
}

/// A data file of a table at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFile {
    /// Where it lies, as the table's Iceberg metadata names it.
    pub location: String,
    /// How many rows it holds.
    pub rows: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// What its rows read as where they carry no reserved columns.
    pub fill: Option<Fill>,
}

/// How the files of a table differ between two commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedFiles {
    /// The files whose rows the later commit has beyond the earlier one, oldest snapshot first: those that brought the rows, not those that a compaction
    /// has since put them into.
    pub files: Vec<AddedFile>,
    /// Whether the earlier commit has snapshots that the later one has not, other than compactions: rows were taken away.
    pub removed: bool,
}

impl OfflineStore {
    /// The rows of a table at a commit.
    ///
    /// # Errors
    /// [`Error::NoTable`]; in the stream [`Error::Corrupt`] where a file is missing or damaged.
    pub async fn scan(&self, commit: &CommitId, request: &ScanRequest) -> Result<BatchStream> {
        let (table, reads, _) = self.files(commit, request).await?;
        self.read(&table, request, reads)
    }

    /// The table, the files at a commit that may matter, with what their rows read as, and how much there is in all.
    pub(crate) async fn files(&self, commit: &CommitId, request: &ScanRequest) -> Result<(TableState, Vec<FileToRead>, Extent)> {
        let table = self.table(commit, &request.table).await?;
        let mut files = self.live_files(commit, &table).await?;
        let all = Extent { files: files.len() as u64, rows: files.iter().map(|file| file.data_file.record_count()).sum() };
        if let (Some((min, max)), Some(id)) = (request.event_times(), event_field(&table, &request.columns)) {
            files.retain(|file| may_hold(&file.data_file, id, min, max));
        }
        self.fill(commit, &table, &mut files).await?;
        let reads = files.into_iter().map(|file| (file.data_file.file_path().to_owned(), file.fill)).collect();
        Ok((table, reads, all))
    }

    /// The rows of files that [`OfflineStore::added_files`] named, at a commit that has them.
    ///
    /// # Errors
    /// As [`OfflineStore::scan`].
    pub async fn scan_files(&self, commit: &CommitId, request: &ScanRequest, files: &[AddedFile]) -> Result<BatchStream> {
        let table = self.table(commit, &request.table).await?;
        let place = |file: &AddedFile| (file_location(&table, file), file.fill);
        self.read(&table, request, files.iter().map(place).collect())
    }

    /// The files of a table that `to` has and `from` has not; with no `from`, all of them. No table at `from` is an empty one.
    ///
    /// # Errors
    /// [`Error::NoTable`] where there is none at `to`.
    pub async fn added_files(&self, from: Option<&CommitId>, to: &CommitId, name: &TableName) -> Result<AddedFiles> {
        let table = self.table(to, name).await?;
        let before = match from {
            Some(from) => self.find_table(from, name).await?.map(|before| (*from, before)),
            None => None,
        };
        let prefix = snapshot_prefix(table.entry.uuid)?;
        let (mut added, mut removed) = (Vec::new(), false);
        match before {
            Some((from, before)) if before.entry.uuid == table.entry.uuid => {
                let mut scan = Scan::prefix(prefix);
                loop {
                    let page = self.repository.diff(&from, to, &scan).await?;
                    for difference in page.items {
                        let left = difference.left.map(|bytes| SnapshotEntry::decode(&bytes)).transpose()?;
                        removed |= left.is_some_and(|snapshot| !snapshot.only_rewrites());
                        added.extend(difference.right.map(|bytes| SnapshotEntry::decode(&bytes)).transpose()?);
                    }
                    match page.next {
                        Some(next) => scan.after = Some(next),
                        None => break,
                    }
                }
            }
            other => {
                removed = other.is_some_and(|(_, before)| before.entry.current_snapshot.is_some());
                for entry in scan_all(&self.repository.at(to).await?, Scan::prefix(prefix)).await? {
                    added.push(SnapshotEntry::decode(&entry.value)?);
                }
            }
        }
        added.retain(|snapshot| !snapshot.only_rewrites());
        added.sort_by_key(|snapshot| snapshot.sequence_number);
        Ok(AddedFiles { files: added.into_iter().flat_map(|snapshot| snapshot.files).collect(), removed })
    }

    /// The positions of a source that are in a table at a commit, in order; none where there is no such table.
    ///
    /// # Errors
    /// Those of the repository.
    pub async fn intervals(&self, commit: &CommitId, name: &TableName, source: SourceId) -> Result<Vec<Interval>> {
        let Some(table) = self.find_table(commit, name).await? else { return Ok(Vec::new()) };
        let mut intervals = Vec::new();
        for entry in scan_all(&self.repository.at(commit).await?, Scan::prefix(snapshot_prefix(table.entry.uuid)?)).await? {
            let files = SnapshotEntry::decode(&entry.value)?.files;
            intervals.extend(files.iter().flat_map(|file| &file.intervals).filter(|interval| interval.source == source));
        }
        Ok(Interval::merged(intervals))
    }

    /// The data files that hold the rows of a table at a commit, oldest first.
    ///
    /// # Errors
    /// [`Error::NoTable`] where there is none.
    pub async fn table_files(&self, commit: &CommitId, name: &TableName) -> Result<Vec<TableFile>> {
        let table = self.table(commit, name).await?;
        let mut files = self.live_files(commit, &table).await?;
        self.fill(commit, &table, &mut files).await?;
        let file = |LiveFile { data_file, fill, .. }: LiveFile| TableFile {
            // A repository that was moved has its files elsewhere than its manifests say.
            location: self
                .locations
                .path(data_file.file_path())
                .map_or_else(|| data_file.file_path().to_owned(), |path| self.locations.location(path)),
            rows: data_file.record_count(),
            bytes: data_file.file_size_in_bytes(),
            fill,
        };
        Ok(files.into_iter().map(file).collect())
    }

    /// The files of the current snapshot, oldest first.
    pub(crate) async fn live_files(&self, commit: &CommitId, table: &TableState) -> Result<Vec<LiveFile>> {
        let Some(id) = table.entry.current_snapshot else { return Ok(Vec::new()) };
        let snapshot = self.snapshot(commit, table.entry.uuid, id).await?;
        let list = self.manifests.list(&self.io, &self.locations.location(&snapshot.manifest_list)).await?;
        let mut files = Vec::new();
        for manifest in list.iter() {
            if manifest.content != ManifestContentType::Data {
                return Err(Error::Unsupported(format!("table {} holds delete files, which are not read here", table.name)));
            }
            for entry in self.manifests.manifest(&self.io, manifest).await?.entries().iter().filter(|entry| entry.is_alive()) {
                if entry.file_format() != DataFileFormat::Parquet {
                    return Err(Error::Unsupported(format!("table {} holds a file that is not Parquet: {}", table.name, entry.file_path())));
                }
                let damaged = || Error::corrupt(&manifest.manifest_path, "an entry has no snapshot or sequence number");
                let (Some(snapshot), Some(sequence)) = (entry.snapshot_id(), entry.sequence_number()) else { return Err(damaged()) };
                let spec = manifest.partition_spec_id;
                files.push(LiveFile { data_file: entry.data_file().clone(), spec, snapshot, sequence, fill: None });
            }
        }
        files.sort_by(|a, b| (a.sequence, a.data_file.file_path()).cmp(&(b.sequence, b.data_file.file_path())));
        Ok(files)
    }

    /// Finds what the rows of files without reserved columns read as.
    pub(crate) async fn fill(&self, commit: &CommitId, table: &TableState, files: &mut [LiveFile]) -> Result<()> {
        let reserved: Vec<_> = [reserved::ARRIVAL, reserved::SOURCE, reserved::POSITION]
            .into_iter()
            .filter_map(|name| table.field(name))
            .map(|field| field.id)
            .collect();
        let mut snapshots = HashMap::new();
        for file in files.iter_mut().filter(|file| reserved.iter().any(|id| file.data_file.null_value_counts().get(id) != Some(&0))) {
            if let std::collections::hash_map::Entry::Vacant(vacant) = snapshots.entry(file.snapshot) {
                let added = self.snapshot(commit, table.entry.uuid, file.snapshot).await?.files;
                vacant.insert(added.into_iter().map(|file| (file_location(table, &file), file.fill)).collect::<HashMap<_, _>>());
            }
            let path = self.locations.path(file.data_file.file_path()).unwrap_or_else(|| file.data_file.file_path());
            file.fill = snapshots.get(&file.snapshot).and_then(|files| files.get(path)).copied().flatten();
        }
        Ok(())
    }

    fn read(&self, table: &TableState, request: &ScanRequest, files: Vec<FileToRead>) -> Result<BatchStream> {
        let columns: Vec<_> = request
            .columns
            .iter()
            .map(|column| ReadColumn { column: column.clone(), field_id: table.field(&column.name).map(|field| field.id) })
            .collect();
        let (columns, schema) = (Arc::new(columns), schema_of(&request.columns));
        let mut reads = Vec::with_capacity(files.len());
        for (location, fill) in files {
            let path = self.locations.path(&location).ok_or_else(|| Error::corrupt(&location, "it lies outside of the repository"))?.to_owned();
            let read = FileRead { columns: Arc::clone(&columns), schema: Arc::clone(&schema), event_times: request.event_times(), fill };
            reads.push((path, read));
        }
        let (objects, footers) = (Arc::clone(&self.objects), Arc::clone(&self.footers));
        let groups = stream::iter(reads).then(move |(path, read)| {
            let (objects, footers) = (Arc::clone(&objects), Arc::clone(&footers));
            async move {
                let footer = footers.get(&objects, &path).await?;
                let groups = read.wanted(&footer);
                Ok::<_, Error>(stream::iter(groups.into_iter().map(move |group| Ok((read.clone(), group)))))
            }
        });
        let objects = Arc::clone(&self.objects);
        let batches = groups
            .try_flatten()
            .map_ok(move |(read, group)| {
                let objects = Arc::clone(&objects);
                async move { read.rows(&objects, &group).await }
            })
            .try_buffered(self.options.scan_groups.max(1))
            .map_ok(|batches| stream::iter(batches.into_iter().map(Ok)))
            .try_flatten();
        Ok(batches.boxed())
    }
}

/// A file's location, and what its rows read as where they carry no reserved columns.
pub(crate) type FileToRead = (String, Option<Fill>);

/// How much there is of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) files: u64,
    pub(crate) rows: u64,
}

/// The Arrow schema of these columns.
pub fn schema_of(columns: &[Column]) -> SchemaRef {
    let field = |column: &Column| Field::new(&column.name, column.data_type.to_arrow(), column.nullable());
    Arc::new(ArrowSchema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

/// A file of a table at a commit.
#[derive(Debug, Clone)]
pub(crate) struct LiveFile {
    pub(crate) data_file: DataFile,
    /// The partition spec that it was written under.
    pub(crate) spec: i32,
    /// The snapshot that added it.
    pub(crate) snapshot: i64,
    pub(crate) sequence: i64,
    /// What its rows read as where they carry no reserved columns; as long as it was asked for.
    pub(crate) fill: Option<Fill>,
}

/// Where a file that an entry names lies: a path, or a location outside of the table's folder.
pub(crate) fn file_location(table: &TableState, file: &AddedFile) -> String {
    if file.name.contains('/') { file.name.clone() } else { format!("{}/{}", data_path(table.entry.uuid), file.name) }
}

fn event_field(table: &TableState, columns: &[Column]) -> Option<i32> {
    let column = columns.iter().find(|column| column.role == Role::EventTime)?;
    table.field(&column.name).map(|field| field.id)
}

fn may_hold(file: &DataFile, event_field: i32, min: Timestamp, max: Timestamp) -> bool {
    let bound = |bounds: &HashMap<i32, iceberg::spec::Datum>| match bounds.get(&event_field).map(iceberg::spec::Datum::literal) {
        Some(PrimitiveLiteral::Long(micros)) => Some(*micros),
        _ => None,
    };
    bound(file.lower_bounds()).is_none_or(|low| low <= max.micros()) && bound(file.upper_bounds()).is_none_or(|high| high >= min.micros())
}
