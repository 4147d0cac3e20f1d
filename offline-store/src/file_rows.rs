//! Views as files: what a join reads of a commit, resolved once, and readable without the repository from then on.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use anabranch_core::definition::{Column, Role};
use anabranch_core::name::reserved;
use anabranch_versioning::CommitId;
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectStore;
use parquet::file::statistics::Statistics;
use serde::{Deserialize, Serialize};

use crate::data_file::{FileRead, Footers, Group, ReadColumn};
use crate::entry::Fill;
use crate::join::{Chunk, ChunkInfo, ColumnReader, JoinPlan, KeyHint, PageReader, PageReaders, ScanError, ViewChunks, ViewRows, ViewScan};
use crate::metadata::TableState;
use crate::scan::{ScanRequest, schema_of};
use crate::table::{OfflineStore, TableName};
use crate::{Error, Result};

/// How many footers are read at a time.
const FOOTERS_AT_A_TIME: usize = 16;

/// What footers are kept where no store keeps them.
const FOOTER_BYTES: u64 = 16 << 20;

/// The files of one view at one commit: all that reading them takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewFiles {
    /// The name that the view goes by: its own or its alias.
    pub name: String,
    /// The field id of each column of the scan; none where the table has no such column.
    pub field_ids: Vec<Option<i32>>,
    /// The fields by which a file must be sorted to hold its rows in their total order; empty: none is.
    pub sorted_by: Vec<i32>,
    /// The files whose event times may matter, in the order of the sequence numbers.
    pub files: Vec<ViewFile>,
    /// All files of the view.
    pub all_files: u64,
    /// All rows of the view.
    pub all_rows: u64,
}

/// A data file of a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewFile {
    /// Its path in the object store.
    pub path: String,
    /// What its rows read as where they carry no reserved columns.
    pub fill: Option<Fill>,
}

impl OfflineStore {
    /// Finds the files that a join reads at a commit.
    ///
    /// # Errors
    /// [`Error::NoTable`]; those of the repository.
    pub async fn resolve(&self, commit: &CommitId, plan: &JoinPlan) -> Result<Vec<ViewFiles>> {
        let mut views = Vec::new();
        for scan in plan.scans() {
            views.push(self.resolve_view(commit, scan).await?);
        }
        Ok(views)
    }

    async fn resolve_view(&self, commit: &CommitId, scan: &ViewScan) -> Result<ViewFiles> {
        let request = ScanRequest {
            table: TableName::features(scan.layout.name()),
            columns: scan.columns.clone(),
            min_event_time: scan.hint.min_event_time,
            max_event_time: Some(scan.hint.max_event_time),
        };
        let (table, files, all) = self.files(commit, &request).await?;
        let path = |location: &str| {
            self.locations.path(location).map(str::to_owned).ok_or_else(|| Error::corrupt(location, "it lies outside of the repository"))
        };
        let file = |(location, fill): (String, Option<Fill>)| Ok(ViewFile { path: path(&location)?, fill });
        Ok(ViewFiles {
            name: scan.name.clone(),
            field_ids: scan.columns.iter().map(|column| table.field(&column.name).map(|field| field.id)).collect(),
            sorted_by: total_order(&table, &scan.columns),
            files: files.into_iter().map(file).collect::<Result<_>>()?,
            all_files: all.files,
            all_rows: all.rows,
        })
    }

    /// The rows of views at a commit, for a join.
    pub fn view_rows(self: &Arc<Self>, commit: CommitId) -> Arc<dyn ViewRows> {
        Arc::new(CommitRows { store: Arc::clone(self), commit })
    }
}

/// The ids of the fields that order an entity's rows, keys first; empty where the table lacks one.
fn total_order(table: &TableState, columns: &[Column]) -> Vec<i32> {
    let of = |role| columns.iter().filter(move |column| column.role == role).map(|column| column.name.as_str());
    let names = of(Role::Key).chain(of(Role::EventTime)).chain(of(Role::KnownTime)).chain([reserved::ARRIVAL, reserved::SOURCE, reserved::POSITION]);
    names.map(|name| table.field(name).map(|field| field.id)).collect::<Option<Vec<_>>>().unwrap_or_default()
}

/// The views of one commit.
#[derive(Debug)]
struct CommitRows {
    store: Arc<OfflineStore>,
    commit: CommitId,
}

#[async_trait]
impl ViewRows for CommitRows {
    async fn chunks(&self, scan: &ViewScan) -> Result<ViewChunks, ScanError> {
        let files = self.store.resolve_view(&self.commit, scan).await?;
        Ok(open(&self.store.objects, &self.store.footers, scan, &files).await?)
    }
}

/// Views whose files were resolved before.
#[derive(Debug)]
pub struct FileRows {
    objects: Arc<dyn ObjectStore>,
    footers: Footers,
    views: Vec<ViewFiles>,
}

impl FileRows {
    /// Reads files from `objects`.
    pub fn new(objects: Arc<dyn ObjectStore>, views: Vec<ViewFiles>) -> Arc<Self> {
        Arc::new(Self { objects, footers: Footers::new(FOOTER_BYTES), views })
    }
}

#[async_trait]
impl ViewRows for FileRows {
    async fn chunks(&self, scan: &ViewScan) -> Result<ViewChunks, ScanError> {
        let files = self.views.iter().find(|files| files.name == scan.name).ok_or_else(|| Error::NoTable(scan.name.clone()))?;
        Ok(open(&self.objects, &self.footers, scan, files).await?)
    }
}

/// Reads the footers of a view's files and keeps the row groups that may matter.
async fn open(objects: &Arc<dyn ObjectStore>, footers: &Footers, scan: &ViewScan, files: &ViewFiles) -> Result<ViewChunks> {
    let column = |(column, field_id): (&Column, &Option<i32>)| ReadColumn { column: column.clone(), field_id: *field_id };
    let columns = Arc::new(scan.columns.iter().zip(&files.field_ids).map(column).collect::<Vec<_>>());
    let event_times = Some((scan.hint.min_event_time.unwrap_or(anabranch_core::Timestamp::MIN), scan.hint.max_event_time));
    let read = FileRead { columns, schema: schema_of(&scan.columns), event_times, fill: None };
    let opened: Vec<_> = files.files.iter().map(|file| async { footers.get(objects, &file.path).await.map(|footer| (footer, file.fill)) }).collect();
    let opened: Vec<_> = stream::iter(opened).buffered(FOOTERS_AT_A_TIME).try_collect().await?;
    let mut found = ViewChunks { files: files.all_files, rows: files.all_rows, ..ViewChunks::default() };
    for (number, (footer, fill)) in opened.into_iter().enumerate() {
        let read = Arc::new(FileRead { fill, ..read.clone() });
        // Rows that carry no arrival are not in the order of theirs.
        let sorted = fill.is_none() && !files.sorted_by.is_empty() && footer.sorted_by == files.sorted_by;
        let before = found.chunks.len();
        found.chunks_seen += footer.arrow.metadata().num_row_groups() as u64;
        for group in read.wanted(&footer) {
            if group.rows() > 0 && may_hold_key(&read, &group, scan.hint.keys.as_deref()) {
                let (min_event_time, max_event_time) = read.event_times_of(&group);
                let tombstones = read.columns.iter().position(|wanted| wanted.column.name == reserved::TOMBSTONE);
                let tombstones = tombstones.is_some_and(|place| read.may_be_true(&group, place));
                let info = ChunkInfo { rows: group.rows(), file: number as u32, sorted, min_event_time, max_event_time, tombstones };
                found.chunks.push(Arc::new(FileChunk { objects: Arc::clone(objects), read: Arc::clone(&read), group, info }));
            }
        }
        found.files_kept += u64::from(found.chunks.len() > before);
    }
    Ok(found)
}

/// Whether a row group holds a key that is asked for, as far as its statistics say.
fn may_hold_key(read: &FileRead, group: &Group, hint: Option<&KeyHint>) -> bool {
    let Some(hint) = hint else { return true };
    let place = read.columns.iter().position(|wanted| wanted.column.role == Role::Key);
    match place.and_then(|place| read.statistics(group, place)) {
        Some(Statistics::Int32(keys)) => {
            keys.min_opt().zip(keys.max_opt()).is_none_or(|(low, high)| hint.any_integer(i64::from(*low), i64::from(*high)))
        }
        Some(Statistics::Int64(keys)) => keys.min_opt().zip(keys.max_opt()).is_none_or(|(low, high)| hint.any_integer(*low, *high)),
        // Bounds that were cut are bounds all the same.
        Some(Statistics::ByteArray(keys)) => keys.min_opt().zip(keys.max_opt()).is_none_or(|(low, high)| hint.any_text(low.data(), high.data())),
        _ => true,
    }
}

/// A row group.
struct FileChunk {
    objects: Arc<dyn ObjectStore>,
    read: Arc<FileRead>,
    group: Group,
    info: ChunkInfo,
}

impl fmt::Debug for FileChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileChunk")
            .field("path", &self.group.footer.path)
            .field("group", &self.group.number)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Chunk for FileChunk {
    fn info(&self) -> ChunkInfo {
        self.info
    }

    fn stored_bytes(&self, columns: &[usize]) -> u64 {
        self.read.stored_bytes(&self.group, columns)
    }

    async fn read(&self, columns: &[usize], rows: Option<&[Range<usize>]>, batch_rows: usize) -> Result<ColumnReader, ScanError> {
        let batches = self.read.read(&self.objects, &self.group, columns, rows, batch_rows).await?;
        Ok(Box::new(batches.map(|batch| batch.map_err(ScanError::from))))
    }

    async fn pages(&self, columns: &[usize]) -> Result<Option<PageReaders>, ScanError> {
        let Some(stored) = self.read.pages(&self.objects, &self.group, columns).await? else { return Ok(None) };
        Ok(Some(Box::new(|| {
            let columns = stored.open()?.into_iter();
            Ok(columns.map(|pages| Box::new(pages.map(|page| page.map_err(ScanError::from))) as PageReader).collect())
        })))
    }
}
