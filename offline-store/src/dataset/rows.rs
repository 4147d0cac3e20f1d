//! The rows of a saved dataset: Parquet files among the repository's objects, named by the content that they hold.
//!
//! ```text
//! dataset-rows/<content digest>/00000.parquet, 00001.parquet, …    at most 1,048,576 rows each, in the order of the rows
//! ```
//!
//! A file has row groups of 65,536 rows, is compressed by zstd and holds our types in canonical form. Its bytes depend on the rows and on the version of
//! the writer, on nothing else: not on batches, threads or the machine. A dataset without rows has one file, which has its columns. Datasets of equal
//! content share their files, whatever they are called.
//!
//! A reader takes only the very files that the manifest names: another checksum at a path is damage.

use std::io;
use std::iter::Peekable;
use std::sync::{Arc, Mutex, PoisonError};

use anabranch_versioning::{CommitId, ObjectChange, ObjectCondition, Repository};
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::groups::{GROUP_ROWS, Groups, canonical_schema};
use super::{ContentDigest, DatasetColumn, DatasetError, DatasetManifest, SplitRule};
use crate::data_file::guarded;
use crate::join::JoinedRows;
use crate::{Error, Result};

/// What the paths of all parts begin with.
pub const ROWS_FOLDER: &str = "dataset-rows/";

/// The most rows of a part.
pub const PART_ROWS: usize = 1 << 20;

const CONTENT_TYPE: &str = "application/vnd.apache.parquet";
/// Stands in the files, so that a new version of the library does not change their bytes by its name.
const CREATED_BY: &str = "anabranch dataset rows 1";

/// One file of a dataset's rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetPart {
    /// Where it lies among the repository's objects.
    pub path: String,
    /// How many rows it has.
    pub rows: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The BLAKE3 hash of its bytes, as 64 hex digits.
    pub checksum: String,
}

/// What was written of a dataset's rows: durable, and named by nothing until the changes are committed.
#[derive(Debug, Clone, Default)]
pub struct WrittenRows {
    /// The parts, in the order of the rows.
    pub parts: Vec<DatasetPart>,
    /// What puts them into the repository.
    pub changes: Vec<ObjectChange>,
}

/// Where a part of this content lies.
fn part_path(digest: ContentDigest, part: usize) -> String {
    format!("{ROWS_FOLDER}{digest}/{part:05}.parquet")
}

/// Writes rows as parts.
///
/// # Errors
/// [`DatasetError::Schema`] where a batch is not of these columns, [`DatasetError::Misfit`]; those of the repository.
pub async fn write_rows(repository: &Repository, digest: ContentDigest, columns: &[DatasetColumn], rows: &JoinedRows) -> Result<WrittenRows> {
    let (mut encoder, mut written) = (PartEncoder::new(Groups::new(columns.to_vec(), rows)), WrittenRows::default());
    loop {
        let path = part_path(digest, written.parts.len());
        let (mut object, mut rows) = (repository.object_writer(&path, CONTENT_TYPE)?, 0);
        let ends_rows = loop {
            let step;
            (encoder, step) = spawn_blocking(move || encoder.step()).await.map_err(|_| Error::Closing)??;
            rows += step.rows as u64;
            object.write(&step.bytes).await?;
            if step.ends_part {
                break step.ends_rows;
            }
        };
        let entry = object.finish().await?;
        written.parts.push(DatasetPart { path: path.clone(), rows, bytes: entry.size(), checksum: entry.checksum().to_string() });
        written.changes.push(ObjectChange::Put { path, entry, condition: ObjectCondition::Any });
        if ends_rows {
            return Ok(written);
        }
    }
}

/// Encodes group after group, a file for every [`PART_ROWS`] rows.
struct PartEncoder {
    schema: SchemaRef,
    groups: Peekable<Groups>,
    open: Option<(ArrowWriter<Sink>, Sink)>,
    in_part: usize,
}

/// What one group became.
struct Step {
    rows: usize,
    bytes: Bytes,
    /// The part has no more bytes.
    ends_part: bool,
    /// There are no more rows.
    ends_rows: bool,
}

impl PartEncoder {
    fn new(groups: Groups) -> Self {
        Self { schema: Arc::clone(groups.schema()), groups: groups.peekable(), open: None, in_part: 0 }
    }

    fn step(mut self) -> Result<(Self, Step)> {
        let failed = |error: parquet::errors::ParquetError| DatasetError::Rows { reason: error.to_string() };
        let (mut writer, sink) = match self.open.take() {
            Some(open) => open,
            None => {
                let sink = Sink::default();
                (ArrowWriter::try_new(sink.clone(), Arc::clone(&self.schema), Some(properties())).map_err(failed)?, sink)
            }
        };
        let group = self.groups.next().transpose()?;
        let rows = group.as_ref().map_or(0, RecordBatch::num_rows);
        if let Some(group) = &group {
            writer.write(group).and_then(|()| writer.flush()).map_err(failed)?;
        }
        self.in_part += rows;
        let ends_rows = self.groups.peek().is_none();
        let ends_part = ends_rows || self.in_part >= PART_ROWS;
        if ends_part {
            writer.close().map_err(failed)?;
            self.in_part = 0;
        } else {
            self.open = Some((writer, sink.clone()));
        }
        Ok((self, Step { rows, bytes: sink.take(), ends_part, ends_rows }))
    }
}

fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_created_by(CREATED_BY.to_owned())
        .build()
}

/// Bytes on their way from an encoder.
#[derive(Debug, Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the rows of a saved dataset.
#[derive(Debug, Clone)]
pub struct DatasetRows {
    repository: Arc<Repository>,
    commit: CommitId,
    schema: SchemaRef,
    parts: Vec<DatasetPart>,
    /// Only the rows of the split of this place.
    only: Option<(SplitRule, usize)>,
}

impl DatasetRows {
    /// The rows of a dataset whose manifest was found at `commit`.
    ///
    /// # Errors
    /// [`DatasetError::NotStored`] where an earlier version saved it, without its rows.
    pub fn new(repository: Arc<Repository>, commit: CommitId, manifest: &DatasetManifest) -> Result<Self> {
        if manifest.parts.is_empty() {
            return Err(DatasetError::NotStored { name: manifest.name.clone() }.into());
        }
        Ok(Self { repository, commit, schema: canonical_schema(&manifest.columns), parts: manifest.parts.clone(), only: None })
    }

    /// Only the rows of one split; the parts are as they were, and some may have none of its rows.
    ///
    /// # Errors
    /// [`DatasetError::NoSplit`] names those that the dataset has.
    pub fn of_split(self, manifest: &DatasetManifest, split: &str) -> Result<Self> {
        let place = manifest.splits.as_ref().and_then(|splits| Some((splits.rule.clone(), splits.place(split)?)));
        match place {
            Some(only) => Ok(Self { only: Some(only), ..self }),
            None => {
                let known = manifest.splits.as_ref().map_or_else(|| "none".to_owned(), |splits| splits.names().join(", "));
                Err(DatasetError::NoSplit { dataset: manifest.name.clone(), split: split.to_owned(), known }.into())
            }
        }
    }

    /// The columns, in canonical form.
    pub const fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The parts, in the order of the rows.
    pub fn parts(&self) -> &[DatasetPart] {
        &self.parts
    }

    /// The rows of a part in these columns, in batches of a row group each (less what is not of the split, where one was chosen); `None` is all columns.
    ///
    /// # Errors
    /// Invalid for a part or column that is not there; [`Error::Corrupt`] where the file is not the one that was saved.
    pub async fn read_part(&self, part: usize, columns: Option<&[usize]>) -> Result<Vec<RecordBatch>> {
        let missing = |what: &'static str, place: usize| Error::Invalid { what, reason: format!("there is none numbered {place}") };
        let part = self.parts.get(part).ok_or_else(|| missing("part of a dataset", part))?;
        if let Some(place) = columns.unwrap_or_default().iter().find(|place| **place >= self.schema.fields().len()) {
            return Err(missing("column of a dataset", *place));
        }
        let info = self.repository.stat_object(&self.commit, &part.path).await?;
        if info.entry.checksum().to_string() != part.checksum {
            return Err(Error::corrupt(&part.path, format!("its checksum is {} where the dataset has {}", info.entry.checksum(), part.checksum)));
        }
        let bytes = self.repository.open_object(info, None).await?.bytes().await?;
        let (path, schema, columns, only) = (part.path.clone(), Arc::clone(&self.schema), columns.map(<[usize]>::to_vec), self.only.clone());
        spawn_blocking(move || decode(&path, &schema, bytes, columns, only)).await.map_err(|_| Error::Closing)?
    }

    /// All rows in these columns, part by part.
    pub fn stream(&self, columns: Option<Vec<usize>>) -> BoxStream<'static, Result<RecordBatch>> {
        let (rows, parts) = (self.clone(), 0..self.parts.len());
        stream::iter(parts)
            .then(move |part| {
                let (rows, columns) = (rows.clone(), columns.clone());
                async move { rows.read_part(part, columns.as_deref()).await }
            })
            .map_ok(|batches| stream::iter(batches.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }
}

fn decode(path: &str, schema: &SchemaRef, bytes: Bytes, columns: Option<Vec<usize>>, only: Option<(SplitRule, usize)>) -> Result<Vec<RecordBatch>> {
    let damaged = |error: &dyn std::fmt::Display| Error::corrupt(path, error);
    let builder = guarded(path, || ParquetRecordBatchReaderBuilder::try_new(bytes))?;
    let same = builder.schema().fields().iter().map(|field| (field.name(), field.data_type()));
    if !same.eq(schema.fields().iter().map(|field| (field.name(), field.data_type()))) {
        return Err(damaged(&"it has other columns than the dataset"));
    }
    let wanted = columns.unwrap_or_else(|| (0..schema.fields().len()).collect());
    let of_rule = only.iter().flat_map(|(rule, _)| rule.columns()).filter_map(|name| schema.index_of(name).ok());
    let mut order: Vec<usize> = wanted.iter().copied().chain(of_rule).collect();
    order.sort_unstable();
    order.dedup();
    let places: Vec<usize> = wanted.iter().filter_map(|place| order.binary_search(place).ok()).collect();
    let schema = Arc::new(schema.project(&wanted)?);
    let mask = ProjectionMask::roots(builder.parquet_schema(), order);
    let mut reader = guarded(path, || builder.with_projection(mask).with_batch_size(GROUP_ROWS).build())?;
    let mut batches = Vec::new();
    while let Some(batch) = guarded(path, || reader.next().transpose())? {
        let columns = places.iter().map(|place| Arc::clone(batch.column(*place))).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let chosen = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?;
        batches.push(match &only {
            None => chosen,
            Some((rule, split)) => {
                let mask = rule.assign(&batch)?.into_iter().map(|of| Some(of == *split)).collect();
                filter_record_batch(&chosen, &mask)?
            }
        });
    }
    Ok(batches)
}
