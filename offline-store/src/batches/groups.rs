//! The stored rows of a dataset, a row group at a time: no more of a file is fetched than the groups that are read, and no more is held.
//!
//! Parts are cut into row groups of [`GROUP_ROWS`], so a group's place is known from the manifest alone: groups are counted over all parts.

use std::ops::Range;
use std::sync::Arc;

use anabranch_versioning::{CommitId, ObjectInfo, Repository};
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::reader::{ChunkReader, Length};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use super::AHEAD;
use crate::data_file::guarded;
use crate::dataset::{DatasetError, DatasetManifest, DatasetPart, GROUP_ROWS};
use crate::{Error, Result};

/// What is read of a file's end at first: its footer, usually.
const TAIL_BYTES: u64 = 64 << 10;

/// Reads row groups of a saved dataset.
#[derive(Debug, Clone)]
pub struct GroupReader(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    repository: Arc<Repository>,
    commit: CommitId,
    columns: Vec<String>,
    parts: Vec<(DatasetPart, OnceCell<Opened>)>,
}

#[derive(Debug, Clone)]
struct Opened {
    object: ObjectInfo,
    metadata: ArrowReaderMetadata,
}

/// Some bytes of a file, as if it were whole.
#[derive(Debug)]
struct Window {
    start: u64,
    bytes: Bytes,
    length: u64,
}

impl GroupReader {
    /// Reads the rows of a dataset whose manifest was found at `commit`.
    ///
    /// # Errors
    /// [`DatasetError::NotStored`] where its rows are not stored.
    pub fn new(repository: Arc<Repository>, commit: CommitId, manifest: &DatasetManifest) -> Result<Self> {
        if manifest.parts.is_empty() {
            return Err(DatasetError::NotStored { name: manifest.name.clone() }.into());
        }
        let parts = manifest.parts.iter().map(|part| (part.clone(), OnceCell::new())).collect();
        let columns = manifest.columns.iter().map(|column| column.name.clone()).collect();
        Ok(Self(Arc::new(Inner { repository, commit, columns, parts })))
    }

    /// How many row groups there are.
    pub fn groups(&self) -> u64 {
        self.0.parts.iter().map(|(part, _)| groups_of(part)).sum()
    }

    /// The first row of a group, and the row behind its last.
    pub fn rows_of(&self, group: u64) -> Option<Range<u64>> {
        let (part, within, before) = self.0.place(group)?;
        let first = within * GROUP_ROWS as u64;
        Some(before + first..before + self.0.parts[part].0.rows.min(first + GROUP_ROWS as u64))
    }

    /// Groups in their order with the columns of these places, a few of them ahead of the reader.
    pub fn stream(&self, groups: Range<u64>, columns: Arc<[usize]>) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
        let reader = self.clone();
        let read = move |group| {
            let (reader, columns) = (reader.clone(), Arc::clone(&columns));
            async move { reader.read(group, columns).await }
        };
        stream::iter(groups).map(read).buffered(AHEAD)
    }

    /// A group with the columns of these places.
    ///
    /// # Errors
    /// Invalid for a group that is not there; [`Error::Corrupt`] where the file is not the one that was saved.
    pub async fn read(&self, group: u64, columns: Arc<[usize]>) -> Result<RecordBatch> {
        let none =
            || Error::Invalid { what: "row group of a dataset", reason: format!("there is none numbered {group}: there are {}", self.groups()) };
        let (part, within, _) = self.0.place(group).ok_or_else(none)?;
        let (part, opened) = &self.0.parts[part];
        let opened = opened.get_or_try_init(|| self.0.open(part)).await?;
        let damaged = |reason: &dyn std::fmt::Display| Error::corrupt(&part.path, reason);
        let group = opened.metadata.metadata().row_groups().get(within as usize).ok_or_else(|| damaged(&"it has too few row groups"))?;
        let spans = group.columns().iter().map(|column| column.byte_range());
        let (start, end) = spans.fold((u64::MAX, 0), |(start, end), (at, length)| (start.min(at), end.max(at + length)));
        let start = start.min(end);
        let bytes = self.0.repository.open_object(opened.object.clone(), Some(start..end)).await?.bytes().await?;
        let (window, metadata) = (Window { start, bytes, length: part.bytes }, opened.metadata.clone());
        let path = part.path.clone();
        let decode = move || guarded(&path, || decode(window, metadata, within as usize, &columns));
        spawn_blocking(decode).await.map_err(|_| Error::Closing)?
    }
}

const fn groups_of(part: &DatasetPart) -> u64 {
    part.rows.div_ceil(GROUP_ROWS as u64)
}

impl Inner {
    /// The part of a group, its number there and how many rows come before the part.
    fn place(&self, group: u64) -> Option<(usize, u64, u64)> {
        let (mut left, mut before) = (group, 0);
        for (index, (part, _)) in self.parts.iter().enumerate() {
            let groups = groups_of(part);
            if left < groups {
                return Some((index, left, before));
            }
            left -= groups;
            before += part.rows;
        }
        None
    }

    async fn open(&self, part: &DatasetPart) -> Result<Opened> {
        let damaged = |reason: &dyn std::fmt::Display| Error::corrupt(&part.path, reason);
        let object = self.repository.stat_object(&self.commit, &part.path).await?;
        if object.entry.checksum().to_string() != part.checksum || object.entry.size() != part.bytes {
            return Err(damaged(&format!("its checksum is {} where the dataset has {}", object.entry.checksum(), part.checksum)));
        }
        let mut reader = ParquetMetaDataReader::new();
        let mut tail = TAIL_BYTES;
        loop {
            let start = part.bytes.saturating_sub(tail);
            let bytes = self.repository.open_object(object.clone(), Some(start..part.bytes)).await?.bytes().await?;
            match reader.try_parse_sized(&bytes, part.bytes) {
                Ok(()) => break,
                Err(ParquetError::NeedMoreData(needed)) if needed as u64 > tail => tail = needed as u64,
                Err(error) => return Err(damaged(&error)),
            }
        }
        let metadata = reader.finish().and_then(|metadata| ArrowReaderMetadata::try_new(Arc::new(metadata), Default::default()));
        let metadata = metadata.map_err(|error| damaged(&error))?;
        let names = metadata.schema().fields().iter().map(|field| field.name());
        if !names.eq(self.columns.iter()) {
            return Err(damaged(&"it has other columns than the dataset"));
        }
        Ok(Opened { object, metadata })
    }
}

fn decode(window: Window, metadata: ArrowReaderMetadata, group: usize, columns: &[usize]) -> Result<RecordBatch, ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(window, metadata);
    let mut order = columns.to_vec();
    order.sort_unstable();
    order.dedup();
    let schema: SchemaRef = Arc::new(builder.schema().project(columns)?);
    let mask = ProjectionMask::roots(builder.parquet_schema(), order.iter().copied());
    let mut reader = builder.with_projection(mask).with_row_groups(vec![group]).with_batch_size(GROUP_ROWS).build()?;
    let batch = reader.next().transpose()?.ok_or_else(|| ParquetError::General("a row group has no rows".to_owned()))?;
    let places = columns.iter().filter_map(|column| order.binary_search(column).ok());
    let arrays = places.map(|place| Arc::clone(batch.column(place))).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
}

impl Length for Window {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Window {
    type T = std::io::Cursor<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let from = start.checked_sub(self.start).and_then(|from| usize::try_from(from).ok()).filter(|from| *from <= self.bytes.len());
        from.map(|from| std::io::Cursor::new(self.bytes.slice(from..))).ok_or_else(|| beyond(start))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let from = start.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        let range = from.and_then(|from| Some(from..from.checked_add(length)?)).filter(|range| range.end <= self.bytes.len());
        range.map(|range| self.bytes.slice(range)).ok_or_else(|| beyond(start))
    }
}

fn beyond(start: u64) -> ParquetError {
    ParquetError::EOF(format!("byte {start} does not belong to the row group"))
}
