//! Rows to files.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use anabranch_core::columns::{conform, null_column};
use anabranch_core::name::reserved;
use anabranch_core::{Position, SourceId};
use arrow::array::{Array, ArrayRef, AsArray, Float32Array, ListArray, RecordBatch, UInt32Array};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{cast, concat, is_null, take};
use arrow::datatypes::{DataType as ArrowType, Field, Float32Type, Int32Type, Int64Type, Schema as ArrowSchema, SchemaRef, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};
use bytes::Bytes;
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Literal, Struct, Transform};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use parquet::file::metadata::ParquetMetaData;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::{pack, settings};
use crate::data_file::bounds::Metrics;
use crate::entry::Interval;
use crate::metadata::{TableState, data_path};
use crate::schema::{KNOWN_TIME_PROPERTY, SORT_ORDER_ID, TableField};
use crate::storage::Locations;
use crate::{Error, Result};

/// How files are cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriteOptions {
    pub(crate) file_bytes: usize,
    pub(crate) row_group_rows: usize,
}

/// A file that is durable and that nothing names yet.
#[derive(Debug, Clone)]
pub(crate) struct WrittenFile {
    pub(crate) name: String,
    pub(crate) data_file: DataFile,
    /// For each source the least and the greatest position in it.
    pub(crate) spans: Vec<Interval>,
}

/// Writes rows as files of a table; `name` gives each file's name.
pub(crate) async fn write_files(
    table: &TableState,
    batches: Vec<RecordBatch>,
    options: WriteOptions,
    objects: &Arc<dyn ObjectStore>,
    locations: &Locations,
    mut name: impl FnMut() -> Uuid,
) -> Result<Vec<WrittenFile>> {
    if batches.iter().all(|batch| batch.num_rows() == 0) {
        return Ok(Vec::new());
    }
    let state = table.clone();
    let sorted = spawn_blocking(move || Sorted::new(&state, &batches)).await.map_err(|_| Error::Closing)??;
    let sorted = Arc::new(sorted);
    let mut written = Vec::new();
    for (partition, range) in sorted.files(options.file_bytes) {
        let (rows, name) = (Arc::clone(&sorted), format!("{}.parquet", name()));
        let encoded = spawn_blocking(move || rows.encode(range, options.row_group_rows)).await.map_err(|_| Error::Closing)??;
        let path = format!("{}/{name}", data_path(table.entry.uuid));
        let data_file = encoded.data_file(table, partition, locations.location(&path))?;
        let put = objects.put(&Path::from(path.as_str()), encoded.bytes.into()).await;
        put.map_err(|error| Error::objects(path, error))?;
        written.push(WrittenFile { name, data_file, spans: encoded.spans });
    }
    Ok(written)
}

/// Rows in a table's columns, sorted by partition and then by the table's order.
struct Sorted {
    fields: Vec<TableField>,
    columns: Vec<ArrayRef>,
    /// The places of the join keys.
    keys: Vec<usize>,
    /// The ids of the fields that the rows are sorted by.
    sorted_by: Vec<i32>,
    /// Rows of one partition lie together.
    partitions: Vec<(Option<i32>, Range<usize>)>,
}

impl Sorted {
    fn new(table: &TableState, batches: &[RecordBatch]) -> Result<Self> {
        let columns = columns(table, batches)?;
        let rows = columns.first().map_or(0, |column| column.len());
        if u32::try_from(rows).is_err() {
            return Err(Error::rows(&table.name, format!("{rows} rows are too many for one append: send fewer at a time")));
        }
        let partition = partition_values(table, &columns)?;
        let sort = SortFields::of(table);
        let order = order(&sort, &columns, partition.as_deref())?;
        let partitions = match &partition {
            None => vec![(None, 0..rows)],
            Some(values) => runs(&order, values),
        };
        let columns = if order.windows(2).all(|pair| pair[0] < pair[1]) {
            columns
        } else {
            let indices = UInt32Array::from(order);
            columns.iter().map(|column| take(column, &indices, None)).collect::<Result<_, _>>()?
        };
        let sorted_by = sort.places.iter().map(|place| table.fields()[*place].id).collect();
        Ok(Self { fields: table.fields().to_vec(), columns, keys: sort.keys, sorted_by, partitions })
    }

    /// The rows of each file.
    fn files(&self, file_bytes: usize) -> Vec<(Option<i32>, Range<usize>)> {
        let rows = self.columns.first().map_or(0, |column| column.len()).max(1);
        let bytes: usize = self.columns.iter().map(|column| column.get_array_memory_size()).sum();
        let per_file = (file_bytes / (bytes / rows).max(1)).max(1);
        let cut = |(partition, range): &(Option<i32>, Range<usize>)| {
            let (partition, end) = (*partition, range.end);
            range.clone().step_by(per_file).map(move |start| (partition, start..end.min(start + per_file))).collect::<Vec<_>>()
        };
        self.partitions.iter().flat_map(cut).collect()
    }

    fn encode(&self, range: Range<usize>, row_group_rows: usize) -> Result<Encoded> {
        let schema = file_schema(&self.fields);
        let slice = |(column, field): (&ArrayRef, &Arc<Field>)| stored(&column.slice(range.start, range.len()), field.data_type());
        let columns = self.columns.iter().zip(schema.fields()).map(slice).collect::<Result<Vec<_>, _>>()?;
        let spans = spans(&self.fields, &columns);
        let groups = self.row_groups(&columns, range.len(), row_group_rows.max(1));
        let properties = settings::properties(&self.fields, &columns, &self.sorted_by, row_group_rows);
        let batch = RecordBatch::try_new(schema, columns)?;
        let written = pack::write(&batch, groups, &properties);
        let (bytes, metadata) = written.map_err(|error| Error::corrupt("a Parquet file being written", error))?;
        Ok(Encoded { bytes: bytes.into(), metadata, spans })
    }

    /// Row groups of about so many rows, cut where an entity begins unless one alone outgrows half of one.
    fn row_groups(&self, columns: &[ArrayRef], rows: usize, target: usize) -> Vec<Range<usize>> {
        let keys: Vec<&ArrayRef> = self.keys.iter().map(|place| &columns[*place]).collect();
        let begins = |row: usize| keys.is_empty() || keys.iter().any(|key| key.slice(row - 1, 1) != key.slice(row, 1));
        let mut groups = Vec::new();
        let mut start = 0;
        while rows - start > target + target / 2 {
            let end = start + target;
            let cut = (start + target / 2 + 1..=end).rev().find(|row| begins(*row)).unwrap_or(end);
            groups.push(start..cut);
            start = cut;
        }
        groups.push(start..rows);
        groups
    }
}

struct Encoded {
    bytes: Bytes,
    metadata: ParquetMetaData,
    spans: Vec<Interval>,
}

impl Encoded {
    fn data_file(&self, table: &TableState, partition: Option<i32>, location: String) -> Result<DataFile> {
        let metrics = Metrics::of(table.fields(), &self.metadata);
        let spec = table.metadata().default_partition_spec();
        let day = matches!(spec.fields().first().map(|field| field.transform), Some(Transform::Day));
        let literal = |value| if day { Literal::date(value) } else { Literal::int(value) };
        DataFileBuilder::default()
            .content(DataContentType::Data)
            .file_path(location)
            .file_format(DataFileFormat::Parquet)
            .partition(Struct::from_iter(partition.map(|value| Some(literal(value)))))
            .partition_spec_id(spec.spec_id())
            .record_count(self.metadata.file_metadata().num_rows() as u64)
            .file_size_in_bytes(self.bytes.len() as u64)
            .column_sizes(metrics.sizes)
            .value_counts(metrics.values)
            .null_value_counts(metrics.nulls)
            .lower_bounds(metrics.lower)
            .upper_bounds(metrics.upper)
            .split_offsets(Some(self.metadata.row_groups().iter().filter_map(|group| group.file_offset()).collect()))
            .sort_order_id(SORT_ORDER_ID)
            .build()
            .map_err(|error| Error::corrupt("a data file's description", error))
    }
}

/// The Arrow schema of a file: our types, with field ids.
fn file_schema(fields: &[TableField]) -> SchemaRef {
    let id = |id: i32| [(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())].into();
    let field = |field: &TableField| {
        let data_type = match (field.data_type.to_arrow(), field.element_id) {
            (ArrowType::List(item) | ArrowType::FixedSizeList(item, _), Some(element)) => {
                ArrowType::List(Arc::new(item.as_ref().clone().with_metadata(id(element))))
            }
            (other, _) => other,
        };
        Field::new(&field.name, data_type, !field.required).with_metadata(id(field.id))
    };
    Arc::new(ArrowSchema::new(fields.iter().map(field).collect::<Vec<_>>()))
}

/// A column as it is stored: vectors as lists, lists with the id of their elements.
fn stored(column: &ArrayRef, data_type: &ArrowType) -> Result<ArrayRef> {
    let ArrowType::List(element) = data_type else { return Ok(Arc::clone(column)) };
    // A cast keeps the elements' own field, so the list is put together anew.
    let (_, offsets, mut items, nulls) = cast(column, data_type)?.as_list::<i32>().clone().into_parts();
    // What lies beneath a row without a vector may be null in Arrow and nothing in the file.
    let vectors = matches!(column.data_type(), ArrowType::FixedSizeList(..)) && column.null_count() > 0;
    if let Some(floats) = items.as_primitive_opt::<Float32Type>().filter(|floats| vectors && floats.null_count() > 0) {
        items = Arc::new(Float32Array::new(floats.values().clone(), None));
    }
    Ok(Arc::new(ListArray::try_new(Arc::clone(element), offsets, items, nulls)?))
}

/// All rows in the table's columns, each in canonical form.
fn columns(table: &TableState, batches: &[RecordBatch]) -> Result<Vec<ArrayRef>> {
    for batch in batches {
        if let Some(odd) = batch.schema_ref().fields().iter().find(|column| table.field(column.name()).is_none()) {
            return Err(Error::rows(&table.name, format!("the table has no column {:?}", odd.name())));
        }
    }
    table.fields().iter().map(|field| column(table, field, batches)).collect()
}

fn column(table: &TableState, field: &TableField, batches: &[RecordBatch]) -> Result<ArrayRef> {
    let refuse = |reason: String| Err(Error::rows(&table.name, format!("column {:?}: {reason}", field.name)));
    let mut parts = Vec::with_capacity(batches.len());
    for batch in batches {
        let part = match batch.column_by_name(&field.name) {
            None => null_column(field.data_type, batch.num_rows()),
            Some(column) => match conform(column, field.data_type) {
                Ok(conformed) => match conformed.misfits.and_then(|misfits| misfits.set_indices().next()) {
                    None => conformed.column,
                    Some(row) => return refuse(format!("the value in row {row} does not fit {}", field.data_type)),
                },
                Err(error) => return refuse(error.to_string()),
            },
        };
        if field.required && part.null_count() > 0 {
            let row = (0..part.len()).find(|row| part.is_null(*row)).unwrap_or_default();
            return refuse(format!("row {row} has none, and it is required"));
        }
        parts.push(part);
    }
    Ok(concat(&parts.iter().map(|part| part.as_ref()).collect::<Vec<_>>())?)
}

/// The partition of each row; none where the table is not partitioned.
pub(crate) fn partition_values(table: &TableState, columns: &[ArrayRef]) -> Result<Option<Vec<i32>>> {
    let Some(partition) = table.metadata().default_partition_spec().fields().first() else { return Ok(None) };
    let Some(place) = table.fields().iter().position(|field| field.id == partition.source_id) else {
        return Err(Error::schema(&table.name, "it is partitioned by a column that it no longer has"));
    };
    let times = columns[place].as_primitive_opt::<TimestampMicrosecondType>();
    let times = times.ok_or_else(|| Error::schema(&table.name, "it is partitioned by a column that is no timestamp"))?;
    let value: fn(i64) -> i32 = match partition.transform {
        Transform::Day => day,
        Transform::Month => month,
        other => return Err(Error::schema(&table.name, format!("it is partitioned by {other}, which is not written here"))),
    };
    Ok(Some(times.values().iter().map(|time| value(*time)).collect()))
}

/// Days since the epoch.
fn day(micros: i64) -> i32 {
    // 2^63 microseconds are 107 million days.
    micros.div_euclid(86_400_000_000) as i32
}

/// Months since January 1970, by Hinnant's civil-from-days.
fn month(micros: i64) -> i32 {
    let days = micros.div_euclid(86_400_000_000) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 2 } else { shifted - 10 };
    let year = year_of_era + era * 400 + i64::from(month < 2);
    ((year - 1970) * 12 + month) as i32
}

/// The columns that rows are sorted by: the table's sort order, then the rest of the total order of an entity's rows.
struct SortFields {
    places: Vec<usize>,
    /// Those of them that are join keys.
    keys: Vec<usize>,
    /// Event and known time, where the table has both: a null known time is the event time.
    known: Option<(usize, usize)>,
}

impl SortFields {
    fn of(table: &TableState) -> Self {
        let by_id = |id: i32| table.fields().iter().position(|field| field.id == id);
        let by_name = |name: &str| table.fields().iter().position(|field| field.name == name);
        let sorted: Vec<usize> = table.metadata().default_sort_order().fields.iter().filter_map(|sort| by_id(sort.source_id)).collect();
        let known = table.metadata().properties().get(KNOWN_TIME_PROPERTY).and_then(|id| by_id(id.parse().ok()?));
        let reserved = [reserved::ARRIVAL, reserved::SOURCE, reserved::POSITION].into_iter().filter_map(by_name);
        let event = sorted.last().copied();
        let keys = sorted[..sorted.len().saturating_sub(1)].to_vec();
        Self { places: sorted.into_iter().chain(known).chain(reserved).collect(), keys, known: event.zip(known) }
    }
}

/// Row numbers in the order in which they are written.
fn order(sort: &SortFields, columns: &[ArrayRef], partition: Option<&[i32]>) -> Result<Vec<u32>> {
    let rows = columns.first().map_or(0, |column| column.len()) as u32;
    let mut order: Vec<u32> = (0..rows).collect();
    let part = |row: u32| partition.map_or(0, |values| values[row as usize]);
    if sort.places.is_empty() {
        order.sort_by_key(|row| part(*row));
        return Ok(order);
    }
    let mut sorted: Vec<ArrayRef> = sort.places.iter().map(|place| Arc::clone(&columns[*place])).collect();
    if let Some((event, known)) = sort.known
        && columns[known].null_count() > 0
        && let Some(place) = sort.places.iter().position(|place| *place == known)
    {
        sorted[place] = zip(&is_null(&columns[known])?, &columns[event], &columns[known])?;
    }
    let converter = RowConverter::new(sorted.iter().map(|column| SortField::new(column.data_type().clone())).collect())?;
    let keys = converter.convert_columns(&sorted)?;
    let compare = |a: u32, b: u32| part(a).cmp(&part(b)).then_with(|| keys.row(a as usize).cmp(&keys.row(b as usize)));
    // A compaction sorts before it writes.
    if order.is_sorted_by(|a, b| compare(*a, *b).is_le()) {
        return Ok(order);
    }
    // What rows begin with lies beside their numbers: it tells most of them apart, and no other memory is looked at.
    let mut by_prefix: Vec<(i32, u128, u32)> = order.iter().map(|row| (part(*row), prefix(keys.row(*row as usize).data()), *row)).collect();
    by_prefix.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then_with(|| compare(a.2, b.2)).then(a.2.cmp(&b.2)));
    order.iter_mut().zip(by_prefix).for_each(|(row, (_, _, sorted))| *row = sorted);
    Ok(order)
}

/// The first bytes of a key as a number that is ordered as they are.
fn prefix(key: &[u8]) -> u128 {
    let mut bytes = [0; size_of::<u128>()];
    let length = key.len().min(bytes.len());
    bytes[..length].copy_from_slice(&key[..length]);
    u128::from_be_bytes(bytes)
}

/// The runs of like partition in an order.
fn runs(order: &[u32], partition: &[i32]) -> Vec<(Option<i32>, Range<usize>)> {
    let mut runs: Vec<(Option<i32>, Range<usize>)> = Vec::new();
    for (at, row) in order.iter().enumerate() {
        let value = Some(partition[*row as usize]);
        match runs.last_mut() {
            Some((last, range)) if *last == value => range.end = at + 1,
            _ => runs.push((value, at..at + 1)),
        }
    }
    runs
}

/// For each source the least and the greatest position.
fn spans(fields: &[TableField], columns: &[ArrayRef]) -> Vec<Interval> {
    let find = |name: &str| fields.iter().position(|field| field.name == name).map(|place| &columns[place]);
    let sources = find(reserved::SOURCE).and_then(|column| column.as_primitive_opt::<Int32Type>());
    let positions = find(reserved::POSITION).and_then(|column| column.as_primitive_opt::<Int64Type>());
    let mut spans = BTreeMap::<SourceId, (Position, Position)>::new();
    if let (Some(sources), Some(positions)) = (sources, positions) {
        for (source, position) in sources.iter().zip(positions.iter()) {
            let source = source.and_then(|id| u32::try_from(id).ok()).and_then(|id| SourceId::new(id).ok());
            let position = position.and_then(|at| u64::try_from(at).ok()).and_then(|at| Position::new(at).ok());
            if let (Some(source), Some(position)) = (source, position) {
                let span = spans.entry(source).or_insert((position, position));
                *span = (span.0.min(position), span.1.max(position));
            }
        }
    }
    spans.into_iter().map(|(source, (first, last))| Interval { source, first, last }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_months_are_counted_from_the_epoch_in_both_directions() {
        let at = |text: &str| text.parse::<anabranch_core::Timestamp>().unwrap().micros();
        for (text, days, months) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("1969-12-31T23:59:59Z", -1, -1),
            ("2013-02-28T12:00:00Z", 15_764, 517),
            ("2000-02-29T00:00:00Z", 11_016, 361),
            ("1900-03-01T00:00:00Z", -25_508, -838),
            ("2024-12-31T23:59:59Z", 20_088, 659),
        ] {
            assert_eq!((day(at(text)), month(at(text))), (days, months), "{text}");
        }
    }
}
