//! Files to rows: row groups, whose columns are fetched and decoded apart.

use std::ops::Range;
use std::sync::Arc;

use anabranch_core::columns::{conform, null_column};
use anabranch_core::definition::{Column, Role};
use anabranch_core::name::reserved;
use anabranch_core::{DataType, Scalar, Timestamp};
use arrow::array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray};
use arrow::compute::is_null;
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{DataType as ArrowType, SchemaRef};
use object_store::ObjectStore;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection};
use parquet::basic::{LogicalType, TimeUnit};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;
use parquet::schema::types::SchemaDescriptor;
use tokio::task::spawn_blocking;

use super::fetch::Fetched;
use super::footer::Footer;
use super::guard::guarded;
use crate::entry::Fill;
use crate::{Error, Result};

/// Rows of a batch for whoever reads all columns.
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

/// A row group that may hold what is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) footer: Arc<Footer>,
    /// Its number in the file.
    pub(crate) number: usize,
    /// How many rows of the file come before it.
    pub(crate) first_row: i64,
}

/// Rows decoded a batch at a time.
pub(crate) type Batches = Box<dyn Iterator<Item = Result<Vec<ArrayRef>>> + Send>;

impl Group {
    /// The row groups of a file, in order.
    pub(crate) fn all(footer: &Arc<Footer>) -> Vec<Self> {
        let mut first_row = 0;
        let groups = footer.arrow.metadata().row_groups().iter().enumerate();
        let group = |(number, group): (usize, &RowGroupMetaData)| {
            let of = Self { footer: Arc::clone(footer), number, first_row };
            first_row += group.num_rows();
            of
        };
        groups.map(group).collect()
    }

    pub(crate) fn metadata(&self) -> &RowGroupMetaData {
        self.footer.arrow.metadata().row_group(self.number)
    }

    pub(crate) fn rows(&self) -> usize {
        usize::try_from(self.metadata().num_rows()).unwrap_or_default()
    }
}

impl FileRead {
    /// Row groups of a file whose event times may be wanted.
    pub(crate) fn wanted(&self, footer: &Arc<Footer>) -> Vec<Group> {
        let mut groups = Group::all(footer);
        if let Some(times) = self.event_times {
            groups.retain(|group| may_hold(self.event_times_of(group), times));
        }
        groups
    }

    /// The first and the last event time of a row group, as far as it says.
    pub(crate) fn event_times_of(&self, group: &Group) -> (Timestamp, Timestamp) {
        let place = self.columns.iter().position(|wanted| wanted.column.role == Role::EventTime);
        let statistics = place.and_then(|place| self.statistics(group, place));
        match statistics {
            Some(Statistics::Int64(times)) => {
                (times.min_opt().map_or(Timestamp::MIN, |low| Timestamp(*low)), times.max_opt().map_or(Timestamp::MAX, |high| Timestamp(*high)))
            }
            _ => (Timestamp::MIN, Timestamp::MAX),
        }
    }

    /// The statistics of a wanted column, where it is one Parquet column of a type that means the same.
    pub(crate) fn statistics<'a>(&self, group: &'a Group, place: usize) -> Option<&'a Statistics> {
        let schema = group.footer.arrow.parquet_schema();
        let leaf = self.leaf(schema, place)?;
        let is_time = self.columns[place].column.data_type == DataType::Scalar(Scalar::Timestamp);
        let micros = matches!(schema.column(leaf).logical_type_ref(), Some(LogicalType::Timestamp { unit: TimeUnit::MICROS, .. }));
        // Old writers compared text as signed bytes and did not say so. Where there are no bounds at all, the library takes them for old as well.
        let lawful = |statistics: &&Statistics| {
            !statistics.is_min_max_deprecated() || statistics.min_bytes_opt().is_none() && statistics.max_bytes_opt().is_none()
        };
        let statistics = group.metadata().column(leaf).statistics().filter(lawful);
        if is_time && !micros { None } else { statistics }
    }

    /// Whether a row group may hold `true` in a wanted column, as far as it says.
    pub(crate) fn may_be_true(&self, group: &Group, place: usize) -> bool {
        if self.root(group.footer.arrow.parquet_schema(), place).is_none() {
            return false;
        }
        let statistics = self.statistics(group, place);
        match statistics {
            Some(Statistics::Boolean(values)) if values.max_opt() == Some(&false) => false,
            _ => statistics.and_then(Statistics::null_count_opt) != u64::try_from(group.rows()).ok(),
        }
    }

    /// How many bytes some of the wanted columns take as they are stored.
    pub(crate) fn stored_bytes(&self, group: &Group, places: &[usize]) -> u64 {
        self.leaves(group, places).map(|leaf| group.metadata().column(leaf).byte_range().1).sum()
    }

    /// The first leaf of a wanted column; its only one, unless it is nested.
    pub(super) fn leaf(&self, schema: &SchemaDescriptor, place: usize) -> Option<usize> {
        let root = self.root(schema, place)?;
        (0..schema.num_columns()).find(|leaf| schema.get_column_root_idx(*leaf) == root)
    }

    fn leaves<'a>(&'a self, group: &'a Group, places: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
        let schema = group.footer.arrow.parquet_schema();
        let roots: Vec<_> = places.iter().filter_map(|place| self.root(schema, *place)).collect();
        (0..schema.num_columns()).filter(move |leaf| roots.contains(&schema.get_column_root_idx(*leaf)))
    }

    /// Fetches some of the wanted columns of a row group, of all its rows or of ranges that ascend; reading from a disk and decoding are left to the reader.
    pub(crate) async fn read(
        &self,
        objects: &Arc<dyn ObjectStore>,
        group: &Group,
        places: &[usize],
        rows: Option<&[Range<usize>]>,
        batch_rows: usize,
    ) -> Result<Batches> {
        let selection = rows.map(|rows| RowSelection::from_consecutive_ranges(rows.iter().cloned(), group.rows()));
        let pages = group.footer.arrow.metadata().offset_index().and_then(|index| index.get(group.number));
        let mut ranges = Vec::new();
        for leaf in self.leaves(group, places) {
            let (start, length) = group.metadata().column(leaf).byte_range();
            match selection.as_ref().zip(pages.and_then(|pages| pages.get(leaf))) {
                Some((selection, index)) if !index.page_locations().is_empty() => {
                    let locations = index.page_locations();
                    // What lies before the first page is the dictionary.
                    ranges.push(start..u64::try_from(locations[0].offset).unwrap_or(start).max(start));
                    ranges.extend(selection.scan_ranges(locations));
                }
                _ => ranges.push(start..start + length),
            }
        }
        let fetched = Fetched::fetch(objects, &group.footer, ranges).await?;
        let (part, group) =
            (Self { columns: Arc::new(places.iter().map(|place| self.columns[*place].clone()).collect()), ..self.clone() }, group.clone());
        let begin = move || part.decode(fetched, &group, selection, batch_rows).unwrap_or_else(|error| Box::new(std::iter::once(Err(error))));
        Ok(Box::new(std::iter::once_with(begin).flatten()))
    }

    /// Reads and decodes all of these columns.
    fn decode(self, fetched: Fetched, group: &Group, selection: Option<RowSelection>, batch_rows: usize) -> Result<Batches> {
        let path = group.footer.path.clone();
        let schema = group.footer.arrow.parquet_schema();
        let roots: Vec<_> = (0..self.columns.len()).map(|place| self.root(schema, place)).collect();
        let mut order: Vec<usize> = roots.iter().flatten().copied().collect();
        order.sort_unstable();
        order.dedup();
        let mask = ProjectionMask::roots(schema, order.iter().copied());
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(fetched.open()?, group.footer.arrow.clone())
            .with_projection(mask)
            .with_row_groups(vec![group.number])
            .with_batch_size(batch_rows.max(1));
        if let Some(selection) = selection {
            builder = builder.with_row_selection(selection);
        }
        let mut reader = guarded(&path, || builder.build())?;
        let mut row = group.first_row;
        let mut next = move || -> Result<Option<Vec<ArrayRef>>> {
            let Some(batch) = guarded(&path, || reader.next().transpose())? else { return Ok(None) };
            let columns = self.columns(&batch, &roots, &order, row).map_err(|error| Error::corrupt(&path, error))?;
            row += batch.num_rows() as i64;
            Ok(Some(columns))
        };
        let mut failed = false;
        Ok(Box::new(std::iter::from_fn(move || {
            let batch = if failed { None } else { next().transpose() };
            failed = matches!(batch, Some(Err(_)));
            batch
        })))
    }

    /// The rows of a row group in all the wanted columns.
    pub(crate) async fn rows(&self, objects: &Arc<dyn ObjectStore>, group: &Group) -> Result<Vec<RecordBatch>> {
        let places: Vec<usize> = (0..self.columns.len()).collect();
        let (batches, schema, rows) = (self.read(objects, group, &places, None, BATCH_ROWS).await?, Arc::clone(&self.schema), group.rows());
        let collect = move || -> Result<Vec<RecordBatch>> {
            let mut left = rows;
            let mut done = Vec::new();
            for columns in batches {
                let columns = columns?;
                // Where no column is wanted, batches are counted all the same.
                let rows = columns.first().map_or(left.min(BATCH_ROWS), |column| column.len());
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                done.push(RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?);
                left -= rows.min(left);
            }
            Ok(done)
        };
        spawn_blocking(collect).await.map_err(|_| Error::Closing)?
    }

    /// Where a wanted column lies among the file's: by field id, or by name in a file that has no ids.
    fn root(&self, schema: &SchemaDescriptor, place: usize) -> Option<usize> {
        let fields = schema.root_schema().get_fields();
        let has_ids = fields.iter().any(|field| field.get_basic_info().has_id());
        let wanted = &self.columns[place];
        fields.iter().position(|field| match wanted.field_id {
            Some(id) if has_ids => field.get_basic_info().has_id() && field.get_basic_info().id() == id,
            Some(_) => field.name() == wanted.column.name,
            None => false,
        })
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

fn may_hold((first, last): (Timestamp, Timestamp), (min, max): (Timestamp, Timestamp)) -> bool {
    first <= max && last >= min
}
