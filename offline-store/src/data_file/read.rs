//! Files to rows.

use std::sync::Arc;

use anabranch_core::columns::{conform, null_column};
use anabranch_core::definition::{Column, Role};
use anabranch_core::name::reserved;
use anabranch_core::{DataType, Scalar, Timestamp};
use arrow::array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::is_null;
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{DataType as ArrowType, SchemaRef};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;
use tokio::task::spawn_blocking;

use crate::entry::Fill;
use crate::{Error, Result};

const BATCH_ROWS: usize = 8_192;

/// A column that is wanted.
#[derive(Debug, Clone)]
pub(crate) struct ReadColumn {
    /// What it is called and which type it has for the caller.
    pub(crate) column: Column,
    /// The field that it is in files; none where the table has no such column.
    pub(crate) field_id: Option<i32>,
}

/// What is wanted of a file.
#[derive(Debug, Clone)]
pub(crate) struct FileRead {
    /// The columns in order.
    pub(crate) columns: Arc<Vec<ReadColumn>>,
    /// Their Arrow schema.
    pub(crate) schema: SchemaRef,
    /// Row groups without such event times may be left out.
    pub(crate) event_times: Option<(Timestamp, Timestamp)>,
    /// What rows without reserved columns read as.
    pub(crate) fill: Option<Fill>,
}

/// The rows of a file.
pub(crate) async fn read_file(objects: &Arc<dyn ObjectStore>, path: String, read: FileRead) -> Result<Vec<RecordBatch>> {
    let location = Path::parse(&path).map_err(|error| Error::corrupt(&path, error))?;
    let result = objects.get(&location).await.map_err(|error| Error::objects(&path, error))?;
    let bytes = result.bytes().await.map_err(|error| Error::objects(&path, error))?;
    spawn_blocking(move || read.decode(&path, bytes)).await.map_err(|_| Error::Closing)?
}

impl FileRead {
    fn decode(&self, path: &str, bytes: Bytes) -> Result<Vec<RecordBatch>> {
        let damaged = |error: &dyn std::fmt::Display| Error::corrupt(path, error);
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| damaged(&error))?;
        let roots = self.roots(builder.parquet_schema());
        let wanted: Vec<usize> = roots.iter().flatten().copied().collect();
        // A file's positions are counted over all its rows, so none may be left out where they are to be filled in.
        let groups: Vec<_> = match self.event_times.filter(|_| self.fill.is_none()) {
            Some(times) => {
                let leaf = self.event_leaf(builder.parquet_schema());
                (0..builder.metadata().num_row_groups()).filter(|group| may_hold(builder.metadata().row_group(*group), leaf, times)).collect()
            }
            None => (0..builder.metadata().num_row_groups()).collect(),
        };
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted.iter().copied());
        let reader = builder.with_projection(mask).with_row_groups(groups).with_batch_size(BATCH_ROWS).build().map_err(|error| damaged(&error))?;
        let mut order = wanted;
        order.sort_unstable();
        order.dedup();
        let mut row = 0;
        let mut batches = Vec::new();
        for batch in reader {
            let batch = batch.map_err(|error| damaged(&error))?;
            let columns = self.columns(&batch, &roots, &order, row).map_err(|error| damaged(&error))?;
            row += batch.num_rows() as i64;
            batches.push(RecordBatch::try_new_with_options(
                Arc::clone(&self.schema),
                columns,
                &arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows())),
            )?);
        }
        Ok(batches)
    }

    /// Where each wanted column lies among the file's: by field id, or by name in a file that has no ids.
    fn roots(&self, schema: &parquet::schema::types::SchemaDescriptor) -> Vec<Option<usize>> {
        let fields = schema.root_schema().get_fields();
        let has_ids = fields.iter().any(|field| field.get_basic_info().has_id());
        let is = |field: &parquet::schema::types::TypePtr, wanted: &ReadColumn| match wanted.field_id {
            Some(id) if has_ids => field.get_basic_info().has_id() && field.get_basic_info().id() == id,
            Some(_) => field.name() == wanted.column.name,
            None => false,
        };
        self.columns.iter().map(|wanted| fields.iter().position(|field| is(field, wanted))).collect()
    }

    /// The Parquet column of event times.
    fn event_leaf(&self, schema: &parquet::schema::types::SchemaDescriptor) -> Option<usize> {
        let place = self.columns.iter().position(|wanted| wanted.column.role == Role::EventTime)?;
        let root = self.roots(schema)[place]?;
        (0..schema.num_columns()).find(|leaf| schema.get_column_root_idx(*leaf) == root)
    }

    fn columns(&self, batch: &RecordBatch, roots: &[Option<usize>], order: &[usize], first_row: i64) -> Result<Vec<ArrayRef>> {
        let mut columns = Vec::with_capacity(roots.len());
        for (wanted, root) in self.columns.iter().zip(roots) {
            let place = root.and_then(|root| order.binary_search(&root).ok());
            let column = match place {
                None => null_column(wanted.column.data_type, batch.num_rows()),
                Some(place) => canonical(batch.column(place), wanted)?,
            };
            columns.push(self.filled(wanted, column, first_row)?);
        }
        self.known_times(&mut columns)?;
        Ok(columns)
    }

    /// A reserved column with what its snapshot says where the file has nothing.
    fn filled(&self, wanted: &ReadColumn, column: ArrayRef, first_row: i64) -> Result<ArrayRef> {
        let Some(fill) = self.fill.filter(|_| wanted.column.role == Role::Reserved && column.null_count() > 0) else { return Ok(column) };
        let rows = column.len();
        let value: ArrayRef = match wanted.column.name.as_str() {
            reserved::ARRIVAL => {
                Arc::new(TimestampMicrosecondArray::from(vec![fill.arrival.micros(); rows]).with_timezone(anabranch_core::types::UTC))
            }
            reserved::SOURCE => Arc::new(Int32Array::from(vec![fill.source.as_i32(); rows])),
            reserved::POSITION => {
                let first = fill.first_position.as_i64().saturating_add(first_row);
                Arc::new(Int64Array::from_iter_values(first..first.saturating_add(rows as i64)))
            }
            _ => return Ok(column),
        };
        Ok(zip(&is_null(&column)?, &value, &column)?)
    }

    /// A known time that is missing is the event time.
    fn known_times(&self, columns: &mut [ArrayRef]) -> Result<()> {
        let place = |role| self.columns.iter().position(|wanted| wanted.column.role == role);
        if let (Some(event), Some(known)) = (place(Role::EventTime), place(Role::KnownTime))
            && columns[known].null_count() > 0
        {
            columns[known] = zip(&is_null(&columns[known])?, &columns[event], &columns[known])?;
        }
        Ok(())
    }
}

/// A file's column in the caller's type.
fn canonical(column: &ArrayRef, wanted: &ReadColumn) -> Result<ArrayRef> {
    let data_type = wanted.column.data_type;
    // Outside writers spell UTC in their own ways.
    if let (DataType::Scalar(Scalar::Timestamp), ArrowType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some(zone))) =
        (data_type, column.data_type())
        && matches!(zone.as_ref(), "UTC" | "+00:00" | "Z" | "Etc/UTC")
    {
        let times = column.as_primitive::<arrow::datatypes::TimestampMicrosecondType>().clone();
        return Ok(Arc::new(times.with_timezone(anabranch_core::types::UTC)));
    }
    let conformed = conform(column, data_type)?;
    match conformed.misfits.and_then(|misfits| misfits.set_indices().next()) {
        None => Ok(conformed.column),
        Some(row) => {
            Err(Error::corrupt(format!("column {:?}", wanted.column.name), format!("a value (row {row} of a batch) does not fit {data_type}")))
        }
    }
}

fn may_hold(group: &RowGroupMetaData, leaf: Option<usize>, (min, max): (Timestamp, Timestamp)) -> bool {
    match leaf.and_then(|leaf| group.column(leaf).statistics()) {
        Some(Statistics::Int64(times)) => {
            times.min_opt().is_none_or(|low| *low <= max.micros()) && times.max_opt().is_none_or(|high| *high >= min.micros())
        }
        _ => true,
    }
}
