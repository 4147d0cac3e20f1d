//! Saved datasets on their way to trainers: where their rows are, their rows in order, and a rank's batches of an epoch.
//!
//! Whatever leaves here is a stream that does its work as it is read, a fixed number of chunks ahead, and holds a [`Reading`]: when the reader goes away,
//! the stream is dropped, nothing new begins, and the count of readers goes down.

use std::ops::Range;
use std::sync::Arc;

use anabranch_offline_store::batches::{
    BatchesError, Chunk, ChunkRequest, Cursor, GroupReader, PackedColumn, PackedRows, RowCache, RowOrder, RowSet, Stripe, chunks,
};
use anabranch_offline_store::dataset::{DatasetError, DatasetManifest, SplitRule, Splits};
use anabranch_versioning::CommitId;
use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use prometheus_client::metrics::gauge::Gauge;

use super::Scope;
use super::datasets::blocking;
use crate::error::{Error, Result};

/// The most bytes of one batch, about.
const MAX_BATCH_BYTES: u64 = 1 << 30;
/// How many bytes of rows travel in one message, where the caller does not say.
const CHUNK_BYTES: u64 = 2 << 20;
/// What a caller may ask for instead.
const CHUNK_LIMITS: std::ops::RangeInclusive<u64> = 64 << 10..=64 << 20;

/// A saved dataset, or the part of one that is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) name: String,
    /// None for all.
    pub(crate) columns: Vec<String>,
    pub(crate) split: Option<String>,
    /// The content that it must have.
    pub(crate) content_digest: Option<String>,
}

/// What a part of a dataset is.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) commit: CommitId,
    pub(crate) manifest: DatasetManifest,
    pub(crate) schema: SchemaRef,
    pub(crate) rows: u64,
    /// Row groups in all.
    pub(crate) groups: u64,
    columns: Arc<[usize]>,
    split: Option<SplitPlace>,
    reader: GroupReader,
}

#[derive(Debug, Clone)]
struct SplitPlace {
    splits: Splits,
    place: usize,
}

/// How a rank reads an epoch.
#[derive(Debug, Clone)]
pub(crate) struct EpochRequest {
    pub(crate) part: Part,
    pub(crate) batch_size: u32,
    pub(crate) rank: u32,
    pub(crate) world_size: u32,
    pub(crate) seed: Option<u64>,
    pub(crate) epoch: Option<u64>,
    pub(crate) cursor: Option<String>,
    pub(crate) drop_last: bool,
    pub(crate) chunk_bytes: u64,
}

/// A rank's batches of an epoch.
pub(crate) struct Epoch {
    pub(crate) schema: SchemaRef,
    pub(crate) batches: u64,
    pub(crate) rows: u64,
    pub(crate) begin: Cursor,
    pub(crate) chunks: BoxStream<'static, Result<Chunk, BatchesError>>,
}

/// Counts a reader for as long as it lives.
#[derive(Debug)]
struct Reading(Gauge);

impl Reading {
    fn begin(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Scope {
    /// Finds a part of a saved dataset.
    pub(crate) async fn locate(&self, part: &Part) -> Result<Located> {
        let commit = self.resolve().await?.commit;
        let map = self.repo.versions.at(&commit).await?;
        let found = self.repo.object(&map, &DatasetManifest::path(&part.name)?).await?;
        let missing =
            || Error::Missing(format!("no dataset {:?} at {:?}: `anabranch dataset list` shows those there are", part.name, self.reference));
        let manifest = DatasetManifest::from_bytes(&found.ok_or_else(missing)?)?;
        if let Some(wanted) = &part.content_digest
            && *wanted != manifest.content_digest.to_string()
        {
            return Err(Error::Precondition(format!(
                "dataset {:?} at {:?} has the content {} now, not {wanted}: open it again, or open it at a commit",
                part.name, self.reference, manifest.content_digest
            )));
        }
        let reader = GroupReader::new(Arc::clone(&self.repo.versions), commit, &manifest)?;
        let columns = columns(&manifest, &part.columns)?;
        let split = part.split.as_deref().map(|split| split_of(&manifest, split)).transpose()?;
        let rows = split.as_ref().map_or(manifest.rows, |split| split.splits.parts[split.place].rows);
        let field = |column: &usize| Field::new(&manifest.columns[*column].name, manifest.columns[*column].data_type.to_arrow(), true);
        let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
        Ok(Located { commit, schema, rows, groups: reader.groups(), columns, split, reader, manifest })
    }

    /// The rows of some row groups of a part, in order.
    pub(crate) async fn dataset_groups(&self, part: &Part, groups: Range<u64>) -> Result<(SchemaRef, BoxStream<'static, Result<RecordBatch>>)> {
        let located = self.locate(part).await?;
        if groups.start > groups.end || groups.end > located.groups {
            return Err(Error::argument("ticket", format!("the dataset has {} row groups, not {}", located.groups, groups.end)));
        }
        let (schema, wanted) = (Arc::clone(&located.schema), located.columns.len());
        let reading = Reading::begin(&self.app.metrics().dataset_readers);
        let mut columns = located.columns.to_vec();
        let split = located.split;
        if let Some(split) = &split {
            columns.extend_from_slice(&self::columns(&located.manifest, split.splits.rule.columns())?);
        }
        let output = Arc::clone(&schema);
        let batches = located.reader.stream(groups, columns.into()).map_err(Error::from).and_then(move |batch| {
            let (_held, split, schema) = (&reading, split.clone(), Arc::clone(&output));
            async move {
                match split {
                    Some(split) => blocking(move || members(&batch, &split, wanted, &schema)).await,
                    None => Ok(batch.with_schema(schema).map_err(|error| Error::part(BatchesError::from(error)))?),
                }
            }
        });
        Ok((schema, batches.boxed()))
    }

    /// A rank's batches of an epoch.
    pub(crate) async fn epoch(&self, request: EpochRequest) -> Result<Epoch> {
        let located = self.locate(&request.part).await?;
        let (manifest, split) = (&located.manifest, request.part.split.as_deref().unwrap_or_default());
        let begin = begin(&request, manifest)?;
        let EpochRequest { batch_size, rank, world_size, drop_last, .. } = request;
        let stripe = Stripe { rows: located.rows, start: begin.position, batch_size, rank, world_size, drop_last };
        stripe.check()?;
        let reading = Reading::begin(&self.app.metrics().dataset_readers);
        let rows = self.packed(&located).await?;
        let row_bytes = rows.bytes() / rows.rows().max(1);
        if row_bytes.saturating_mul(u64::from(batch_size)) > MAX_BATCH_BYTES {
            let reason = format!("{batch_size} rows of this dataset take over {MAX_BATCH_BYTES} bytes: ask for smaller batches");
            return Err(Error::argument("batch_size", reason));
        }
        let among = match located.split {
            None => Arc::new(RowSet::All(rows.rows())),
            Some(SplitPlace { splits, place }) => {
                let rows = Arc::clone(&rows);
                blocking(move || Ok(rows.split(&splits.rule, splits.parts.len(), place)?)).await?
            }
        };
        let order = Arc::new(RowOrder::new(&begin.content, split, located.rows, begin.seed, begin.epoch));
        let chunk_bytes = match request.chunk_bytes {
            0 => CHUNK_BYTES,
            bytes => bytes.clamp(*CHUNK_LIMITS.start(), *CHUNK_LIMITS.end()),
        };
        let wanted = ChunkRequest { rows, columns: located.columns, among, order, stripe, cursor: begin.clone(), chunk_bytes };
        let chunks = chunks(wanted).map(move |chunk| {
            let _held = &reading;
            chunk
        });
        Ok(Epoch { schema: located.schema, batches: stripe.batches(), rows: located.rows, begin, chunks: chunks.boxed() })
    }

    /// All rows of a dataset, ready for random access.
    async fn packed(&self, located: &Located) -> Result<Arc<PackedRows>> {
        let manifest = &located.manifest;
        let columns = manifest.columns.iter().map(|column| PackedColumn { name: column.name.clone(), data_type: column.data_type });
        let columns: Vec<_> = columns.collect();
        let all: Arc<[usize]> = (0..columns.len()).collect();
        let mut groups = located.reader.stream(0..located.groups, all).boxed();
        let rows = self.app.row_cache().rows(manifest.content_digest, &columns, |mut builder| async move {
            while let Some(batch) = groups.try_next().await? {
                builder = blocking(move || builder.push(&batch).map(|()| builder).map_err(Error::from)).await?;
            }
            blocking(move || Ok(builder.finish()?)).await
        });
        let rows = rows.await?;
        if rows.rows() != manifest.rows {
            return Err(Error::part(BatchesError::Rows { reason: format!("there are {} of {}", rows.rows(), manifest.rows) }));
        }
        Ok(rows)
    }
}

impl super::App {
    /// Datasets that are read in random order.
    pub(crate) fn row_cache(&self) -> &Arc<RowCache> {
        &self.row_cache
    }

    /// Measures what unpacked datasets take.
    pub(crate) fn measure_datasets(&self) {
        let usage = self.row_cache.usage();
        let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.metrics().dataset_cache_memory.set(number(usage.memory_bytes));
        self.metrics().dataset_cache_disk.set(number(usage.disk_bytes));
    }
}

/// Where an epoch begins: at its cursor, or at the first row of what was asked for.
fn begin(request: &EpochRequest, manifest: &DatasetManifest) -> Result<Cursor, BatchesError> {
    let split = request.part.split.as_deref().unwrap_or_default();
    let Some(text) = &request.cursor else {
        return Ok(Cursor::new(manifest.content_digest, split, request.seed, request.epoch.unwrap_or_default(), 0));
    };
    let cursor: Cursor = text.parse()?;
    cursor.check_rows(&manifest.content_digest, split)?;
    cursor.check_order(request.seed, request.epoch)?;
    Ok(cursor)
}

/// The places of columns; all where none is named.
fn columns(manifest: &DatasetManifest, names: &[String]) -> Result<Arc<[usize]>> {
    if names.is_empty() {
        return Ok((0..manifest.columns.len()).collect());
    }
    let known = || manifest.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
    let place = |name: &String| {
        let found = manifest.columns.iter().position(|column| column.name == *name);
        found.ok_or_else(|| Error::argument("columns", format!("dataset {:?} has no column {name:?}: it has {}", manifest.name, known())))
    };
    names.iter().map(place).collect()
}

fn split_of(manifest: &DatasetManifest, split: &str) -> Result<SplitPlace> {
    let found = manifest.splits.as_ref().and_then(|splits| Some(SplitPlace { splits: splits.clone(), place: splits.place(split)? }));
    let known = || manifest.splits.as_ref().map_or_else(|| "none".to_owned(), |splits| splits.names().join(", "));
    let none = || DatasetError::NoSplit { dataset: manifest.name.clone(), split: split.to_owned(), known: known() };
    Ok(found.ok_or_else(none)?)
}

/// The rows of a batch that are in a split, without the columns behind those wanted, which only the rule looks at.
fn members(batch: &RecordBatch, split: &SplitPlace, wanted: usize, schema: &SchemaRef) -> Result<RecordBatch> {
    let failed = |error| Error::part(BatchesError::Arrow(error));
    let rule: &SplitRule = &split.splits.rule;
    let looked_at = batch.project(&(wanted..batch.num_columns()).collect::<Vec<_>>()).map_err(failed)?;
    let member: BooleanArray = rule.assign(&looked_at)?.into_iter().map(|place| Some(place == split.place)).collect();
    let rows = batch.project(&(0..wanted).collect::<Vec<_>>()).and_then(|rows| filter_record_batch(&rows, &member)).map_err(failed)?;
    rows.with_schema(Arc::clone(schema)).map_err(failed)
}
